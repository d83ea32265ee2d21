"""Anomaly score: mean cosine distance to the k nearest *normal* training videos; no abnormal one is used.

Sensitivity at a specificity: the threshold is the score that this share of the normal *validation* videos does not
exceed. The specificity on test is therefore another metric, and stands beside.

Source: Bergman et al., "Deep nearest neighbor anomaly detection", arXiv 2002.10445.
"""

import dataclasses

import numpy as np

from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface, neighbours
from discovr_jax.evaluation.metrics import videos as video_metrics

TARGET = "label"
SPECIFICITIES = (90, 95)  # percent
_WIDER = 4  # neighbours of all videos that are looked at for one that is normal
METRICS = {"auroc": video_metrics.auroc, "auprc": video_metrics.average_precision}
for _percent in SPECIFICITIES:
    METRICS[f"sensitivity_at_{_percent}"] = video_metrics.On(f"margin_{_percent}", video_metrics.sensitivity)
    METRICS[f"specificity_at_{_percent}"] = video_metrics.On(f"margin_{_percent}", video_metrics.specificity)
SELECT_BY, LARGER_IS_BETTER = "auroc", True


def require(train: np.ndarray, val: np.ndarray, test: np.ndarray) -> None:
    """Raises interface.Skip without a normal training video, or unless val and test hold both classes."""
    if not (train == 0).any():
        raise interface.Skip(f"no normal training videos: all {len(train)} labelled ones are abnormal")
    interface.require_both_classes("val", val)
    interface.require_both_classes("test", test)


def distance(normal: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """Mean of 1 - cosine to the k nearest rows of `normal` [N, D], for `query` [Q, D]: float64 [Q]."""
    similarity, _ = neighbours.nearest(query, normal, k)
    return 1 - similarity.mean(1)


def _distance(train: interface.Split, query: interface.Split, k: int) -> np.ndarray:
    """`distance` to the normal training videos: the first k of all neighbours that are normal.

    The neighbours of all training videos are those that kNN and retrieval ask for too. Where fewer than k of them are
    normal, these are searched alone.
    """
    similarity, index = neighbours.among(train, query, max(_WIDER * k, neighbours.DEPTH))
    normal = train.target[index] == 0
    first = np.argsort(~normal, axis=1, kind="stable")[:, :k]
    result = 1 - np.take_along_axis(similarity, first, 1).mean(1)
    few = np.flatnonzero(normal.sum(1) < k)
    if few.size:
        alone = train.take(np.flatnonzero(train.target == 0))
        if train.searches:
            alone = dataclasses.replace(alone, searches=train.searches.fresh())
        result[few] = 1 - neighbours.among(alone, query.take(few), k)[0].mean(1)
    return result


def threshold(normal_scores: np.ndarray, percent: float) -> float:
    """The smallest of the scores [N] that at least `percent` of them do not exceed."""
    return float(np.quantile(normal_scores, percent / 100, method="inverted_cdf"))


def apply(reference: np.ndarray, labels: np.ndarray, features: np.ndarray, *, k: int) -> np.ndarray:
    """The score, float64 [Q], of features [Q, D] by the normal ones of the reference set [N, D] with labels [N]."""
    return distance(reference[labels == 0], features, k)


def evaluate(
    train: interface.Split, val: interface.Split, test: interface.Split, *, k: int = 10
) -> interface.Predictions:
    """Scores validation and test videos; k is cut to the number of normal training videos.

    Raises:
      ConfigError: if k < 1.
    """
    if k < 1:
        raise ConfigError(f"anomaly needs k >= 1, got {k}")
    normal = int((train.target == 0).sum())
    k = min(k, normal)
    scores = [_distance(train, split, k) for split in (val, test)]
    details = neighbours.details(train)
    return scored(scores[0], val.target, scores[1], k=k, normal_videos=normal, **details)


def scored(val: np.ndarray, val_labels: np.ndarray, test: np.ndarray, **details) -> interface.Predictions:
    """Anomaly scores as predictions, with their distance to the thresholds that normal validation videos set.

    Args:
      val, test: float64 [N_val], [N_test], larger is more abnormal; val_labels: [N_val], 0 normal.
      **details: joined to those of results.json.
    """
    normal = val[val_labels == 0]
    thresholds = {percent: threshold(normal, percent) for percent in SPECIFICITIES}
    return interface.Predictions(
        val,
        test,
        details=details
        | {
            "normal_validation_videos": len(normal),
            "thresholds": {str(percent): value for percent, value in thresholds.items()},
        },
        outputs={f"margin_{percent}": test - value for percent, value in thresholds.items()},
    )
