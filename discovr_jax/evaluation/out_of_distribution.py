"""Is a video unlike those that the heads were fitted and checked on? Then nothing that they say of it is to be trusted.

Each pooled feature is standardised on the training videos; the distance in it is the mean Euclidean distance to the k
nearest of them, as a share of what 99 % of the validation videos do not exceed. A video's distance is the largest over
the pooled features, and the threshold is again what 99 % of the validation videos do not exceed: about 1 in 100 videos
like those is flagged, more where validation is small. It finds what looks different to the encoder (noise, M-mode,
another scanner), which is not all that is different: a video below the threshold may still be one that heads get wrong.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from discovr_jax.evaluation import interface

# Small, and there for every encoder.
READOUTS = ("cls", "mean", "std_of_mean", "mean_of_std")
NEAREST = 10  # training videos
SHARE = 0.99  # of the validation videos, that do not exceed the threshold
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
    apart = {name: _nearest(arrays, name, train[name], val[name]) for name in names}
    usual = {name: _quantile(each) for name, each in apart.items()}
    largest = np.max([apart[name] / usual[name] for name in names], 0) if names else np.zeros(1)
    return {
        "readouts": names,
        "usual": usual,
        "threshold": _quantile(largest),
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


def _nearest(arrays: Mapping[str, np.ndarray], name: str, train: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Mean distance of query [Q, D] to the nearest training videos [N, D] in one standardised feature: [Q]."""
    mean, scale = (arrays[f"{_NAME}/{name}/{each}"] for each in ("mean", "scale"))
    train, query = ((rows - mean) / scale for rows in (_finite(train), np.asarray(query, np.float64)))
    k, squares, found = min(NEAREST, len(train)), (train**2).sum(1), np.empty(len(query))
    for start in range(0, len(query), rows := max(1, _BLOCK // len(train))):
        block = query[start : start + rows]
        apart = np.maximum((block**2).sum(1, keepdims=True) + squares - 2 * block @ train.T, 0)
        found[start : start + rows] = np.sqrt(np.partition(apart, k - 1, 1)[:, :k]).mean(1)
    return found / np.sqrt(train.shape[1])


def _quantile(values: np.ndarray) -> float:
    """The smallest of the values [N] that a share of `SHARE` of them does not exceed; never 0."""
    return float(np.quantile(values[np.isfinite(values)], SHARE, method="inverted_cdf")) or 1.0
