"""Heads on frozen features inside one fold: fitted on its training videos, every setting at once.

Linear heads depend on features through their products alone, so a training part of fewer videos than features is turned
into as many features as it has videos (an exact rotation; what lies outside its span has no weight).
"""

import dataclasses

import numpy as np

from discovr_jax.evaluation import interface, neighbours
from discovr_jax.evaluation.cross_validation import logistic
from discovr_jax.evaluation.evaluators import knn, probe, regression

PROBE, KNN = "probe", "knn"
NEIGHBOURS, TEMPERATURE = 10, 0.07  # the headline of evaluators/knn.py


@dataclasses.dataclass(frozen=True)
class Task:
    """What is predicted: one of `classes`, or where there are none a measurement."""

    classes: tuple[str, ...]

    def settings(self, head: str) -> tuple[float, ...]:
        """What is chosen on inner folds, the plainest first: C of the logistic regression, alpha of the ridge; kNN
        has one k.
        """
        if head == KNN:
            return (float(NEIGHBOURS),)
        return probe.C_VALUES if self.classes else regression.ALPHAS[::-1]

    def predict(self, head: str, train: np.ndarray, target: np.ndarray, test: np.ndarray, settings) -> np.ndarray:
        """Predictions for test videos by heads that saw the training videos alone.

        Args:
          train: float64 [N, D]; target: float64 [N], a class by number or a measurement; test: float64 [M, D].
          settings: of `settings(head)`, S of them.

        Returns:
          float64 [S, M, K] probabilities of the classes, or [S, M] measurements.
        """
        train, test = interface.standardise(train, test)
        if head == KNN:
            return np.stack([self._nearest(train, target, test)] * len(settings))
        train, test = _rotated(train, test)
        if self.classes:
            return logistic.probabilities(train, target, test, len(self.classes), settings)
        return target.mean() + regression.ridge(train, target - target.mean(), settings) @ test.T

    def _nearest(self, train, target, test) -> np.ndarray:
        similarity, index = neighbours.nearest(test, train, NEIGHBOURS)

        def vote(values):
            return knn.vote(similarity, values[index], NEIGHBOURS, TEMPERATURE)

        if not self.classes:
            return vote(target)
        return np.stack([vote((target == k).astype(np.float64)) for k in range(len(self.classes))], axis=1)


def _rotated(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in coordinates of the training videos' span, where that is smaller; `train` is centred."""
    if train.shape[1] <= len(train):
        return train, test
    lengths, vectors = np.linalg.eigh(train @ train.T)
    kept = lengths > 1e-12 * lengths[-1]
    vectors, lengths = vectors[:, kept], np.sqrt(lengths[kept])
    return vectors * lengths, test @ train.T @ vectors / lengths
