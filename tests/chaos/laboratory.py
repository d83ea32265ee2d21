"""Starts the real training command in processes of its own, and compares what two runs end with."""

import contextlib
import fcntl
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import psutil

from tests import run_case, xla_flags

# All branches, but one masked view each, which is less to trace. A log line every step, so that none can be missing
# unseen; two evaluations.
OVERRIDES = {
    "mask.video_views": 1,
    "mask.image_views": 1,
    "duration": "24 steps",
    "log.every": "1 steps",
    "checkpoint.every": "2 steps",
    "eval.every": "12 steps",
    "eval.readouts": "('cls', 'mean_of_std')",
}
# For one device, whatever this process has.
ONE_DEVICE = {"XLA_FLAGS": xla_flags.compiled_fast(), "JAX_PLATFORMS": "cpu"}
TIMEOUT = 900  # seconds without what is waited for: it hangs
DISK_MIB = 64
# Files of a process cannot grow beyond this many bytes, where no small disk can be mounted.
LARGEST_FILE = 2**15


class Laboratory:
    """A folder with records, compiled programs, an undisturbed run to compare with, and runs to disturb."""

    def __init__(self, folder: pathlib.Path, overrides=(), config: str = "phantom:smoke", heads=run_case.TINY_HEADS):
        self.folder, self.config, self.heads = folder.resolve(), config, heads
        self.overrides = OVERRIDES | dict(overrides)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.reference = self.folder / "reference"
        self._starts = 0

    def make_reference(self) -> None:
        """The undisturbed run; once made it is kept."""
        if not finished(self.reference):
            shutil.rmtree(self.reference, ignore_errors=True)
            start = self.start(self.reference)
            assert start.wait() == 0, start.said()

    def start(self, workdir: pathlib.Path, **options) -> "Start":
        """The command on a workdir; see `Start`."""
        self._starts += 1
        return Start(self, workdir, self.folder / "logs" / f"{workdir.name}-{self._starts}.log", **options)


class Start:
    """One process of the training command.

    Args:
      workers: of the loader.
      cold: compile everything anew.
      data_dir: other records than the laboratory's.
      small_files: it cannot write files above LARGEST_FILE.
      module: with its arguments, in the place of discovr_jax.main.
      hold: (event, word) where it stops itself; see tests/chaos/held.py.
    """

    def __init__(
        self, laboratory, workdir, log, *, workers=0, cold=False, data_dir=None, small_files=False,
        module=("discovr_jax.main",), hold=(),
    ):  # fmt: skip
        self.workdir, self._log = workdir, log
        data_dir = data_dir or laboratory.folder / "phantom"
        overrides = laboratory.overrides | {"data.workers": workers}
        flags = run_case.command_flags(data_dir, overrides, laboratory.config, laboratory.heads)
        programs = laboratory.folder / f"cold-{time.time_ns()}" if cold else laboratory.folder
        environment = run_case.command_environment(programs) | ONE_DEVICE
        if small_files:  # nor may it leave half a program to the next
            environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"}
        log.parent.mkdir(exist_ok=True)
        module = ("tests.chaos.held", *hold) if hold else module
        command = [sys.executable, "-m", *module, *flags, f"--workdir={workdir}"]

        self._leftovers = set(self._saves())
        self._said = b""
        # A pipe, because a file would be limited like those of the run. It holds all that a run prints, so nobody
        # need read it in time, and what a process has printed is there when it has ended.
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=run_case.ROOT,
            bufsize=0,
        )  # fmt: skip
        if small_files:  # from outside: code between fork and exec is unsafe once jax has started
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
        fcntl.fcntl(self.process.stdout, fcntl.F_SETPIPE_SZ, 2**20)
        os.set_blocking(self.process.stdout.fileno(), False)

    def said(self) -> str:
        """What it has printed so far."""
        while not self.process.stdout.closed and (part := self.process.stdout.read(2**16)):
            self._said += part
            self._log.write_bytes(self._said)
        return self._said.decode(errors="replace")

    def steps(self) -> int:
        """Training steps that it has reported so far."""
        return self.said().count("  loss ")

    def saving(self) -> bool:
        """Whether a checkpoint is being written now."""
        return bool(set(self._saves()) - self._leftovers)

    def held(self) -> bool:
        """Whether it has stopped itself."""
        return psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED

    def _saves(self):
        return [path.name for path in (self.workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")]

    def until(self, condition) -> bool:
        """Waits until `condition()`; False if the process ends before that."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            if self.process.poll() is not None:
                return condition()
            if time.monotonic() > deadline:
                self.process.kill()
                raise TimeoutError(f"{self._log} says nothing new for {TIMEOUT} s")
            time.sleep(0.003)
        return True

    def send(self, name: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.Signals[name])

    def wait(self) -> int:
        """Its exit code; a process that does not end is killed and an error."""
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise TimeoutError(f"{self._log}: the process does not end") from None
        finally:
            self.said()
            self.process.stdout.close()


@contextlib.contextmanager
def small_disk(folder: pathlib.Path):
    """`folder`, on a disk of its own of DISK_MIB where this process may mount one. It goes when the body has ended, and
    stays where an error or a signal ends it, so that the next process goes on with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "chaos", str(folder)]
    if os.geteuid() == 0 and not os.path.ismount(folder):
        subprocess.run(command, capture_output=True)
    yield folder
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)
    shutil.rmtree(folder)


def finished(workdir: pathlib.Path) -> bool:
    """Whether a run is at its end."""
    path = workdir / "metrics.jsonl"
    return path.exists() and "state_sha256" in path.read_text()


def differences(reference: pathlib.Path, workdir: pathlib.Path) -> list[str]:
    """What a finished run lost or changed against the undisturbed one; empty if nothing."""
    found = []
    rows, expected = run_case.rows(workdir), run_case.rows(reference)
    steps, wanted = ([row["step"] for row in part] for part in (rows, expected))
    if steps != wanted:
        found.append(f"metrics.jsonl has the steps {steps}, not {wanted}")
    found += [f"metrics of step {a['step']}" for a, b in zip(rows, expected, strict=False) if a != b]
    for name in ("results.json", "predictions.csv"):
        paths = sorted(path.relative_to(reference) for path in (reference / "eval").rglob(name))
        assert paths, f"{reference} has no {name}"
        found += [f"{path}" for path in paths if _read(workdir / path) != _read(reference / path)]
    last = max(row["step"] for row in expected)
    checksums = [_checksums(directory / "checkpoints" / f"step_{last}") for directory in (reference, workdir)]
    if checksums[0] != checksums[1]:
        found.append(f"arrays of the checkpoint of step {last}")
    found += [f"left behind: {path.name}" for path in (workdir / "checkpoints").glob("*tmp*")]
    return found


def _read(path: pathlib.Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _checksums(folder: pathlib.Path) -> dict | None:
    meta = _read(folder / "meta" / "metadata")
    return meta and json.loads(meta)["checksums"]
