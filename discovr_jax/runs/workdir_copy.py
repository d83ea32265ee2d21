"""A copy of the workdir in an object store, from which another machine goes on where one was lost.

A run works in a folder: it locks it, appends to its logs and renames whole folders, none of which a store can do.
Beside it a thread sends what is new after each checkpoint, and the index last. The index names the files of each
checkpoint; a start fetches those that it names, and so none that was half sent.

A store has no lock either. The start that came last owns the copy, and says so in a file beside the index: one that
goes on elsewhere sees that before it writes the index, and sends nothing more. Only a complete send writes the index,
so no start undoes the last send of the one before.
"""

import json
import logging
import os
import pathlib
import shutil
import socket
import threading
import time
import uuid

from discovr_jax.errors import ConfigError
from discovr_jax.runs import local_checkpoints
from discovr_jax.runs import workdir as workdir_lib
from discovr_jax.runs.checkpoint import whole_steps
from discovr_jax.runs.workdir import WorkdirError

logger = logging.getLogger(__name__)

INDEX, OWNER = "copy.json", "owner.json"
_VERSION = 2  # 1: the index named the owner; still read
_LOOK_EVERY = 10.0  # seconds, for what is new; so long also until the next try after a failure
_PAUSES = (0.0, 1.0, 5.0, 20.0)  # seconds before each try at the end
_OF_THIS_MACHINE = ("lock", local_checkpoints.FILE)


