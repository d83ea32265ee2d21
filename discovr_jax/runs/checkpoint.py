"""The only file that knows Orbax: save and restore (state, data position, config, versions)."""

import contextlib
import logging
import os
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from discovr_jax.parallel import processes
from discovr_jax.runs import checkpoint_meta, checksums, weights_file
from discovr_jax.runs.checkpoint_meta import CheckpointError as CheckpointError

logger = logging.getLogger(__name__)

_HANDLERS = {
    ocp.args.StandardRestore: ocp.StandardCheckpointHandler,
    ocp.args.PyTreeRestore: ocp.PyTreeCheckpointHandler,
    ocp.args.JsonRestore: ocp.JsonCheckpointHandler,
}


class Checkpoints:
    """The checkpoints of one workdir. Saving is asynchronous; a save becomes visible only when it is whole."""

    def __init__(self, workdir: str | pathlib.Path, keep: int = 3, read_only: bool = False):
        """
        Args:
          keep: newest checkpoints that stay.
          read_only: for a process that does not hold the workdir's lock: nothing on disk is changed. The one that
            does hold it removes what saves that were killed have left.
        """
        self.directory = pathlib.Path(workdir).resolve() / "checkpoints"
        self._read_only = read_only
        if read_only:
            options = ocp.CheckpointManagerOptions(create=False, step_prefix="step")
        else:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, cleanup_tmp_directories=True, step_prefix="step"
            )
        # Without handlers a process that has saved nothing yet cannot read what a checkpoint holds.
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state, data: dict, config: dict, clock: dict | None = None) -> None:
        """Start saving; returns once the arrays are copied.

        Args:
          data: position in the data; clock: `Clock.so_far`.

        Raises:
          CheckpointError: the step exists already, Orbax declined to save, or this save or the one before failed.
        """
        if step in self._manager.all_steps():
            raise CheckpointError(f"{self.directory}: step {step} exists already and is not overwritten")
        meta = checkpoint_meta.make(_named(state), data, config, clock)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        with self._saving():
            accepted = self._manager.save(step, args=args, force=True)
        if not accepted:
            raise CheckpointError(f"{self.directory}: Orbax declined to save step {step}")

    def wait(self) -> None:
        """Until every save so far is on disk.

        Raises:
          CheckpointError: one of them failed; the earlier ones are whole.
        """
        with self._saving():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _saving(self):
        """Names what Orbax raises when the disk is full or gone (many kinds of error)."""
        try:
            yield
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # the machine's fault, not the disk's
        except Exception as error:
            whole = whole_steps(self.directory)
            last = f"the newest whole one is step {whole[-1]}" if whole else "there is no whole one yet"
            raise CheckpointError(
                f"a checkpoint could not be written to {self.directory} ({type(error).__name__}: "
                f"{_first_line(error)}); {last}. Make space or repair the storage, then the same command resumes"
            ) from error

    def restore_latest(self, abstract_state, elsewhere: Callable[[list[int]], tuple | None] = lambda _: None):
        """The newest readable checkpoint, as (step, state, meta), or None if there is none at all.

        A damaged one is named in a warning, kept on disk under another name (unless read-only), and the one
        before is used. Several processes use the same one: what one of them cannot read, none uses.

        Args:
          elsewhere: `steps -> (step, state, meta)` of a checkpoint kept elsewhere that is newer than all of `steps`,
            which are those still to be tried; None if it has none.

        Raises:
          CheckpointError: checkpoints exist and none can be read.
        """
        failures: list[str] = []
        tried = self._agreed_steps()
        for left in range(len(tried), -1, -1):
            found = elsewhere(tried[:left])
            if found is None and left:
                found = self._restore_or_warn(tried[left - 1], abstract_state, failures)
            if found is not None:
                if not self._read_only:
                    self._set_aside(tried[left:])
                return found
        if failures and self._read_only:
            # A training may have saved newer ones and removed these meanwhile.
            self._manager.reload()
            if set(self._agreed_steps()) - set(tried):
                return self.restore_latest(abstract_state, elsewhere)
        if failures:
            raise CheckpointError(
                f"{self.directory}: no checkpoint can be read ({'; '.join(failures)}). "
                "Start anew in another --workdir, or restore the files from a backup."
            )
        return None

    def _restore_or_warn(self, step: int, abstract_state, failures: list[str]) -> tuple | None:
        """(step, state, meta); None where it cannot be read, and then why is added to `failures`."""
        try:
            return step, *self.restore(step, abstract_state)
        except (ValueError, KeyError, OSError, CheckpointError) as error:
            failures.append(f"step {step}: {type(error).__name__}: {_first_line(error)}")
            logger.warning(
                "checkpoint %s/step_%d cannot be read and is %s (%s); trying the one before",
                self.directory,
                step,
                "passed over" if self._read_only else "set aside",
                _first_line(error),
            )
            return None

    def restore(self, step: int, abstract_state):
        """State and meta of one step, placed as `abstract_state` says.

        Raises:
          CheckpointError: written by a later version; shapes, dtypes or placement differ from the target (Orbax would
            cast dtypes silently), or the content from what was saved; or another process cannot read it.
        """
        folder, problem = self.directory / f"step_{step}", None
        try:
            # The meta first: what a later version wrote is not to be called damaged.
            meta = self.meta(step)
            self._compare(step, abstract_state)
            state = _read(folder, state=ocp.args.StandardRestore(abstract_state))["state"]
        except (ValueError, KeyError, OSError, CheckpointError) as error:
            problem = error
        # Before anything that processes do together.
        said = processes.gathered(problem and _first_line(problem))
        if problem:
            raise problem
        if failed := [f"process {number}: {reason}" for number, reason in enumerate(said) if reason]:
            raise CheckpointError(failed[0])
        _verify(folder, state, meta)
        asked = _named(abstract_state)
        wrong = [name for name, leaf in _named(state).items() if not _is_as(leaf, asked[name])]
        if wrong:
            raise CheckpointError(f"{folder}: {len(wrong)} arrays came back otherwise than asked for, as {wrong[0]}")
        return state, meta

    def meta(self, step: int) -> dict:
        """Config, versions and data position of one step.

        Raises:
          CheckpointError: damaged, or written by a later version.
        """
        folder = self.directory / f"step_{step}"
        meta = _read(folder, meta=ocp.args.JsonRestore())["meta"]
        checkpoint_meta.check(folder, meta)
        return meta

    def _compare(self, step: int, abstract_state) -> None:
        try:
            saved = self._manager.item_metadata(step)["state"]
        except Exception as error:  # Orbax raises many kinds for a damaged description.
            raise CheckpointError(
                f"{self.directory}/step_{step} cannot be read ({type(error).__name__}: {_first_line(error)})"
            ) from error
        if saved is None:
            raise CheckpointError(f"{self.directory}: step {step} holds no state")
        tree = saved.tree if hasattr(saved, "tree") else saved
        have = _described(tree)
        want = _described(abstract_state)
        wrong = sorted(name for name in have.keys() | want.keys() if have.get(name) != want.get(name))
        if wrong:
            lines = [f"{name}: saved {have.get(name)}, wanted {want.get(name)}" for name in wrong[:5]]
            raise CheckpointError(
                f"{self.directory}: step {step} does not fit this config in {len(wrong)} arrays: "
                + "; ".join(lines)
            )

    def _agreed_steps(self) -> list[int]:
        """`steps` as process 0 sees them: a directory that another computer writes to may be seen late."""
        return processes.gathered(self.steps())[0]

    def _set_aside(self, steps: list[int]) -> None:
        for folder in (self.directory / f"step_{step}" for step in steps if processes.is_first()):
            folder.rename(folder.with_name(f"damaged_{time.time_ns()}_{folder.name}"))
        processes.wait("damaged checkpoints")  # the others look again only after that
        self._manager.reload()

    def close(self) -> None:
        """Ends saving, on the way out. Call `wait` before: a save that fails only here is logged, not raised, because
        then another error is under way, which it must not replace.
        """
        try:
            with self._saving():
                self._manager.close()
        except CheckpointError as error:
            logger.warning("%s", error)


