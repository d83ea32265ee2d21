"""The folder of a run: its lock, its config, its metrics. No jax in here."""

import contextlib
import json
import logging
import math
import os
import pathlib
import socket
import tempfile
import time

from discovr_jax import file_lock

logger = logging.getLogger(__name__)

METRICS_VERSION = 1  # in the first line of metrics.jsonl


class WorkdirError(RuntimeError):
    """The workdir cannot be used; the message says why and what to do."""


@contextlib.contextmanager
def locked(workdir: str | pathlib.Path):
    """Hold the workdir for this process alone. The kernel releases the lock when the process dies.

    Raises:
      WorkdirError: another process holds it (named by its pid and host), or the folder cannot be written.
    """
    if "://" in os.fspath(workdir):
        raise WorkdirError(
            f"--workdir={workdir} is an address, and must be a folder: it is locked, and its logs are appended to. "
            "Mount the bucket (gcsfuse BUCKET FOLDER), or give a folder of this machine and copy it afterwards"
        )
    path = pathlib.Path(workdir) / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # O_CLOEXEC: a loader worker that outlives us must not keep the lock.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise WorkdirError(f"--workdir={workdir} cannot be written ({error.strerror}): choose another") from None
    try:
        try:
            file_lock.lock(handle, wait=False)
        except BlockingIOError:
            owner = os.read(handle, 256).decode(errors="replace").strip() or "unknown"
            raise WorkdirError(
                f"--workdir={workdir} is in use by process {owner}: wait for it, stop it, or choose another workdir"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new text, never half of it."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, 0o644)  # a temporary file is 0600, which would hide the run from the lab
    os.replace(file.name, path)


def flatten(config: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


# Keys that may change between starts of one run: they change neither the mathematics nor the data.
FREE = (
    "mesh.", "accumulate", "data.data_dir", "data.workers", "checkpoint.", "eval.", "model.remat", "model.attention",
)  # fmt: skip


def claim(workdir: str | pathlib.Path, config: dict, defaults: dict | None = None) -> None:
    """Write `config.json`, after comparing with the one that is there.

    Args:
      defaults: see `differences`.

    Raises:
      WorkdirError: the workdir belongs to another config; names the keys that differ.
    """
    compare(workdir, config, defaults=defaults)
    path = pathlib.Path(workdir) / "config.json"
    write_atomically(path, json.dumps(config, indent=1, sort_keys=True) + "\n")


def compare(workdir: str | pathlib.Path, config: dict, claimed: bool = False, **which) -> None:
    """Refuse a workdir whose `config.json` is another; a workdir without one is anybody's.

    Args:
      claimed, **which: see `changes`.

    Raises:
      WorkdirError: names the keys that differ.
    """
    refuse(str(workdir), changes(workdir, config, claimed, **which))


def changes(workdir: str | pathlib.Path, config: dict, claimed: bool = False, **which) -> list[str]:
    """Where `config.json` of a workdir differs from `config`; nowhere without one.

    Args:
      claimed: by another process of this run, so there must be one.
      **which: only, free and defaults of `differences`.

    Raises:
      WorkdirError: the file is damaged, or should be there and is not.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
        if claimed:
            raise WorkdirError(
                f"--workdir={workdir}: this process does not see the config.json that the first one wrote: all "
                "processes need the same folder (NFS, or a bucket that is mounted on every host)"
            )
        return []
    try:
        return differences(json.loads(path.read_text(encoding="utf-8")), config, **which)
    except (ValueError, AttributeError, RecursionError) as error:
        raise WorkdirError(f"{path} is damaged ({error}): restore it or choose another --workdir") from None


def differences(
    before: dict,
    now: dict,
    only: str | tuple[str, ...] = "",
    free: tuple[str, ...] = FREE,
    defaults: dict | None = None,
) -> list[str]:
    """Where two configs differ, "KEY: was ..., is ..." each.

    Args:
      only: compare keys that start so, or with one of these.
      free: and not so.
      defaults: a config. Keys that `before` lacks, because they are newer than it, are taken as here.
    """
    now = flatten(now)
    before = {key: value for key, value in flatten(defaults or {}).items() if key in now} | flatten(before)
    return [
        f"{key}: was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key.startswith(only) and not key.startswith(free)
    ]


def refuse(what: str, differ: list[str]) -> None:
    """Raises WorkdirError if there are `differences`."""
    if differ:
        raise WorkdirError(
            f"{what} belongs to a run with another config ({'; '.join(differ[:8])}): "
            "use that config, or another --workdir"
        )


def read_metrics(workdir: str | pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl, null as NaN; a last line cut short by a kill is dropped.

    Raises:
      WorkdirError: a line is damaged, or the file was written by a later version.
    """
    path = pathlib.Path(workdir) / "metrics.jsonl"
    rows = []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row["step"], int):
                raise ValueError("step is no whole number")
            rows.append({name: math.nan if value is None else value for name, value in row.items()})
        except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
            if number < len(lines):
                raise WorkdirError(f"{path}, line {number} is damaged: {error}") from None
    version = rows[0].get("schema_version", METRICS_VERSION) if rows else METRICS_VERSION
    if not isinstance(version, int) or version > METRICS_VERSION:
        raise WorkdirError(
            f"{path} has schema version {version}, this code reads up to {METRICS_VERSION}: use the version of "
            "discovr_jax that wrote it, or another --workdir"
        )
    return rows


def _line(row: dict) -> str:
    """Strict JSON: numbers that are not finite become null."""
    finite = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


class _Events:
    """Scalars for TensorBoard, written at once by the thread that logs.

    tensorboardX' SummaryWriter hands them to a thread which dies of a full disk; then the tenth value waits for ever.
    """

    def __init__(self, workdir: pathlib.Path, first: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        # The name holds the second of the start: without a number a second start in it would overwrite the first.
        number = len(list(workdir.glob("events.out.tfevents.*")))
        self._writer = EventsWriter(str(workdir / "events"), f".{number}")
        self._event, self._scalar = Event, scalar
        # What an earlier start wrote of these steps is hidden.
        self._writer.write_event(Event(step=first, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, row: dict) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)):
                summary = self._scalar(name, value)
                self._writer.write_event(self._event(step=step, wall_time=time.time(), summary=summary))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class MetricsLog:
    """metrics.jsonl and TensorBoard events. Lines after the step of a resume are dropped and written anew.

    With `writes` False it only knows what the process that writes has in its log.
    """

    def __init__(self, workdir: str | pathlib.Path, step: int, writes: bool = True):
        self._path = pathlib.Path(workdir) / "metrics.jsonl"
        rows = read_metrics(workdir)
        kept = [row for row in rows if row["step"] <= step and "state_sha256" not in row]
        if len(kept) < len(rows):
            logger.info("metrics.jsonl: %d lines after step %d will be written anew", len(rows) - len(kept), step)
        self._writes = writes
        self._last = kept[-1] if kept else {"step": -1}
        if not writes:
            return
        self._rewrite(kept)
        self._events = _Events(self._path.parent, step + 1)

    def _rewrite(self, rows: list[dict]) -> None:
        write_atomically(self._path, "".join(map(_line, rows)))
        self._last = rows[-1] if rows else {"step": -1}
        self._file = self._path.open("a", encoding="utf-8")

    def has(self, step: int, prefix: str) -> bool:
        """Whether the newest line is of `step` and holds figures of that name."""
        return self._last["step"] == step and any(name.startswith(prefix) for name in self._last)

    def write(self, step: int, row: dict) -> None:
        """One line a step: where `step` has a line from before a resume, it gets what it lacks."""
        if not self._writes:
            if step >= self._last["step"]:
                self._last = (self._last if step == self._last["step"] else {"step": step}) | row
            return
        if "state_sha256" not in row and step <= self._last["step"]:
            row = {name: value for name, value in row.items() if name not in self._last}
            if step < self._last["step"] or not row:
                return
            self._file.close()
            self._rewrite([*read_metrics(self._path.parent)[:-1], self._last | row])
        else:
            first = {"schema_version": METRICS_VERSION} if self._last["step"] == -1 else {}
            self._last = {"step": step, **first, **row}
            self._file.write(_line(self._last))
            self._file.flush()
            os.fsync(self._file.fileno())  # A checkpoint that survives a crash of the machine has its line.
        self._events.write(step, row)

    def close(self) -> None:
        if self._writes:
            self._file.close()
            self._events.close()
