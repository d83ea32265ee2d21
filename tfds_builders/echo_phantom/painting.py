"""How strongly each piece of the heart scatters, drawn in material coordinates at end-diastole."""

import cv2
import numpy as np

from tfds_builders.echo_phantom.anatomy import Heart

CANVAS = 208  # pixels, square
CENTRE = (104.0, 92.0)  # of the canvas where the heart frame has its origin
_FINE = 2  # painting is done this much finer, then reduced
_SILENT = -70.0


def paint(heart: Heart, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scatter amplitude of tissue and the left atrium's mask, in material coordinates.

    Returns:
      float32 [CANVAS, CANVAS] amplitude (1 = brightest pericardium, almost 0 in blood); uint8, four
      times as fine, 1 inside the left atrium.
    """
    p = heart.params
    levels = np.full((CANVAS * _FINE, CANVAS * _FINE), -24.0 + p.contrast, np.float32)
    levels += _cloud(levels.shape, 26 * _FINE, 6.0, rng)
    epi = _ring(heart, heart.epi)
    left, right = heart.annulus_x
    base, roof = heart.base_y, heart.roof_y
    septum = -p.half_width * p.septal_width - p.wall
    rv_edge = septum - p.rv_width * p.half_width
    middle = (septum + 3 + rv_edge) / 2

    # Pericardium and fat around the whole; the lung beside the lateral wall reflects most.
    _fill(levels, _grown(epi, 7), -17.0 + 0.5 * p.contrast)
    _line(levels, _part(_grown(epi, 3), lambda x, y: (x > 4) & (y > -0.3 * p.length)), -1.0, 3)
    _fill(
        levels,
        _ellipse(middle, base + 0.45 * p.la_length, 0.66 * (septum - rv_edge), 0.62 * p.la_length),
        -14.0,
    )
    _fill(levels, _ellipse(0, (base + roof) / 2, 0.6 * (right - left) + 5, 0.5 * p.la_length + 6), -11.0)
    # Right heart.
    rv = np.array([
        [septum + 4, -0.62 * p.length * 0.7], [middle + 4, -0.2 * p.length], [rv_edge + 2, 0.1 * p.length],
        [rv_edge, base - 6], [rv_edge + 3, base + 3], [left - 6, base + 2], [septum, 0.15 * p.length],
        [septum - 1, -0.1 * p.length],
    ])  # fmt: skip
    _fill(levels, _grown(rv, 3), -14.0)
    _fill(levels, _smooth(rv), _SILENT)
    ra_width = max(0.5 * (left - 3 - rv_edge) - 1, 5)
    _fill(
        levels,
        _ellipse(left - 4 - ra_width, base + 0.48 * p.la_length, ra_width, 0.48 * p.la_length),
        _SILENT,
    )
    # Left heart.
    _fill(levels, epi, -13.0)
    _line(levels, _part(epi, lambda x, y: x < 0), -7.0, 2)
    atrium = _atrium(heart)
    _fill(levels, atrium, _SILENT)
    for x in (left - 1.5, right + 1.5):
        _fill(levels, _ellipse(x, base + 0.5, 3.0, 3.0), -1.0)
    _line(levels, np.array([[left - 2.5, base], [left - 3.0, roof - 4]]), -5.0, 4)
    _line(levels, np.array([[rv_edge - 2, base], [rv_edge - 1, base + 6]]), -3.0, 5)
    # Clumps of a few pixels: tissue is not evenly rough, and walls drop out in places.
    levels += _cloud(levels.shape, 14 * _FINE, 5.0, rng) + _cloud(levels.shape, 3 * _FINE, 3.0, rng)
    _fill(levels, _ring(heart, heart.endo), _SILENT)
    amplitude = np.power(10.0, levels / 20, dtype=np.float32)
    amplitude = cv2.GaussianBlur(amplitude, (0, 0), 0.6 * _FINE)
    la = np.zeros((CANVAS * 4, CANVAS * 4), np.uint8)
    _fill(la, atrium, 1, fine=4)
    return cv2.resize(amplitude, (CANVAS, CANVAS), interpolation=cv2.INTER_AREA), la


def _atrium(heart: Heart) -> np.ndarray:
    left, right = heart.annulus_x
    angle = np.linspace(0, np.pi, 60)
    bulge = 1 + 0.25 * np.sin(angle) ** 2
    x = (left + right) / 2 + (right - left) / 2 * np.cos(angle) * bulge
    y = heart.base_y + heart.params.la_length * np.sin(angle) ** 0.8
    return np.stack([x, y], axis=1)


def _ring(heart: Heart, radius: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(heart.angles), radius * np.sin(heart.angles)], axis=1)


def _grown(points: np.ndarray, by: float) -> np.ndarray:
    offset = points - points.mean(axis=0)
    return points + by * offset / np.linalg.norm(offset, axis=1, keepdims=True)


def _part(points: np.ndarray, keep) -> np.ndarray:
    """The points that satisfy keep(x, y), in one run (the ring is turned so that it starts after a gap)."""
    chosen = keep(points[:, 0], points[:, 1])
    gap = int(np.argmax(chosen & ~np.roll(chosen, 1)))
    return np.roll(points, -gap, axis=0)[np.roll(chosen, -gap)]


def _ellipse(x: float, y: float, a: float, b: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return np.stack([x + a * np.cos(angle), y + b * np.sin(angle)], axis=1)


def _smooth(points: np.ndarray) -> np.ndarray:
    """Corner cutting (Chaikin), three times."""
    for _ in range(3):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(
            -1, 2
        )
    return points


def _cloud(shape: tuple[int, int], size: float, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth random field with bumps of about `size` pixels."""
    coarse = [max(int(round(side / size)) + 3, 4) for side in shape]
    noise = rng.normal(0, deviation, coarse).astype(np.float32)
    return cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _pixels(points: np.ndarray, fine: int) -> np.ndarray:
    # cv2 takes fixed-point coordinates with 4 fractional bits; pixel centres are whole numbers.
    return np.round(((points + np.array(CENTRE) + 0.5) * fine - 0.5) * 16).astype(np.int32)


def _fill(image: np.ndarray, points: np.ndarray, value: float, fine: int = _FINE) -> None:
    cv2.fillPoly(image, [_pixels(points, fine)], value, lineType=cv2.LINE_8, shift=4)


def _line(image: np.ndarray, points: np.ndarray, value: float, width: int) -> None:
    cv2.polylines(
        image, [_pixels(points, _FINE)], False, value, thickness=width, lineType=cv2.LINE_8, shift=4
    )
