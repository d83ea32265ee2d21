"""Labels and features of an archive, joined by id; whatever does not fit is refused, never dropped in silence.

Labels: a CSV with a column `id` or `path`, the label or measurement, and the group. Features: `features.feature_files`.
"""

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.data import file_listing
from discovr_jax.evaluation.features import feature_files
from discovr_jax.evaluation.features.feature_files import FACTS, ID, LENGTH, FeatureFile, TableError, some


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
      features: of `feature_files.parse_features`; a file may be followed by ":READOUT" to take that one alone.
      labels: the CSV.
      label, target: the column of classes or that of a measurement, one of them.
      group: the column of what may not straddle folds (the patient).
      where: "COLUMN=VALUE" or "COLUMN!=VALUE"; the rows where all hold are scored.

    Raises:
      TableError: see its message.
    """
    rows = _read_labels(labels)
    lines = {key: line for line, (key, _) in enumerate(rows, 2)}
    facts: dict[str, dict[str, Any]] = {}
    if LENGTH in rows[0][1]:
        lengths = {key: row[LENGTH].strip() for key, row in rows if (row[LENGTH] or "").strip()}
        facts[LENGTH] = {key: (_number(value, LENGTH, labels), labels) for key, value in lengths.items()}
    chosen = {key: row for key, row in rows if all(_holds(row, condition, labels) for condition in where)}
    if not chosen:
        raise TableError(f"{labels}: no row is left by --where={' and '.join(where)}")
    column = label or target
    values, groups = (_filled(chosen, name, labels) for name in (column, group))
    classes = tuple(sorted(set(values))) if label else ()
    if label and len(classes) < 2:
        raise TableError(f"{labels}: all {len(values)} videos have {label} {classes[0]!r}: two classes are needed")
    if label:
        numbers = [float(classes.index(value)) for value in values]
    else:
        numbers = [_number(value, column, labels) for value in values]
    first, sets, notes = None, {}, []
    for name, files in features.items():
        sets[name] = []
        for file in files:
            table = feature_files.read(file)
            for fact in FACTS:
                if fact in table.columns:
                    _agree(facts.setdefault(fact, {}), fact, table.values(fact), file)
            first = first or (file, set(table.ids))
            _check_ids(table, lines, set(chosen), labels, first)
            taken = table.take(chosen)
            notes += feature_files.repeats(file, np.concatenate([*taken.readouts.values()], axis=1), np.array(groups))
            sets[name].append(taken)
        feature_files.check_seeds(name, sets[name])
    return Archive(np.array([*chosen]), np.array(groups), np.array(numbers), classes, sets, notes)


def _read_labels(path: str) -> list[tuple[str, dict[str, str]]]:
    """(id, row) of every line; column names as they are."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"--labels={path} cannot be read ({type(error).__name__})") from None
    column = next((name for wanted in ID for name in header if name.strip().lower() == wanted), None)
    if column is None or not rows:
        hint = file_listing.separator_hint(header)
        raise TableError(f"--labels={path}: it needs a column id or path, and rows.{hint}")
    found: dict[str, int] = {}
    for line, row in enumerate(rows, 2):
        key = file_listing.plain((row[column] or "").strip())
        if not key or key in found:
            what = "no id" if not key else f"the id of line {found[key]}"
            raise TableError(f"--labels={path}, line {line} has {what}: each video has one row")
        found[key] = line
    return list(zip(found, rows, strict=True))


def _holds(row: Mapping[str, str], condition: str, labels: str) -> bool:
    column, _, value = condition.partition("=")
    unequal = column.endswith("!")
    column = column.removesuffix("!")
    if column not in row or "=" not in condition:
        raise TableError(f"--where={condition}: write COLUMN=VALUE or COLUMN!=VALUE, of {', '.join(row)} ({labels})")
    return ((row[column] or "").strip() == value.strip()) != unequal


def _filled(rows: Mapping[str, Mapping[str, str]], column: str, labels: str) -> list[str]:
    if column not in next(iter(rows.values())):
        raise TableError(f"{labels} has no column {column!r}; it has {', '.join(next(iter(rows.values())))}")
    values = [(row[column] or "").strip() for row in rows.values()]
    if empty := values.count(""):
        raise TableError(
            f"{labels}: {column} is empty in {empty} of {len(values)} rows: leave them out with --where='{column}!='"
        )
    return values


def _number(value: str, column: str, labels: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise TableError(f"{labels}: {column} holds {value!r}, which is no number; classes are given by --label")
    return number


def _agree(known: dict[str, Any], fact: str, found: Mapping[str, Any], file: str) -> None:
    """Adds what a file says of its videos; another number than an earlier one means that ids were mixed up."""
    other = [name for name, value in found.items() if name in known and known[name][0] != value]
    if other:
        before = known[other[0]][1]
        raise TableError(
            f"--features={file}: {fact} of {some(other)} differs from {before}: the ids of one of the two belong to "
            "other videos"
        )
    known.update({name: (value, file) for name, value in found.items() if name not in known})


def _check_ids(table: feature_files.Table, lines: Mapping[str, int], chosen: set[str], labels: str, first) -> None:
    """Labels are named by their lines: their ids may be names of private files."""
    ids = set(table.ids)
    if strange := ids - lines.keys():
        raise TableError(
            f"--features={table.file}: {some(strange)} are not in {labels}. Ids must be the same text; of one "
            "CSV as --input of extract and as --labels they are (of private files with the same --private_dir)"
        )
    if missing := chosen - ids:
        raise TableError(
            f"--features={table.file} lacks {len(missing)} of the {len(chosen)} labelled videos, in lines "
            f"{some(str(lines[key]) for key in missing)}. Were they quarantined? Take them out of {labels}, "
            "for all encoders alike"
        )
    if ids != first[1]:
        raise TableError(
            f"{first[0]} and {table.file} hold other videos: {some(ids ^ first[1])} are in one only. A paired "
            "comparison needs the same ones"
        )
