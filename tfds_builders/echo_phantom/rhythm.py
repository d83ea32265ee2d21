"""When the heart beats, how strongly, and which of the beats is the one that gets the labels."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Beat:
    """One heart beat: R wave to R wave."""

    start: float  # seconds after frame 0, negative if it began earlier
    duration: float  # seconds
    strength: float  # contraction relative to the drawn EF (1 = as drawn)
    regular: bool  # not ectopic and not the pause after an ectopic beat


def systole(duration: float, at_one_second: float) -> float:
    """Seconds of systole in a beat of `duration` seconds; in fast hearts it shortens less than the beat."""
    return at_one_second * float(np.sqrt(duration))


def labelled_beat(beats: Sequence[Beat], seconds: float, at_one_second: float) -> Beat:
    """The first regular beat whose systole lies wholly in the clip; else any beat with a whole systole.

    Raises:
      ValueError: the clip holds no whole systole.
    """
    whole = [
        b for b in beats if b.start >= 0 and b.start + 1.15 * systole(b.duration, at_one_second) < seconds
    ]
    if not whole:
        raise ValueError(f"no whole systole in {seconds:.2f} s of beats {beats}")
    return next((b for b in whole if b.regular), whole[0])


def draw_beats(
    rng: np.random.Generator,
    heart_rate: float,
    phase: float,
    rhythm: str,
    seconds: float,
    at_one_second: float,
) -> tuple[Beat, ...]:
    """Draws the beats of a clip; the labelled one has strength 1, so that the drawn EF is the one labelled."""
    interval = 60 / heart_rate
    irregularity = 0.18 if rhythm == "irregular" else 0.03
    count = int(np.ceil(seconds / interval * 1.8)) + 3
    lengths = interval * np.clip(rng.normal(1, irregularity, count), 0.6, 1.4)
    strengths = np.clip(rng.normal(1, 0.10 if rhythm == "irregular" else 0.03, count), 0.75, 1.15)
    regular = np.ones(count, bool)
    if rhythm == "ectopic":
        # In a short clip the ectopic beat comes late, so that a regular one comes before it.
        early = int(rng.integers(0, 3)) if seconds > 3.7 * interval else 2
        lengths[early : early + 2] = interval * np.array([0.65, 1.3])
        strengths[early : early + 2] = 0.55, 1.08
        regular[early : early + 2] = False
    starts = np.cumsum(np.concatenate([[-phase * lengths[0]], lengths[:-1]]))
    rows = zip(starts, lengths, strengths, regular, strict=True)
    beats = [Beat(float(a), float(b), float(c), bool(d)) for a, b, c, d in rows if a < seconds]
    labelled = labelled_beat(beats, seconds, at_one_second)
    return tuple(dataclasses.replace(beat, strength=1.0) if beat is labelled else beat for beat in beats)
