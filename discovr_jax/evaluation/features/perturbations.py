"""What spoils an echocardiogram, at three strengths each: pure functions of the pixels of a clip, uint8 [T, S, S].

A scanner compresses echo strength logarithmically. Here the 255 grey values above black stand for 60 dB, so a gain of
g dB adds 4.25 g, and whatever is attenuated by a dB loses 4.25 a. Black stays black: outside the sector is no echo.

    depth_attenuation  x - 4.25 a d          a dB at the lower edge; d is depth, 0 at the upper edge and 1 at the lower
    acoustic_shadow    0 in a wedge          of w degrees from the middle of the upper edge, below 1/4 of the depth
    gain               x + 4.25 g            g dB
    speckle            x + 4.25 s n          n standard normal for every pixel and frame, s dB
    frame_rate         frame k floor(t / k)  every k-th frame is shown k times: duration and heart rate stay
    crop               the middle, enlarged  to the old size; c is the share of the side that is left

Results are rounded and cut to 0 to 255. The logarithm of fully developed speckle has a standard deviation of 5.6 dB
(that of 20 log10 of a Rayleigh number): the strongest noise is about as strong as the speckle that is there.
"""

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np

from discovr_jax.data import transforms

VERSION = 1  # raise it when the same name and strength would give other pixels
GREY_PER_DB = 255 / 60
_LATERAL = 30.0  # degrees from the vertical within which the middle of a shadow is drawn
_SHADOW_FROM = 0.25  # of the depth: ribs and lungs lie near the probe


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """One row of `KNOWN`.

    Attributes:
      strengths: the mildest first.
      label: how one of them is written, with "{:g}" for it.
      change: (clip, strength, source of randomness) -> clip.
    """

    strengths: tuple[float, float, float]
    label: str
    change: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def perturb(frames: np.ndarray, name: str, strength: float) -> np.ndarray:
    """Clips [B, T, S, S] with one of `KNOWN`.

    What is random follows from the pixels of the clip: it is the same for every encoder, batch and process.

    >>> frames = np.full((1, 2, 4, 4), 100, np.uint8)
    >>> perturb(frames, "gain", 10.0)[0, 0, 0].tolist()  # 100 + 42.5, rounded to even
    [142, 142, 142, 142]
    """
    change = KNOWN[name].change
    return np.stack([change(clip, strength, np.random.default_rng(zlib.crc32(clip.tobytes()))) for clip in frames])


def depth_attenuation(clip: np.ndarray, decibels: float) -> np.ndarray:
    """Darker with depth, by `decibels` at the lower edge."""
    depth = np.linspace(0, 1, clip.shape[1], dtype=np.float32)[:, None]
    return _grey(clip - np.float32(GREY_PER_DB * decibels) * depth)


def acoustic_shadow(clip: np.ndarray, width: float, centre: float) -> np.ndarray:
    """Black in a wedge of `width` degrees around the direction `centre`, 0 for straight down, above 0 to the right."""
    size = clip.shape[1]
    row, column = np.mgrid[:size, :size]
    angle = np.degrees(np.arctan2(column - (size - 1) / 2, row))
    inside = (np.abs(angle - centre) < width / 2) & (row >= _SHADOW_FROM * size)
    return np.where(inside, np.uint8(0), clip)


def gain(clip: np.ndarray, decibels: float) -> np.ndarray:
    """Brighter by `decibels` wherever there is an echo."""
    return np.where(clip > 0, _grey(clip + np.float32(GREY_PER_DB * decibels)), np.uint8(0))


def speckle(clip: np.ndarray, decibels: float, noise: np.ndarray) -> np.ndarray:
    """Noise, standard normal [T, S, S], of a standard deviation of `decibels` wherever there is an echo."""
    return np.where(clip > 0, _grey(clip + np.float32(GREY_PER_DB * decibels) * noise), np.uint8(0))


def frame_rate(clip: np.ndarray, every: int) -> np.ndarray:
    """Every `every`-th frame, shown so many times."""
    return clip[np.arange(len(clip)) // every * every]


def crop(clip: np.ndarray, share: float) -> np.ndarray:
    """The middle of the frame, `share` of its side, enlarged to the old size."""
    size = clip.shape[1]
    side = round(share * size)
    first = (size - side) // 2
    return transforms.crop_resize(clip, (first, first, side, side), size)


def _grey(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


KNOWN = {
    "depth_attenuation": Perturbation(
        (10.0, 20.0, 40.0), "{:g} dB at the lower edge", lambda clip, decibels, _: depth_attenuation(clip, decibels)
    ),
    "acoustic_shadow": Perturbation(
        (10.0, 20.0, 40.0),
        "{:g} degrees wide",
        lambda clip, width, rng: acoustic_shadow(clip, width, rng.uniform(-_LATERAL, _LATERAL)),
    ),
    "gain": Perturbation((5.0, 10.0, 20.0), "+{:g} dB", lambda clip, decibels, _: gain(clip, decibels)),
    "speckle": Perturbation(
        (1.5, 3.0, 6.0),
        "{:g} dB",
        lambda clip, decibels, rng: speckle(clip, decibels, rng.standard_normal(clip.shape, np.float32)),
    ),
    "frame_rate": Perturbation((2, 4, 8), "1 in {:g} frames", lambda clip, every, _: frame_rate(clip, int(every))),
    "crop": Perturbation((0.9, 0.8, 0.7), "{:.0%} of the side", lambda clip, share, _: crop(clip, share)),
}
