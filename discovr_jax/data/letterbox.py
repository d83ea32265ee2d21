"""Brings frames of any size to one square size, keeping the proportions of the heart."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the source lies in the square: scaled by `scale` (x, y), then shifted by `left`, `top` pixels."""

    scale: tuple[float, float]
    left: int
    top: int

    def points(self, xy: np.ndarray) -> np.ndarray:
        """Maps pixel coordinates [..., 2] (x, y; pixel centres are whole numbers) from source to square."""
        return (xy + 0.5) * self.scale - 0.5 + (self.left, self.top)

    def spacing(self, source: tuple[float, float]) -> tuple[float, float]:
        """Millimetres between the square's pixels (row, column), given those between the source's."""
        return source[0] / self.scale[1], source[1] / self.scale[0]


def letterbox(
    frames: np.ndarray, size: int, spacing: tuple[float, float] | None = None, *, labels: bool = False
) -> tuple[np.ndarray, Placement]:
    """Resizes to fit and centres on black.

    Args:
      frames: uint8 [T, H, W].
      size: side of the square in pixels.
      spacing: millimetres between rows and between columns: a pixel that is not square becomes so. None: it is.
      labels: the values are classes, so none between two of them may appear (the nearest is taken).

    Returns:
      uint8 [T, size, size] (the input itself if nothing is to be done), and the placement.

    >>> square, placement = letterbox(np.full((1, 10, 20), 255, np.uint8), 40)
    >>> square.shape, placement.scale, placement.top  # 20 x 40 in the middle
    ((1, 40, 40), (2.0, 2.0), 10)
    """
    _, height, width = frames.shape
    row, column = spacing or (1.0, 1.0)
    if (height, width) == (size, size) and row == column:
        return frames, Placement((1.0, 1.0), 0, 0)
    import cv2

    ratio = size / max(height * row, width * column)
    new_height, new_width = max(1, round(height * row * ratio)), max(1, round(width * column * ratio))
    top, left = (size - new_height) // 2, (size - new_width) // 2
    how = cv2.INTER_AREA if new_height * new_width < height * width else cv2.INTER_LINEAR
    how = cv2.INTER_NEAREST_EXACT if labels else how
    square = np.zeros((len(frames), size, size), np.uint8)
    for source, target in zip(frames, square, strict=True):
        resized = cv2.resize(source, (new_width, new_height), interpolation=how)
        target[top : top + new_height, left : left + new_width] = resized
    return square, Placement((new_width / width, new_height / height), left, top)
