"""The training command whose every step takes SECONDS or a little more; when each began goes to FILE, a line per step.

python -m tests.chaos.paced SECONDS FILE --config=... --workdir=DIR [...]
"""

import runpy
import sys
import time

from discovr_jax.data import feed
from tests import run_case


def main() -> None:
    seconds, name, *sys.argv[1:] = sys.argv[1:]
    with open(name, "a", encoding="utf-8") as file:

        def hook(number, batch):
            del number
            time.sleep(float(seconds))
            print(time.time(), file=file, flush=True)
            return batch

        feed.device_batches = run_case.intercepted(hook)
        runpy.run_module("discovr_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
