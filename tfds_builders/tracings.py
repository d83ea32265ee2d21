"""Left-ventricle tracings of EchoNet (a long axis and chords across the cavity) to masks. Pure numpy.

A tracing is an array of rows (x1, y1, x2, y2) in pixels: row 0 the long axis, then chords from apex to base.
"""

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
      `short_tracing` (fewer than 21 rows), `clipped_tracing` (reaches outside the canvas), `empty_tracing`.
    """
    flags = set()
    if len(rows) > ROWS_PER_TRACING:
        flags.add("stacked_tracing")
    if len(rows) < ROWS_PER_TRACING:
        flags.add("short_tracing")
    if (rows < 0).any() or (rows > np.array([width, height, width, height])).any():
        flags.add("clipped_tracing")
    starts = range(0, len(rows), ROWS_PER_TRACING)
    tracings = [rows[start : start + ROWS_PER_TRACING] for start in starts]
    masks = [fill(polygon(tracing), height, width) for tracing in tracings if len(tracing) >= 3]
    best = max(masks, key=np.count_nonzero, default=np.zeros((height, width), bool))
    if not best.any():
        flags.add("empty_tracing")
    return best, flags
