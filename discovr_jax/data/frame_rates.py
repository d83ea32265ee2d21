"""Frames per second of the videos that an encoder was trained on: kept in its checkpoints, met by `extract`."""

from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from discovr_jax.data import facts, records

KEY = "frame_rates"  # in the data position of a checkpoint
_SHARES = (0.05, 0.5, 0.95)
_KNOWN = 0.95  # share of the videos that must say their rate
_ALIKE = 1.1  # largest of the 95th over the 5th percentile at which all count as one rate


def of_training(
    sources: Mapping[str, records.RecordSource], chosen: Mapping[str, Sequence[int]]
) -> list[float] | None:
    """The 5th, 50th and 95th percentile over the training videos, frames per second; JSON values.

    Args:
      sources: the training split of each dataset; chosen: its records that are trained on.

    Returns:
      None where more than a twentieth of the videos do not say their rate.
    """
    columns = [records.record_fields(sources[name], ["fps"])["fps"][list(rows)] for name, rows in chosen.items()]
    rates = np.concatenate(columns)
    known = rates[np.isfinite(rates) & (rates > 0)]
    if len(known) < _KNOWN * len(rates):
        return None
    return [round(float(rate), 3) for rate in np.quantile(known, _SHARES, method="inverted_cdf")]


def common(rates: Sequence[float] | None) -> float | None:
    """The one rate that (nearly) all training videos have; None where they differ, or it is not known.

    Args:
      rates: as of `of_training`.

    >>> common([50.0, 50.0, 51.0])
    50.0
    >>> common([25.0, 50.0, 60.0]) is common(None) is None
    True
    """
    return rates[1] if rates and rates[2] <= _ALIKE * rates[0] else None


def of_clips(data: ConfigDict, rates: Sequence[float] | None) -> float | None:
    """Frames per second of the training clips: set, or those of (nearly) all training videos, by the stride; or None.

    Args:
      data: of the training; rates: as of `of_training`.
    """
    if data.target_fps:
        return data.target_fps
    about = facts.of(data.dataset)
    video_fps = (about and about.nominal_fps) or common(rates)
    return video_fps / data.stride if video_fps else None


def of_others(trained_fps: float | None, data: ConfigDict, source: records.RecordSource, dataset: str) -> str:
    """A warning where clips of other videos show time at another speed than those of training; else "".

    Args:
      trained_fps: as of `of_clips`; data: how clips of the other videos are taken.
      source: records of the other videos, whose rates are read only where they decide; dataset: their name.
    """
    if trained_fps is None:
        return ""
    fps = data.target_fps
    if not fps:
        rates = of_training({dataset: source}, {dataset: range(len(source))})
        fps = rates and rates[1] / data.stride
    if not fps or max(fps / trained_fps, trained_fps / fps) <= _ALIKE:
        return ""
    return (
        f"clips of {dataset} have {fps:.3g} frames per second (median), those of the training had {trained_fps:.3g}: "
        f"--config.data.target_fps={trained_fps:.6g} takes them as in training"
    )


def in_words(rates: Sequence[float] | None) -> str:
    """What is known of rates that differ, for a message, with a separator in front; empty if nothing is.

    >>> in_words([25.0, 50.0, 60.0])
    '; its training videos have 25 to 60'
    """
    return f"; its training videos have {rates[0]:g} to {rates[2]:g}" if rates else ""
