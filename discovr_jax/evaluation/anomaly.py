"""Anomaly score: mean cosine distance to the k nearest *normal* training videos; no abnormal one is used."""

import numpy as np

from discovr_jax.evaluation import metrics, task

TARGET = "label"
METRICS = {"auroc": metrics.auroc, "auprc": metrics.average_precision}
SELECT_BY, LARGER_IS_BETTER = "auroc", True


def require(train: np.ndarray, val: np.ndarray, test: np.ndarray) -> None:
    """Raises task.Skip without a normal training video, or unless val and test hold both classes."""
    if not (train == 0).any():
        raise task.Skip(f"no normal training videos: all {len(train)} labelled ones are abnormal")
    task.require_both_classes("val", val)
    task.require_both_classes("test", test)


def distance(normal: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """Mean of 1 - cosine to the k nearest rows of `normal` [N, D], for `query` [Q, D]: float64 [Q]."""
    similarity, _ = task.nearest(query, normal, k)
    return 1 - similarity.mean(1)


def evaluate(train: task.Split, val: task.Split, test: task.Split, *, k: int = 10) -> task.Predictions:
    """Scores validation and test videos; k is cut to the number of normal training videos.

    Raises:
      ValueError: if k < 1.
    """
    if k < 1:
        raise ValueError(f"anomaly needs k >= 1, got {k}")
    normal = train.features[train.target == 0]
    scores = [distance(normal, split.features, k) for split in (val, test)]
    return task.Predictions(*scores, details={"k": min(k, len(normal)), "normal_videos": len(normal)})
