"""Looks at every step of a run: steps that are not finite, and spikes of the loss or of the gradient."""

import hashlib
import json
import logging
import pathlib
import statistics
from collections import deque

import jax
import numpy as np

from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.runs import workdir as workdir_lib
from discovr_jax.runs.checkpoint import Checkpoints

logger = logging.getLogger(__name__)

WATCHED = ("loss/total", "optim/grad_norm")
WINDOW = 64  # steps that say what is usual
FEWEST = 16  # before that nothing is called unusual
SPIKE = 8.0  # standard deviations above the median
STEADY = 0.02  # share of the median that counts as one standard deviation, where the window hardly moves


class NonFiniteError(RuntimeError):
    """Losses or gradients were not finite for `max_bad_steps` steps in a row."""


class Spikes:
    """Tells values far above the median of the last ones."""

    def __init__(self):
        self._last: deque[float] = deque(maxlen=WINDOW)

    def look(self, value: float) -> float | None:
        """The usual value if this one is a spike, else None. Values that are not finite are for others to report."""
        if not np.isfinite(value):
            return None
        usual = None
        if len(self._last) >= FEWEST:
            median = statistics.median(self._last)
            # As a standard deviation of normal values. (The median of these is 0 where half of the values are equal.)
            std = 1.2533 * statistics.fmean(abs(each - median) for each in self._last)
            if value - median > SPIKE * max(std, STEADY * abs(median)):
                usual = median
        self._last.append(value)
        return usual


class StepWatch:
    """Reads the metrics of each step one step late, so that the device never waits for the host.

    While a step before was not finite (and always with `max_bad_steps` 1) it waits for the step at hand instead:
    then the state after it is the state before it, which is what a dump must hold.
    """

    def __init__(
        self, directory, state, limit: int, names: list[str], checkpoints: Checkpoints, position: dict,
        config: dict, writes: bool = True,
    ):  # fmt: skip
        """
        Args:
          directory: the workdir; spikes go to spikes.jsonl in it, a dump to nonfinite/.
          state: of the start.
          limit: steps in a row that are not finite before the run stops.
          names: datasets, by the number in `batch["dataset"]`.
          position, config: go into a dump.
          writes: spikes.jsonl; one of several processes does.
        """
        self._directory, self._limit, self._names = pathlib.Path(directory), limit, names
        self._checkpoints, self._position, self._config = checkpoints, position, config
        self._skipped = int(state.skipped)
        self._pending: tuple | None = None
        self._spikes = {name: Spikes() for name in WATCHED}
        self._file = None
        if not writes:
            return
        path = self._directory / "spikes.jsonl"
        first = int(state.step)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        earlier = [line for line in lines if line.endswith("}") and json.loads(line)["step"] < first]
        if lines != earlier:
            workdir_lib.write_atomically(path, "".join(f"{line}\n" for line in earlier))
        self._file = path.open("a", encoding="utf-8")

    def look(self, step: int, state, metrics: dict, batch: dict) -> None:
        """Right after step number `step` was dispatched.

        Args:
          state, metrics: what it returned.
          batch: its batch, on the devices.

        Raises:
          NonFiniteError: too many steps in a row were not finite; names the dump.
        """
        self.finish(None)
        self._pending = step, {name: metrics[name] for name in ("skipped", *WATCHED)}, metrics, batch
        if self._skipped or self._limit == 1:
            self.finish(state)

    def finish(self, state) -> None:
        """Looks at the step that waits, if one does. `state`: after that step, or None if that is gone."""
        if self._pending is None:
            return
        step, watched, metrics, batch = self._pending
        self._pending = None
        watched = {name: float(value) for name, value in jax.device_get(watched).items()}
        self._skipped = int(watched["skipped"])
        for name in WATCHED:
            usual = self._spikes[name].look(watched[name])
            if usual is not None:
                self._spike(step, name, watched[name], usual, batch)
        if self._skipped:
            ids = self._ids(batch)
            logger.warning("step %d: loss or gradient not finite, not applied; training records %s", step, ids)
        if self._skipped >= self._limit:
            self._stop(step, state, metrics, batch)

    def close(self) -> None:
        if self._file:
            self._file.close()

    def _spike(self, step: int, name: str, value: float, usual: float, batch: dict) -> None:
        ids = self._ids(batch)
        logger.warning("step %d: %s %.4g, usually %.4g; training records %s", step, name, value, usual, ids)
        if not self._file:
            return
        line = {"step": step, "what": name, "value": value, "usual": usual, "records": ids}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _ids(self, batch: dict) -> str:
        records = mesh_lib.to_host((batch["dataset"], batch["record"]))
        rows = zip(*(each.tolist() for each in records), strict=True)
        return ", ".join(f"{self._names[dataset]} {record}" for dataset, record in rows)

    def _stop(self, step: int, state, metrics: dict, batch: dict) -> None:
        self._checkpoints.wait()
        good = self._checkpoints.steps()
        where = f"step {good[-1]} in {self._checkpoints.directory}" if good else "none was saved yet"
        raise NonFiniteError(
            f"{self._skipped} steps in a row were not finite, the last one step {step}; last good checkpoint: "
            f"{where}. Look at the step with: python -m discovr_jax.replay {self._dump(step, state, metrics, batch)} . "
            "Lower optim.lr or set optim.clip (1 to 3) in a new --workdir (--config.init_from takes over the weights), "
            "and look at the records named above"
        )

    def _dump(self, step: int, state, metrics: dict, batch: dict) -> pathlib.Path:
        """Writes the state before the step, and what names its batch (no frames: those stay with the records)."""
        # The step changed nothing but its counters.
        before = state.replace(step=state.step - 1, skipped=state.skipped - 1)
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        result = {"not_finite": sorted(name for name, value in values.items() if not np.isfinite(value))}
        dumps = Checkpoints(self._directory / "nonfinite")
        if step not in dumps.steps():
            position = self._position | {"next_step": step}
            dumps.save(step, before, position | {"batch": described(batch)} | result, self._config)
            dumps.wait()
        dumps.close()
        return dumps.directory / f"step_{step}"


def described(batch: dict) -> dict:
    """What names the content of a batch, as JSON values."""
    arrays = dict(sorted(mesh_lib.to_host(batch).items()))
    frames = hashlib.sha256(np.ascontiguousarray(arrays.pop("frames")).tobytes()).hexdigest()
    return {"frames_sha256": frames} | {name: array.tolist() for name, array in arrays.items()}