class WorkdirCopy:
    """Within `with`, what the workdir gets is sent to `url`; first, what it lacks is fetched from there.

    A store that fails later ends no training: that is said, and sending is tried again.

    Args:
      workdir: of the run; held and claimed by this process.
      url: of a folder in any store that fsspec writes to, as "s3://BUCKET/RUN"; "" for no copy.
      config, defaults: of `workdir.differences`, for what is there already.

    Raises (on entering):
      ConfigError: the library for this store is not installed.
      WorkdirError: the store cannot be read and written, or what is there is another run's, or no copy at all.
    """

    def __init__(self, workdir: str | pathlib.Path, url: str, config: dict, defaults: dict | None = None):
        self._workdir, self._url = pathlib.Path(workdir), url
        self._config, self._defaults = config, defaults
        self._owner = f"process {os.getpid()} on {socket.gethostname()}, {uuid.uuid4().hex}"
        self._steps: dict[str, dict[str, int]] = {}  # as the index has them: sizes of files, by name
        self._names: list[str] = []  # so, of files beside the checkpoints
        self._sent: dict[str, tuple[int, int]] = {}  # size and time of these when they were sent
        self._failures, self._lost = 0, False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self):
        if not self._url:
            return self
        try:
            import fsspec

            self._store, root = fsspec.core.url_to_fs(self._url)
            self._root = root.rstrip("/")
            self._refuse_another()
            self._write(OWNER, {"version": _VERSION, "owner": self._owner})
            self._fetch_newest()
        except (WorkdirError, ConfigError):
            raise
        except ImportError as error:
            advice = "pip install 'discovr_jax[buckets]' has gcsfs and s3fs"
            raise ConfigError(f"checkpoint.copy_to={self._url}: {error}; {advice}") from error
        except Exception as error:  # many kinds, by the store
            raise WorkdirError(
                f"checkpoint.copy_to={self._url} cannot be read and written ({type(error).__name__}: {error}). Check "
                "the address and the credentials; the run does not begin, because the copy may be further on"
            ) from error
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        """Sends what is left: call it when the checkpoints and the logs are closed."""
        if not self._url:
            return
        self._ending.set()
        self._thread.join()
        for pause in _PAUSES:
            time.sleep(pause)
            if self._try(at_end=True):
                return
        words = "%s lacks the end of the run; it has the checkpoints of step %s. The same command sends the rest"
        logger.warning(words, self._url, ", ".join(self._steps) or "none")

    def _look(self) -> None:
        while not self._ending.wait(_LOOK_EVERY):
            self._try()

    def _try(self, at_end: bool = False) -> bool:
        """Sends what is new; False if that failed. It is said the second time: Orbax may just have removed a step."""
        try:
            if not self._lost:
                self._send(at_end)
        except Exception as error:  # many kinds, by the store
            self._failures += 1
            if self._failures == 2:
                words = "%s cannot be written (%s: %s): training goes on, and sending is tried again"
                logger.warning(words, self._url, type(error).__name__, error)
            return False
        if self._failures > 1:
            logger.info("%s is written again", self._url)
        self._failures = 0
        return True

    def _send(self, at_end: bool) -> None:
        steps = whole_steps(self._workdir / "checkpoints")
        here = {str(step): self._files(f"checkpoints/step_{step}") for step in steps}
        due = [*here] if at_end else [*here][-1:]  # Orbax may be removing the others
        if all(self._is_sent(step, here[step]) for step in due) and not at_end or not self._owns():
            return
        self._read_index()  # the earlier owner may have ended its last send after this start
        beside = self._beside()
        for name, version in beside.items():
            if self._sent.get(name) != version:
                self._put(name)
                self._sent[name] = version
        for step in due:
            for name in here[step] if not self._is_sent(step, here[step]) else ():
                self._put(name)
        if self._owns():
            gone = {*self._names} - {*beside}
            whole = {step: files for step, files in here.items() if step in due or self._is_sent(step, files)}
            self._write(INDEX, {"version": _VERSION, "steps": whole, "files": [*beside]})
            self._steps, self._names = whole, [*beside]
            self._remove_others(gone)

    def _is_sent(self, step: str, files: dict[str, int]) -> bool:
        return self._steps.get(step) == files

    def _files(self, folder: str) -> dict[str, int]:
        paths = sorted(path for path in (self._workdir / folder).rglob("*") if path.is_file())
        return {path.relative_to(self._workdir).as_posix(): path.stat().st_size for path in paths}

    def _beside(self) -> dict[str, tuple[int, int]]:
        """What is not in `checkpoints`, without what is of this machine alone, or being written under another name."""
        files = {}
        for path in sorted(self._workdir.rglob("*")):
            inside = path.relative_to(self._workdir)
            elsewhere = inside.parts[0] in ("checkpoints", *_OF_THIS_MACHINE)
            if path.is_file() and not elsewhere and not any(part[0] == "." for part in inside.parts):
                files[inside.as_posix()] = (path.stat().st_size, path.stat().st_mtime_ns)
        return files

    def _put(self, name: str) -> None:
        self._store.put_file(os.fspath(self._workdir / name), f"{self._root}/{name}")

    def _read(self, name: str) -> dict:
        """The index, or the file of the owner; {} if there is none."""
        try:
            content = json.loads(self._store.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError:
            return {}
        if content["version"] > _VERSION:
            raise WorkdirError(f"{self._url} was written by a later version of discovr_jax: use that one")
        return content

    def _write(self, name: str, content: dict) -> None:
        self._store.pipe_file(f"{self._root}/{name}", json.dumps(content).encode())

    def _read_index(self) -> None:
        index = self._read(INDEX) or {"steps": {}, "files": []}
        self._steps, self._names = index["steps"], index["files"]

    def _owns(self) -> bool:
        owner = self._read(OWNER).get("owner", "nobody")
        if owner != self._owner:
            self._lost = True
            logger.warning("%s gets nothing more from here: it belongs to %s now", self._url, owner)
        return not self._lost

    def _remove_others(self, gone: set[str]) -> None:
        """Removes what is `gone` here, checkpoints that the index does not name, and what was half sent."""
        self._store.invalidate_cache()
        known = {f"{self._root}/{name}" for files in self._steps.values() for name in files}
        there = {*self._store.find(f"{self._root}/checkpoints"), *(f"{self._root}/{name}" for name in gone)}
        if others := sorted(there - known):
            self._store.rm(others)

    def _refuse_another(self) -> None:
        """Before the copy is claimed: a start of another run must not stop the sending of the one that owns it."""
        if not self._read(INDEX) and not self._read(OWNER) and self._store.exists(self._root):
            if any(path.rstrip("/") != self._root for path in self._store.ls(self._root, detail=False)):
                raise WorkdirError(f"checkpoint.copy_to={self._url} has files, and no {INDEX}: give an empty folder")
        self._read_index()
        if "config.json" in self._names:
            there = json.loads(self._store.cat_file(f"{self._root}/config.json"))
            workdir_lib.refuse(self._url, workdir_lib.differences(there, self._config, defaults=self._defaults))

    def _fetch_newest(self) -> None:
        """Fetches what the index names; again if the earlier owner wrote another one meanwhile, and removed files."""
        self._read_index()
        while True:
            try:
                return self._fetch()
            except FileNotFoundError:
                before = self._steps, self._names
                self._read_index()
                if before == (self._steps, self._names):
                    raise

    def _fetch(self) -> None:
        """If the copy has a later checkpoint: all that the folder lacks, and the logs, which go with it."""
        folder = self._workdir / "checkpoints"
        here, there = whole_steps(folder), sorted(map(int, self._steps))
        if not there or there[-1:] <= here[-1:]:
            return
        logger.info("fetching the checkpoint of step %d from %s", there[-1], self._url)
        for name in self._names:
            if name != "config.json":  # this process has just written its own
                self._get(name, self._workdir)
        part = self._workdir / ".fetched"
        for step in (step for step in there if step not in here):
            shutil.rmtree(part, ignore_errors=True)
            for name, size in self._steps[str(step)].items():
                if (came := self._get(name, part)) != size:
                    raise OSError(f"{name} came as {came} bytes, not {size}")
            folder.mkdir(exist_ok=True)
            os.rename(part / "checkpoints" / f"step_{step}", folder / f"step_{step}")
        shutil.rmtree(part)

    def _get(self, name: str, into: pathlib.Path) -> int:
        """Fetches a file of the copy; returns its size."""
        path = into / name
        if ".." in path.parts or not path.is_relative_to(into):
            raise WorkdirError(f"{self._url}: {INDEX} names {name}, which is not in a workdir")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._store.get_file(f"{self._root}/{name}", os.fspath(path))
        return path.stat().st_size
