"""Retrieval: are the training videos most similar to a test video alike in diagnosis and measurement?

Precision at k by label, and the mean absolute difference of the measurement to the DEPTH nearest, each beside what
randomly drawn training videos would give.
"""

import numpy as np

from discovr_jax.evaluation import interface, neighbours
from discovr_jax.evaluation.evaluators import knn
from discovr_jax.evaluation.metrics import videos as video_metrics

TARGET = "label"
DEPTH = 10  # neighbours looked at
CUTS = (1, 5, DEPTH)
METRICS = video_metrics.means(
    *(f"precision_at_{cut}" for cut in CUTS), "precision_by_chance", "difference", "difference_by_chance"
)
SELECT_BY, LARGER_IS_BETTER = f"precision_at_{DEPTH}", True
require = knn.require
_SHOWN = 24  # test videos whose neighbours the report shows


def precision(reference: interface.Split, query: interface.Split, index: np.ndarray) -> np.ndarray:
    """Share of the neighbours `index` [Q, K] in the reference set that have the query's label: float64 [Q]."""
    return (reference.target[index] == query.target[:, None]).mean(1)


def differences(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean of |value - other| over the known others: float64 [Q]; NaN where none, or the value, is known.

    Args:
      values: float [Q]; others: float [Q, K].
    """
    gaps = np.abs(others - values[:, None])
    known = np.isfinite(gaps)
    count = known.sum(1)
    return np.where(count > 0, np.where(known, gaps, 0).sum(1) / np.maximum(count, 1), np.nan)


def chance(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`differences` where all values [Q] have the same others [N], some of them known: float64 [Q]."""
    ranked = np.sort(others[np.isfinite(others)])
    below, sums = np.searchsorted(ranked, values), np.r_[0.0, np.cumsum(ranked)]
    total = values * below - sums[below] + (sums[-1] - sums[below]) - values * (len(ranked) - below)
    return total / len(ranked)


def evaluate(
    train: interface.Split, val: interface.Split, test: interface.Split, *, field: str = "ef"
) -> interface.Predictions:
    """Neighbours of validation and test videos in the training split, by cosine.

    Args:
      field: the measurement that is compared; without known values its two metrics are left out.
    """
    (_, in_val), (similarity, in_test) = (neighbours.among(train, split, DEPTH) for split in (val, test))
    outputs = {f"precision_at_{cut}": precision(train, test, in_test[:, :cut]) for cut in CUTS}
    abnormal = train.target.mean()
    outputs["precision_by_chance"] = np.where(test.target == 1, abnormal, 1 - abnormal)
    reference, query = (np.asarray(split.columns[field], np.float64) for split in (train, test))
    if np.isfinite(reference).any() and np.isfinite(query).any():
        outputs["difference"] = differences(query, reference[in_test])
        outputs["difference_by_chance"] = chance(query, reference)
    shown = np.unique(np.linspace(0, len(test.target) - 1, _SHOWN).astype(int))
    most_similar = [
        {
            "id": str(test.columns["id"][row]),
            "neighbours": [str(train.columns["id"][index]) for index in in_test[row]],
            "similarity": [round(float(value), 4) for value in similarity[row]],
        }
        for row in shown
    ]
    details = {"depth": in_test.shape[1], "field": field} | neighbours.details(train)
    return interface.Predictions(precision(train, val, in_val), None, details, outputs, {"shown": most_similar})
