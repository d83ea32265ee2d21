"""Speckle: filtered complex noise, fine along the beam and growing wider across it with depth."""

import cv2
import numpy as np

_RANGES = 256  # rows, one pixel of range each
_BEAMS = 400  # columns over [-pi/2, pi/2] and a margin
_SPAN = np.pi * 1.1


def field(
    shape: tuple[int, int], tip: tuple[float, float], rng: np.random.Generator, tilt: float = 0.0
) -> np.ndarray:
    """Two independent complex speckle fields as seen from a probe at `tip`.

    Args:
      shape: rows and columns of the picture.
      tip: x, y of the probe in it.
      tilt: direction of the sector's axis, radians from straight down (positive to the left).

    Returns:
      float32 [rows, columns, 4]: real and imaginary part of one, then of the other; unit mean power each.
    """
    noise = rng.standard_normal((_RANGES, _BEAMS, 4), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=1.6, sigmaY=0.75)
    noise /= np.sqrt(2 * np.mean(noise**2))
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    distance = np.hypot(x - tip[0], y - tip[1])
    angle = np.arctan2(-(x - tip[0]), y - tip[1]) - tilt
    angle = np.mod(angle + np.pi, 2 * np.pi) - np.pi
    column = ((angle / _SPAN + 0.5) * _BEAMS).astype(np.float32)
    return cv2.remap(
        noise, column, distance.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


def magnitudes(fields: np.ndarray) -> np.ndarray:
    """Six Rayleigh pictures [6, rows, columns] out of one field: each pair of its channels."""
    pairs = [(0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (1, 2)]
    return np.stack([cv2.magnitude(fields[..., a].copy(), fields[..., b].copy()) for a, b in pairs])
