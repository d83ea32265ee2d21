"""What every evaluator takes and gives: a split of frozen features in, predictions per video out."""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.errors import ConfigError

# Record fields that a regression can predict: what they measure, unit, unit of an error.
MEASUREMENTS = {
    "ef": ("ejection fraction", "%", "points"),
    "rvef": ("right ventricular ejection fraction", "%", "points"),
    "edv": ("end-diastolic volume", "mL", "mL"),
    "esv": ("end-systolic volume", "mL", "mL"),
    "ivsd": ("septal thickness", "cm", "cm"),
    "lvidd": ("left ventricular diameter", "cm", "cm"),
    "lvpwd": ("posterior wall thickness", "cm", "cm"),
}
_ROWS = 8192  # of features that are float64 at once


class Skip(Exception):
    """An evaluator cannot run on these data. The message is the reason shown to the reader."""


class NotSetUp(Skip):
    """An evaluator that the config leaves out: nothing is missing."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Videos of one split whose target is known.

    Attributes:
      name: "train", "val" or "test"; used in messages only.
      features: float [N, D], one row per video; float64, but above 50 million numbers of the type that they are
        cached in, so that there is no copy of them (`blocks` reads them as float64).
      target: float64 [N]; 0 normal and 1 abnormal, or a measurement in its unit.
      columns: {field: [N]}, whatever else is known of the videos ("id", "ef", ...).
      searches: of training videos, `neighbours.Searches` that evaluators share; None: each searches for itself.
    """

    name: str
    features: np.ndarray
    target: np.ndarray
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    searches: Any = None

    def take(self, rows: np.ndarray) -> "Split":
        """The videos that `rows` (bool [N], or their numbers) pick; not a copy where these are all."""
        if rows.dtype == bool and rows.all():
            return self
        columns = {name: np.asarray(column)[rows] for name, column in self.columns.items()}
        return Split(self.name, self.features[rows], self.target[rows], columns)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What an evaluator says about validation and test videos.

    Attributes:
      val: float64 [N_val], from which the pooling is chosen; None if there is nothing to choose.
      test: float64 [N_test], a score that grows with "abnormal", or the measurement; None if it has only outputs.
      details: what was chosen on validation (a penalty, say), to be written into results.json.
      outputs: {name: float64 [N_test]}, further numbers per row that a metric is computed from (`metrics.On`); NaN
        where one does not apply.
      report: what the report draws; written into results.json for the chosen pooling and the first seed.
      fitted: {name: array}, what the evaluator's `apply` needs to predict for other videos; empty without one.
      head_seed: 0, 1, ... of a head that was trained several times on the same features (`results.metrics_of`).
    """

    val: np.ndarray | None
    test: np.ndarray | None
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    report: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fitted: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    head_seed: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """A head with its data: an evaluator is one of them, or several that each choose their own pooling.

    Attributes:
      name: of the part, "knn" or "transfer_knn"; family: its metrics go under FAMILY/METRIC.
      kind: module of the head.
      field: what is predicted, "label" or a measurement.
      scores: {METRIC: its name in the METRICS of the head}.
      options: keyword arguments of the head.
      source_dataset: dataset whose training and validation videos it uses; "" for the scored one.
      fraction, draws: share of the training patients that is seen, and how often it is drawn.
      notes: what must be known to read its metrics, for results.json.
    """

    name: str
    family: str
    kind: str
    field: str
    scores: Mapping[str, str]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source_dataset: str = ""
    fraction: float = 1.0
    draws: int = 1
    notes: Sequence[str] = ()


def known_target(name: str, values: np.ndarray, target: str) -> np.ndarray:
    """Rows of a split whose target is known.

    Args:
      name: the split's name, for the message.
      values: float [N], NaN where unknown.
      target: name of the column, for the message.

    Returns:
      bool [N].

    Raises:
      Skip: if the split is empty or no target is known.
    """
    known = np.isfinite(np.asarray(values, np.float64))
    if known.size == 0:
        raise Skip(f"no videos in split {name}")
    if not known.any():
        raise Skip(f"no labels: {target} unknown for all {known.size} videos of split {name}")
    return known


def require_both_classes(name: str, target: np.ndarray) -> None:
    """Raises Skip unless the labels [N] of split `name` hold both 0 (normal) and 1 (abnormal)."""
    classes = np.unique(target)
    if classes.size < 2:
        only = "normal" if classes[0] == 0 else "abnormal"
        raise Skip(f"one class only: all {len(target)} labelled videos of split {name} are {only}")


def penalties(of: str, Cs: Sequence[float]) -> list[float]:
    """Values of C (inverse of the L2 penalty), smallest first, so that ties keep the plainer fit.

    Args:
      of: what is fitted, for the message.

    Raises:
      ConfigError: there is none, or one that is not positive.
    """
    if not Cs or min(Cs) <= 0:
        raise ConfigError(f"the values of C of {of} must be positive, got {Cs}")
    return sorted(Cs)


def standardise(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Shifts and scales every column to zero mean and unit standard deviation *on the training split*.

    Args:
      train: float [N, D].
      *others: float [M, D], scaled with the same numbers, see `scaling`.

    Returns:
      The arrays in order, float64.
    """
    mean, scale = scaling(train)
    return [(np.asarray(array, np.float64) - mean) / scale for array in (train, *others)]


def blocks(features: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Which rows, and those rows of features [N, D] as float64; in memory are few at a time."""
    for start in range(0, max(len(features), 1), _ROWS):
        rows = slice(start, start + _ROWS)
        yield rows, np.asarray(features[rows], np.float64)


def spooled(shape: Sequence[int], dtype, directory=None) -> np.ndarray:
    """Zeros on disk, memory-mapped, for what may not fit memory.

    The file has no name: it is gone with the array, however the process ends.

    Args:
      directory: on whose disk it lies; None: that of temporary files.

    >>> array = spooled((2, 3), np.float16)
    >>> array[0] = 1.0
    >>> float(array.sum())
    3.0
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        return np.memmap(file, dtype, "w+", shape=tuple(shape))


def scaling(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, float64 [D], of each column of `train` [N, D].

    A column that is constant there (up to rounding) has 1 for its standard deviation: dividing by one
    of 1e-9 would blow rounding up into a feature.
    """
    mean = sum(block.sum(0) for _, block in blocks(train)) / len(train)
    std = np.sqrt(sum(np.square(block - mean).sum(0) for _, block in blocks(train)) / len(train))
    floor = 1e-6 * np.maximum(np.abs(mean), np.max(std, initial=0.0))
    return mean, np.where(std > floor, std, 1.0)


def floats(features):
    """Arrays of NumPy as float64, of JAX as its float: what heads compute in. So a head applies in a JAX program too.

    >>> floats(np.zeros((2, 3), np.float32)).dtype
    dtype('float64')
    """
    return features.__array_namespace__().asarray(features, dtype=float)


def project(features, mean: np.ndarray, scale: np.ndarray, weights: np.ndarray):
    """Products of standardised features [N, D] with weights [D] or [D, P]: [N] or [N, P], of NumPy in blocks."""
    if not isinstance(features, np.ndarray):
        return ((floats(features) - mean) / scale) @ weights
    return np.concatenate([((block - mean) / scale) @ weights for _, block in blocks(features)])


def unit_length(features: np.ndarray) -> np.ndarray:
    """Rows [..., D] scaled to unit length; a row of zeros stays zero (cosine 0 to everything)."""
    norm = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.where(norm > 0, norm, 1.0)
