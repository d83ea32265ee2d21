"""Ways to break a training run. Each starts it, breaks it, checks how it ended, and leaves the workdir to the next.

A fault returns None where the run ended before it could be broken, else a line that says what happened.
"""

import hashlib
import os
import pathlib
import signal
import time

import numpy as np
import psutil

from discovr_jax.data import records
from discovr_jax.runs.checkpoint import whole_steps
from tests.chaos.laboratory import finished


def killed(laboratory, workdir, rng) -> str | None:
    """SIGKILL at a random moment."""
    start = laboratory.start(workdir)
    return _kill(start, f"after {_random_moment(start, rng)} steps")


def killed_twice(laboratory, workdir, rng) -> str | None:
    """SIGKILL, and again while the next start has hardly begun."""
    first = killed(laboratory, workdir, rng)
    start = laboratory.start(workdir)
    time.sleep(rng.uniform(0, 6))
    second = _kill(start, "at the start")
    return first and second and f"{first}, then {second}"


def terminated(laboratory, workdir, rng) -> str | None:
    """SIGTERM at a random moment: saved, exit code 0."""
    start = laboratory.start(workdir)
    if not start.until(lambda: "state on the mesh" in start.said()):
        return None
    steps = _random_moment(start, rng)
    return _terminate(start, f"after {steps} steps")


def killed_compiling(laboratory, workdir, rng) -> str | None:
    """SIGKILL while everything compiles anew."""
    start = laboratory.start(workdir, cold=True)
    start.until(lambda: "state on the mesh" in start.said())
    time.sleep(rng.uniform(0, 3))
    return _kill(start, f"compiling ({start.steps()} steps)")


def killed_saving(laboratory, workdir, rng) -> str | None:
    """SIGKILL while a checkpoint is being written."""
    start = laboratory.start(workdir)
    if not start.until(start.saving):
        return None
    time.sleep(rng.uniform(0, 0.05))
    return _kill(start, "saving")


def killed_evaluating(laboratory, workdir, rng) -> str | None:
    """SIGKILL during an evaluation."""
    return _evaluating(laboratory, workdir, rng, _kill)


def terminated_evaluating(laboratory, workdir, rng) -> str | None:
    """SIGTERM during an evaluation: given up, saved, exit code 0."""
    return _evaluating(laboratory, workdir, rng, _terminate)


def disk_full(laboratory, workdir, rng) -> str | None:
    """No space left on the device: an error that says so, exit code 1."""
    mounted = os.path.ismount(workdir.parent)
    filler = workdir.parent / "filler"
    filler.unlink(missing_ok=True)
    start = laboratory.start(workdir, small_files=not mounted)
    if mounted:
        if not start.until(lambda: start.steps() >= 1):
            return None
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(2**16))
            except OSError:
                pass
    code = start.wait()
    filler.unlink(missing_ok=True)
    if code == 0:
        return None
    said = start.said()
    _expect(code == 1 and "error: " in said and "Make space" in said, start)
    return "small disk" if mounted else "size limit"


def worker_killed(laboratory, workdir, rng) -> str | None:
    """SIGKILL of a loader worker: an error that says so, exit code 1."""
    start = laboratory.start(workdir, workers=1)
    if not start.until(lambda: start.steps() >= 1):
        return None
    for worker in _workers(start):
        worker.kill()
    code = start.wait()
    if code == 0:
        return None
    _expect(code == 1 and "error: a loader worker was killed" in start.said(), start)
    return "worker killed"


def killed_with_workers(laboratory, workdir, rng) -> str | None:
    """SIGKILL of a run with loader workers: they end, and the next start gets the lock at once."""
    start = laboratory.start(workdir, workers=1)
    if not start.until(lambda: start.steps() >= 1):
        return None
    workers = _workers(start)
    said = _kill(start, "with a worker")
    again = laboratory.start(workdir)
    again.until(lambda: "state on the mesh" in again.said() or "error: " in again.said())
    _expect("is in use" not in again.said(), again)
    _kill(again, "")
    gone, alive = psutil.wait_procs(workers, timeout=60)
    _expect(not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE], start)
    return said and f"{said}, {len(workers)} process(es) of it ended"


def second_process(laboratory, workdir, rng) -> str | None:
    """The same command a second time: refused, exit code 1, and the first goes on (and is killed then)."""
    start = laboratory.start(workdir)
    if not start.until(lambda: "state on the mesh" in start.said()):
        return None
    second = laboratory.start(workdir)
    code = second.wait()
    if start.process.poll() is not None:
        return None
    _expect(code == 1 and f"is in use by process {start.process.pid} on " in second.said(), second)
    return _kill(start, "the second was refused")


