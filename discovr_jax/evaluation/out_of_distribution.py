"""Is a video unlike those that the heads were fitted and checked on? Then nothing that they say of it is to be trusted.

    each pooled feature of half of the training videos, standardised -> their first principal components
      -> residual: what these do not explain of a video, divided by what is usual for the other half
      -> distance: the mean residual over the pooled features

Validation sets the threshold only, as in split conformal prediction, so that at most 1 in 100 videos like those of
validation lies above it; with fewer than 99 of them it is their largest distance, which 1 in N + 1 exceeds. It finds
what looks different to the encoder, which is not all that is different: a video below the threshold may still be one
that the heads get wrong. (Residuals were taken rather than distances to the nearest training videos because those of
the small pooled features let M-mode and an upside-down heart pass, and those of the maps are too large to keep.)
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from discovr_jax.evaluation import interface

# Of every encoder; the maps see where something is.
READOUTS = ("cls", "mean", "std_of_mean", "mean_of_std", "mean_map", "std_map")
SHARE = 0.99  # of videos like those of validation, that do not exceed the threshold
_COMPONENTS = 32  # at most, and fewer than make every video explained
_USUAL = 0.9  # share of the training videos whose residual is at most the unit
_MOST = 2000  # videos, evenly spaced, that are looked at
_NAME = "out_of_distribution"


def fit(train: Mapping[str, np.ndarray], val: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Threshold, and the numbers that a distance is made with.

    Args:
      train, val: {readout: float [N, D]}.

    Returns:
      For the header of `fitted_heads`, and arrays for its file.
    """
    names, usual, arrays = [], {}, {}
    for name in READOUTS:
        rows = _some(train[name], _finite(train[name])) if name in train else np.zeros((0, 1))
        if len(rows) < 4:
            continue
        first, second = rows[::2], rows[1::2]
        mean, scale = interface.scaling(first)
        most = max(1, min(_COMPONENTS, len(first) // 3, first.shape[1] // 4))
        components = np.linalg.svd((first - mean) / scale, full_matrices=False)[2][:most]
        arrays |= {f"{_NAME}/{name}/{n}": a for n, a in (("mean", mean), ("scale", scale), ("components", components))}
        usual[name] = float(np.quantile(_residual(arrays, name, second), _USUAL)) or 1.0
        names.append(name)
    about = {"readouts": names, "usual": usual, "share": SHARE}
    looked_at = {name: _some(val[name], np.arange(len(val[name]))) for name in names}
    distances = distance(about, arrays, looked_at) if names else np.zeros(0)
    distances = np.sort(distances[np.isfinite(distances)])
    rank = min(math.ceil((len(distances) + 1) * SHARE), len(distances))
    threshold = float(distances[rank - 1]) if rank else 0.0
    return about | {"threshold": threshold, "validation_videos": len(distances)}, arrays


def distance(
    about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], features: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Of videos [Q]; NaN where a feature is not finite, or none of training was.

    Args:
      about, arrays: of `fit`.
      features: {readout: float [Q, D]}, arrays of NumPy or JAX (`interface.floats`).
    """
    parts = [_residual(arrays, name, features[name]) / about["usual"][name] for name in about["readouts"]]
    return sum(parts) / len(parts) if parts else np.full(len(next(iter(features.values()))), np.nan)


def _residual(arrays: Mapping[str, np.ndarray], name: str, rows: np.ndarray) -> np.ndarray:
    """Length of what the principal components do not explain of rows [N, D]: [N]."""
    mean, scale, components = (arrays[f"{_NAME}/{name}/{each}"] for each in ("mean", "scale", "components"))
    rows = (interface.floats(rows) - mean) / scale
    return rows.__array_namespace__().linalg.norm(rows - rows @ components.T @ components, axis=1)


def _finite(features: np.ndarray) -> np.ndarray:
    """Numbers of the rows of features [N, D] that are finite."""
    return np.flatnonzero(np.concatenate([np.isfinite(block).all(1) for _, block in interface.blocks(features)]))


def _some(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of these rows of features [N, D] at most `_MOST`, evenly spaced: float64."""
    picked = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _MOST)).round().astype(int))]
    return np.asarray(features[picked], np.float64)
