"""Percentile bootstrap over patients: intervals of a metric, and of a difference between two encoders.

Videos of one patient are not independent, so patients are drawn, and all videos of a drawn patient come
along. Two encoders are compared inside the same resamples (paired), so weights are made once and passed in.
"""

from collections.abc import Callable

import numpy as np

# Below this share of usable resamples the percentiles are not those of the stated bootstrap.
_MIN_USABLE = 0.5
_LEVELS = (2.5, 97.5)
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def patient_weights(patients: np.ndarray, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each video counts in each resample.

    Args:
      patients: [N] patient of each video (any comparable type).
      resamples: number of resamples R.
      seed: the same seed and patients give the same weights.

    Returns:
      int16 [R, N]. Equal for videos of one patient; over patients each row sums to their number.

    Raises:
      ValueError: if there is no video or no resample.
    """
    patients = np.asarray(patients)
    if patients.size == 0 or resamples < 1:
        raise ValueError(f"bootstrap needs videos and resamples, got {patients.size} and {resamples}")
    names, index = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    probability = np.full(len(names), 1 / len(names))
    weights = np.empty((resamples, len(patients)), np.int16)
    for row in range(resamples):  # row by row: the int64 draws of a large archive would not fit at once
        weights[row] = rng.multinomial(len(names), probability)[index]
    return weights


def distribution(
    metric: Metric, target: np.ndarray, prediction: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The metric, then the metric of each resample.

    Args:
      metric: one of `metrics`; target, prediction: float [N]; weights: int [R, N] of `patient_weights`.

    Returns:
      float64 [1 + R]; element 0 is the metric itself, NaN where it does not exist.
    """
    target, prediction = np.asarray(target, np.float64), np.asarray(prediction, np.float64)
    parts = [metric(target, prediction, np.ones((1, len(target))))]
    rows = max(1, 4_000_000 // len(target))  # about 32 MB of float64 weights at a time
    for start in range(0, len(weights), rows):
        parts.append(metric(target, prediction, weights[start : start + rows].astype(np.float64)))
    values = np.concatenate(parts)
    if getattr(metric, "centred", False):
        values[1:] += values[0] - np.nanmean(values[1:])
    return values


def interval(values: np.ndarray, num_patients: int) -> dict[str, float | int | str | None]:
    """A metric with its 95 % percentile interval.

    Args:
      metrics: float [1 + R] of `distribution`, or a difference of two.
      num_patients: patients behind them.

    Returns:
      {"value", "low", "high"}, None where there is none. Resamples in which the metric does not exist (only
      one class drawn) are left out and counted: "resamples_used". A "note" says why an interval is missing:
      one patient cannot be resampled, and a bootstrap that lost half its resamples is not the one stated.
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
