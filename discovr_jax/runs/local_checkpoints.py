"""Checkpoints on a disk of this machine, between those of the workdir: so a kill costs a minute, and not an hour.

They are for a process that is killed or fails; a machine that is lost takes them along. Orbax's own local checkpoints
(`experimental.emergency`) keep none where a job is one replica, and do not know the data position.
"""

import hashlib
import logging
import pathlib
import shutil
import time
import uuid

import jax

from discovr_jax.errors import ConfigError
from discovr_jax.runs import workdir as workdir_lib
from discovr_jax.runs.checkpoint import CheckpointError, Checkpoints

logger = logging.getLogger(__name__)

# In the workdir: names its local checkpoints, so that none of a run that was removed is taken for this one's.
FILE = "local_checkpoints"


class LocalCheckpoints:
    """One checkpoint of a workdir, on a local disk, replaced every so many seconds.

    A disk that fails while the run goes on costs this checkpoint only: a warning says so, and no more are saved.

    Args:
      workdir: of the run.
      folder: on the local disk; "" for none, and then nothing is ever due.
      seconds: from one save, of either kind, to the next.

    Attributes:
      directory: of the checkpoint; None without.
      restored: whether the run goes on from it.

    Raises:
      ConfigError: the folder cannot be made, or there are several processes, each of which would have a part of the
        state on a disk of its own.
    """

    def __init__(self, workdir: str | pathlib.Path, folder: str, seconds: float):
        self._seconds, self._since = seconds, time.monotonic()
        self.directory: pathlib.Path | None = None
        self.restored = False
        self._unreadable = False
        self._checkpoints: Checkpoints | None = None
        if not folder:
            return
        if jax.process_count() > 1:
            raise ConfigError("checkpoint.local_dir is for a run of one process; with several, save more often")
        path = pathlib.Path(workdir).resolve() / FILE
        if not path.exists():
            workdir_lib.write_atomically(path, f"{uuid.uuid4().hex}\n")
        # A copy of the workdir has the same file, and is another run.
        name = hashlib.sha256(f"{path} {path.read_text(encoding='utf-8')}".encode()).hexdigest()[:16]
        self.directory = pathlib.Path(folder) / f"discovr_{name}"
        try:
            self._open()
        except OSError as error:
            raise ConfigError(
                f"checkpoint.local_dir={folder!r}: {self.directory} cannot be made ({error.strerror}). Give another "
                'folder, on a disk of this machine, or "" for none'
            ) from None

    @property
    def due(self) -> bool:
        return self._checkpoints is not None and time.monotonic() - self._since >= self._seconds

    def reset_timer(self) -> None:
        """To be called after each checkpoint of the run, here or in the workdir."""
        self._since = time.monotonic()

    def save(self, *arguments) -> None:
        """See `Checkpoints.save`. Where it fails, that is said and nothing is due any more."""
        assert self._checkpoints, "without a folder nothing is due"
        try:
            self._checkpoints.save(*arguments)
        except CheckpointError as error:
            self._give_up(error)

    def restore_newer(self, steps: list[int], abstract_state):
        """As `Checkpoints.restore_latest`, if it is of a step after all of `steps`; else None.

        None also if it cannot be read. It stays: a later version may have saved it, and the run may not begin.
        """
        if self._checkpoints is None or self._unreadable or self._checkpoints.steps()[-1:] <= steps[-1:]:
            return None
        try:
            newest = self._checkpoints.restore_latest(abstract_state)
        except (CheckpointError, OSError) as error:
            logger.warning("%s; going on from the workdir's own", error)
            self._unreadable = True
            return None
        self.restored = True
        return newest

    def clear(self) -> None:
        """Removes what is not gone on from: of two checkpoints Orbax keeps the one of the later step.

        What could not be read is set aside instead, as in the workdir.
        """
        if self._checkpoints is None:
            return
        assert self.directory
        try:
            self._checkpoints.close()
            if self._unreadable:
                aside = self.directory.with_name(f"damaged_{time.time_ns()}_{self.directory.name}")
                self.directory.rename(aside)
                logger.warning("the local checkpoint that cannot be read is kept as %s", aside)
                self._unreadable = False
            else:
                shutil.rmtree(self.directory)
            self._open()
        except OSError as error:
            self._give_up(error)

    def remove(self) -> None:
        """At the end, when the workdir has all of it."""
        self.close()
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def close(self) -> None:
        """Ends saving, on the way out."""
        if self._checkpoints:
            self._checkpoints.close()

    def _open(self) -> None:
        assert self.directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self._checkpoints = Checkpoints(self.directory, keep=1)

    def _give_up(self, error: Exception) -> None:
        logger.warning("%s. No more local checkpoints until the next start; the workdir gets its own as before", error)
        self._checkpoints = None  # not closed, which would say the same again
