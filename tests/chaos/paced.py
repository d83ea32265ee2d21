"""The training command whose every step takes SECONDS or a little more; when each began goes to FILE, a line per step.

python -m tests.chaos.paced SECONDS FILE CLOCK --config=... --workdir=DIR [...]

CLOCK is "real", or the time at which a clock begins that this start of the run has in the place of the machine's: only
steps take time by it, SECONDS each, so that nothing depends on how fast the machine is.
"""

import runpy
import sys
import time
import types

from discovr_jax import train
from discovr_jax.data import feed
from discovr_jax.runs import clock as clock_lib
from tests import run_case


def main() -> None:
    seconds, name, clock, *sys.argv[1:] = sys.argv[1:]
    passed = [0.0]

    def now() -> float:
        return time.time() if clock == "real" else float(clock) + passed[0]

    if clock != "real":
        clock_lib.time = train.time = types.SimpleNamespace(time=now, monotonic=now)
    with open(name, "a", encoding="utf-8") as file:

        def hook(number, batch):
            del number
            time.sleep(float(seconds))
            print(now(), file=file, flush=True)
            passed[0] += float(seconds)
            return batch

        feed.device_batches = run_case.intercepted(hook)
        runpy.run_module("discovr_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