def newest_step(path: str | os.PathLike) -> pathlib.Path:
    """Folder of one checkpoint: `path` itself, or the newest in a workdir or in its "checkpoints" folder.

    Raises:
      CheckpointError: there is none.
    """
    path = pathlib.Path(path).resolve()
    if _holds_arrays(path):
        return path
    for folder in (path / "checkpoints", path):
        steps = [step for step in whole_steps(folder) if _holds_arrays(folder / f"step_{step}")]
        if steps:
            return folder / f"step_{steps[-1]}"
    raise CheckpointError(f"{path}: no checkpoint here. Give a workdir or one of its checkpoints/step_N")


def _holds_arrays(folder: pathlib.Path) -> bool:
    return (folder / "state").is_dir() or (folder / weights_file.NAME).is_file()


def whole_steps(directory: pathlib.Path) -> list[int]:
    """Steps whose folders are whole by name, ascending: damaged and half-written ones have other names."""
    return sorted(int(p.name[5:]) for p in directory.glob("step_*") if p.name[5:].isdigit())


def save_weights(workdir: pathlib.Path, step: int, arrays: dict[str, np.ndarray], data: dict, config: dict) -> None:
    """Arrays by path as the checkpoint of a step to pass on: one safetensors file, without what a run resumes from."""
    folder = workdir / "checkpoints" / f"step_{step}"
    folder.mkdir(parents=True)
    weights_file.write(folder / weights_file.NAME, arrays, checkpoint_meta.make(arrays, data, config))


