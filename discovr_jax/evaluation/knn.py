"""k nearest neighbours on frozen features: cosine, exponentially weighted vote, majority at 0.5."""

import numpy as np

from discovr_jax.evaluation import metrics, task

TARGET = "label"
METRICS = {
    "macro_f1": metrics.macro_f1,
    "balanced_accuracy": metrics.balanced_accuracy,
    "auroc": metrics.auroc,
}
SELECT_BY, LARGER_IS_BETTER = "auroc", True


def require(train: np.ndarray, val: np.ndarray, test: np.ndarray) -> None:
    """Raises task.Skip unless the known labels [N] of every split hold both classes."""
    for name, target in (("train", train), ("val", val), ("test", test)):
        task.require_both_classes(name, target)


def vote(bank: task.Split, query: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """Share of the neighbours' weight that says "abnormal".

    A neighbour of cosine similarity s weighs exp(s / temperature).

    Args:
      bank: labelled videos; query: float [Q, D].

    Returns:
      float64 [Q] in [0, 1].
    """
    similarity, index = task.nearest(query, bank.features, k)
    # Only ratios matter; the shift keeps exp finite at any temperature.
    weight = np.exp((similarity - similarity[:, :1]) / temperature)
    return (weight * bank.target[index]).sum(1) / weight.sum(1)


def evaluate(
    train: task.Split, val: task.Split, test: task.Split, *, k: int = 10, temperature: float = 0.07
) -> task.Predictions:
    """Scores validation and test videos against the training bank. k is cut to the bank's size, and said so.

    Raises:
      ValueError: if k < 1 or temperature <= 0.
    """
    if k < 1 or temperature <= 0:
        raise ValueError(f"knn needs k >= 1 and temperature > 0, got k={k}, temperature={temperature}")
    scores = [vote(train, split.features, k, temperature) for split in (val, test)]
    return task.Predictions(*scores, details={"k": min(k, len(train.target)), "temperature": temperature})
