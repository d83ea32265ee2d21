"""Labels and features of an archive, joined by id; whatever does not fit is refused, never dropped in silence.

Labels: a CSV with a column `id` or `path`, the label or measurement, and the group. Features: a Parquet file with a
column `id` or `path` and a column `features` (a list of numbers, equally many in every row), from anywhere; what
`discovr_jax.extract` writes is one. Ids are compared as paths with "/".
"""

import csv
import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.data import file_listing
from discovr_jax.evaluation.features.feature_table import READOUTS

LENGTH = "num_frames"
FACTS = (LENGTH, "height", "width")  # of a video, as all files of features must say alike; of the labels the first
_SHOWN = 3  # ids in a message
_LONGEST_NAME = 20  # of features, in a table of the terminal
_ID = ("id", "path")


class ArchiveError(ValueError):
    """Tables that do not fit each other; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class FeatureFile:
    """One encoder's features of the archive.

    Attributes:
      readouts: {name: float64 [N, D]}, rows as of the archive; the best is chosen on inner folds.
      about: of results.json: file, sha256, widths, and the card that `extract` wrote beside it.
    """

    readouts: Mapping[str, np.ndarray]
    about: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Archive:
    """The videos that are scored, in the order of the labels.

    Attributes:
      ids, groups: str [N].
      target: float64 [N], an index into `classes`, or the measurement where there are none.
      classes: sorted names.
      features: {NAME: files, one per seed}.
      notes: what was noticed and is no error.
    """

    ids: np.ndarray
    groups: np.ndarray
    target: np.ndarray
    classes: tuple[str, ...]
    features: Mapping[str, Sequence[FeatureFile]]
    notes: Sequence[str]


def parse_features(items: Iterable[str]) -> dict[str, list[str]]:
    """{name: files} of items NAME=FILE or NAME=FILE+FILE+FILE (seeds, which are averaged).

    Raises:
      ArchiveError: no name, a long one, or the same twice.
    """
    found: dict[str, list[str]] = {}
    for item in items:
        name, equals, files = item.partition("=")
        if not equals or not name or not all(files.split("+")):
            raise ArchiveError(f"--features={item}: write NAME=FILE.parquet, or NAME=A.parquet+B.parquet for seeds")
        if len(name) > _LONGEST_NAME:
            raise ArchiveError(f"--features={item}: a name has at most {_LONGEST_NAME} characters")
        if name in found:
            raise ArchiveError(f"--features names {name} twice: give each its own name, or join seeds with +")
        found[name] = files.split("+")
    return found


def read_archive(
    features: Mapping[str, Sequence[str]],
    labels: str,
    *,
    label: str = "",
    target: str = "",
    group: str,
    where: Sequence[str] = (),
) -> Archive:
    """Labels and features of the same videos.

    Args:
      features: of `parse_features`; a file may be followed by ":READOUT" to take that one alone.
      labels: the CSV.
      label, target: the column of classes or that of a measurement, one of them.
      group: the column of what may not straddle folds (the patient).
      where: "COLUMN=VALUE" or "COLUMN!=VALUE"; the rows where all hold are scored.

    Raises:
      ArchiveError: see its message.
    """
    rows = _read_labels(labels)
    lines = {key: line for line, (key, _) in enumerate(rows, 2)}
    facts: dict[str, dict[str, Any]] = {}
    if LENGTH in rows[0][1]:
        lengths = {key: row[LENGTH].strip() for key, row in rows if (row[LENGTH] or "").strip()}
        facts[LENGTH] = {key: (_number(value, LENGTH, labels), labels) for key, value in lengths.items()}
    chosen = {key: row for key, row in rows if all(_holds(row, condition, labels) for condition in where)}
    if not chosen:
        raise ArchiveError(f"{labels}: no row is left by --where={' and '.join(where)}")
    column = label or target
    values, groups = (_filled(chosen, name, labels) for name in (column, group))
    classes = tuple(sorted(set(values))) if label else ()
    if label and len(classes) < 2:
        raise ArchiveError(f"{labels}: all {len(values)} videos have {label} {classes[0]!r}: two classes are needed")
    if label:
        numbers = [float(classes.index(value)) for value in values]
    else:
        numbers = [_number(value, column, labels) for value in values]
    first, sets, notes = None, {}, []
    for name, files in features.items():
        sets[name] = []
        for file in files:
            table = _read_features(file, facts)
            first = first or (file, set(table.ids))
            _check_ids(table, lines, set(chosen), labels, first)
            order = [table.ids[key] for key in chosen]
            cut = {readout: matrix[order] for readout, matrix in table.readouts.items()}
            notes += _repeats(file, np.concatenate([*cut.values()], axis=1), np.array(groups))
            sets[name].append(FeatureFile(cut, table.about))
        if len({tuple((key, m.shape[1]) for key, m in one.readouts.items()) for one in sets[name]}) > 1:
            raise ArchiveError(f"the seeds of {name} hold other readouts or widths: join files of one encoder only")
    return Archive(np.array([*chosen]), np.array(groups), np.array(numbers), classes, sets, notes)


@dataclasses.dataclass(frozen=True)
class _Table:
    file: str
    ids: dict[str, int]
    readouts: dict[str, np.ndarray]
    about: dict[str, Any]


def _read_labels(path: str) -> list[tuple[str, dict[str, str]]]:
    """(id, row) of every line; column names as they are."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArchiveError(f"--labels={path} cannot be read ({type(error).__name__})") from None
    column = next((name for wanted in _ID for name in header if name.strip().lower() == wanted), None)
    if column is None or not rows:
        hint = file_listing.separator_hint(header)
        raise ArchiveError(f"--labels={path}: it needs a column id or path, and rows.{hint}")
    found: dict[str, int] = {}
    for line, row in enumerate(rows, 2):
        key = file_listing.plain((row[column] or "").strip())
        if not key or key in found:
            what = "no id" if not key else f"the id of line {found[key]}"
            raise ArchiveError(f"--labels={path}, line {line} has {what}: each video has one row")
        found[key] = line
    return list(zip(found, rows, strict=True))


