"""What is explored: one row of columns and one vector of features per video, and where its frames are."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from discovr_jax.evaluation import interface

NEIGHBOURS = 6
_CATEGORIES = 20  # values of a column of text that can be told apart in a list


class ExploreError(ValueError):
    """Nothing to show; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Videos:
    """All videos of a page.

    Attributes:
      name: of the run or the table.
      readout: what the features are, in words.
      columns: pandas DataFrame [N]; "id" is text, others are text (empty: unknown) or numbers (NaN: unknown).
      features: float32 [N, D].
      clips: with `read(row)`, see `clips.Clips`; None without. why_no_clips: the reason, for the page.
      heads: `run_heads.RunHeads` of a run; None without.
    """

    name: str
    readout: str
    columns: Any
    features: np.ndarray
    clips: Any = None
    why_no_clips: str = ""
    heads: Any = None

    def __post_init__(self):
        bad = int((~np.isfinite(self.features).all(1)).sum())
        if bad:
            raise ExploreError(f"{self.name}: the features of {bad} of {len(self.features)} videos are not finite")
        if len(self.features) < 2:
            raise ExploreError(f"{self.name}: {len(self.features)} video is no map; it takes two at least")

    def __len__(self) -> int:
        return len(self.features)

    def categories(self) -> list[str]:
        """Columns of text with few values, of which one can be chosen or coloured."""
        frame = self.columns.drop(columns="id").select_dtypes(exclude="number")
        return [name for name in frame if 1 < frame[name].nunique() <= _CATEGORIES]

    def numbers(self) -> list[str]:
        """Columns of numbers that are not all the same."""
        frame = self.columns.select_dtypes("number")
        return [name for name in frame if frame[name].nunique() > 1]


class Neighbours:
    """The most similar videos, by cosine of the features."""

    def __init__(self, features: np.ndarray):
        self._unit = interface.unit_length(features)

    def of(self, row: int, count: int = NEIGHBOURS) -> list[tuple[int, float]]:
        """(row, cosine) of the nearest others, the nearest first; ties go to the earlier row."""
        similarity = self._unit @ self._unit[row]
        similarity[row] = -np.inf
        nearest = np.argsort(-similarity, kind="stable")[: min(count, len(similarity) - 1)]
        return [(int(each), float(similarity[each])) for each in nearest]


def text(values: Sequence[Any]) -> np.ndarray:
    """Values as text, unknown ones empty."""
    import pandas as pd

    column = pd.Series(values, dtype=object)
    return column.where(column.notna(), "").astype(str).to_numpy(object)
