"""Brings frames of any size to one square size, keeping the aspect ratio."""

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


def letterbox(frames: np.ndarray, size: int) -> tuple[np.ndarray, Placement]:
    """Resizes to fit and centres on black.

    Args:
      frames: uint8 [T, H, W].
      size: side of the square in pixels.

    Returns:
      uint8 [T, size, size] (the input itself if it has that size), and the placement.
    """
    _, height, width = frames.shape
    if (height, width) == (size, size):
        return frames, Placement((1.0, 1.0), 0, 0)
    import cv2

    ratio = size / max(height, width)
    new_height, new_width = max(1, round(height * ratio)), max(1, round(width * ratio))
    top, left = (size - new_height) // 2, (size - new_width) // 2
    how = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    square = np.zeros((len(frames), size, size), np.uint8)
    for source, target in zip(frames, square, strict=True):
        resized = cv2.resize(source, (new_width, new_height), interpolation=how)
        target[top : top + new_height, left : left + new_width] = resized
    return square, Placement((new_width / width, new_height / height), left, top)
