"""The training command, held at a place: it stops itself (SIGSTOP) once, where it is about to do something to a file.

python -m tests.chaos.held EVENT WORD --config=... --workdir=DIR [...]

EVENT is one of Python's audit events (os.rename, open, ...), WORD a part of the path that it is about. So a signal can
be sent right there, however slow the machine is.
"""

import os
import runpy
import signal
import sys


def main() -> None:
    event, word, *sys.argv[1:] = sys.argv[1:]
    held = False

    def hook(name: str, arguments: tuple) -> None:
        nonlocal held
        if name == event and not held and word in str(arguments[0]):
            held = True
            os.kill(os.getpid(), signal.SIGSTOP)

    sys.addaudithook(hook)
    runpy.run_module("discovr_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
