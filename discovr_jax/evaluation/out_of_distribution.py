"""Is a video unlike those that the heads were fitted and checked on? Then nothing that they say of it is to be trusted.

Each pooled feature is standardised on the training videos; the distance in it is the mean Euclidean distance to the k
nearest of them, divided by what 99 % of the training videos do not exceed (each among the others). A video's distance
is the largest over the pooled features. Validation sets the threshold only, as in split conformal prediction, so that
at most 1 in 100 videos like those of validation lies above it; with fewer than 99 of them it is their largest
distance, which 1 in N + 1 exceeds. It finds what looks different to the encoder, which is not all that is different: a
video below the threshold may still be one that the heads get wrong.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from discovr_jax.evaluation import interface

# Small, and there for every encoder.
READOUTS = ("cls", "mean", "std_of_mean", "mean_of_std")
NEAREST = 10  # training videos
SHARE = 0.99  # of videos like those of validation, that do not exceed the threshold
_MOST = 2000  # videos, evenly spaced, that a quantile is taken of
_BLOCK = 2**24  # differences held at once
_NAME = "out_of_distribution"


def fit(train: Mapping[str, np.ndarray], val: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Threshold, and the numbers that a distance is made with.

    Args:
      train, val: {readout: float [N, D]}.

    Returns:
      For the header of `fitted_heads`, and arrays for its file.
    """
    names = [name for name in READOUTS if name in train and len(_finite(train[name])) and len(_finite(val[name]))]
    arrays = {}
    for name in names:
        mean, scale = interface.scaling(_finite(train[name]))
        arrays |= {f"{_NAME}/{name}/mean": mean, f"{_NAME}/{name}/scale": scale}
    usual = {name: _usual(_nearest(arrays, name, train[name], _some(train[name]), 1)) for name in names}
    apart = [_nearest(arrays, name, train[name], _some(val[name])) / usual[name] for name in names]
    largest = np.max(apart, 0) if names else np.zeros(0)
    largest = np.sort(largest[np.isfinite(largest)])
    rank = min(math.ceil((len(largest) + 1) * SHARE), len(largest))
    return {
        "readouts": names,
        "usual": usual,
        "threshold": float(largest[rank - 1]) if rank else 0.0,
        "share": SHARE,
        "validation_videos": len(largest),
    }, arrays


def distance(
    about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], features: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Of videos, float64 [Q]; NaN where a feature is not finite, or none of training was.

    Args:
      about, arrays: of `fit`, with "reference/READOUT" float32 [N, D], the training videos.
      features: {readout: float [Q, D]}.
    """
    parts = [
        _nearest(arrays, name, arrays[f"reference/{name}"], features[name]) / about["usual"][name]
        for name in about["readouts"]
    ]
    return np.max(parts, 0) if parts else np.full(len(next(iter(features.values()))), np.nan)


def _finite(rows: np.ndarray) -> np.ndarray:
    """Rows [N, D] that are finite, as float64."""
    rows = np.asarray(rows, np.float64)
    return rows[np.isfinite(rows).all(1)]


def _some(rows: np.ndarray) -> np.ndarray:
    """At most `_MOST` of the rows, evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _MOST)).round().astype(int))]


def _nearest(
    arrays: Mapping[str, np.ndarray], name: str, train: np.ndarray, query: np.ndarray, skipped: int = 0
) -> np.ndarray:
    """Mean distance of query [Q, D] to the nearest training videos [N, D] in one standardised feature: [Q].

    Args:
      skipped: of the nearest; 1 for a query that is a training video itself.
    """
    mean, scale = (arrays[f"{_NAME}/{name}/{each}"] for each in ("mean", "scale"))
    train, query = ((rows - mean) / scale for rows in (_finite(train), np.asarray(query, np.float64)))
    squares, result = (train**2).sum(1), np.empty(len(query))
    last = min(NEAREST + skipped, len(train))
    skipped = min(skipped, last - 1)
    for start in range(0, len(query), rows := max(1, _BLOCK // len(train))):
        block = query[start : start + rows]
        apart = np.maximum((block**2).sum(1, keepdims=True) + squares - 2 * block @ train.T, 0)
        nearest = np.sort(np.partition(apart, last - 1, 1)[:, :last], 1)[:, skipped:]
        result[start : start + rows] = np.sqrt(nearest).mean(1)
    return result / np.sqrt(train.shape[1])


def _usual(values: np.ndarray) -> float:
    """What a share of `SHARE` of the finite values [N] does not exceed; never 0."""
    return float(np.quantile(values[np.isfinite(values)], SHARE)) or 1.0
