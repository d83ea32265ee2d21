"""Frames per second of the videos that an encoder was trained on: kept in its checkpoints, met by `extract`."""

from collections.abc import Mapping, Sequence

import numpy as np

from discovr_jax.data import records

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


def in_words(rates: Sequence[float] | None) -> str:
    """What is known of rates that differ, for a message, with a separator in front; empty if nothing is.

    >>> in_words([25.0, 50.0, 60.0])
    '; its training videos have 25 to 60'
    """
    return f"; its training videos have {rates[0]:g} to {rates[2]:g}" if rates else ""
