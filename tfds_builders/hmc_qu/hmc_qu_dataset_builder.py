"""HMC-QU: apical four- and two-chamber videos with the segments of the wall that had an infarction. See README.md."""

import pathlib
import re

import numpy as np

from discovr_jax.data import records
from tfds_builders import echo_builder, sector_record, split_option, tables, unusable

_REMEDY = (
    "Download https://www.kaggle.com/datasets/aysendegerli/hmcqu-dataset, save A4C.xlsx and A2C.xlsx beside themselves "
    "as A4C.csv and A2C.csv (commas, UTF-8), and point --manual_dir at the folder that holds them and HMC-QU/."
)
_VIEWS = ("A4C", "A2C")
_NAME = "ECHO"  # column of the video's name, without suffix
_SEGMENT = "SEG"  # in the name of each column of a segment
_INFARCTION = "mi"
_PATIENT = re.compile(r"ES\d+")


class Builder(echo_builder.EchoBuilder):
    """Builder of `hmc_qu`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _REMEDY
    RELEASE_NOTES = {records.BUILDER_VERSION: "First release."}
    OPTIONS = (split_option.option("hmcqu_split.csv"),)

    def find_clips(self, manual_dir: pathlib.Path) -> echo_builder.Listing:
        """Joins both sheets and the videos of each view by name."""
        root = tables.find_root(manual_dir, "A4C.csv", _REMEDY)
        clips, bad, notes, hint = [], [], {}, ""
        for view in _VIEWS:
            table, folder = root / f"{view}.csv", _folder(root, view)
            named = [row for row in _sheet(table) if row[_NAME]]
            rows = tables.by_stem(named, _NAME)
            videos, not_read = tables.list_videos(folder)
            missing, why = unusable.unmatched(rows, videos, folder, table.name)
            bad, hint = bad + missing, hint or why
            clips += [_clip(row, view, videos[name]) for name, row in rows.items() if name in videos]
            for what, count in not_read.items():
                notes[what] = notes.get(what, 0) + count
        clips, doubled = _once(clips)
        split = self.options["split"]
        known = split_option.read_table(split, ("unique_id",), manual_dir)
        clips, unknown = split_option.in_splits(clips, split, known, lambda row: row["unique_id"])
        notes["infarction unknown"] = sum(clip.fields["source_label"] < 0 for clip in clips)
        return echo_builder.Listing(clips, [*bad, *doubled, *unknown], notes, hint)

    @staticmethod
    def read_clip(clip: echo_builder.Clip, frame_size: int) -> dict:
        """Its sector alone."""
        return sector_record.read(clip, frame_size, "hmc_qu")

    @staticmethod
    def raw_frames(clip: echo_builder.Clip) -> np.ndarray:
        """The whole picture."""
        return sector_record.at_file_rate(clip).frames


def _folder(root: pathlib.Path, view: str) -> pathlib.Path:
    """Where the videos of a view lie: in HMC-QU/ of the download, in videos/ of CardioBench's, or beside the sheets."""
    places = [root / "HMC-QU" / view, root / "videos" / view, root / view]
    return next((place for place in places if place.is_dir()), places[0])


def _sheet(path: pathlib.Path) -> list[dict[str, str]]:
    """Rows with the columns ECHO and those of the segments. SourceError if there is none of these."""
    segments = [name for name in tables.header(path) if _SEGMENT in name.upper()]
    if not segments:
        raise tables.SourceError(f"{path}: no column has {_SEGMENT} in its name, as those of the wall's segments have.")
    return tables.read_table(path, (_NAME, *segments))


def _clip(row: dict[str, str], view: str, path: pathlib.Path) -> echo_builder.Clip:
    patient = _PATIENT.match(row[_NAME])
    if patient is None:
        raise tables.SourceError(f"{row['where']}: {_NAME} is '{row[_NAME]}', expected a name that begins as ES0001.")
    segments = [cell.lower() for name, cell in row.items() if name not in (_NAME, "where") and cell]
    label = int(_INFARCTION in segments) if segments else -1
    fields = {"view": view, "source_label": label}
    return echo_builder.Clip(f"{patient[0]}_{view}", patient[0], "", path, row["where"], fields)


def _once(clips: list[echo_builder.Clip]) -> tuple[list[echo_builder.Clip], list[unusable.Bad]]:
    """The first video of each patient and view, and the others: CardioBench has one name for all of them."""
    first: dict[str, echo_builder.Clip] = {}
    doubled = []
    for clip in clips:
        if first.setdefault(clip.id, clip) is not clip:
            doubled.append(unusable.Bad(clip.path.name, f"{clip.where}: a second video of {clip.id}"))
    return list(first.values()), doubled
