"""The files of an archive and the CSV that describes them. No message quotes a name, a path or a cell.

Whoever reads a message finds the line in the CSV; what it says there stays there.
"""

import csv
import dataclasses
import json
import math
import pathlib
import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from discovr_jax.data import class_labels, contents, file_listing, measurements
from tfds_builders.echo_folder import class_columns
from tfds_builders.tables import SourceError

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
    for cells, where in _cells(file, [column.name for column in classes.columns]):
        listed = _below(cells["path"], files.root, where)
        fitting = files.find(listed)
        if len(fitting) > 1:
            raise SourceError(f"{where}: {len(fitting)} files have this name; give it its suffix.")
        name = fitting[0] if fitting else file_listing.plain(listed)
        if name in found:
            raise SourceError(f"{where}: the same file as {found[name].where}; remove one row.")
        found[name] = Row(
            name,
            files.videos.get(name),
            where,
            re.sub(r"^(\d+)\.0+$", r"\1", _name(cells, "patient_id")),  # a whole number, as some tools write it
            _known(cells, "split", SPLITS, where) if "split" in cells else "",
            _known(cells, "class", CLASSES, where),
            _number(cells, "ef", where),
            _number(cells, "fps", where),
            _view(cells, where),
            classes.read(cells, where),
            _name(cells, "study_id"),
        )
        if "patient_id" in cells and not found[name].patient_id:
            raise SourceError(f"{where}: patient_id is empty; without it the patient could be in two splits.")
    if not found:
        raise SourceError("The CSV has a header and no rows.")
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
        raise SourceError(f"--stratify={column}: nothing is known of it in any row.")
    return found


def _below(listed: str, root: pathlib.Path, where: str) -> str:
    """A listed path as a name below the root; refuses what leads out of it."""
    path = pathlib.PurePosixPath(listed.replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(root):
        path = path.relative_to(root)
    if path.is_absolute() or ".." in path.parts or re.match("^[A-Za-z]:", listed):
        raise SourceError(f"{where}: the path leads out of --manual_dir; give paths below it, without '..'.")
    if not path.parts:
        raise SourceError(f"{where}: the path is empty.")
    return path.as_posix()


def _cells(file: pathlib.Path, more: Sequence[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Each row of the CSV: the cells of known columns and of `more`, and its place."""
    if not file.is_file():
        raise SourceError(f"--csv={file}: no such file.")
    try:
        # utf-8-sig drops the byte-order mark that spreadsheets add; newline="" lets csv handle CRLF and CR.
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            places = {name: header.index(name) for name in (*REQUIRED, *OPTIONAL, *more) if name in header}
            missing = [name for name in REQUIRED if name not in places]
            if missing:
                raise SourceError(
                    f"The first line of the CSV names no column {' and '.join(missing)}. It needs "
                    f"{', '.join(REQUIRED)} (cells empty where unknown), and takes {', '.join(OPTIONAL)}."
                    f"{file_listing.separator_hint(header)}{contents.told_of_table(file)}"
                )
            if missing := [name for name in more if name not in places]:
                raise SourceError(f"The CSV has no column {' and '.join(missing)}, which the options name.")
            doubled = [name for name in places if header.count(name) > 1]
            if doubled:
                raise SourceError(f"The CSV has the column {doubled[0]} twice.")
            for cells in reader:
                where = f"CSV line {reader.line_num}"
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise SourceError(f"{where}: {len(cells)} cells, the header has {len(header)}.")
                yield {name: cells[place].strip() for name, place in places.items()}, where
    except (UnicodeDecodeError, csv.Error) as error:
        hint = contents.told_of_table(file) or " Save it as UTF-8."
        raise SourceError(f"The CSV cannot be read ({type(error).__name__}).{hint}") from None


def _known(cells: dict[str, str], column: str, values: dict, where: str):
    """The value that a cell stands for."""
    text = cells[column] if column == "class" else cells[column].lower()
    if text not in values:
        raise SourceError(f"{where}: {column} must be {' or '.join(filter(None, values))}, exactly.")
    return values[text]


def _name(cells: dict[str, str], column: str) -> str:
    """The cell in Unicode's composed form, so that one name is one; empty if it says that it is unknown."""
    text = unicodedata.normalize("NFC", cells.get(column, ""))
    return "" if text.lower() in file_listing.UNKNOWN else text


def _number(cells: dict[str, str], column: str, where: str) -> float:
    """The cell as float, NaN if unknown."""
    text = cells.get(column, "").lower()
    if text in file_listing.UNKNOWN:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise SourceError(f"{where}: {column} is not a number.")
    if reason := measurements.implausible(column, {column: value}):
        raise SourceError(f"{where}: {reason}.")
    return value


def _view(cells: dict[str, str], where: str) -> str:
    """A short code: free text could name somebody, and views are kept in the records."""
    view = cells.get("view", "")
    if not re.fullmatch(r"\w{0,12}", view):
        raise SourceError(f"{where}: view must be a code such as A4C, of at most 12 letters and digits.")
    return view
