"""A CSV that says what is known of the files of a folder: read alike by `prepare echo_folder`, `extract` and `predict`.

No message quotes a name, a path or a cell: whoever reads it finds the line in the CSV. What it says there stays there.
"""

import csv
import math
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterator, Sequence

from discovr_jax.data import contents, file_listing, measurements

# Cells, in small letters, that say that nothing is known.
UNKNOWN = ("", "nan", "na", "n/a", "none", "null")


class SourceError(ValueError):
    """Files or their tables are not laid out as they must be; says file, row and remedy."""


def locate(file: str | os.PathLike, root: pathlib.Path) -> pathlib.Path:
    """The CSV that `--csv` names: a path, or one below the folder of the files."""
    given = pathlib.Path(file).expanduser()
    return given if given.exists() else root / given


def rows(
    file: pathlib.Path,
    files: file_listing.Files,
    required: Sequence[str],
    optional: Sequence[str] = (),
    named: Sequence[str] = (),
) -> Iterator[tuple[str, dict[str, str], str]]:
    """Each row: the name of its file (of `files.videos`, or as it is listed if there is none), its cells, its place.

    Args:
      required, optional, named: as of `read`; "path" is one of the required.

    Raises:
      SourceError: as `read`; a path that leads out of the folder or fits several files, two rows for one file.
    """
    places: dict[str, str] = {}
    for cells, where in read(file, required, optional, named):
        listed = _below(cells["path"], files.root, where)
        fitting = files.find(listed)
        if len(fitting) > 1:
            raise SourceError(f"{where}: {len(fitting)} files have this name; give it its suffix.")
        name = fitting[0] if fitting else file_listing.plain(listed)
        if name in places:
            raise SourceError(f"{where}: the same file as {places[name]}; remove one row.")
        places[name] = where
        yield name, cells, where


def read(
    file: pathlib.Path, required: Sequence[str], optional: Sequence[str] = (), named: Sequence[str] = ()
) -> Iterator[tuple[dict[str, str], str]]:
    """Each row that is not empty: the cells of known columns, and its place ("CSV line 2").

    Columns stand in any order and case; others than these are not read.

    Args:
      required: columns that must be there; optional: that may be there; named: that an option asks for.

    Raises:
      SourceError: no such file, not a CSV in UTF-8, no rows, a column missing or doubled, a row with too many or too
        few cells.
    """
    if not file.is_file():
        raise SourceError(f"--csv={file}: no such file.")
    empty = True
    try:
        # utf-8-sig drops the byte-order mark that spreadsheets add; newline="" lets csv handle CRLF and CR.
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            places = {name: header.index(name) for name in (*required, *optional, *named) if name in header}
            if missing := [name for name in required if name not in places]:
                raise SourceError(
                    f"The first line of the CSV names no column {' and '.join(missing)}. It needs "
                    f"{', '.join(required)} (cells empty where unknown), and takes {', '.join(optional)}."
                    f"{file_listing.separator_hint(header)}{contents.told_of_table(file)}"
                )
            if missing := [name for name in named if name not in places]:
                raise SourceError(f"The CSV has no column {' and '.join(missing)}, which the options name.")
            if doubled := [name for name in places if header.count(name) > 1]:
                raise SourceError(f"The CSV has the column {doubled[0]} twice.")
            for cells in reader:
                where = f"CSV line {reader.line_num}"
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise SourceError(f"{where}: {len(cells)} cells, the header has {len(header)}.")
                empty = False
                yield {name: cells[place].strip() for name, place in places.items()}, where
    except (UnicodeDecodeError, csv.Error) as error:
        hint = contents.told_of_table(file) or " Save it as UTF-8."
        raise SourceError(f"The CSV cannot be read ({type(error).__name__}).{hint}") from None
    if empty:
        raise SourceError("The CSV has a header and no rows.")


def name(cells: dict[str, str], column: str) -> str:
    """The cell in Unicode's composed form, so that one name is one; empty if unknown or without such a column."""
    text = unicodedata.normalize("NFC", cells.get(column, ""))
    return "" if text.lower() in UNKNOWN else text


def number(cells: dict[str, str], column: str, where: str) -> float:
    """The cell as float, NaN if unknown or without such a column.

    Raises:
      SourceError: it is no number, or none that the measurement can have.
    """
    text = cells.get(column, "").lower()
    if text in UNKNOWN:
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


def _below(listed: str, root: pathlib.Path, where: str) -> str:
    """A listed path as a name below the root; refuses what leads out of it."""
    path = pathlib.PurePosixPath(listed.replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        path = path.relative_to(root.absolute())
    if path.is_absolute() or ".." in path.parts or re.match("^[A-Za-z]:", listed):
        raise SourceError(f"{where}: the path leads out of the folder; give paths below it, without '..'.")
    if not path.parts:
        raise SourceError(f"{where}: the path is empty.")
    return path.as_posix()
