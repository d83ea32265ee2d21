"""Which points are drawn, and which of all points a box or lasso holds. Videos are named by their row."""

from collections.abc import Mapping
from typing import Any

import numpy as np

MOST_DRAWN = 10_000  # points that a browser without a graphics card draws at once in a fraction of a second
# What the modifier keys make of an earlier selection and of what a region holds; the plain one first.
_MODES = (
    lambda before, inside: inside,
    np.logical_or,  # shift
    np.logical_and,  # control
    lambda before, inside: before & ~inside,  # both
    np.logical_xor,  # from the tool's menu
)


def drawn(rows: np.ndarray, places: np.ndarray, view: np.ndarray, order: np.ndarray) -> np.ndarray:
    """All rows; where they are too many, those in view, or a random sample of these: int [n <= MOST_DRAWN], ascending.

    Args:
      rows: int [n], ascending, of the videos that pass all filters.
      places: float [N, 2] of all videos.
      view: [[x0, y0], [x1, y1]], corners of what the browser shows.
      order: a random permutation of all rows. It is the same each time, so that zooming in only adds points.
    """
    if len(rows) <= MOST_DRAWN:
        return rows
    held = np.zeros(len(places), bool)
    held[rows[_in_box(places[rows], *view)]] = True
    return np.sort(order[held[order]][:MOST_DRAWN])


def inside(places: np.ndarray, geometry: Mapping[str, Any]) -> np.ndarray:
    """Which places, float [N, 2], lie in the region of a box or lasso (Bokeh's `SelectionGeometry`): bool [N]."""
    if geometry["type"] == "rect":
        x, y = sorted((geometry["x0"], geometry["x1"])), sorted((geometry["y0"], geometry["y1"]))
        return _in_box(places, *zip(x, y, strict=True))
    corners = np.column_stack([geometry["x"], geometry["y"]]).astype(float)
    result = np.zeros(len(places), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crossed = np.flatnonzero((places[:, 1] < y0) != (places[:, 1] < y1))  # by a ray to the right, or to the left
        x, y = places[crossed].T
        result[crossed] ^= x < x0 + (x1 - x0) * (y - y0) / (y1 - y0)
    return result


def extended(before: np.ndarray, region: np.ndarray, rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The selection of all videos, where the browser chose among those drawn and does not say in which mode.

    Args:
      before: bool [N], the selection until now; region: bool [N], what the new box or lasso holds.
      rows: int [n], drawn; chosen: bool [n], selected by the browser.

    Returns:
      bool [N]: by the mode that explains best what was chosen among those drawn.
    """
    made = [mode(before, region) for mode in _MODES]
    return min(made, key=lambda each: np.count_nonzero(each[rows] != chosen))


def _in_box(places: np.ndarray, low: Any, high: Any) -> np.ndarray:
    return ((places >= low) & (places <= high)).all(1)
