"""Files that do not become records: the unusable, of which only so many are allowed, and the skipped."""

import csv
import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

from discovr_jax.data.io.video import NotAClip, VideoError
from tfds_builders.tables import SourceError

_LISTED = 20  # in a message; the file has all
FILE = "unusable.csv"  # beside the folder of the records, where there were too many to make any


@dataclasses.dataclass(frozen=True)
class Bad:
    """A video that cannot become a record: the file and the reason."""

    file: str
    reason: str


class Unusable:
    """Collects what could not be used, to the last file, so that one run says how many there are.

    Attributes:
      bad: files that are missing or damaged.
      skipped: sound files that hold no clip.

    Args:
      allowed: how many bad ones.
      is_study: files without a clip are skipped, not bad.
      bad: those known before any video is read; hint: a sentence on them.
    """

    def __init__(self, allowed: int, is_study: bool, bad: Sequence[Bad] = (), hint: str = ""):
        self._allowed, self._is_study, self._hint = allowed, is_study, hint
        self.bad, self.skipped = list(bad), []
        self._told = False

    def add(self, clip, error: VideoError) -> None:
        """Why the `Clip` could not be read."""
        reason = f"{clip.where}: {error}"
        if clip.name:
            reason = reason.replace(os.fspath(clip.path), clip.name)
        found = Bad(clip.name or clip.path.name, reason)
        if self._is_study and isinstance(error, NotAClip):
            self.skipped.append(found)
            return
        self.bad.append(found)
        if len(self.bad) > self._allowed and not self._told:
            self._told = True
            print(
                f"{len(self.bad)} unusable, {self._allowed} allowed (--max_bad). The rest is read to count all; the "
                f"last: {found.file}: {found.reason}",
                file=sys.stderr,
            )

    def stop_if_most_are(self, readable: int) -> None:
        """Before any video is read: SourceError if more rows and files fit nothing than there are videos to read."""
        if len(self.bad) > max(self._allowed, readable) or (self.bad and not readable):
            raise SourceError(
                f"{len(self.bad)} of {len(self.bad) + readable} rows and files have no counterpart, so nothing was "
                f"read.{self._hint} {self.listed()}"
            )

    def stop_if_too_many(self, folder: pathlib.Path) -> None:
        """SourceError if there are more bad ones than allowed, with all of them listed in `folder`."""
        file = folder / FILE
        if len(self.bad) <= self._allowed:
            file.unlink(missing_ok=True)
            return
        write_csv(file, ("file", "reason"), map(dataclasses.asdict, self.bad))
        raise SourceError(
            f"{len(self.bad)} unusable video(s), {self._allowed} allowed; all were tried.{self._hint} {self.listed()}\n"
            f"All are listed in {file}. Put them right, or leave them out with --max_bad={len(self.bad)}: they are "
            "then listed in quarantine.csv beside the records."
        )

    def write(self, folder: pathlib.Path) -> None:
        """quarantine.csv and skipped.csv."""
        for name, found in (("quarantine.csv", self.bad), ("skipped.csv", self.skipped)):
            write_csv(folder / name, ("file", "reason"), map(dataclasses.asdict, found))

    def listed(self) -> str:
        """The first of the bad and of the skipped ones, a line each."""
        text = ""
        for what, found in (("Unusable:", self.bad), ("Skipped, as they hold no clip:", self.skipped)):
            lines = [f"\n  {item.file}: {item.reason}" for item in found[:_LISTED]]
            more = f"\n  ... and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
            text += (" " if text and found else "") + (what + "".join(lines) + more if found else "")
        return text


def unmatched(
    rows: Mapping[str, dict], videos: Mapping[str, pathlib.Path], directory: pathlib.Path, table: str
) -> tuple[list[Bad], str]:
    """Rows of a table without a video, then videos without a row; and what may be the matter with their names.

    Args:
      rows: by the video's stem, each with its place in the table as "where".
      videos: by stem.
      directory: where they were looked for, for messages.
      table: what messages call the table.
    """
    absent = [name for name in rows if name not in videos]
    extra = [name for name in videos if name not in rows]
    bad = [Bad(name, f"{rows[name]['where']}: no such file in {directory}") for name in absent]
    bad += [Bad(videos[name].name, f"no row in {table}") for name in extra]
    by_case = {name.casefold(): name for name in extra}
    alike = [(name, by_case[name.casefold()]) for name in absent if name.casefold() in by_case]
    if alike:
        row, file = alike[0]
        return bad, f" {len(alike)} differ in upper and lower case only ({row} in {table}, {file} on disk)."
    if absent and extra:
        return bad, f" {table} names {', '.join(absent[:3])}; in {directory} lie {', '.join(extra[:3])}."
    return bad, f" {directory} holds no videos." if absent and not videos else ""


def write_csv(path: os.PathLike, columns: Sequence[str], rows) -> None:
    """Writes dicts as CSV with LF line ends."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
