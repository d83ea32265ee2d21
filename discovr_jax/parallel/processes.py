"""Several processes as one run: how they find each other, who writes, what they agree on, how they stop together."""

import contextlib
import glob
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

# A process that has said nothing for so long is given up, and the others are stopped by jax.
HEARTBEAT_SECONDS = 60
# Processes start this far apart at most.
START_SECONDS = 600
# Between two attempts to interrupt: where one hits a callback of the garbage collector, Python drops the exception, and
# one that comes just before a wait in C does not end it.
ASK_AGAIN = 5.0


class DistributedError(ValueError):
    """The processes cannot be one run; the message says what to do."""


def settings(
    environ: Mapping[str, str],
    on_tpu_vm: bool,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> dict | None:
    """What to hand to `jax.distributed.initialize`, or None for a run of one process.

    Flags win; else jax reads the rest itself where `srun` started several tasks, on GKE (TPU_WORKER_HOSTNAMES) and on
    TPU VMs.

    Raises:
      DistributedError: some of the three flags are given but not all.
    """
    given = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
    if any(value is not None for value in given.values()):
        if missing := [name for name, value in given.items() if value is None]:
            raise DistributedError(
                "--coordinator=HOST:PORT, --num_processes and --process_id belong together; missing: "
                + ", ".join(name.removesuffix("_address") for name in missing)
            )
        return given
    several_tasks = int(environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_NODELIST" in environ
    several_hosts = "," in environ.get("TPU_WORKER_HOSTNAMES", "")
    return {} if several_tasks or several_hosts or on_tpu_vm else None


def initialise(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Join the other processes, if there are any; before jax is used for anything else."""
    on_tpu_vm = bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")) and _asks_for_tpu()
    result = settings(os.environ, on_tpu_vm, coordinator, num_processes, process_id)
    if result is None:
        return
    jax.distributed.initialize(
        **result, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, initialization_timeout=START_SECONDS
    )


def _asks_for_tpu() -> bool:
    return (jax.config.jax_platforms or "tpu").split(",")[0] == "tpu"


def is_first() -> bool:
    """Whether this process writes logs, metrics and results; the only one of a run of one."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gathered(value) -> list:
    """The JSON value that each process gives, in their order, on all of them; [value] in a run of one.

    Whatever a process finds out alone (from a disk, say) and then acts on together with the others goes through here:
    the others may have found something else.
    """
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.pad(text, (0, int(sizes.max()) - len(text)))
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


def on_any(flags: list[bool]) -> list[bool]:
    """Which of the flags any process has set."""
    return [any(each) for each in zip(*gathered(flags), strict=True)]


def leave(error: BaseException, message: str | None) -> None:
    """End this process after an error: with its `message` in one line, or without one with its traceback.

    With several processes it ends at once, without waiting for the others as jax does at exit: they may be waiting for
    this one. They notice by the connection that breaks; one that waits for nothing is ended by jax when the heartbeat
    stays away.
    """
    if not jax.distributed.is_initialized():
        if message:
            sys.exit(f"error: {message}")
        raise error
    if not message:
        traceback.print_exception(error)
    who, reason = f"process {jax.process_index()} of {jax.process_count()}", message or str(error).strip()
    if isinstance(error, (jax.errors.JaxRuntimeError, TimeoutError)):
        reason = (
            f"most likely another one ended or cannot be reached ({reason.splitlines()[0][:200]}). Start them all "
            "again with the same command: they resume from the newest checkpoint"
        )
    print(f"error: {who} stops, and so will the others: {reason}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)


class Preempted(BaseException):
    """SIGTERM came during what need not be finished. No `Exception`: nothing on the way out may swallow it."""


class Preemption:
    """SIGTERM (preemption) asks the loop to save and leave; outside the main thread it stays as it was.

    With several processes jax listens instead, and all leave at the same step, whichever got the signal.
    """

    def __init__(self):
        self._asked = self._interrupt = False
        self._listens = threading.current_thread() is threading.main_thread() and jax.process_count() == 1

    def __enter__(self):
        if self._listens:
            self._before = {name: signal.signal(name, self._ask) for name in (signal.SIGTERM, signal.SIGALRM)}
        return self

    def _ask(self, *_):
        self._asked = True
        if self._interrupt:
            signal.setitimer(signal.ITIMER_REAL, ASK_AGAIN, ASK_AGAIN)
            raise Preempted

    def requested(self, step: int) -> bool:
        """Whether to save and leave before step `step`; call once a step, on every process."""
        if jax.process_count() > 1:
            self._asked = self._asked or multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    @contextlib.contextmanager
    def interrupting(self):
        """Raises Preempted on SIGTERM: what runs in here is long, and is done again after the next start."""
        # All processes of a job work on it together, so none may leave alone.
        self._interrupt = self._listens
        try:
            if self._asked and self._interrupt:
                raise Preempted
            yield
        finally:
            self._interrupt = False
            if self._asked and self._listens:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def __exit__(self, *_):
        if self._listens:
            for name, handler in self._before.items():
                signal.signal(name, handler)
