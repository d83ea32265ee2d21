"""What is explored: one row of columns and one vector of features per video, and where its frames are."""

import dataclasses
import pathlib
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


def open_videos(source: str, **options: Any) -> Videos:
    """The videos of a run's folder or of a .parquet file.

    Args:
      **options: readout and data_dir, of `of_run.read`; joined and files, of `of_table.read`. None or empty: not given.

    Raises:
      ExploreError: nothing to show, or an option of the other kind of source.
    """
    from discovr_jax.explore import of_run, of_table

    path = pathlib.Path(source)
    if not path.exists():
        raise ExploreError(f"{path}: no such run or table")
    read, mine = (of_run.read, ("readout", "data_dir")) if path.is_dir() else (of_table.read, ("joined", "files"))
    given = {name: value for name, value in options.items() if value}
    if foreign := sorted(set(given) - set(mine)):
        flags = {"readout": "--readout", "data_dir": "--data_dir", "joined": "--join", "files": "--input"}
        what = "a run" if path.is_dir() else "a table"
        raise ExploreError(f"{', '.join(flags[name] for name in foreign)}: not for {what}, which {path} is")
    return read(path, **given)


def text(values: Sequence[Any]) -> np.ndarray:
    """Values as text, unknown ones empty."""
    import pandas as pd

    column = pd.Series(values, dtype=object)
    return column.where(column.notna(), "").astype(str).to_numpy(object)
