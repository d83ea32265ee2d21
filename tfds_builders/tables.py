"""CSV tables and folders as datasets ship them: header case, byte-order marks, names with suffix or not."""

import csv
import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

from discovr_jax.data import contents, file_listing
from discovr_jax.data.file_table import UNKNOWN, SourceError

_ARRAYS = (".npy", ".npz", ".nii", ".nii.gz")
_QUOTED = 300  # characters of a file that a message repeats at most


def find_root(
    directory: str | os.PathLike,
    marker: str,
    remedy: str,
    is_marker: Callable[[pathlib.Path], bool] = pathlib.Path.is_file,
) -> pathlib.Path:
    """The folder that holds the file `marker`: `directory` itself, or one or two levels below it.

    Args:
      directory: as the user gives it.
      marker: a file's path within the folder, "FileList.csv" or "A4C/FileList.csv"; may hold wildcards.
      remedy: ends the errors.
      is_marker: whether a path of that name is it; `pathlib.Path.is_dir` for a folder.

    Raises:
      SourceError: no such folder, or several.
    """
    directory = pathlib.Path(directory).expanduser()
    if not directory.is_dir():
        raise SourceError(f"{directory}: no such directory. {remedy}")
    for pattern in (marker, f"*/{marker}", f"*/*/{marker}"):
        found = sorted({path.parents[marker.count("/")] for path in directory.glob(pattern) if is_marker(path)})
        if len(found) > 1:
            names = ", ".join(map(str, found))
            raise SourceError(f"{directory} holds several {marker}: {names}. Point --manual_dir at one.")
        if found:
            return found[0]
    raise SourceError(f"{directory}: no {marker} here or up to two levels below. {remedy}")


def header(path: pathlib.Path) -> list[str]:
    """The first line of a CSV file, cell by cell, spaces around them off; empty of an empty file.

    Raises:
      SourceError: no such file, or not a CSV in UTF-8.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file. The dataset's README lists the files to download.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read ({error}); download it again, or save it as CSV in UTF-8.") from None


def having(path: pathlib.Path, columns: Sequence[str]) -> tuple[str, ...]:
    """Those of `columns` that a CSV file has, for `read_table`. SourceError as of `header`."""
    there = {name.lower() for name in header(path)}
    return tuple(name for name in columns if name.lower() in there)


def read_table(path: pathlib.Path, columns: Sequence[str], name: str = "") -> list[dict[str, str]]:
    """Reads the named columns of a CSV file; header names match whatever their case and surrounding spaces.

    Args:
      path: the file.
      columns: those to read.
      name: what messages call the file, if not by its own name.

    Returns:
      One dict a row with the names as given in `columns`, and "where": the file name and line for messages.

    Raises:
      SourceError: no such file, not a CSV in UTF-8, a missing or doubled column, or a row with too few cells.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file. The dataset's README lists the files to download.")
    try:
        return _rows(path, columns, name)
    except (UnicodeDecodeError, csv.Error) as error:
        hint = contents.told_of_table(path) or " Download it again, or save it as CSV in UTF-8."
        raise SourceError(f"{path} cannot be read ({error}).{hint}") from None


def _rows(path: pathlib.Path, columns: Sequence[str], name: str) -> list[dict[str, str]]:
    # utf-8-sig drops the byte-order mark that spreadsheets add; newline="" lets csv handle CRLF and CR.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in columns if name.lower() not in header]
        if missing:
            raise SourceError(
                f"{path}: missing column(s) {', '.join(missing)}; the header is {str(header)[:_QUOTED]}."
                f"{file_listing.separator_hint(header)}{contents.told_of_table(path)}"
            )
        doubled = [name for name in columns if header.count(name.lower()) > 1]
        if doubled:
            raise SourceError(f"{path}: column(s) {', '.join(doubled)} occur more than once.")
        places = {name: header.index(name.lower()) for name in columns}
        rows = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{name or path.name} line {reader.line_num}"
            if len(cells) <= max(places.values()):
                raise SourceError(f"{where}: {len(cells)} cells, the header has {len(header)}.")
            rows.append({name: cells[place].strip() for name, place in places.items()} | {"where": where})
    return rows


def number(row: dict[str, str], column: str) -> float:
    """The cell as float; an empty cell or a spelling of "not available" is NaN (unknown).

    Raises:
      SourceError: any other text, or an infinite value.
    """
    text = row[column]
    if text.lower() in UNKNOWN:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise SourceError(f"{row['where']}: column {column} holds '{text[:_QUOTED]}', not a number.")
    return value


def stem(name: str) -> str:
    """A video's name without folder and the suffix of a format ("Videos/0X1F.avi" -> "0X1F"; "a.b" stays "a.b")."""
    return file_listing.bare(file_listing.plain(name.strip()).rsplit("/", 1)[-1])


def by_stem(rows: Iterable[dict[str, str]], column: str) -> dict[str, dict[str, str]]:
    """Rows keyed by the stem of a file-name column, in file order.

    Raises:
      SourceError: an empty name, or the same name twice.
    """
    keyed: dict[str, dict[str, str]] = {}
    for row in rows:
        key = stem(row[column])
        if not key:
            raise SourceError(f"{row['where']}: column {column} is empty.")
        if key in keyed:
            raise SourceError(
                f"{row['where']}: '{key}' again, first at {keyed[key]['where']}; remove one row."
            )
        keyed[key] = row
    return keyed


def list_videos(directory: pathlib.Path, depth: int = 0) -> tuple[dict[str, pathlib.Path], dict[str, int]]:
    """Video files in a folder, keyed by stem, sorted (`file_listing.list_files`), and what is not read, counted.

    Arrays are not read either: in the public sets they are masks and the like, never the videos.

    Args:
      directory: the folder.
      depth: levels of folders within it that are looked into too.

    Raises:
      SourceError: no such folder, or two files with the same stem.
    """
    if not directory.is_dir():
        raise SourceError(f"{directory}: no such directory. The dataset's README shows the expected layout.")
    files = file_listing.list_files(directory, depth)
    arrays = {name: suffix for name in files.videos for suffix in _ARRAYS if name.lower().endswith(suffix)}
    files = dataclasses.replace(files, not_read=files.not_read | arrays)
    names: dict[str, str] = {}
    for name in files.videos:
        if name in arrays:
            continue
        first = names.setdefault(stem(name), name)
        if first != name:
            raise SourceError(f"{directory}: {first} and {name} share a name; remove one.")
    notes = {f"not_read {what}": count for what, count in files.counts(private=False).items()}
    return {key: files.videos[names[key]] for key in sorted(names)}, notes
