"""The machine: sector, attenuation and gain, shadows, clutter, noise and log compression."""

import cv2
import numpy as np

from tfds_builders.echo_phantom import speckle
from tfds_builders.echo_phantom.parameters import HeartParameters

SIZE = 112
_LEAFLET_DB = -7.0
_DB_PER_NEPER = 20 / float(np.log(10))


class Scanner:
    """Turns echo amplitudes into grey pictures; what does not change over the clip is computed once."""

    def __init__(self, params: HeartParameters, rng: np.random.Generator):
        self.params = params
        distance, angle = _polar(params)
        self.outside = outside(params)
        # Gain over depth: what the TGC leaves uncorrected, and a fall towards the sector's edges.
        depth = np.linspace(0, params.reach, len(params.tgc))
        level = np.interp(distance, depth, params.tgc) + params.slope * (distance - 50)
        level = level - 5.0 * (np.abs(angle) / params.half_angle) ** 4
        self.gain = _linear(level + params.gain)
        self.shadow = np.ones_like(self.gain)
        for shadow in params.shadows:
            across = np.exp(-0.5 * ((angle - shadow.angle) / shadow.width) ** 2)
            self.shadow *= _linear(-shadow.loss_db * across * np.clip((distance - shadow.begins) / 8, 0, 1))
        self.shadow_phase = rng.uniform(0, 2 * np.pi)
        # Clutter near the probe: speckle that stays while the heart moves.
        field = speckle.field((SIZE, SIZE), params.tip, rng)
        self.clutter = cv2.magnitude(field[..., 0].copy(), field[..., 1].copy())
        self.clutter *= _linear(params.clutter - 0.35 * distance) + _linear(-6 - 1.6 * distance)
        # Blood and electronic noise: new in every frame; noise grows with depth as the TGC lifts it.
        self.bank = speckle.magnitudes(speckle.field((SIZE, SIZE), params.tip, rng))
        self.blood = np.float32(_linear(params.blood))
        self.noise = _linear(params.noise + 0.12 * distance)
        self.count = 0

    def picture(self, echo: np.ndarray, leaflets: list[np.ndarray], flicker: float, rng: np.random.Generator):
        """One frame.

        Args:
          echo: float32 [112, 112], amplitude of tissue.
          leaflets: polylines [K, 2] in image pixels.
          flicker: dB.

        Returns:
          uint8 [112, 112], black outside the sector.
        """
        p = self.params
        drawn = np.zeros((SIZE, SIZE), np.uint8)
        cv2.polylines(
            drawn, [np.round(line * 16).astype(np.int32) for line in leaflets], False, 255, 1, cv2.LINE_AA, 4
        )
        fresh, other, down, across = rng.integers(0, (3, 3, SIZE, SIZE))
        fresh = np.roll(self.bank[fresh], (down, across), axis=(0, 1))
        valve = drawn * np.float32(_linear(_LEAFLET_DB) / 255) * (0.4 + 0.6 * fresh)
        self.count += 1
        breathing = 0.75 + 0.25 * float(np.sin(2 * np.pi * self.count / (4 * p.fps) + self.shadow_phase))
        passed = self.gain * (1 - breathing * (1 - self.shadow))
        amplitude = (
            passed * (echo + valve + self.blood * fresh + self.clutter) + self.noise * self.bank[3 + other]
        )
        level = cv2.log(np.maximum(amplitude, np.float32(1e-6))) * _DB_PER_NEPER + float(flicker)
        grey = 255 / p.dynamic_range * (level + p.dynamic_range - 5)
        grey = np.clip(grey, 0, 255)
        grey = grey * (0.4 + 0.6 / 255 * grey)  # the display's grey map darkens weak echoes
        grey[self.outside] = 0
        return grey.astype(np.uint8)


def outside(params: HeartParameters) -> np.ndarray:
    """Pixels of the picture that lie outside the sector, bool [112, 112]."""
    distance, angle = _polar(params)
    return (np.abs(angle) > params.half_angle) | (distance < 3) | (distance > params.reach)


def _polar(params: HeartParameters) -> tuple[np.ndarray, np.ndarray]:
    """Distance from the probe and angle from the sector's axis of each pixel."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    dx, dy = x - params.tip[0], y - params.tip[1]
    return np.hypot(dx, dy), np.arctan2(dx, dy)


def _linear(decibels):
    return np.power(10.0, np.asarray(decibels) / 20).astype(np.float32)
