"""Percentile bootstrap over patients: intervals of a metric, and of a difference between two encoders.

Videos of one patient are not independent, so patients are drawn, and all videos of a drawn patient come
along. Two encoders are compared inside the same resamples (paired), so weights are made once and passed in.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

# Below this share of usable resamples the percentiles are not those of the stated bootstrap.
_MIN_USABLE = 0.5
_LEVELS = (2.5, 97.5)
_TABLE = 50_000_000  # weights that are kept: 100 MB; more are drawn anew whenever they are read
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def patient_weights(patients: np.ndarray, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each video counts in each resample.

    Source: Efron's bootstrap, with patients as the units that are drawn.

    Args:
      patients: [N] patient of each video (any comparable type).
      resamples: number of resamples R.
      seed: the same seed and patients give the same weights.

    Returns:
      int16 [R, N]. Equal for videos of one patient; over patients each row sums to their number.

    Raises:
      ValueError: if there is no video or no resample.

    >>> weights = patient_weights(np.array(["a", "a", "b"]), resamples=4)
    >>> weights.shape, bool((weights[:, 0] == weights[:, 1]).all())  # videos of a patient are drawn together
    ((4, 3), True)
    """
    weights = np.empty((resamples, len(patients)), np.int16)
    for row, each in enumerate(Resamples.of(patients, resamples, seed)):
        weights[row] = each
    return weights


@dataclasses.dataclass(frozen=True)
class Resamples:
    """The rows of `patient_weights` without a table of them: each iteration draws the same anew.

    Attributes:
      patient: number of the patient of each video, int [N]; patients: how many there are.
      count: of resamples; seed: of the draws.
    """

    patient: np.ndarray
    patients: int
    count: int
    seed: int

    @classmethod
    def of(cls, patients: np.ndarray, resamples: int, seed: int) -> "Resamples":
        """Arguments and errors as of `patient_weights`."""
        patients = np.asarray(patients)
        if patients.size == 0 or resamples < 1:
            raise ValueError(f"bootstrap needs videos and resamples, got {patients.size} and {resamples}")
        names, index = np.unique(patients, return_inverse=True)
        return cls(index, len(names), resamples, seed)

    def __iter__(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        probability = np.full(self.patients, 1 / self.patients)
        return (rng.multinomial(self.patients, probability)[self.patient] for _ in range(self.count))

    def __getitem__(self, columns: tuple[slice, np.ndarray]) -> "Resamples":
        """The same resamples of some of the videos: `weights[:, videos]`, as of a table."""
        return dataclasses.replace(self, patient=self.patient[columns[1]])


def weights_of(patients: np.ndarray, resamples: int = 1000, seed: int = 0) -> np.ndarray | Resamples:
    """`patient_weights`, as a table only where it is small."""
    make = patient_weights if len(patients) * resamples <= _TABLE else Resamples.of
    return make(patients, resamples, seed)


def distribution(
    metric: Metric, target: np.ndarray, prediction: np.ndarray, weights: np.ndarray | Resamples
) -> np.ndarray:
    """The metric, then the metric of each resample.

    Args:
      metric: one of `metrics`; target, prediction: float [N]; weights: int [R, N] of `weights_of`.

    Returns:
      float64 [1 + R]; element 0 is the metric itself, NaN where it does not exist.
    """
    return distributions([(metric, prediction)], target, weights)[0]


def distributions(
    scores: Sequence[tuple[Metric, np.ndarray]], target: np.ndarray, weights: np.ndarray | Resamples
) -> list[np.ndarray]:
    """`distribution` of several (metric, prediction [N]), for which the weights are read once."""
    target = np.asarray(target, np.float64)
    scores = [(metric, np.asarray(prediction, np.float64)) for metric, prediction in scores]
    parts = [[metric(target, prediction, np.ones((1, len(target))))] for metric, prediction in scores]
    size, rows = max(1, 4_000_000 // len(target)), iter(weights)  # about 32 MB of float64 weights at a time
    while some := list(itertools.islice(rows, size)):
        chunk = np.asarray(some, np.float64)
        for part, (metric, prediction) in zip(parts, scores, strict=True):
            part.append(metric(target, prediction, chunk))
    result = [np.concatenate(part) for part in parts]
    for values, (metric, _) in zip(result, scores, strict=True):
        if getattr(metric, "centred", False):
            values[1:] += values[0] - np.nanmean(values[1:])
    return result


def interval(values: np.ndarray, num_patients: int) -> dict[str, float | int | str | None]:
    """A metric with its 95 % percentile interval.

    Args:
      metrics: float [1 + R] of `distribution`, or a difference of two.
      num_patients: patients behind them.

    Returns:
      {"value", "low", "high"}, None where there is none. Resamples in which the metric does not exist (only
      one class drawn) are left out and counted: "resamples_used". A "note" says why an interval is missing:
      one patient cannot be resampled, and a bootstrap that lost half its resamples is not the one stated.

    >>> from discovr_jax.evaluation.metrics import videos
    >>> target, score, patients = np.array([1, 0] * 20), np.linspace(0, 1, 40), np.arange(40)
    >>> found = interval(distribution(videos.auroc, target, score, patient_weights(patients)), num_patients=40)
    >>> found["low"] < found["value"] < found["high"]
    True
    """
    value, samples = values[0], values[1:]
    usable = samples[np.isfinite(samples)]
    result: dict = {"value": float(value) if np.isfinite(value) else None, "low": None, "high": None}
    if len(usable) < len(samples):
        result["resamples_used"] = len(usable)
    if num_patients < 2:
        result["note"] = "one patient: no interval"
    elif result["value"] is None:
        result["note"] = "not defined on these videos"
    elif len(usable) < _MIN_USABLE * len(samples):
        result["note"] = f"no interval: the metric exists in {len(usable)} of {len(samples)} resamples only"
    else:
        low, high = np.percentile(usable, _LEVELS)
        result.update(low=float(low), high=float(high))
    return result
