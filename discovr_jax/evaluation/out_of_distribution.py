"""Is a video unlike those that the heads were fitted and checked on? Then nothing that they say of it is to be trusted.

    each pooled feature of half of the training videos, standardised -> their first principal components
      -> residual: what these do not explain of a video, divided by what is usual for the other half
      -> distance: the mean residual over the pooled features; or that of two pictures which no network has seen, the
         mean frame and the temporal standard deviation of the clip, where it is larger

Validation sets the threshold only, as in split conformal prediction, so that of videos like those of validation at most
1 in 200 lies above it by its features, and as many by its pictures; with fewer than 199 of them it is their largest
distance, which 1 in N + 1 exceeds. It finds what looks different to the encoder or in those pictures, which is not all
that is different: a video below the threshold may still be one that the heads get wrong. (Residuals were taken rather
than distances to the nearest training videos because those of the small pooled features let M-mode and an upside-down
heart pass, and those of the maps are too large to keep. Pictures were added because features alone found none of seven
real hearts unlike simulated ones.)
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from discovr_jax.evaluation import interface

# Of every encoder; the maps see where something is.
READOUTS = ("cls", "mean", "std_of_mean", "mean_of_std", "mean_map", "std_map")
PIXELS = "pixels"  # `features.pixels.pixel_features`
SHARE = 0.995  # of videos like those of validation, whose features, and whose pictures, do not exceed the threshold
_COMPONENTS = 32  # at most, and fewer than make every video explained
_USUAL = 0.9  # share of the training videos whose residual is at most the unit
_MOST = 2000  # videos, evenly spaced, that are looked at
_NAME = "out_of_distribution"


def fit(train: Mapping[str, np.ndarray], val: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Threshold, and the numbers that a distance is made with.

    Args:
      train, val: {readout: float [N, D]}, `PIXELS` among them.

    Returns:
      For the header of `fitted_heads`, and arrays for its file.
    """
    names, usual, arrays = [], {}, {}
    for name in (*READOUTS, PIXELS):
        rows = _some(train[name], _finite(train[name])) if name in train else np.zeros((0, 1))
        if len(rows) < 4 or (name == PIXELS and not names):
            continue
        first, second = rows[::2], rows[1::2]
        mean, scale = interface.scaling(first)
        most = max(1, min(_COMPONENTS, len(first) // 3, first.shape[1] // 4))
        # As float32, before anything is measured with them: of maps they are most of what is kept.
        components = np.linalg.svd((first - mean) / scale, full_matrices=False)[2][:most].astype(np.float32)
        arrays |= {f"{_NAME}/{name}/{n}": a for n, a in (("mean", mean), ("scale", scale), ("components", components))}
        usual[name] = float(np.quantile(_residual(arrays, name, second), _USUAL)) or 1.0
        names.append(name)
    looked_at = {name: _some(val[name], np.arange(len(val[name]))) for name in names}
    about = {"readouts": [name for name in names if name != PIXELS], "usual": usual, "share": SHARE}
    distances = distance(about, arrays, looked_at) if names else np.zeros(0)
    threshold = _threshold(distances)
    if PIXELS in names:  # in units that give both the same threshold
        about["readouts"] = names
        usual[PIXELS] = _threshold(_residual(arrays, PIXELS, looked_at[PIXELS])) / (threshold or 1.0) or 1.0
    return about | {"threshold": threshold, "validation_videos": int(np.isfinite(distances).sum())}, arrays


def _threshold(distances: np.ndarray) -> float:
    """What `SHARE` of videos like these do not exceed."""
    distances = np.sort(distances[np.isfinite(distances)])
    rank = min(math.ceil((len(distances) + 1) * SHARE), len(distances))
    return float(distances[rank - 1]) if rank else 0.0


def distance(
    about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], features: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Of videos [Q]; NaN where a feature is not finite, or none of training was.

    Args:
      about, arrays: of `fit`.
      features: {readout: float [Q, D]}, arrays of NumPy or JAX (`interface.floats`).
    """
    parts = {name: _residual(arrays, name, features[name]) / about["usual"][name] for name in about["readouts"]}
    pixels = parts.pop(PIXELS, None)  # heads of an earlier version have none
    if not parts:
        return np.full(len(next(iter(features.values()))), np.nan)
    mean = sum(parts.values()) / len(parts)
    return mean if pixels is None else mean.__array_namespace__().maximum(mean, pixels)


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
