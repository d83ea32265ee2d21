"""How strongly each piece of the heart scatters, drawn in material coordinates at end-diastole."""

from collections.abc import Sequence

import cv2
import numpy as np

from tfds_builders.echo_phantom.parameters import HeartParameters
from tfds_builders.echo_phantom.ventricle import ANGLES

CANVAS = 208  # pixels, square
CENTRE = (104.0, 92.0)  # of the canvas where the heart frame has its origin
_FINE = 2  # painting is done this much finer, then reduced
SILENT = -70.0


def background(params: HeartParameters, rng: np.random.Generator) -> np.ndarray:
    """Tissue around the heart, to paint on: levels in dB, float32 [CANVAS * _FINE, CANVAS * _FINE]."""
    levels = np.full((CANVAS * _FINE, CANVAS * _FINE), -24.0 + params.contrast, np.float32)
    levels += cloud(levels.shape, 26 * _FINE, 6.0, rng)
    return levels


def finish(
    levels: np.ndarray,
    cavity: np.ndarray,
    structures: dict[int, np.ndarray],
    rng: np.random.Generator,
    muscles: Sequence[np.ndarray] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Scatter amplitude of what was painted, and a map of what is neither cavity nor wall, in material coordinates.

    Args:
      levels: dB; is changed.
      cavity: outline of the LV cavity, float [P, 2].
      structures: outlines by their label in the masks.
      muscles: outlines of what stands in the cavity and counts as cavity.

    Returns:
      float32 [CANVAS, CANVAS] amplitude (1 = brightest pericardium, almost 0 in blood); uint8, four
      times as fine, the labels.
    """
    # Clumps of a few pixels: tissue is not evenly rough, and walls drop out in places.
    levels += cloud(levels.shape, 14 * _FINE, 5.0, rng) + cloud(levels.shape, 3 * _FINE, 3.0, rng)
    fill(levels, cavity, SILENT)
    for outline in muscles:
        fill(levels, outline, -15.0)
    amplitude = np.power(10.0, levels / 20, dtype=np.float32)
    amplitude = cv2.GaussianBlur(amplitude, (0, 0), 0.6 * _FINE)
    labels = np.zeros((CANVAS * 4, CANVAS * 4), np.uint8)
    for label, outline in structures.items():
        fill(labels, outline, label, fine=4)
    return cv2.resize(amplitude, (CANVAS, CANVAS), interpolation=cv2.INTER_AREA), labels


def look_up(labels: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Labels, as `finish` returns them, at material coordinates x, y float32 [H, W]."""
    x, y = x + np.float32(CENTRE[0]), y + np.float32(CENTRE[1])
    return cv2.remap(labels, 4 * x + 1.5, 4 * y + 1.5, cv2.INTER_NEAREST)


def ring(radius: np.ndarray) -> np.ndarray:
    """Points [NUM_ANGLES, 2] at a radius in each direction."""
    return np.stack([radius * np.cos(ANGLES), radius * np.sin(ANGLES)], axis=1)


def grown(points: np.ndarray, by: float) -> np.ndarray:
    """Points moved outwards from their mean by so many pixels."""
    offset = points - points.mean(axis=0)
    return points + by * offset / np.linalg.norm(offset, axis=1, keepdims=True)


def part(points: np.ndarray, keep) -> np.ndarray:
    """The points that satisfy keep(x, y), in one run (the ring is turned so that it starts after a gap)."""
    chosen = keep(points[:, 0], points[:, 1])
    gap = int(np.argmax(chosen & ~np.roll(chosen, 1)))
    return np.roll(points, -gap, axis=0)[np.roll(chosen, -gap)]


def ellipse(x: float, y: float, a: float, b: float) -> np.ndarray:
    """Outline about (x, y) with half axes a and b."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return np.stack([x + a * np.cos(angle), y + b * np.sin(angle)], axis=1)


def smooth(points: np.ndarray) -> np.ndarray:
    """Corner cutting (Chaikin), three times."""
    for _ in range(3):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(
            -1, 2
        )
    return points


def cloud(shape: tuple[int, int], size: float, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth random field with bumps of about `size` pixels."""
    coarse = [max(int(round(side / size)) + 3, 4) for side in shape]
    noise = rng.normal(0, deviation, coarse).astype(np.float32)
    return cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _pixels(points: np.ndarray, fine: int) -> np.ndarray:
    # cv2 takes fixed-point coordinates with 4 fractional bits; pixel centres are whole numbers.
    return np.round(((points + np.array(CENTRE) + 0.5) * fine - 0.5) * 16).astype(np.int32)


def fill(image: np.ndarray, points: np.ndarray, value: float, fine: int = _FINE) -> None:
    """Fills an outline [P, 2] of the heart frame on a canvas that is `fine` times as fine as CANVAS."""
    cv2.fillPoly(image, [_pixels(points, fine)], value, lineType=cv2.LINE_8, shift=4)


def line(image: np.ndarray, points: np.ndarray, value: float, width: int) -> None:
    """Draws a polyline [P, 2] of the heart frame, `width` pixels of the fine canvas wide."""
    cv2.polylines(
        image, [_pixels(points, _FINE)], False, value, thickness=width, lineType=cv2.LINE_8, shift=4
    )
