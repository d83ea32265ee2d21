"""Metrics of several classes, many weightings at once: `metric(target [N], probability [N, K], weights [R, N]) -> [R]`.

Classes by number, two or more, as `cross_validate` scores them; metrics of normal against abnormal by a score, as most
evaluators give it, are in `metrics.videos`.

As in `metrics.videos`: a weight is how often a video counts. The class of a video is the one of the highest
probability (of equal ones the first). Means are over the classes that `target` holds: a class that no video has can be
called wrongly, and has no metric of its own. In a resample that lost one of them (its weights are 0) a metric does not
exist (NaN); scikit-learn would give that class an F1 of 0 and leave its recall out.
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
    return _of_all(f1, true, target)


def balanced_accuracy(target, probability, weights) -> np.ndarray:
    """Mean of the recall of all classes."""
    counts = confusion(target, probability, weights)
    true = counts.sum(2)
    return _of_all(_right(counts) / np.maximum(true, 1e-300), true, target)


def auroc(target, probability, weights) -> np.ndarray:
    """Mean over the classes of the AUROC of one class against the rest, by its probability."""
    target, probability = np.asarray(target), np.asarray(probability)
    return np.mean([videos.auroc(target == k, probability[:, k], weights) for k in _present(target)], 0)


def quadratic_kappa(target, probability, weights) -> np.ndarray:
    """Cohen's kappa of grades, errors weighted by the square of their distance; NaN where one grade is all there is.

    Source: Cohen, Psychological Bulletin 1968, 70, 213-220.

    >>> quadratic_kappa(np.array([0, 1, 2]), np.eye(3)[[0, 1, 1]], np.ones((1, 3))).round(3).tolist()
    [0.667]
    """
    counts = confusion(target, probability, weights)
    grades = np.arange(counts.shape[1])
    cost = (grades[:, None] - grades) ** 2
    by_chance = counts.sum(2)[:, :, None] * counts.sum(1)[:, None, :] / counts.sum((1, 2))[:, None, None]
    expected = (by_chance * cost).sum((1, 2))
    return np.where(expected > 0, 1 - (counts * cost).sum((1, 2)) / np.maximum(expected, 1e-300), np.nan)


@dataclasses.dataclass(frozen=True)
class Recall:
    """Share of the videos of one class that are named so; exists where that class is present."""

    of: int

    def __call__(self, target, probability, weights) -> np.ndarray:
        counts = confusion(target, probability, weights)[:, self.of]
        return np.where(counts.sum(1) > 0, counts[:, self.of] / np.maximum(counts.sum(1), 1e-300), np.nan)


def _right(counts: np.ndarray) -> np.ndarray:
    return np.diagonal(counts, axis1=1, axis2=2)


def _present(target) -> np.ndarray:
    """The classes that some video has, weight or not: int [C]."""
    return np.unique(np.asarray(target)).astype(int)


def _of_all(values: np.ndarray, true: np.ndarray, target) -> np.ndarray:
    """Mean over the classes that `target` holds, [R]; NaN where one of them has no weight."""
    present = _present(target)
    return np.where((true[:, present] > 0).all(1), values[:, present].mean(1), np.nan)
