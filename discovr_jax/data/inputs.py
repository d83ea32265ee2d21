"""What a command reads: the videos of a folder, of a CSV, or one file; and what it calls each."""

import csv
import dataclasses
import os
import pathlib

from discovr_jax.data import contents, file_listing, private, read

DICOM = ".dcm"


class InputError(ValueError):
    """Nothing to read; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Input:
    """One file.

    Attributes:
      row: its place in the input, from 0.
      name: its path below the input, or as the CSV has it.
      path: None if there is none; `reason` then says why.
      study: what the CSV's column `study_id` says; "" without one.
    """

    row: int
    name: str
    path: pathlib.Path | None
    reason: str = ""
    study: str = ""

    @property
    def format(self) -> str:
        """Its suffix, as the table has it; empty if unknown."""
        return "" if self.path is None else (read.format_of(self.path) or "").lstrip(".")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The files of a folder (sorted) or of a CSV (in its order), what is not read, and a hint on what was not found."""

    files: list[Input]
    not_read: dict[str, int]
    hint: str = ""


def find(source: str | os.PathLike, private_names: bool = True) -> Inputs:
    """The videos of `source`: a folder (searched to its depths), a CSV with a column `path`, or one file.

    Args:
      private_names: what is said quotes no part of a name.

    Raises:
      InputError: there are none.
    """
    source = pathlib.Path(source)
    if source.is_dir():
        files = file_listing.list_files(source)
        not_read = files.counts(private_names)
        if not files.videos:
            others = f"; not read: {file_listing.in_words(not_read)}" if not_read else ""
            known = ", ".join(file_listing.suffixes())
            raise InputError(f"--input={source} holds no videos: looked for {known} and DICOM of any name{others}")
        videos = enumerate(files.videos.items())
        return Inputs([Input(row, name, path) for row, (name, path) in videos], not_read)
    if not source.is_file():
        raise InputError(f"--input={source}: no such file or folder")
    if source.suffix.lower() != ".csv":
        return Inputs([Input(0, file_listing.plain(source.name), source)], {})
    return _of_csv(source, private_names)


def _of_csv(source: pathlib.Path, private_names: bool) -> Inputs:
    rows = _rows(source)
    # The folder of the table may hold a whole disk, so only the folders that are named are listed.
    folders = {source.parent: file_listing.list_files(source.parent, depth=0)}
    result, missing = [], []
    for row, (listed, study) in enumerate(rows):
        name = file_listing.plain(listed)
        below = source.parent / name
        if below.parent not in folders:
            folders[below.parent] = file_listing.list_files(below.parent, depth=0)
        # A file's own name may hold the backslash.
        places = [(folders[below.parent], below.name), (folders[source.parent], listed)]
        fitting = {files.videos[key] for files, part in places for key in files.find(part)}
        if len(fitting) == 1 and not file_listing.is_hidden(name):
            result.append(Input(row, name, *fitting, study=study))
            continue
        files, part = places[0]
        reason = files.why_not(name if file_listing.is_hidden(name) else part, private_names)
        if fitting and not file_listing.is_hidden(name):
            reason = f"{len(fitting)} files have this name; give it its suffix"
        result.append(Input(row, name, None, reason))
        missing.append(listed)
    if len(missing) < len(result):
        return Inputs(result, {})
    hint = file_listing.list_files(source.parent).hint(missing, private_names)
    raise InputError(
        f"--input={source}: none of its {len(result)} rows names a file that can be read (paths count from the folder "
        f"of the table). Row 1: {result[0].reason}.{hint}"
    )


def _rows(source: pathlib.Path) -> list[tuple[str, str]]:
    """The cells of the columns `path` and `study_id` (which may be missing)."""
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or ())
            names = {name.strip().lower(): name for name in reversed(header)}
            column, study = names.get("path"), names.get("study_id")
            if column is None:
                raise InputError(
                    f"--input={source}: its first line names no column 'path'.{file_listing.separator_hint(header)}"
                    f"{contents.told_of_table(source)}"
                )
            # A line of nothing but commas is none.
            rows = [
                ((row[column] or "").strip(), _known(row[study]) if study else "")
                for row in reader
                if any(isinstance(cell, str) and cell.strip() for cell in row.values())
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        reason = type(error).__name__
        hint = contents.told_of_table(source) or " Save it as CSV in UTF-8."
        raise InputError(f"--input={source} cannot be read ({reason}).{hint}") from None
    if not rows:
        raise InputError(f"--input={source} names no files")
    return rows


def _known(cell: str | None) -> str:
    text = (cell or "").strip()
    return "" if text.lower() in file_listing.UNKNOWN else text


def identity(one: Input, salt: bytes, show: bool = False, hide: bool = False) -> str:
    """Its name, or for a private file a keyed hash of that, which only the salt's owner can redo.

    Args:
      show, hide: all names are shown, or none; by default all but those of DICOM.
    """
    # What is unknown or missing is not shown either: its name may be a patient's.
    secret = hide or one.path is None or read.format_of(one.path) in (None, DICOM)
    return private.salted_id(salt, one.name) if secret and not show else one.name
