"""Ejection fractions of MIMIC-IV-ECHO's studies, from its table of structured measurements (version 1.0 and later)."""

import collections
import csv
import gzip
import pathlib
import re

from tfds_builders import tables

_STUDIES = "echo-study-list.csv"
# Readers of the real files spell it in both ways.
_NAMES = tuple(f"structured{dash}measurement.csv{zipped}" for dash in "-_" for zipped in (".gz", ""))
_COLUMNS = ("measurement_id", "measurement", "result")
_FRACTION = "lvef"
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def ejection_fractions(root: pathlib.Path) -> tuple[dict[str, float], collections.Counter]:
    """The left ventricular ejection fraction of each study.

    A study's row in `echo-study-list.csv` names a measurement, whose rows in `structured-measurement.csv.gz` are one a
    value; that called "lvef" is taken, percent. The table has tens of millions of rows and is read as a stream.

    Args:
      root: the folder of the tables; without either, nothing is known.

    Returns:
      {study_id: percent}, and counts for metadata.json.

    Raises:
      SourceError: a table without its columns, or damaged.
    """
    notes: collections.Counter = collections.Counter()
    path = next((root / name for name in _NAMES if (root / name).is_file()), None)
    # The list of studies of version 0.1 does not name their measurements.
    if path is None or not (root / _STUDIES).is_file() or "measurement_id" not in tables.header(root / _STUDIES):
        return {}, notes
    study_of: dict[str, list[str]] = {}
    for row in tables.read_table(root / _STUDIES, ("study_id", "measurement_id")):
        if row["measurement_id"]:
            study_of.setdefault(row["measurement_id"], []).append(row["study_id"])
    values: dict[str, float] = {}
    try:
        for measurement, text in _results(path):
            if measurement not in study_of:
                continue
            if _NUMBER.fullmatch(text) is None:
                notes["lvef that is no number"] += 1
            elif values.setdefault(measurement, float(text)) != float(text):
                notes["second lvef of a study, not taken"] += 1
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise tables.SourceError(f"{path.name} cannot be read ({type(error).__name__}); download it again.") from None
    return {study: value for measurement, value in values.items() for study in study_of[measurement]}, notes


def _results(path: pathlib.Path):
    """Yields (measurement_id, result) of every ejection fraction."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if missing := [name for name in _COLUMNS if name not in header]:
            raise tables.SourceError(f"{path.name}: missing column(s) {', '.join(missing)}.")
        measurement, kind, result = (header.index(name) for name in _COLUMNS)
        for cells in reader:
            if len(cells) == len(header) and cells[kind].lower() == _FRACTION:
                yield cells[measurement], cells[result].strip()