def _holds(row: Mapping[str, str], condition: str, labels: str) -> bool:
    column, _, value = condition.partition("=")
    unequal = column.endswith("!")
    column = column.removesuffix("!")
    if column not in row or "=" not in condition:
        raise ArchiveError(f"--where={condition}: write COLUMN=VALUE or COLUMN!=VALUE, of {', '.join(row)} ({labels})")
    return ((row[column] or "").strip() == value.strip()) != unequal


def _filled(rows: Mapping[str, Mapping[str, str]], column: str, labels: str) -> list[str]:
    if column not in next(iter(rows.values())):
        raise ArchiveError(f"{labels} has no column {column!r}; it has {', '.join(next(iter(rows.values())))}")
    values = [(row[column] or "").strip() for row in rows.values()]
    if empty := values.count(""):
        raise ArchiveError(
            f"{labels}: {column} is empty in {empty} of {len(values)} rows: leave them out with --where='{column}!='"
        )
    return values


def _number(value: str, column: str, labels: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ArchiveError(f"{labels}: {column} holds {value!r}, which is no number; classes are given by --label")
    return number


def _read_features(item: str, facts: dict[str, dict[str, Any]]) -> _Table:
    """A feature file, checked by itself and against what others said of the videos (`facts`, which it adds to)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, colon, only = item.rpartition(":")
    file = file if colon and "/" not in only else item
    path = pathlib.Path(file)
    try:
        table = pq.read_table(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, pa.ArrowInvalid) as error:
        raise ArchiveError(f"--features={file} cannot be read as Parquet ({type(error).__name__})") from None
    column = next((name for name in _ID if name in table.column_names), None)
    if column is None or "features" not in table.column_names or not len(table):
        raise ArchiveError(f"--features={file}: it needs columns id (or path) and features, and rows")
    names = [file_listing.plain(str(name)) for name in table[column].to_pylist()]
    ids = {name: row for row, name in enumerate(names)}
    if len(ids) < len(names):
        twice = sorted({name for row, name in enumerate(names) if ids[name] != row})
        raise ArchiveError(f"--features={file}: {_some(twice)} stand there more than once")
    matrix = _matrix(table["features"].to_pylist(), file)
    if bad := [name for name, row in ids.items() if not np.isfinite(matrix[row]).all()]:
        raise ArchiveError(f"--features={file}: features of {_some(bad)} are NaN or infinite")
    for fact in FACTS:
        if fact in table.column_names:
            _agree(facts.setdefault(fact, {}), fact, dict(zip(names, table[fact].to_pylist(), strict=True)), file)
    metadata = table.schema.metadata or {}
    parts = json.loads(metadata.get(READOUTS.encode(), b"{}")) or {"features": matrix.shape[1]}
    readouts = dict(zip(parts, np.split(matrix, np.cumsum([*parts.values()])[:-1], axis=1), strict=True))
    if file != item:
        if only not in readouts:
            raise ArchiveError(f"--features={item}: {file} holds {', '.join(readouts)}, no {only}")
        readouts = {only: readouts[only]}
    card = path.with_suffix(".card.json")
    about = {"file": path.name, "sha256": digest, "readouts": {name: m.shape[1] for name, m in readouts.items()}}
    about |= {"card": json.loads(card.read_text())} if card.exists() else {}
    return _Table(file, ids, readouts, about)


def _matrix(rows: list, file: str) -> np.ndarray:
    try:
        matrix = np.array(rows, np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise ArchiveError(f"--features={file}: features must be lists of numbers, equally many in every row")
    return matrix


def _agree(known: dict[str, Any], fact: str, found: Mapping[str, Any], file: str) -> None:
    """Adds what a file says of its videos; another number than an earlier one means that ids were mixed up."""
    other = [name for name, value in found.items() if name in known and known[name][0] != value]
    if other:
        before = known[other[0]][1]
        raise ArchiveError(
            f"--features={file}: {fact} of {_some(other)} differs from {before}: the ids of one of the two belong to "
            "other videos"
        )
    known.update({name: (value, file) for name, value in found.items() if name not in known})


def _check_ids(table: _Table, lines: Mapping[str, int], chosen: set[str], labels: str, first) -> None:
    """Labels are named by their lines: their ids may be names of private files."""
    ids = set(table.ids)
    if strange := ids - lines.keys():
        raise ArchiveError(
            f"--features={table.file}: {_some(strange)} are not in {labels}. Ids must be the same text; of one "
            "CSV as --input of extract and as --labels they are (of private files with the same --private_dir)"
        )
    if missing := chosen - ids:
        raise ArchiveError(
            f"--features={table.file} lacks {len(missing)} of the {len(chosen)} labelled videos, in lines "
            f"{_some(str(lines[key]) for key in missing)}. Were they quarantined? Take them out of {labels}, "
            "for all encoders alike"
        )
    if ids != first[1]:
        raise ArchiveError(
            f"{first[0]} and {table.file} hold other videos: {_some(ids ^ first[1])} are in one only. A paired "
            "comparison needs the same ones"
        )


def _repeats(file: str, matrix: np.ndarray, groups: np.ndarray) -> list[str]:
    """A note where videos of different groups have the very same features: copies that straddle folds."""
    _, same = np.unique(matrix, axis=0, return_inverse=True)
    same = same.reshape(-1)
    copies = sum(len(set(groups[same == one])) > 1 for one in np.flatnonzero(np.bincount(same) > 1))
    if not copies:
        return []
    what = "times videos of different groups have exactly the same features: copies, or files that were not read"
    return [f"{file}: {copies} {what}"]


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
