"""What a command reads: the videos of a folder, of a CSV, or one file; and what it calls each."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from discovr_jax.data import file_listing, file_table, private, read

DICOM = ".dcm"
OPTIONAL = ("fps", "study_id")  # columns of a CSV beside "path"


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
      fps: frames per second by the CSV's column `fps`, which goes before what the file says; NaN if unknown.
    """

    row: int
    name: str
    path: pathlib.Path | None
    reason: str = ""
    study: str = ""
    fps: float = math.nan

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

    def of_table(self) -> dict[str, Any]:
        """What a CSV adds that changes features, for the card; empty without frame rates."""
        rates = {one.row: one.fps for one in self.files if not math.isnan(one.fps)}
        sha256 = hashlib.sha256(json.dumps(rates).encode()).hexdigest()
        return {"fps_of_csv": {"files": len(rates), "sha256": sha256}} if rates else {}


def find(source: str | os.PathLike, private_names: bool = True, csv: str | os.PathLike | None = None) -> Inputs:
    """The videos of `source`: a folder (searched to its depths), a CSV with a column `path`, or one file.

    Args:
      private_names: what is said quotes no part of a name.
      csv: a table of the files of a folder, with columns `path`, and `fps` or `study_id`, as `prepare echo_folder`
        takes it: a path, or one below the folder. Files without a row are taken too.

    Raises:
      InputError: there are none, no row of a table names one, or a table cannot be read; says the line.
    """
    source = pathlib.Path(source)
    if source.is_dir():
        files = file_listing.list_files(source)
        not_read = files.counts(private_names)
        if not files.videos:
            others = f"; not read: {file_listing.in_words(not_read)}" if not_read else ""
            known = ", ".join(file_listing.suffixes())
            raise InputError(f"--input={source} holds no videos: looked for {known} and DICOM of any name{others}")
    elif not source.is_file():
        raise InputError(f"--input={source}: no such file or folder")
    elif source.suffix.lower() == ".csv":
        if csv is not None:
            raise InputError(f"--input={source} is a CSV: give the columns of --csv in it")
        return _of_csv(source, private_names)
    else:
        files, not_read = file_listing.Files(source.parent, {file_listing.plain(source.name): source}, {}, {}), {}
    known_of, without_file = ({}, 0) if csv is None else _about(csv, files, private_names)
    videos = enumerate(files.videos.items())
    found = [Input(row, name, path, **known_of.get(name, {})) for row, (name, path) in videos]
    return Inputs(found, not_read | ({"row(s) of the CSV without a file": without_file} if without_file else {}))


def _about(csv: str | os.PathLike, files: file_listing.Files, private_names: bool) -> tuple[dict[str, dict], int]:
    """{name of a file: what its row says}, and how many rows name no file."""
    found, missing, table = {}, [], file_table.locate(csv, files.root)
    if not table.is_file():
        raise InputError(f"--csv={csv}: no such file")
    with _named(f"--csv={csv}"):
        for name, cells, where in file_table.rows(table, files, ("path",), OPTIONAL):
            if name in files.videos:
                found[name] = _cells(cells, where)
            else:
                missing.append(name)
    if not found:
        hint = files.hint(missing, private_names)
        raise InputError(f"--csv={csv}: none of its {len(missing)} rows names a file of --input.{hint}")
    return found, len(missing)


@contextlib.contextmanager
def _named(option: str) -> Iterator[None]:
    """Says which table it is that cannot be read."""
    try:
        yield
    except file_table.SourceError as error:
        raise InputError(f"{option}: {error}") from None


def _cells(cells: dict[str, str], where: str) -> dict[str, Any]:
    """What a row says of its file, as attributes of an `Input`."""
    return {"study": file_table.name(cells, "study_id"), "fps": file_table.number(cells, "fps", where)}


def _of_csv(source: pathlib.Path, private_names: bool) -> Inputs:
    with _named(f"--input={source}"):
        rows = [(cells["path"], _cells(cells, where)) for cells, where in file_table.read(source, ("path",), OPTIONAL)]
    # The folder of the table may hold a whole disk, so only the folders that are named are listed.
    folders = {source.parent: file_listing.list_files(source.parent, depth=0)}
    result, missing = [], []
    for row, (listed, about) in enumerate(rows):
        name = file_listing.plain(listed)
        below = source.parent / name
        if below.parent not in folders:
            folders[below.parent] = file_listing.list_files(below.parent, depth=0)
        # A file's own name may hold the backslash.
        places = [(folders[below.parent], below.name), (folders[source.parent], listed)]
        fitting = {files.videos[key] for files, part in places for key in files.find(part)}
        if len(fitting) == 1 and not file_listing.is_hidden(name):
            result.append(Input(row, name, *fitting, **about))
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


def identity(one: Input, salt: bytes, show: bool = False, hide: bool = False) -> str:
    """Its name, or for a private file a keyed hash of that, which only the salt's owner can redo.

    Args:
      show, hide: all names are shown, or none; by default all but those of DICOM.
    """
    # What is unknown or missing is not shown either: its name may be a patient's.
    secret = hide or one.path is None or read.format_of(one.path) in (None, DICOM)
    return private.salted_id(salt, one.name) if secret and not show else one.name
