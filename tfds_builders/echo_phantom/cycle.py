"""The cardiac cycle: contraction and valves as functions of time."""

import numpy as np

from tfds_builders.echo_phantom.rhythm import Beat, systole


def _through(times: np.ndarray, knots: list[tuple[float, float]]) -> np.ndarray:
    """Half cosines through (time, value) knots."""
    at, values = np.array(knots).T
    index = np.clip(np.searchsorted(at, times, side="right") - 1, 0, len(at) - 2)
    share = np.clip((times - at[index]) / (at[index + 1] - at[index]), 0, 1)
    return values[index] + (values[index + 1] - values[index]) * (0.5 - 0.5 * np.cos(np.pi * share))


def contraction(
    beats: tuple[Beat, ...], times: np.ndarray, at_one_second: float, early_filling: float
) -> np.ndarray:
    """Contraction at each time: 0 at end-diastole, the beat's strength at end-systole. float [T]."""
    result = np.zeros(len(times))
    for beat, inside in _each(beats, times):
        end = systole(beat.duration, at_one_second)
        rest = beat.duration - end
        knots = [
            (0, 0),
            (end, 1),
            (end + 0.42 * rest, early_filling),
            (end + 0.72 * rest, 0.8 * early_filling),
            (beat.duration, 0),
        ]
        result[inside] = beat.strength * _through(times[inside] - beat.start, knots)
    return result


def valve_opening(beats: tuple[Beat, ...], times: np.ndarray, at_one_second: float) -> np.ndarray:
    """Opening of the mitral and tricuspid valves, 0 shut to 1 wide: early filling, drift, kick. float [T]."""
    result = np.zeros(len(times))
    for beat, inside in _each(beats, times):
        end = systole(beat.duration, at_one_second)
        rest = beat.duration - end
        late = [
            (end + share * rest, value) for share, value in ((0.04, 0), (0.2, 1), (0.5, 0.35), (0.8, 0.8))
        ]
        result[inside] = _through(times[inside] - beat.start, [(0, 0), *late, (beat.duration, 0)])
    return result


def _each(beats, times):
    for beat in beats:
        inside = (times >= beat.start) & (times < beat.start + beat.duration)
        if inside.any():
            yield beat, inside
