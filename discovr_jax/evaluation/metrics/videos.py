"""Metrics of weighted videos, many weightings at once: of two classes by a score (F1, AUROC), and of measurements.

Those of several classes are in `metrics.classes`. What a metric needs besides: docs/extending.md, the row "F2".

Every metric is a pure function `metric(target [N], prediction [N], weights [R, N]) -> [R]`. A weight is how
often a video counts, so one call with ones gives the metric and one call with a bootstrap's counts gives all
resamples. A metric that does not exist (one class left, no spread of the target) is NaN, never 0.

>>> target, score = np.array([1, 0, 1, 0]), np.array([0.9, 0.4, 0.6, 0.2])
>>> ones = np.ones((1, 4))
>>> auroc(target, score, ones).tolist(), balanced_accuracy(target, score, ones).tolist()
([1.0], [1.0])
"""

import dataclasses
from collections.abc import Callable

import numpy as np

# Scores above this vote "abnormal": the plain majority vote; no threshold is tuned.
THRESHOLD = 0.5
BINS = 10  # of the probabilities, for calibration


@dataclasses.dataclass(frozen=True)
class On:
    """A metric of one of the further outputs of an evaluator, instead of its prediction.

    Attributes:
      output: its name in `interface.Predictions.outputs`; metric: as all metrics here.
      centred: of a metric that every resampling raises; the resamples are shifted so that their mean is the metric.
    """

    output: str
    metric: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    centred: bool = False

    def __call__(self, target, values, weights) -> np.ndarray:
        return self.metric(target, values, weights)


@dataclasses.dataclass(frozen=True)
class OnAll:
    """A metric of several further outputs side by side, `metric(target [N], values [N, K], weights [R, N]) -> [R]`.

    Attributes:
      prefix: what their names begin with; they stay in their order.
    """

    prefix: str
    metric: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

    def __call__(self, target, values, weights) -> np.ndarray:
        return self.metric(target, values, weights)


def means(*outputs: str) -> dict[str, On]:
    """{output: its mean over the rows that have a value}, for metrics that are plain means."""
    return {name: On(name, mean) for name in outputs}


def mean(target, values, weights) -> np.ndarray:
    """Mean of `values` over the rows where they are finite; the target does not matter."""
    del target
    known = np.isfinite(values)
    return _divide(weights @ np.where(known, values, 0.0), weights @ known.astype(np.float64))


