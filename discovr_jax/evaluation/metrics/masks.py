"""How well two masks of one frame agree (Dice, intersection over union, Hausdorff distance), and their volumes."""

import numpy as np


def dice(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Twice the intersection over the sum of both areas.

    Args:
      truth, predicted: bool [N, H, W].

    Returns:
      float64 [N]; 0 where only one of the two is empty, NaN where both are.
    """
    both, areas = _counts(truth, predicted)
    return _ratio(2 * both, areas)


def iou(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Intersection over union; arguments and result as of `dice`."""
    both, areas = _counts(truth, predicted)
    return _ratio(both, areas - both)


def hausdorff95(truth: np.ndarray, predicted: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The larger of the two 95th percentiles of the distances from one outline to the other.

    An outline is the pixels of a mask with a neighbour (of four) outside it, at their centres; outside the frame is
    outside the mask.

    Args:
      truth, predicted: bool [N, H, W].
      spacing: float [N, 2], size of a pixel, row then column, in the unit of the result.

    Returns:
      float64 [N]; NaN where a mask is empty: there is no distance to nothing.
    """
    return np.array([_hausdorff95(a, b, s) for a, b, s in zip(truth, predicted, spacing, strict=True)], np.float64)


def disc_volume(masks: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Volume by the method of discs in one plane: round discs across the mask's longest direction.

    Args:
      masks: bool [N, H, W].
      spacing: float [N, 2], size of a pixel, row then column, in a unit whose cube is the result's.

    Returns:
      float64 [N]; 0 of an empty mask.
    """
    return np.array([_disc_volume(mask, s) for mask, s in zip(masks, spacing, strict=True)], np.float64)


def _disc_volume(mask: np.ndarray, spacing: np.ndarray) -> float:
    points = np.argwhere(mask) * np.asarray(spacing, np.float64)
    if len(points) < 2:
        return 0.0
    height = points @ np.linalg.eigh(np.cov(points.T))[1][:, -1]
    # Discs about two pixels high: thin ones would hold now one row of pixels and now two.
    extent = np.ptp(height) + np.mean(spacing)
    discs = max(round(extent / (2 * np.mean(spacing))), 1)
    middle = (height.max() + height.min()) / 2
    counts, _ = np.histogram(height, discs, (middle - extent / 2, middle + extent / 2))
    return float(np.pi / 4 * np.sum((counts * np.prod(spacing)) ** 2) * discs / extent)


def outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask that have a neighbour (of four) outside it; outside the frame is outside. bool [H, W], both."""
    framed = np.pad(mask, 1)
    inside = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return mask & ~inside


def _hausdorff95(truth: np.ndarray, predicted: np.ndarray, spacing: np.ndarray) -> float:
    if not (truth.any() and predicted.any()):
        return np.nan
    first, second = (np.argwhere(outline(mask)) * spacing for mask in (truth, predicted))
    distance = np.sqrt(((first[:, None] - second[None]) ** 2).sum(-1))
    return max(np.percentile(distance.min(1), 95), np.percentile(distance.min(0), 95))


def _counts(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N] of the intersection, and of both masks together counted twice where they meet."""
    axes = (1, 2)
    return (truth & predicted).sum(axes), truth.sum(axes) + predicted.sum(axes)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
