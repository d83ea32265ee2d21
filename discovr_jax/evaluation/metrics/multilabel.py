"""Metrics of targets that have any number of labels: `metric(target [N], probability [N, K], weights [R, N]) -> [R]`.

The target of a video is the sum of 2^k over its labels k (`data.class_labels`), the probability of each label its own;
above `videos.THRESHOLD` a video is called to have it. Means are over the labels that some but not all videos have.
"""

import numpy as np

from discovr_jax.evaluation.metrics import videos


def bits(target, labels: int) -> np.ndarray:
    """Whether each video has each label: bool [N, labels].

    >>> bits([5.0, 0.0], 3).astype(int).tolist()
    [[1, 0, 1], [0, 0, 0]]
    """
    return (np.asarray(target, np.float64).astype(np.int64)[:, None] >> np.arange(labels)) & 1 == 1


def macro_f1(target, probability, weights) -> np.ndarray:
    """Mean over the labels of the F1 of having it; NaN in a resample where no video has one of them."""

    def f1(has, values, weights):
        has, called = (np.asarray(each, np.float64) for each in (has, values > videos.THRESHOLD))
        both, sizes = weights @ (has * called), weights @ has + weights @ called
        return np.where(weights @ has > 0, 2 * both / np.maximum(sizes, 1e-300), np.nan)

    return _mean(f1, target, probability, weights)


def auroc(target, probability, weights) -> np.ndarray:
    """Mean over the labels of the AUROC of having it."""
    return _mean(videos.auroc, target, probability, weights)


def average_precision(target, probability, weights) -> np.ndarray:
    """Mean over the labels of the average precision of having it (mAP)."""
    return _mean(videos.average_precision, target, probability, weights)


def _mean(metric, target, probability, weights) -> np.ndarray:
    """Mean over labels, [R]; NaN without a label that some but not all videos have."""
    probability = np.asarray(probability)
    has = bits(target, probability.shape[1])
    told_apart = np.flatnonzero(has.any(0) & ~has.all(0))
    if not len(told_apart):
        return np.full(len(weights), np.nan)
    return np.mean([metric(has[:, k], probability[:, k], weights) for k in told_apart], 0)
