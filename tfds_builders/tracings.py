"""Left-ventricle tracings of EchoNet to masks. Pure numpy.

The adult set gives chords: rows (x1, y1, x2, y2) in pixels, row 0 the long axis, then chords across the cavity from
apex to base. The paediatric set gives contours: rows (x, y), one point after the other around the cavity.
"""

from collections.abc import Callable, Mapping

import numpy as np

ROWS_PER_TRACING = 21


def polygon(tracing: np.ndarray) -> np.ndarray:
    """The closed ring of a tracing: one end of the chords in order, then the other end in reverse.

    Args:
      tracing: float [N, 4], N >= 3.

    Returns:
      float [2 (N - 1), 2] of x, y; row 0 (the long axis) is not part of the outline.
    """
    chords = tracing[1:]
    return np.concatenate([chords[:, :2], chords[::-1, 2:]])


def fill(ring: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels whose centre is inside or on the ring, by the even-odd rule, cut off at the edge of the canvas.

    Args:
      ring: float [V, 2] of x, y in pixels; rounded to integers first, as EchoNet's own loader does.

    Returns:
      bool [height, width].
    """
    ring = np.rint(ring).astype(np.int64)
    mask = np.zeros((height, width), bool)
    left, top = np.clip(ring.min(0), 0, (width, height))
    right, bottom = np.clip(ring.max(0) + 1, 0, (width, height))
    if left >= right or top >= bottom:
        return mask
    # Pixels down the first axes, edges from (ax, ay) to (bx, by) along the last.
    x = np.arange(left, right)[None, :, None]
    y = np.arange(top, bottom)[:, None, None]
    (ax, ay), (bx, by) = ring.T, np.roll(ring, -1, axis=0).T
    cross = (x - ax) * (by - ay) - (y - ay) * (bx - ax)
    between_x = (x >= np.minimum(ax, bx)) & (x <= np.maximum(ax, bx))
    between_y = (y >= np.minimum(ay, by)) & (y <= np.maximum(ay, by))
    on_edge = (cross == 0) & between_x & between_y
    # A ray to the right crosses an edge that spans y and lies to the right of the pixel.
    crosses = ((ay > y) != (by > y)) & ((cross < 0) == (by > ay))
    mask[top:bottom, left:right] = on_edge.any(-1) | (crosses.sum(-1) % 2 == 1)
    return mask


def trace_mask(rows: np.ndarray, height: int, width: int) -> tuple[np.ndarray, set[str]]:
    """The cavity mask of all rows listed for one frame of one video.

    Some frames carry several tracings one after the other (42, 63, ... rows): joined, their outline would
    cross itself, so they are cut into tracings of 21 rows and the largest is kept.

    Args:
      rows: float [R, 4] in file order, in pixels of the canvas.

    Returns:
      bool [height, width], all False if the rows make no area; and flags out of `stacked_tracing`,
      `short_tracing` (one has fewer than 21 rows), `clipped_tracing` (reaches outside the canvas), `empty_tracing`.
    """
    flags = set()
    if len(rows) > ROWS_PER_TRACING:
        flags.add("stacked_tracing")
    if len(rows) % ROWS_PER_TRACING:
        flags.add("short_tracing")
    if _reaches_outside(rows.reshape(-1, 2), height, width):
        flags.add("clipped_tracing")
    starts = range(0, len(rows), ROWS_PER_TRACING)
    tracings = [rows[start : start + ROWS_PER_TRACING] for start in starts]
    masks = [fill(polygon(tracing), height, width) for tracing in tracings if len(tracing) >= 3]
    best = max(masks, key=np.count_nonzero, default=np.zeros((height, width), bool))
    if not best.any():
        flags.add("empty_tracing")
    return best, flags


def contour_mask(points: np.ndarray, height: int, width: int) -> tuple[np.ndarray, set[str]]:
    """The mask inside a contour whose points are listed one after the other, around the cavity.

    Args:
      points: float [N, 2] of x, y in pixels of the canvas; the last is joined to the first.

    Returns:
      bool [height, width], all False if the points make no area; and flags out of `clipped_tracing` (reaches
      outside the canvas), `empty_tracing`.
    """
    flags = {"clipped_tracing"} if _reaches_outside(points, height, width) else set()
    mask = fill(points, height, width) if len(points) >= 3 else np.zeros((height, width), bool)
    return mask, flags if mask.any() else flags | {"empty_tracing"}


def annotate(
    traced: Mapping[int, np.ndarray], count: int, draw: Callable[[np.ndarray], tuple[np.ndarray, set[str]]]
) -> tuple[dict, set[str]]:
    """Masks of the traced frames of one video; of two or more the largest is ED and the smallest ES.

    Args:
      traced: rows of each traced frame, whose numbers count from 0.
      count: frames of the video.
      draw: makes a mask, bool [H, W], and flags of one frame's rows.

    Returns:
      The fields `masks` (None if there are none), `mask_frames`, `mask_is_expert`, `ed_frame`, `es_frame` of a
      record, and flags: those of `draw`, and `clamped_frame` for a frame outside the video, whose tracing goes to
      the nearest frame.
    """
    flags: set[str] = set()
    masks: dict[int, np.ndarray] = {}
    for frame, rows in sorted(traced.items()):
        mask, trace_flags = draw(rows)
        flags |= trace_flags
        inside = min(max(frame, 0), count - 1)
        if inside != frame:
            flags.add("clamped_frame")
        # Clamping can bring two tracings onto one frame; the larger is kept, as for stacked tracings.
        if mask.any() and (inside not in masks or mask.sum() > masks[inside].sum()):
            masks[inside] = mask
    by_area = sorted(masks, key=lambda frame: np.count_nonzero(masks[frame]))
    # One traced frame alone could be either.
    es_frame, ed_frame = (by_area[0], by_area[-1]) if len(masks) > 1 else (-1, -1)
    annotation = {
        "masks": np.stack(list(masks.values())).astype(np.uint8) if masks else None,
        "mask_frames": list(masks),
        "mask_is_expert": [True] * len(masks),
        "ed_frame": ed_frame,
        "es_frame": es_frame,
    }
    return annotation, flags


def _reaches_outside(points: np.ndarray, height: int, width: int) -> bool:
    return bool((points < 0).any() or (points > np.array([width, height])).any())
