"""The files of an archive and the CSV that describes them. No message quotes a name, a path or a cell.

Whoever reads a message finds the line in the CSV; what it says there stays there.
"""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from discovr_jax.data import class_labels, file_listing, file_table
from discovr_jax.data.file_table import SourceError
from tfds_builders.echo_folder import class_columns

CLASSES = {"Normal": 0, "Abnormal": 1, "": -1}
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
REQUIRED = ("path", "class")
OPTIONAL = ("patient_id", "study_id", "split", "ef", "fps", "view")


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of one file.

    Attributes:
      name: path below the root, with "/".
      path: the file; None if there is none.
      where: the line of the CSV, or the file's number where there is no CSV.
      patient_id: empty if there is no such column.
      split: train, val, test, or empty if there is no such column.
      source_label, ef, fps, view, classes: as records hold them.
      study_id: empty if unknown.
    """

    name: str
    path: pathlib.Path | None
    where: str
    patient_id: str = ""
    split: str = ""
    source_label: int = -1
    ef: float = math.nan
    fps: float = math.nan
    view: str = ""
    classes: str = ""
    study_id: str = ""


def list_files(files: file_listing.Files) -> list[Row]:
    """Every video below the root, in the order of their names; what is known is that it is there."""
    return [Row(name, path, f"file {number}") for number, (name, path) in enumerate(files.videos.items(), 1)]


def read_csv(
    file: pathlib.Path, files: file_listing.Files, classes: class_columns.Cells
) -> tuple[list[Row], int]:
    """The rows of a CSV, in its order, each with its file if there is one.

    Args:
      classes: reads the columns that hold classes.

    Returns:
      The rows, and how many videos below the root have none.

    Raises:
      SourceError: no such file, columns missing or doubled, a cell that is not allowed, two rows for one file.
    """
    found: dict[str, Row] = {}
    columns = [column.name for column in classes.columns]
    for name, cells, where in file_table.rows(file, files, REQUIRED, OPTIONAL, columns):
        found[name] = Row(
            name,
            files.videos.get(name),
            where,
            re.sub(r"^(\d+)\.0+$", r"\1", file_table.name(cells, "patient_id")),  # whole, as some tools write it
            _known(cells, "split", SPLITS, where) if "split" in cells else "",
            _known(cells, "class", CLASSES, where),
            file_table.number(cells, "ef", where),
            file_table.number(cells, "fps", where),
            _view(cells, where),
            classes.read(cells, where),
            file_table.name(cells, "study_id"),
        )
        if "patient_id" in cells and not found[name].patient_id:
            raise SourceError(f"{where}: patient_id is empty; without it the patient could be in two splits.")
    classes.check()
    return list(found.values()), len(set(files.videos) - set(found))


def strata(rows: Sequence[Row], column: str | None, classes: Sequence[class_columns.ClassColumn]) -> list[str]:
    """The stratum of each row by a column: `class`, the quarter of `ef`, or that of a class or grade.

    Args:
      column: None for the first of `classes` (multi-label ones apart), or else `class`.

    Raises:
      SourceError: there is no such column, or nothing is known of it.
    """
    named = [each.name for each in classes if each.kind != class_labels.MULTILABEL]
    column = (column or next(iter(named), "class")).strip().lower()
    if column == "ef":
        known = np.array([row.ef for row in rows if not math.isnan(row.ef)])
        edges = np.quantile(known, (0.25, 0.5, 0.75)) if len(known) else known
        found = ["" if math.isnan(row.ef) else str(np.searchsorted(edges, row.ef, "right")) for row in rows]
    elif column == "class":
        found = ["" if row.source_label < 0 else str(row.source_label) for row in rows]
    elif column in named:
        found = [json.dumps(class_labels.parse(row.classes).get(column, "")).strip('"') for row in rows]
    else:
        raise SourceError(f"--stratify={column}: give class, ef, or a column of --class_columns or --grade_columns.")
    if not any(found):
        raise SourceError(f"--stratify={column}: nothing is known of it in any row. No labels? Give a column split.")
    return found


def _known(cells: dict[str, str], column: str, values: dict, where: str):
    """The value that a cell stands for."""
    text = cells[column] if column == "class" else cells[column].lower()
    if text not in values:
        raise SourceError(f"{where}: {column} must be {' or '.join(filter(None, values))}, exactly.")
    return values[text]


def _view(cells: dict[str, str], where: str) -> str:
    """A short code: free text could name somebody, and views are kept in the records."""
    view = cells.get("view", "")
    if not re.fullmatch(r"\w{0,12}", view):
        raise SourceError(f"{where}: view must be a code such as A4C, of at most 12 letters and digits.")
    return view
