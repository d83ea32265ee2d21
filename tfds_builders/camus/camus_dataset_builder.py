"""CAMUS: two- and four-chamber half cycles of 500 patients with masks of every frame. See README.md."""

import math
import pathlib
import re

import numpy as np

from discovr_jax.data import class_labels, records
from discovr_jax.data.io import nifti
from discovr_jax.data.io.video import VideoError
from discovr_jax.data.letterbox import letterbox
from tfds_builders import described, echo_builder, tables, unusable

_REMEDY = (
    "Download CAMUS_public (NIfTI) from https://humanheart-project.creatis.insa-lyon.fr, unpack it, and point "
    "--manual_dir at the folder that holds database_nifti/ and database_split/. The older release (.mhd) is not read."
)
_VIEWS = {"2CH": "A2C", "4CH": "A4C"}
_SPLITS = {"training": "train", "validation": "val", "testing": "test"}
# The last patient number of each split of the option id_range.
_ID_RANGES = {"train": 400, "val": 450, "test": 500}
# Keys of Info_*.cfg by field; those after the first are of the older release.
_KEYS = {"ef": ("ef", "lvef"), "edv": ("lvedv",), "esv": ("lvesv",), "fps": ("framerate",), "num_frames": ("nbframe",)}
_QUALITIES = ("poor", "medium", "good")


class Builder(echo_builder.EchoBuilder):
    """Builder of `camus`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _REMEDY
    RELEASE_NOTES = {records.BUILDER_VERSION: "First release."}
    OPTIONS = (
        echo_builder.Option(
            "split", str, "official",
            "official: the files subgroup_*.txt; id_range: patients 1-400, 401-450, 451-500, which is another split",
        ),
    )  # fmt: skip

    def find_clips(self, manual_dir: pathlib.Path) -> echo_builder.Listing:
        """Lists both views of each patient's folder, with the split of the option `split`."""
        if self.options["split"] not in ("official", "id_range"):
            raise ValueError(f"split must be official or id_range, got {self.options['split']}.")
        root = tables.find_root(manual_dir, "patient*/Info_*.cfg", _REMEDY)
        if next(root.glob("patient*/*.mhd"), None):
            raise tables.SourceError(f"{root} holds .mhd files. {_REMEDY}")
        folders = {path.name: path for path in sorted(root.glob("patient*")) if path.is_dir()}
        by_range = self.options["split"] == "id_range"
        splits = {name: _id_range(name) for name in folders} if by_range else _official_splits(root)
        bad = [
            unusable.Bad(name, f"listed in the split files, but there is no folder {root / name}")
            for name in splits
            if name not in folders
        ]
        clips = []
        for name, folder in folders.items():
            if name not in splits:
                bad.append(unusable.Bad(name, "in none of the split files"))
                continue
            for chamber in _VIEWS:
                try:
                    clips.append(_clip(name, chamber, folder, splits[name]))
                except VideoError as error:
                    bad.append(unusable.Bad(f"{name}_{chamber}", str(error)))
        notes = {f"{label}_unknown": sum(math.isnan(clip.fields[label]) for clip in clips) for label in ("ef", "fps")}
        return echo_builder.Listing(clips, bad, notes | described.unknown(clips, described.NAMES))

    @staticmethod
    def read_clip(clip: echo_builder.Clip, frame_size: int) -> dict:
        """Reads the half cycle and its masks, upright, and brings both to `frame_size` with square pixels."""
        fields = dict(clip.fields)
        sequence, spacing = nifti.read_nifti(clip.path)
        if not (sequence.min() >= 0 and sequence.max() <= 255):  # NaN is neither
            raise VideoError(f"{clip.path}: values from {sequence.min()} to {sequence.max()}, expected 0 to 255.")
        # A file whose header scales its values is read as float.
        frames = np.rint(sequence).astype(np.uint8)
        count, expected, flags = len(frames), fields.pop("num_frames"), set(fields.pop("flags"))
        if count < 2:
            raise VideoError(f"{clip.path}: {count} frame; a video needs at least 2.")
        if not math.isnan(expected) and count != expected:
            flags.add("frame_count_differs")
        masks, expert, mask_flags = _masks(clip, frames, fields)
        flags |= mask_flags
        if fields["ed_frame"] > fields["es_frame"]:
            flags.add("es_before_ed")
        square, placement = letterbox(frames, frame_size, spacing)
        if square is not frames:
            flags.add("resized")
        chosen = sorted(masks)
        return records.make_record(
            square, id=clip.id, patient_id=clip.patient_id, dataset="camus",
            masks=letterbox(np.stack([masks[frame] for frame in chosen]), frame_size, spacing, labels=True)[0],
            mask_frames=chosen, mask_is_expert=[frame in expert for frame in chosen],
            pixel_spacing=placement.spacing(spacing), flags=sorted(flags), **fields,
        )  # fmt: skip


