"""Chords and volumes of a left ventricle, by single-plane Simpson's discs."""

import cv2
import numpy as np

NUM_DISCS = 20


def chords(contour: np.ndarray, apex: np.ndarray, base: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Chords of a contour perpendicular to its long axis.

    Args:
      contour: float [P, 2] closed polygon, x then y.
      apex, base: float [2], ends of the long axis.
      levels: float [K], where along the axis, 0 at the apex and 1 at the base.

    Returns:
      float [K, 2, 2]: the two ends of each chord, on one side of the axis and on the other.

    Raises:
      ValueError: a level at which the contour is not crossed.
    """
    length = np.linalg.norm(base - apex)
    along = (base - apex) / length
    across = np.array([along[1], -along[0]])
    u = (contour - apex) @ along
    v = (contour - apex) @ across
    u_next, v_next = np.roll(u, -1), np.roll(v, -1)
    height = (levels * length)[:, None]
    crossed = (u[None] <= height) != (u_next[None] <= height)
    if not crossed.any(axis=1).all():
        missing = levels[~crossed.any(axis=1)]
        raise ValueError(f"the contour is not crossed at {missing} of its long axis of {length:.1f} pixels")
    step = np.where(u_next == u, 1.0, u_next - u)
    position = v + (height - u) / step * (v_next - v)
    low = np.where(crossed, position, np.inf).min(axis=1)
    high = np.where(crossed, position, -np.inf).max(axis=1)
    ends = np.stack([low, high], axis=1)[..., None] * across
    return apex + height[..., None] * along + ends


def disc_volume(contour: np.ndarray, apex: np.ndarray, base: np.ndarray) -> float:
    """Volume in cubic pixels of the body that turns a contour into 20 round discs (arguments as `chords`)."""
    levels = (np.arange(NUM_DISCS) + 0.5) / NUM_DISCS
    ends = chords(contour, apex, base, levels)
    widths = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)
    return float(np.pi / 4 * np.sum(widths**2) * np.linalg.norm(base - apex) / NUM_DISCS)


def hand_traced(outline: np.ndarray, count: int, inset: float) -> np.ndarray:
    """An outline as a person draws it: fewer points, equally far apart, a little inside the border.

    Args:
      outline: float [P, 2] closed polygon, x then y, that runs from the x axis to the y axis.
      count: points of the result.
      inset: pixels inwards.

    Returns:
      float [count, 2].
    """
    step = np.linalg.norm(np.diff(outline, axis=0, append=outline[:1]), axis=1)
    along, wanted = np.cumsum(step) - step, np.linspace(0, step.sum(), count, endpoint=False)
    points = np.stack([np.interp(wanted, along, outline[:, axis]) for axis in (0, 1)], axis=1)
    tangent = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    return points + inset * np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)


def mask_volume(mask: np.ndarray) -> float:
    """Volume in cubic pixels of label 1 of a mask, whose base is where it touches label 3 (the left atrium).

    Args:
      mask: uint8 [H, W], 1 LV cavity, 3 left atrium.

    Raises:
      ValueError: no cavity, or none that touches the atrium.
    """
    factor = 4  # enlarged, so that the outline runs between pixels and a disc holds many of them
    cavity, atrium = (
        cv2.resize((mask == label).astype(np.float32), None, fx=factor, fy=factor) >= 0.5 for label in (1, 3)
    )
    near_atrium = cv2.dilate(atrium.astype(np.uint8), np.ones((2 * factor + 1, 2 * factor + 1), np.uint8))
    border = np.argwhere(cavity & (near_atrium > 0))
    if not len(border):
        raise ValueError("mask without a left ventricle that touches the left atrium: there is no base")
    # Discs lie parallel to the border, whose direction is its pixels' main one.
    normal = np.linalg.eigh(np.cov(border.T))[1][:, 0]
    height = np.argwhere(cavity) @ normal
    at_base = border @ normal
    height = np.abs(height - (at_base.max() if height.mean() < at_base.mean() else at_base.min()))
    areas, edges = np.histogram(height, NUM_DISCS, range=(-0.5, height.max() + 0.5))
    return float(np.pi / 4 * np.sum(areas**2) / (edges[1] - edges[0])) / factor**3
