"""Metrics of several classes, many weightings at once: `metric(target [N], probability [N, K], weights [R, N]) -> [R]`.

Classes by number, two or more, as `cross_validate` scores them; metrics of normal against abnormal by a score, as most
evaluators give it, are in `metrics.videos`.

As in `metrics.videos`: a weight is how often a video counts. The class of a video is the one of the highest
probability (of equal ones the first). A metric does not exist (NaN) unless every class is present; scikit-learn would
give an absent class an F1 of 0 and leave its recall out.
"""

import dataclasses

import numpy as np

from discovr_jax.evaluation.metrics import videos


def named(probability: np.ndarray) -> np.ndarray:
    """The class that is predicted, int [N]."""
    return np.asarray(probability).argmax(1)


def confusion(target, probability, weights) -> np.ndarray:
    """How often each class (second index) was taken for each (third): float64 [R, K, K]."""
    classes = np.asarray(probability).shape[1]
    cell = np.asarray(target, int) * classes + named(probability)
    return (weights @ (cell[:, None] == np.arange(classes**2)).astype(np.float64)).reshape(-1, classes, classes)


def macro_f1(target, probability, weights) -> np.ndarray:
    """Mean of the F1 of all classes."""
    counts = confusion(target, probability, weights)
    right, true, called = _right(counts), counts.sum(2), counts.sum(1)
    f1 = 2 * right / np.maximum(true + called, 1e-300)
    return _of_all(f1, true)


def balanced_accuracy(target, probability, weights) -> np.ndarray:
    """Mean of the recall of all classes."""
    counts = confusion(target, probability, weights)
    true = counts.sum(2)
    return _of_all(_right(counts) / np.maximum(true, 1e-300), true)


def auroc(target, probability, weights) -> np.ndarray:
    """Mean over the classes of the AUROC of one class against the rest, by its probability."""
    target, columns = np.asarray(target), np.transpose(probability)
    return np.mean([videos.auroc(target == k, column, weights) for k, column in enumerate(columns)], 0)


@dataclasses.dataclass(frozen=True)
class Recall:
    """Share of the videos of one class that are named so; exists where that class is present."""

    of: int

    def __call__(self, target, probability, weights) -> np.ndarray:
        counts = confusion(target, probability, weights)[:, self.of]
        return np.where(counts.sum(1) > 0, counts[:, self.of] / np.maximum(counts.sum(1), 1e-300), np.nan)


def _right(counts: np.ndarray) -> np.ndarray:
    return np.diagonal(counts, axis1=1, axis2=2)


def _of_all(values: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Mean over classes, [R]; NaN where a class is absent."""
    return np.where((true > 0).all(1), values.mean(1), np.nan)
