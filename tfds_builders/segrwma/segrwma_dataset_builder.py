"""SegRWMA: apical views of hearts with and without abnormal wall motion, also with contrast. See README.md."""

import pathlib
import re

import numpy as np

from discovr_jax.data import records
from tfds_builders import echo_builder, sector_record, split_option, tables

_REMEDY = (
    "Download https://www.kaggle.com/datasets/xiaoweixumedicalai/regional-wall-motion-abnormality-echo, unpack it, and "
    "point --manual_dir at the folder that holds wallMotion/."
)
_FILE = re.compile(r"(patient\d+)-(2D|LVO|MCE)-(A[234]C)_image\.nii(?:\.gz)?")
_MODES = ("2D", "LVO", "MCE")


class Builder(echo_builder.EchoBuilder):
    """Builder of `segrwma`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _REMEDY
    RELEASE_NOTES = {records.BUILDER_VERSION: "First release."}
    OPTIONS = (
        split_option.option("segrwma_split.csv, which has the labels too"),
        echo_builder.Option("modes", str, "2D", "of the pictures, with commas: 2D (B-mode), LVO, MCE (with contrast)"),
    )

    def find_clips(self, manual_dir: pathlib.Path) -> echo_builder.Listing:
        """The videos of the modes asked for; what the patients have, the table of the option `split` says."""
        modes = self.options["modes"].split(",")
        if unknown := sorted(set(modes) - set(_MODES)):
            raise tables.SourceError(f"--modes: {', '.join(unknown)}; there are {', '.join(_MODES)}.")
        folder = tables.find_root(manual_dir, "wallMotion", _REMEDY, pathlib.Path.is_dir) / "wallMotion"
        rows = split_option.read_table(self.options["split"], ("path", "modality", "abnormal"), manual_dir)
        rows = rows and [row for row in rows if row["modality"] in modes]
        abnormal = {_id(row["path"]): _label(row) for row in rows or ()}
        clips, notes = [], {"other modes": 0, "not read": 0}
        for path in sorted(folder.iterdir()):
            match = _FILE.fullmatch(path.name)
            if match is None or match[2] not in modes:
                notes["not read" if match is None else "other modes"] += 1
                continue
            fields = {"view": match[3], "source_label": abnormal.get(_id(path.name), -1)}
            clips.append(echo_builder.Clip(_id(path.name), match[1], "", path, path.name, fields))
        clips, bad = split_option.in_splits(clips, self.options["split"], rows, lambda row: _id(row["path"]))
        notes["abnormal unknown"] = sum(clip.fields["source_label"] < 0 for clip in clips)
        return echo_builder.Listing(clips, bad, notes)

    @staticmethod
    def read_clip(clip: echo_builder.Clip, frame_size: int) -> dict:
        """Its sector alone."""
        return sector_record.read(clip, frame_size, "segrwma")

    @staticmethod
    def raw_frames(clip: echo_builder.Clip) -> np.ndarray:
        """The whole picture."""
        return sector_record.at_file_rate(clip).frames


def _id(path: str) -> str:
    """patient1-2D-A2C of .../patient1-2D-A2C_image.nii.gz."""
    return tables.stem(path).removesuffix("_image")


def _label(row: dict[str, str]) -> int:
    if row["abnormal"] not in ("0", "1"):
        raise tables.SourceError(f"{row['where']}: abnormal is '{row['abnormal']}', expected 0 or 1.")
    return int(row["abnormal"])