def read_arrays(
    path: str | os.PathLike, wanted: Callable[[str], bool]
) -> tuple[dict[str, np.ndarray], dict]:
    """Some arrays of a checkpoint (not of its optimizer), whole, in host memory; and its meta.

    Args:
      path: see `newest_step`.
      wanted: of a leaf's path, such as "teacher/video_encoder/cls_token".

    Raises:
      CheckpointError: nothing there, damaged, or nothing in it is wanted.
    """
    folder = newest_step(path)
    try:
        if (folder / weights_file.NAME).is_file():
            state, meta = weights_file.read(folder / weights_file.NAME, wanted)
        else:
            state, meta = _read_orbax(folder, wanted)
    except (ValueError, KeyError, OSError, AttributeError) as error:
        raise CheckpointError(
            f"{folder} cannot be read ({type(error).__name__}: {_first_line(error)}): give the folder of "
            "another step, or copy it again"
        ) from error
    if not state:
        raise CheckpointError(f"{folder} holds none of the arrays that are asked for")
    checkpoint_meta.check(folder, meta)
    _verify(folder, state, meta)
    return _named(state), meta


def _read_orbax(folder: pathlib.Path, wanted: Callable[[str], bool]) -> tuple[dict, dict]:
    """A tree of the arrays that are wanted, empty if there are none, and the meta."""
    options = ocp.CheckpointManagerOptions(create=False, step_prefix="step")
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
    step = int(folder.name.removeprefix("step_"))
    with ocp.CheckpointManager(folder.parent, options=options, item_handlers=handlers) as manager:
        leaves = jax.tree_util.tree_leaves_with_path(manager.item_metadata(step)["state"].tree)
        found = [names for keys, _ in leaves if wanted("/".join(names := _names(keys)))]
        if not found:
            return {}, {}
        state = ocp.args.PyTreeRestore(
            item=_nested(found, 0),
            restore_args=_nested(found, ocp.RestoreArgs(restore_type=np.ndarray)),
            partial_restore=True,
        )
        read = _read(folder, state=state, meta=ocp.args.JsonRestore())
    return read["state"], read["meta"]


def _read(folder: pathlib.Path, **items) -> dict:
    """Items of a checkpoint by name, read by this process alone.

    Orbax's managers wait for the other processes after reading, and so for ever for one that could not read. Orbax
    raises many kinds of error for damaged files, a bare `Exception` among them.
    """
    try:
        with contextlib.ExitStack() as closing:
            handlers = {name: _HANDLERS[type(args)]() for name, args in items.items()}
            for handler in handlers.values():
                closing.callback(handler.close)
            return {name: handlers[name].restore(epath.Path(folder / name), args=args) for name, args in items.items()}
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # the machine's fault, not the files'
    except Exception as error:
        reason = error.__cause__ or error
        raise CheckpointError(
            f"{folder} cannot be read ({type(reason).__name__}: {_first_line(reason)}): give the folder of "
            "another step, or copy it again"
        ) from error


def _is_as(array, target) -> bool:
    same = array.shape == target.shape and array.dtype == target.dtype
    return same and (target.sharding is None or array.sharding.is_equivalent_to(target.sharding, array.ndim))


def _verify(folder: pathlib.Path, tree, meta: dict) -> None:
    saved = meta.get("checksums", {})
    wrong = [name for name, value in checksums.of_arrays(_named(tree)).items() if saved.get(name, value) != value]
    if wrong:
        raise CheckpointError(
            f"{folder} is damaged: {len(wrong)} arrays differ from what was saved, among them {wrong[0]}. Give the "
            "folder of another step, or copy it again"
        )


def _nested(paths: list[list[str]], leaf) -> dict:
    """A tree of dicts with `leaf` at every path."""
    tree: dict = {}
    for *folders, last in paths:
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = leaf
    return tree


def _names(keys) -> list[str]:
    return [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys]


def _named(tree) -> dict:
    return {"/".join(_names(path)): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _described(tree) -> dict[str, tuple]:
    return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in _named(tree).items()}


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
