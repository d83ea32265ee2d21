"""TMED-2: stills of five kinds of views, with the severity of aortic stenosis of their study. See README.md."""

import collections
import pathlib
import re

import numpy as np

from discovr_jax.data import class_labels, records
from discovr_jax.data.letterbox import letterbox
from discovr_jax.data.read import read_still
from tfds_builders import echo_builder, tables, unusable

_REMEDY = (
    "Ask for TMED-2 at https://tmed.cs.tufts.edu/data_access.html, unpack it, and point --manual_dir at the folder of "
    "DEV479/ and view_and_diagnosis_labeled_set/ (approved_users_only)."
)
_COLUMNS = ("query_key", "SourceFolder", "view_label", "diagnosis_label", "diagnosis_classifier_split")
# What TMED-2 calls a view, and what records do.
_VIEWS = {"PLAX": "PLAX", "PSAX": "PSAX", "A2C": "A2C", "A4C": "A4C", "A4CorA2CorOther": "Other"}
# Severity of aortic stenosis, from the lowest.
_GRADES = ("no_AS", "mild_AS", "mildtomod_AS", "moderate_AS", "severe_AS")
_UNKNOWN = "Not_Provided"
_KEY = re.compile(r"((\d+)s\d+)_\d+\.png")  # study, patient


class Builder(echo_builder.EchoBuilder):
    """Builder of `tmed2`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _REMEDY
    RELEASE_NOTES = {records.BUILDER_VERSION: "First release."}
    OPTIONS = (echo_builder.Option("fold", int, 0, "which of the three published splits: 0 (CardioBench's), 1 or 2"),)

    def find_clips(self, manual_dir: pathlib.Path) -> echo_builder.Listing:
        """The stills that a table of DEV479 gives a split for the diagnosis."""
        table = f"DEV479/TMED2_fold{self.options['fold']}_labeledpart.csv"
        root = tables.find_root(manual_dir, table, _REMEDY)
        clips, bad, notes = {}, [], collections.Counter()
        for row in tables.read_table(root / table, _COLUMNS):
            if row["diagnosis_classifier_split"] not in records.SPLITS:
                notes["without a split for the diagnosis"] += 1
                continue
            clip = _clip(row, root)
            if clip.id in clips:
                bad.append(unusable.Bad(clip.path.name, f"{clip.where}: again, first at {clips[clip.id].where}"))
                continue
            clips[clip.id] = clip
            notes["diagnosis unknown"] += clip.fields["source_label"] < 0
        return echo_builder.Listing(list(clips.values()), bad, dict(notes))

    @staticmethod
    def read_clip(clip: echo_builder.Clip, frame_size: int) -> dict:
        """The still as a record of one frame."""
        frames = read_still(clip.path).frames
        square, _ = letterbox(frames, frame_size)
        flags = ["still"] if square is frames else ["resized", "still"]
        return records.make_record(
            square, id=clip.id, patient_id=clip.patient_id, dataset="tmed2", flags=flags, **clip.fields
        )

    @staticmethod
    def raw_frames(clip: echo_builder.Clip) -> np.ndarray:
        """As the file has it."""
        return read_still(clip.path).frames


def _clip(row: dict[str, str], root: pathlib.Path) -> echo_builder.Clip:
    """SourceError for a name, view or severity that TMED-2 does not have."""
    key = _KEY.fullmatch(row["query_key"])
    if key is None:
        raise tables.SourceError(f"{row['where']}: query_key is '{row['query_key']}', expected a name as 4860s1_0.png.")
    for column, known in (("view_label", tuple(_VIEWS)), ("diagnosis_label", (*_GRADES, _UNKNOWN))):
        if row[column] not in known:
            raise tables.SourceError(f"{row['where']}: {column} is '{row[column]}', expected {', '.join(known)}.")
    view, severity = _VIEWS[row["view_label"]], row["diagnosis_label"]
    classes, label = {"view": view}, -1
    if severity != _UNKNOWN:
        grade = _GRADES.index(severity)
        classes["as"], label = {"grade": grade, "name": severity.removesuffix("_AS")}, int(grade > 0)
    fields = {
        "study_id": key[1],
        "view": view,
        "source_label": label,
        "classes": class_labels.encode(classes),
    }
    path = root / row["SourceFolder"].strip("/") / row["query_key"]
    return echo_builder.Clip(
        row["query_key"].removesuffix(".png"), key[2], row["diagnosis_classifier_split"], path, row["where"], fields
    )
