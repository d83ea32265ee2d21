"""The folder of a run: its lock and its config. No jax in here."""

import contextlib
import json
import os
import pathlib
import tempfile

from discovr_jax import file_lock, renamed_keys, storage


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
            f"Give a folder of this machine, and --config.checkpoint.copy_to={workdir}; or mount the bucket"
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
            file_lock.claim(handle)
        except file_lock.InUseError as error:
            raise WorkdirError(
                f"--workdir={workdir} is in use by process {error}: wait for it, stop it, or choose another workdir"
            ) from None
        if problem := storage.rename_problem(workdir):
            raise WorkdirError(f"--workdir={problem}")
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
    flat: dict = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


# Keys that may change between starts of one run: they change neither the mathematics nor the data.
FREE = (
    "mesh.", "gradient_accumulation_steps", "data.data_dir", "data.workers", "data.reads", "checkpoint.", "eval.",
    "log.writers", "log.project", "model.remat", "model.attention",
)  # fmt: skip


def claim(workdir: str | pathlib.Path, config: dict, defaults: dict | None = None) -> None:
    """Write `config.json`, after comparing with the one that is there.

    Args:
      defaults: see `differences`.

    Raises:
      WorkdirError: the workdir belongs to another config; names the keys that differ.
    """
    require_same_config(workdir, config, defaults=defaults)
    path = pathlib.Path(workdir) / "config.json"
    write_atomically(path, json.dumps(config, indent=1, sort_keys=True) + "\n")


def require_same_config(workdir: str | pathlib.Path, config: dict, claimed: bool = False, **which) -> None:
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
    now, before = flatten(now), renamed_keys.current(before)
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
