"""manifest.csv beside the records: one row per record, in record order, with all of it but pixels.

A run reads it by column: a million rows are 300 MB of text, and a column of numbers 4 MB.
"""

import csv
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from discovr_jax.errors import RecordsError

FILE = "manifest.csv"
SPLITS = ("train", "val", "test")

# `classes`: of the dataset's own table, JSON as of `class_labels`.
TEXT_FIELDS = ("id", "patient_id", "study_id", "dataset", "view", "classes")
# float32, NaN where the dataset does not say: percent, mL, cm, frames per second.
FLOAT_FIELDS = ("fps", "ef", "rvef", "edv", "esv", "ivsd", "lvidd", "lvpwd")
# int32; source_label, ed_frame and es_frame are -1 where the dataset does not say.
INT_FIELDS = ("schema_version", "num_frames", "source_label", "ed_frame", "es_frame")
SCALAR_FIELDS = TEXT_FIELDS + FLOAT_FIELDS + INT_FIELDS
# Columns of manifest.csv.
MANIFEST = ("split", "sha256", "num_masks", "flags", *SCALAR_FIELDS)
DTYPES: dict[str, Any] = (
    dict.fromkeys(MANIFEST, np.str_)
    | {"sha256": np.dtype("S64")}  # a quarter of what text takes
    | dict.fromkeys(FLOAT_FIELDS, np.float32)
    | dict.fromkeys((*INT_FIELDS, "num_masks"), np.int32)
)


def columns(path: pathlib.Path, names: Sequence[str], split: str | None = None) -> dict[str, np.ndarray] | None:
    """Columns of manifest.csv beside the records, in record order; no other is kept in memory.

    Args:
      names: of `MANIFEST`.
      split: rows of this split only; None for all.

    Returns:
      {name: array [rows]}, float32, int32 or str (sha256: bytes); None if there is no manifest.

    Raises:
      RecordsError: it is damaged.
    """
    table = _read(path, names)
    if table is None:
        return None
    if split is not None:
        import pyarrow.compute

        table = table.filter(pyarrow.compute.equal(table["split"], split))
    try:
        return {name: table[name].to_numpy().astype(DTYPES[name]) for name in names}
    except UnicodeEncodeError:
        raise RecordsError(f"{path / FILE} is damaged (sha256 is no ASCII); prepare the records again.") from None


def rows(path: pathlib.Path) -> list[dict[str, str]] | None:
    """Rows of manifest.csv as text, in record order; None if there is none. RecordsError if damaged.

    A row takes 2 kB: of many records read `columns`.
    """
    table = _read(path, MANIFEST, typed=False)
    if table is None:
        return None
    result = table.to_pylist()
    if wrong := [number for number, row in enumerate(result, 1) if not row["num_masks"].isdecimal()]:
        raise RecordsError(f"{path / FILE} is damaged in row {wrong[0]}; prepare the records again.")
    return result


def _read(path: pathlib.Path, names: Sequence[str], typed: bool = True):
    """The columns `names` and "split" as a `pyarrow.Table`, of text unless `typed`; None if there is no manifest."""
    import pyarrow
    import pyarrow.csv

    file = path / FILE
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            header = next(csv.reader(lines), [])
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordsError(f"{file} is damaged ({error}); prepare the records again.") from None
    if missing := sorted(set(MANIFEST) - {"classes", *header}):
        raise RecordsError(f"{file} is damaged (no columns {', '.join(missing)}); prepare the records again.")
    kinds = {np.float32: pyarrow.float64(), np.int32: pyarrow.int32()} if typed else {}
    convert = pyarrow.csv.ConvertOptions(
        column_types={name: kinds.get(DTYPES[name], pyarrow.string()) for name in MANIFEST},
        include_columns=[name for name in dict.fromkeys(("split", *names)) if name in header],
        null_values=[],
    )
    try:
        table = pyarrow.csv.read_csv(
            file, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True), convert_options=convert
        )
    except pyarrow.ArrowInvalid as error:
        # Up to the colon that the damaged text follows.
        reason = ":".join(str(error).split(":")[:2])[:200]
        raise RecordsError(f"{file} is damaged ({reason}); prepare the records again.") from None
    if unknown := set(table["split"].unique().to_pylist()) - set(SPLITS):
        raise RecordsError(f"{file} is damaged (splits {sorted(unknown)}); prepare the records again.")
    if "classes" in names and "classes" not in header:
        table = table.append_column("classes", pyarrow.repeat("", len(table)))
    return table


def sha256(path: pathlib.Path) -> str | None:
    """SHA-256 of manifest.csv, as `sha256sum` prints it: it names records and their splits exactly. None without."""
    try:
        with (path / FILE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