def _clip(patient: str, chamber: str, folder: pathlib.Path, split: str) -> echo_builder.Clip:
    """One view of a patient; VideoError if a file is missing or Info_*.cfg does not say which frames are ED and ES."""
    info, path = folder / f"Info_{chamber}.cfg", folder / f"{patient}_{chamber}_half_sequence.nii.gz"
    where = f"{patient}/{info.name}"
    for file in (info, path):
        if not file.is_file():
            raise VideoError(f"{file}: no such file.")
    values = _read_info(info, where)
    fields = {}
    for field, keys in _KEYS.items():
        text = next((values[key] for key in keys if key in values), "")
        fields[field] = tables.number({"where": where, field: text}, field)
    for field, key in (("ed_frame", "ed"), ("es_frame", "es")):
        number = tables.number({"where": where, key: values.get(key, "")}, key)
        if math.isnan(number) or number != int(number):
            raise VideoError(f"{where}: {key.upper()} is '{values.get(key, '')}', expected a frame number.")
        fields[field] = int(number) - 1  # the files count from 1
    fields["flags"] = {f"quality_{values['imagequality'].lower()}"} if values.get("imagequality") else set()
    fields["view"] = _VIEWS[chamber]
    about = (values.get(key, "") for key in ("sex", "age", "imagequality"))
    fields["classes"] = class_labels.encode(described.values(*about, qualities=_QUALITIES))
    return echo_builder.Clip(f"{patient}_{chamber}", patient, split, path, where, fields)


def _read_info(path: pathlib.Path, where: str) -> dict[str, str]:
    """Lines `Key: value` of a cfg file, keys in lower case."""
    values = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        key, colon, value = line.partition(":")
        if not colon:
            raise tables.SourceError(f"{where} line {number}: '{line}' is not of the form 'Key: value'.")
        values[key.strip().lower()] = value.strip()
    return values


def _official_splits(root: pathlib.Path) -> dict[str, str]:
    """The split of each patient in subgroup_{training,validation,testing}.txt, one patient per line."""
    places = [root, root / "database_split", root.parent, root.parent / "database_split"]
    directory = next((place for place in places if (place / "subgroup_testing.txt").is_file()), None)
    if directory is None:
        raise tables.SourceError(
            f"No subgroup_testing.txt in {', '.join(map(str, places))}: the official split is in database_split/ of "
            "the download. Without it, --split=id_range divides by patient number; results are then not comparable."
        )
    splits: dict[str, str] = {}
    for group, split in _SPLITS.items():
        path = directory / f"subgroup_{group}.txt"
        if not path.is_file():
            raise tables.SourceError(f"{path}: no such file. {_REMEDY}")
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
            name = line.strip()
            if not name:
                continue
            # "patient0001", or the number alone.
            match = re.fullmatch(r"(?:patient)?(\d{1,4})", name, re.IGNORECASE)
            if match is None:
                raise tables.SourceError(f"{path.name} line {number}: '{name}' is not a patient.")
            patient = f"patient{int(match[1]):04d}"
            if patient in splits:
                raise tables.SourceError(f"{path.name} line {number}: {patient} again, first in {splits[patient]}.")
            splits[patient] = split
    return splits


def _id_range(name: str) -> str:
    number = name.removeprefix("patient")
    split = next((split for split, last in _ID_RANGES.items() if number.isdecimal() and int(number) <= last), None)
    if split is None:
        raise tables.SourceError(f"Folder {name}: expected patient0001 to patient{max(_ID_RANGES.values()):04d}.")
    return split


def _masks(clip: echo_builder.Clip, frames: np.ndarray, fields: dict) -> tuple[dict[int, np.ndarray], set, set[str]]:
    """Masks by frame: an expert's of ED and ES, of the others those that were propagated; expert frames; flags."""
    masks, flags, expert = {}, set(), {fields["ed_frame"], fields["es_frame"]}
    prefix = clip.path.with_name(clip.id)
    sequence = pathlib.Path(f"{prefix}_half_sequence_gt.nii.gz")
    if sequence.is_file():
        masks = dict(enumerate(_read_masks(sequence, frames.shape)))
    else:
        flags.add("no_propagated_masks")
    for phase, frame in (("ED", fields["ed_frame"]), ("ES", fields["es_frame"])):
        if not 0 <= frame < len(frames):
            raise VideoError(f"{clip.path}: {clip.where} says {phase} is frame {frame + 1} of {len(frames)}.")
        masks[frame] = _read_masks(pathlib.Path(f"{prefix}_{phase}_gt.nii.gz"), (1, *frames.shape[1:]))[0]
        still = pathlib.Path(f"{prefix}_{phase}.nii.gz")
        # If the still picture is not that frame of the sequence, the frame number or the mask is in doubt.
        if still.is_file() and not np.array_equal(nifti.read_nifti(still)[0], frames[frame : frame + 1]):
            flags.add("still_differs")
    if np.count_nonzero(masks[fields["ed_frame"]] == 1) < np.count_nonzero(masks[fields["es_frame"]] == 1):
        flags.add("ed_smaller_than_es")
    return masks, expert, flags


def _read_masks(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
    masks = nifti.read_nifti(path)[0]
    if masks.shape != shape:
        raise VideoError(f"{path}: masks are {masks.shape}, the pictures {shape} (frames, rows, columns).")
    classes = range(len(records.MASK_CLASSES))
    if not np.isin(masks, classes).all():
        raise VideoError(f"{path}: masks hold {np.unique(masks)}, expected classes {list(classes)}.")
    return masks.astype(np.uint8)