def checkpoint_damaged(laboratory, workdir, rng) -> str | None:
    """SIGKILL, then a file of the newest checkpoint cut or with one bit flipped: the one before is used."""
    if not killed(laboratory, workdir, rng):
        return None
    folder = workdir / "checkpoints"
    steps = whole_steps(folder)
    if len(steps) < 2:
        return None
    newest = folder / f"step_{steps[-1]}"
    files = sorted((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    # The largest hold the arrays, and the meta must be whole too.
    path = [*files[-3:], newest / "meta" / "metadata"][rng.integers(4)]
    content = bytearray(path.read_bytes())
    if rng.integers(2):
        content = content[: len(content) // 2]
    else:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return f"{newest.name}/{path.relative_to(newest).parts[0]} damaged"


ALL = {
    fault.__name__: fault
    for fault in (
        killed, killed_twice, terminated, killed_compiling, killed_saving, killed_evaluating, terminated_evaluating,
        disk_full, worker_killed, killed_with_workers, second_process, checkpoint_damaged,
    )
}  # fmt: skip


def preparing(laboratory, folder: pathlib.Path, rng, kills: int) -> tuple[int, list[str]]:
    """SIGKILL while the records are made, `kills` times, then to the end: (times killed, what differs).

    Each time after a larger part of the files, so that it is reached on a machine of any speed.
    """
    data_dir, done, whole = folder / "phantom", 0, _count_files(laboratory.folder / "phantom")
    for share in (np.arange(kills) + rng.random(kills)) / kills:
        start = laboratory.start(folder / "run", data_dir=data_dir)
        start.until(lambda: _count_files(data_dir) >= share * whole or "training videos" in start.said())  # noqa: B023
        done += "training videos" not in start.said()
        _kill(start, "preparing")
    _expect(done > 0, start)
    start = laboratory.start(folder / "run", data_dir=data_dir)
    _expect(start.until(lambda: "training videos" in start.said()), start)
    _kill(start, "prepared")
    ours, theirs = (_records(path) for path in (data_dir, laboratory.folder / "phantom"))
    return done, sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def _count_files(folder: pathlib.Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _records(data_dir) -> dict[str, str]:
    """Every record and the manifest, hashed. (Not the files' bytes: records are maps, whose order is by chance.)"""
    (manifest,) = data_dir.rglob("manifest.csv")
    found = {"manifest.csv": manifest.read_text()}
    for split in records.SPLITS:
        source = records.open_source(data_dir, "echonet_dynamic", "112", split)
        for index in range(len(source)):
            record = repr(sorted(map(_plain, source[index].items())))
            found[f"{split} {index}"] = hashlib.sha256(record.encode()).hexdigest()
    return found


def _plain(item: tuple) -> tuple:
    name, value = item
    return name, value.tolist() if isinstance(value, np.ndarray) else value


def _random_moment(start, rng) -> int:
    """Waits: for some steps, or for some seconds from the start."""
    if rng.random() < 0.3:
        time.sleep(rng.uniform(0, 15))
    else:
        steps = int(rng.integers(0, 7))
        start.until(lambda: start.steps() >= steps)
        time.sleep(rng.uniform(0, 0.3))
    return start.steps()


def _kill(start, note: str) -> str | None:
    start.send("SIGKILL")
    code = start.wait()
    if code == 0:
        return None
    _expect(code == -9, start)
    return note


def _terminate(start, note: str) -> str | None:
    start.send("SIGTERM")
    code = start.wait()
    if code == -signal.SIGTERM and finished(start.workdir):
        return None  # it was on its way out
    _expect(code == 0, start)
    return note if "on SIGTERM; the same command resumes" in start.said() else None


def _evaluating(laboratory, workdir, rng, end) -> str | None:
    start = laboratory.start(workdir)
    if not start.until(lambda: "evaluating step" in start.said()):
        return None
    time.sleep(rng.uniform(0, 4))
    return end(start, "evaluating" if "report: " not in start.said() else "after an evaluation")


def _workers(start) -> list[psutil.Process]:
    children = psutil.Process(start.process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def _expect(holds: bool, start) -> None:
    if not holds:
        raise AssertionError(f"exit code {start.process.returncode}\n{start.said()[-3000:]}")
