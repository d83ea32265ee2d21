"""CardiacNet: four-chamber videos, of pulmonary hypertension or not, of atrial septal defect or not. See README.md."""

import pathlib

import numpy as np

from discovr_jax.data import records
from tfds_builders import echo_builder, sector_record, split_option, tables

_REMEDY = (
    "Download https://www.kaggle.com/datasets/xiaoweixumedicalai/abnormcardiacechovideos, unpack it, and point "
    "--manual_dir at the folder that holds CardiacNet-ASD/ and CardiacNet-PAH/, or at one of these."
)
_DISEASES = {"asd": "ASD", "pah": "PAH"}
_SUFFIXES = (".nii", ".nii.gz")


class Builder(echo_builder.EchoBuilder):
    """Builder of `cardiacnet`; its variants are the two diseases."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _REMEDY
    RELEASE_NOTES = {records.BUILDER_VERSION: "First release."}
    OPTIONS = (split_option.option("cardiacnet/cardiacnet_asd_split.csv or ..._pah_split.csv"),)
    BUILDER_CONFIGS = [
        echo_builder.EchoConfig(
            name=records.config_name(size, disease),
            frame_size=size,
            description=f"{name} or not, frames of {size} x {size} pixels.",
        )
        for disease, name in _DISEASES.items()
        for size in (112, 224)
    ]

    def find_clips(self, manual_dir: pathlib.Path) -> echo_builder.Listing:
        """The videos in the folders of those with and of those without the disease."""
        disease = _DISEASES[records.split_config_name(self.builder_config.name)[0]]
        root = tables.find_root(manual_dir, f"Non-{disease}", _REMEDY, pathlib.Path.is_dir)
        clips, notes = [], {"masks, not read": 0}
        for label, folder in enumerate((f"Non-{disease}", disease)):
            for path in sorted((root / folder).rglob("*.nii*")):
                # Folders are called as files too: 003_image.nii/patient23-4_image.nii.
                if not path.name.lower().endswith(_SUFFIXES) or not path.is_file():
                    continue
                if "label" in path.name.lower():
                    notes["masks, not read"] += 1
                    continue
                where = path.relative_to(root).as_posix()
                fields = {"view": "A4C", "source_label": label}
                clips.append(echo_builder.Clip(_id(path), _patient(path), "", path, where, fields))
        split = self.options["split"]
        rows = split_option.read_table(split, ("unique_id",), manual_dir)
        clips, bad = split_option.in_splits(clips, split, rows, lambda row: row["unique_id"])
        return echo_builder.Listing(clips, bad, notes)

    @staticmethod
    def read_clip(clip: echo_builder.Clip, frame_size: int) -> dict:
        """Its sector alone."""
        return sector_record.read(clip, frame_size, "cardiacnet")

    @staticmethod
    def raw_frames(clip: echo_builder.Clip) -> np.ndarray:
        """The whole picture."""
        return sector_record.at_file_rate(clip).frames


def _id(path: pathlib.Path) -> str:
    """As CardioBench: the names of folder and file, 003_image_patient23-4 of 003_image.nii/patient23-4_image.nii."""
    return f"{tables.stem(path.parent.name)}_{tables.stem(path.name).removesuffix('_image')}"


def _patient(path: pathlib.Path) -> str:
    """As CardioBench: patient-2 of patient-2-4_image.nii; any other file is a patient of its own."""
    name = tables.stem(path.name)
    return "-".join(name.split("-")[:2]) if name.startswith("patient-") else name