def _divide(numerator, denominator) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is 0."""
    denominator = np.asarray(denominator, np.float64)
    safe = np.where(denominator == 0, 1.0, denominator)
    return np.where(denominator == 0, np.nan, numerator / safe)


def _confusion(target, score, weights):
    """Weighted (true positives, false positives, true negatives, false negatives), each [R]."""
    positive, called = target == 1, score > THRESHOLD
    cells = np.stack(
        [positive & called, ~positive & called, ~positive & ~called, positive & ~called], axis=1
    )
    return (weights @ cells.astype(np.float64)).T


def macro_f1(target, score, weights) -> np.ndarray:
    """Mean of the F1 of normal and of abnormal at the majority vote; NaN unless both classes are present.

    >>> macro_f1(np.array([1, 1, 0, 0]), np.array([0.9, 0.1, 0.2, 0.3]), np.ones((1, 4))).round(3).tolist()
    [0.733]
    """
    tp, fp, tn, fn = _confusion(target, score, weights)
    f1 = (_divide(2 * tp, 2 * tp + fp + fn) + _divide(2 * tn, 2 * tn + fp + fn)) / 2
    return np.where((tp + fn > 0) & (tn + fp > 0), f1, np.nan)


def balanced_accuracy(target, score, weights) -> np.ndarray:
    """Mean of sensitivity and specificity at the majority vote; NaN unless both classes are present."""
    tp, fp, tn, fn = _confusion(target, score, weights)
    return (_divide(tp, tp + fn) + _divide(tn, tn + fp)) / 2


def _class_weight_by_score(target, score, weights):
    """Weights of (abnormal, normal) at each distinct score, rising: two float64 [R, S]."""
    order = np.argsort(score, kind="stable")
    ranked = np.asarray(score)[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    weights = np.asarray(weights, np.float64)[:, order]
    abnormal = weights * (np.asarray(target)[order] == 1)
    normal = weights - abnormal
    if len(starts) < len(ranked):
        abnormal, normal = (np.add.reduceat(part, starts, axis=1) for part in (abnormal, normal))
    return abnormal, normal


def at_best_f1(target, score, others) -> np.ndarray:
    """Scores `others` [M], shifted so that `THRESHOLD` is where the macro F1 of `score` [N] is greatest.

    That is halfway between two neighbouring scores; of equally good ones the nearest to `THRESHOLD`. For the threshold
    of test videos that is chosen on validation videos.

    >>> at_best_f1(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.24, 0.26])).round(2).tolist()
    [0.49, 0.51]
    """
    abnormal, normal = (each[0] for each in _class_weight_by_score(target, score, np.ones((1, len(score)))))
    distinct = np.unique(score)
    if len(distinct) < 2:
        return np.asarray(others, np.float64)
    tp, fp = abnormal.sum() - np.cumsum(abnormal)[:-1], normal.sum() - np.cumsum(normal)[:-1]
    fn, tn = abnormal.sum() - tp, normal.sum() - fp
    f1 = _divide(2 * tp, 2 * tp + fp + fn) + _divide(2 * tn, 2 * tn + fp + fn)
    between = (distinct[:-1] + distinct[1:]) / 2
    best = between[f1 == f1.max()]
    return others - best[np.argmin(np.abs(best - THRESHOLD))] + THRESHOLD


def sensitivity(target, margin, weights) -> np.ndarray:
    """Share of the abnormal videos whose margin (score - threshold) is above 0."""
    return _share_above(margin, target == 1, weights)


def specificity(target, margin, weights) -> np.ndarray:
    """Share of the normal videos whose margin (score - threshold) is not above 0."""
    return 1 - _share_above(margin, target == 0, weights)


def _share_above(margin, chosen, weights) -> np.ndarray:
    return _divide(weights @ ((margin > 0) & chosen), weights @ chosen.astype(np.float64))


def auroc(target, score, weights) -> np.ndarray:
    """Chance that an abnormal video scores above a normal one, ties counting half.

    >>> auroc(np.array([1, 0, 0]), np.array([0.5, 0.5, 0.1]), np.ones((1, 3))).tolist()
    [0.75]
    """
    abnormal, normal = _class_weight_by_score(target, score, weights)
    pairs = np.einsum("rs,rs->r", abnormal, np.cumsum(normal, axis=1) - normal / 2)
    return _divide(pairs, abnormal.sum(1) * normal.sum(1))


def average_precision(target, score, weights) -> np.ndarray:
    """Area under the precision-recall steps (no interpolation); NaN unless both classes are present."""
    abnormal, normal = (part[:, ::-1] for part in _class_weight_by_score(target, score, weights))
    called_abnormal, called_normal = np.cumsum(abnormal, axis=1), np.cumsum(normal, axis=1)
    precision = np.nan_to_num(_divide(called_abnormal, called_abnormal + called_normal))
    area = _divide((abnormal * precision).sum(1), abnormal.sum(1))
    return np.where(normal.sum(1) > 0, area, np.nan)


def brier(target, probability, weights) -> np.ndarray:
    """Mean squared difference of the probability of "abnormal" and what is (0 or 1).

    >>> brier(np.array([1, 0]), np.array([0.5, 0.5]), np.ones((1, 2))).tolist()
    [0.25]
    """
    return _mean((probability - target) ** 2, weights)


def calibration_error(target, probability, weights) -> np.ndarray:
    """Expected calibration error: |mean probability - share abnormal| in each of ten equal bins, by bin size.

    Source: Guo et al., arXiv 1706.04599, eq. 3.

    >>> calibration_error(np.array([1, 0]), np.array([0.8, 0.1]), np.ones((1, 2))).round(3).tolist()
    [0.15]
    """
    bins = probability_bins(probability)
    inside = (bins[:, None] == np.arange(BINS)).astype(np.float64)
    gap = weights @ ((probability - target)[:, None] * inside)
    return _divide(np.abs(gap).sum(1), weights.sum(1))


def probability_bins(probability) -> np.ndarray:
    """Bin of each probability, int [N]: bin b of BINS holds [b / BINS, (b + 1) / BINS), the last one 1 too."""
    return np.clip((np.asarray(probability) * BINS).astype(int), 0, BINS - 1)


def _mean(values, weights) -> np.ndarray:
    return _divide(weights @ np.asarray(values, np.float64), weights.sum(1))


def mae(target, prediction, weights) -> np.ndarray:
    """Mean absolute error, in the target's unit.

    >>> mae(np.array([50.0, 60.0]), np.array([55.0, 57.0]), np.ones((1, 2))).tolist()
    [4.0]
    """
    return _mean(np.abs(prediction - target), weights)


def rmse(target, prediction, weights) -> np.ndarray:
    """Root of the mean squared error, in the target's unit."""
    return np.sqrt(_mean((prediction - target) ** 2, weights))


def r2(target, prediction, weights) -> np.ndarray:
    """1 - squared error / squared spread of the target; NaN if the target has no spread.

    >>> r2(np.array([40.0, 60.0]), np.array([50.0, 50.0]), np.ones((1, 2))).tolist()  # no better than the mean
    [0.0]
    """
    # Centred on a fixed number first, so that the one-pass variance does not cancel.
    centred = target - np.mean(target)
    spread = _mean(centred**2, weights) - _mean(centred, weights) ** 2
    spread = np.where(spread > 1e-12 * max(float(np.var(target)), 1e-300), spread, 0.0)
    return 1 - _divide(_mean((prediction - target) ** 2, weights), spread)


def bias(target, prediction, weights) -> np.ndarray:
    """Mean of prediction - target, in the target's unit."""
    return _mean(prediction - target, weights)


def _half_width_of_agreement(target, prediction, weights) -> np.ndarray:
    error = prediction - target
    centred = error - np.mean(error)
    count = weights.sum(1)
    squares = weights @ centred**2 - _divide((weights @ centred) ** 2, count)
    variance = np.where(count > 1, np.maximum(squares, 0) / np.maximum(count - 1, 1), np.nan)
    return 1.96 * np.sqrt(variance)


def agreement_low(target, prediction, weights) -> np.ndarray:
    """Lower Bland-Altman limit: bias - 1.96 sample standard deviations of the error; NaN below two videos.

    Source: Bland and Altman, Lancet 1986, 327, 307-310.
    """
    return bias(target, prediction, weights) - _half_width_of_agreement(target, prediction, weights)


def agreement_high(target, prediction, weights) -> np.ndarray:
    """Upper Bland-Altman limit: bias + 1.96 sample standard deviations of the error; NaN below two videos."""
    return bias(target, prediction, weights) + _half_width_of_agreement(target, prediction, weights)
