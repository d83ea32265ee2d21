"""How well two masks of one frame agree (Dice, intersection over union, Hausdorff distance), and their volumes."""

import numpy as np
import scipy.ndimage


def dice(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Twice the intersection over the sum of both areas.

    Args:
      truth, predicted: bool [N, H, W].

    Returns:
      float64 [N]; 0 where only one of the two is empty, NaN where both are.

    >>> truth, found = np.zeros((2, 1, 4, 4), bool)
    >>> truth[0, :2], found[0, 1:3] = True, True
    >>> dice(truth, found).tolist(), iou(truth, found).round(3).tolist()
    ([0.5], [0.333])
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

    >>> truth, found = np.zeros((2, 1, 8, 8), bool)
    >>> truth[0, 2, 2], found[0, 2, 5] = True, True
    >>> hausdorff95(truth, found, spacing=np.array([[0.5, 0.5]])).tolist()  # three pixels of half a millimetre
    [1.5]
    """
    return np.array([_hausdorff95(a, b, s) for a, b, s in zip(truth, predicted, spacing, strict=True)], np.float64)


def disc_volume(masks: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Volume by the method of discs in one plane: round discs across the mask's longest direction.

    Source: the method of discs of the ASE's and EACVI's recommendations, Lang et al., J Am Soc Echocardiogr 2015, 28,
    1-39.

    Args:
      masks: bool [N, H, W].
      spacing: float [N, 2], size of a pixel, row then column, in a unit whose cube is the result's.

    Returns:
      float64 [N]; 0 of an empty mask.

    >>> row, column = np.mgrid[:64, :64]
    >>> ball = ((row - 32) ** 2 + (column - 32) ** 2 <= 20**2)[None]
    >>> round(float(disc_volume(ball, np.ones((1, 2)))[0] / (4 / 3 * np.pi * 20**3)), 1)  # of a true ball's
    1.0
    """
    return np.array([_disc_volume(mask, s) for mask, s in zip(masks, spacing, strict=True)], np.float64)


def largest_regions(maps: np.ndarray) -> np.ndarray:
    """Keeps of each class the largest region whose pixels touch at a side; what lies apart becomes background.

    A heart has one of each chamber: specks elsewhere are errors, which move a cavity's long axis and its outline most.

    Args:
      maps: uint8 [N, H, W], number of each pixel's class, 0 the background.

    Returns:
      uint8 [N, H, W]; of equally large regions the first in raster order stays.

    >>> largest_regions(np.array([[[1, 1, 0, 1], [0, 0, 0, 2]]], np.uint8)).tolist()
    [[[1, 1, 0, 0], [0, 0, 0, 2]]]
    """
    result = np.zeros_like(maps)
    for before, after in zip(maps, result, strict=True):
        for one in np.unique(before[before > 0]):
            regions, _ = scipy.ndimage.label(before == one)
            after[regions == 1 + np.bincount(regions[regions > 0] - 1).argmax()] = one
    return result


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
