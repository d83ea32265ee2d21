"""Features from any program, as files: what `discovr_jax.extract` writes, or any Parquet file like it.

One row per video: a column `id` (or `path`) and a column `features`, a list of numbers, equally many in every row. An
id that stands there twice is an error, no mean over clips: whose clips they are, the file's author knows best. Ids are
compared as paths with "/".
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.data import file_listing
from discovr_jax.evaluation.features.feature_table import READOUTS

LENGTH = "num_frames"
FACTS = (LENGTH, "height", "width")  # of a video, as all files of features must say alike
ID = ("id", "path")
PATIENT = ("patient_id", "patient")
SPLIT = "split"
_SHOWN = 3  # ids in a message
_LONGEST_NAME = 20  # of features, in a table of the terminal


class TableError(ValueError):
    """Tables that do not fit each other; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class FeatureFile:
    """One encoder's features of the videos that are scored.

    Attributes:
      readouts: {name: float64 [N, D]}.
      about: for results.json: file, sha256, widths, and the card that `extract` wrote beside it.
    """

    readouts: Mapping[str, np.ndarray]
    about: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Table:
    """A file by itself.

    Attributes:
      file: its name; ids: {id: row}, in the order of the rows.
      readouts: {name: float64 [rows, D]}, all finite.
      columns: {name: one value per row} of `FACTS`, `PATIENT` and `SPLIT`, those that it has.
      about: see `FeatureFile`.
    """

    file: str
    ids: dict[str, int]
    readouts: dict[str, np.ndarray]
    columns: dict[str, list]
    about: dict[str, Any]

    def values(self, column: str) -> dict[str, Any]:
        """{id: value} of one of `columns`."""
        return dict(zip(self.ids, self.columns[column], strict=True))

    def take(self, ids: Iterable[str]) -> FeatureFile:
        """The features of these videos, in their order; KeyError for one that the file has not."""
        order = [self.ids[key] for key in ids]
        return FeatureFile({name: matrix[order] for name, matrix in self.readouts.items()}, self.about)


def parse_features(items: Iterable[str]) -> dict[str, list[str]]:
    """{name: files} of items NAME=FILE or NAME=FILE+FILE+FILE (seeds, which are averaged).

    Raises:
      TableError: no name, a long one, or the same twice.
    """
    found: dict[str, list[str]] = {}
    for item in items:
        name, equals, files = item.partition("=")
        if not equals or not name or not all(files.split("+")):
            raise TableError(f"--features={item}: write NAME=FILE.parquet, or NAME=A.parquet+B.parquet for seeds")
        if len(name) > _LONGEST_NAME:
            raise TableError(f"--features={item}: a name has at most {_LONGEST_NAME} characters")
        if name in found:
            raise TableError(f"--features names {name} twice: give each its own name, or join seeds with +")
        found[name] = files.split("+")
    return found


def read(item: str) -> Table:
    """The content of FILE, or with FILE:READOUT one of its readouts.

    Raises:
      TableError: it cannot be read, has not the columns, an id twice, rows of different width, NaN or infinity.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, colon, only = item.rpartition(":")
    file = file if colon and "/" not in only else item
    path = pathlib.Path(file)
    try:
        table = pq.read_table(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, pa.ArrowInvalid) as error:
        raise TableError(f"--features={file} cannot be read as Parquet ({type(error).__name__})") from None
    column = next((name for name in ID if name in table.column_names), None)
    if column is None or "features" not in table.column_names or not len(table):
        raise TableError(f"--features={file}: it needs columns id (or path) and features, and rows")
    names = [file_listing.plain(str(name)) for name in table[column].to_pylist()]
    ids = {name: row for row, name in enumerate(names)}
    if len(ids) < len(names):
        twice = sorted({name for row, name in enumerate(names) if ids[name] != row})
        raise TableError(f"--features={file}: {some(twice)} stand there more than once")
    matrix = _matrix(table["features"].to_pylist(), file)
    if bad := [name for name, row in ids.items() if not np.isfinite(matrix[row]).all()]:
        raise TableError(f"--features={file}: features of {some(bad)} are NaN or infinite")
    columns = {name: table[name].to_pylist() for name in (*FACTS, *PATIENT, SPLIT) if name in table.column_names}
    metadata = table.schema.metadata or {}
    parts = json.loads(metadata.get(READOUTS.encode(), b"{}")) or {"features": matrix.shape[1]}
    readouts = dict(zip(parts, np.split(matrix, np.cumsum([*parts.values()])[:-1], axis=1), strict=True))
    if file != item:
        if only not in readouts:
            raise TableError(f"--features={item}: {file} holds {', '.join(readouts)}, no {only}")
        readouts = {only: readouts[only]}
    card = path.with_suffix(".card.json")
    about = {"file": path.name, "sha256": digest, "readouts": {name: m.shape[1] for name, m in readouts.items()}}
    about |= {"card": json.loads(card.read_text())} if card.exists() else {}
    return Table(file, ids, readouts, columns, about)


def _matrix(rows: list, file: str) -> np.ndarray:
    try:
        matrix = np.array(rows, np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise TableError(f"--features={file}: features must be lists of numbers, equally many in every row")
    return matrix


def check_seeds(name: str, files: Sequence[FeatureFile]) -> None:
    """Raises TableError unless the files of one encoder hold the same readouts of the same widths."""
    if len({tuple((key, m.shape[1]) for key, m in one.readouts.items()) for one in files}) > 1:
        raise TableError(f"the seeds of {name} hold other readouts or widths: join files of one encoder only")


def repeats(file: str, matrix: np.ndarray, groups: np.ndarray) -> list[str]:
    """A note where videos of different groups have the very same features: copies, in training and test at once.

    Args:
      matrix: float64 [N, D]; groups: [N].
    """
    _, same = np.unique(matrix, axis=0, return_inverse=True)
    same = same.reshape(-1)
    copies = sum(len(set(groups[same == one])) > 1 for one in np.flatnonzero(np.bincount(same) > 1))
    if not copies:
        return []
    what = "times videos of different groups have exactly the same features: copies, or files that were not read"
    return [f"{file}: {copies} {what}"]


def some(names: Iterable[str]) -> str:
    """The first of these names, and how many more."""
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
