"""EchoNet-Pediatric: apical and short-axis videos of children, ejection fraction and tracings. See README.md."""

import collections
import dataclasses
import math
import pathlib

import numpy as np

from discovr_jax.data import class_labels, records
from discovr_jax.data.letterbox import letterbox
from discovr_jax.data.read import read_video
from tfds_builders import described, echo_builder, tables, tracings, unusable

VIEWS = ("A4C", "PSAX")
_REMEDY = (
    "Download EchoNet-Pediatric from https://echonet.github.io/pediatric (free registration), unpack it, and point "
    "--manual_dir at the folder that holds A4C/ and PSAX/, each with FileList.csv, VolumeTracings.csv and Videos/."
)
_FOLDS = range(10)
# What stands in the column Frame where a phase was not traced.
_NOT_TRACED = {"no systolic": "systole_not_traced", "no diastolic": "diastole_not_traced"}


@dataclasses.dataclass(kw_only=True)
class PediatricConfig(echo_builder.EchoConfig):
    """Frame size and views of the records."""

    views: tuple[str, ...] = VIEWS


class Builder(echo_builder.EchoBuilder):
    """Builder of `echonet_pediatric`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _REMEDY
    RELEASE_NOTES = {records.BUILDER_VERSION: "First release."}
    OPTIONS = (
        echo_builder.Option("test_fold", int, 9, "fold, 0 to 9, that is the test split"),
        echo_builder.Option("val_fold", int, 8, "fold, 0 to 9, that is the validation split"),
    )
    BUILDER_CONFIGS = [
        PediatricConfig(
            name=records.config_name(size, variant), frame_size=size, views=views,
            description=f"{' and '.join(views)}, frames of {size} x {size} pixels.",
        )
        for variant, views in (("", VIEWS), ("a4c", ("A4C",)), ("psax", ("PSAX",)))
        for size in (112, 224)
    ]  # fmt: skip

    def find_clips(self, manual_dir: pathlib.Path) -> echo_builder.Listing:
        """Joins FileList.csv, VolumeTracings.csv and Videos/ of each view by the videos' stems."""
        test, val = self.options["test_fold"], self.options["val_fold"]
        if test == val or not {test, val} <= set(_FOLDS):
            raise ValueError(f"test_fold and val_fold must be two of the folds 0 to 9, got {test} and {val}.")
        split_of = dict.fromkeys(_FOLDS, "train") | {test: "test", val: "val"}
        clips, bad, hint, orphans = [], [], "", 0
        not_read: collections.Counter[str] = collections.Counter()
        for view in self.builder_config.views:
            directory = tables.find_root(manual_dir, f"{view}/FileList.csv", _REMEDY) / view
            table = f"{view}/FileList.csv"
            about = tables.having(directory / "FileList.csv", ("Sex", "Age"))
            rows = tables.read_table(directory / "FileList.csv", ("FileName", "EF", "Split", *about), table)
            rows = tables.by_stem(rows, "FileName")
            videos, others = tables.list_videos(directory / "Videos")
            not_read.update(others)
            traced = _read_tracings(directory / "VolumeTracings.csv", f"{view}/VolumeTracings.csv")
            clips += [
                _clip(name, row, videos[name], view, split_of, traced.get(name, {}))
                for name, row in rows.items()
                if name in videos
            ]
            unfit, why = unusable.unmatched(rows, videos, directory / "Videos", table)
            bad, hint = bad + unfit, hint + why
            orphans += len(set(traced) - set(rows))
        fractions: dict[str, set[float]] = {}
        for clip in clips:
            fractions.setdefault(clip.fields["study_id"], set()).add(clip.fields["ef"])
        notes = {
            "ef_unknown": sum(math.isnan(clip.fields["ef"]) for clip in clips),
            "studies_with_several_ef": sum(len(found) > 1 for found in fractions.values()),
            "videos_without_tracing": sum(not clip.tracings.get("frames") for clip in clips),
            "tracings_without_row": orphans,
        }
        notes |= described.unknown(clips, (described.SEX, described.AGE_GROUP))
        return echo_builder.Listing(clips, bad, notes | not_read, hint)

    @staticmethod
    def read_clip(clip: echo_builder.Clip, frame_size: int) -> dict:
        """Decodes the video, brings it to `frame_size`, and draws the masks of its traced frames."""
        video = read_video(clip.path)
        frames, placement = letterbox(video.frames, frame_size)
        flags = set(clip.tracings.get("not_traced", ()))
        if frames is not video.frames:
            flags.add("resized")
        traced = {frame: placement.points(points) for frame, points in clip.tracings.get("frames", {}).items()}
        annotation, trace_flags = tracings.annotate(
            traced, len(frames), lambda points: tracings.contour_mask(points, frame_size, frame_size)
        )
        if len(annotation["mask_frames"]) == 1 and len(flags & set(_NOT_TRACED.values())) == 1:
            # The file says which phase is missing, so the one that is there is the other.
            phase = "ed_frame" if "systole_not_traced" in flags else "es_frame"
            annotation[phase] = annotation["mask_frames"][0]
        elif len(annotation["mask_frames"]) > 1 and next(iter(traced)) == annotation["ed_frame"]:
            # Systole is listed first; the larger area decides.
            flags.add("systole_larger")
        return records.make_record(
            frames, id=clip.id, patient_id=clip.patient_id, dataset="echonet_pediatric", fps=video.fps,
            flags=sorted(flags | trace_flags), **clip.fields, **annotation,
        )  # fmt: skip


def _clip(name: str, row: dict, path: pathlib.Path, view: str, split_of: dict, traced: dict) -> echo_builder.Clip:
    fold = tables.number(row, "Split")
    if fold not in split_of:
        raise tables.SourceError(f"{row['where']}: Split is '{row['Split']}', expected a fold, 0 to 9.")
    parts = name.split("-")
    if len(parts) != 3:
        raise tables.SourceError(f"{row['where']}: FileName is '{row['FileName']}', expected PATIENT-STUDY-NUMBER.avi.")
    fields = {"ef": tables.number(row, "EF"), "study_id": parts[1], "view": view}
    fields["classes"] = class_labels.encode(described.values(row.get("Sex", ""), row.get("Age", "")))
    return echo_builder.Clip(name, parts[0], split_of[fold], path, row["where"], fields, traced)


def _read_tracings(path: pathlib.Path, name: str) -> dict[str, dict]:
    """VolumeTracings.csv by stem: "frames" {frame: float64 [N, 2] of x, y} in file order, "not_traced" flags."""
    traced: dict[str, dict] = {}
    for row in tables.read_table(path, ("FileName", "X", "Y", "Frame"), name):
        found = traced.setdefault(tables.stem(row["FileName"]), {"frames": {}, "not_traced": set()})
        placeholder = _NOT_TRACED.get(row["Frame"].lower())
        if placeholder:
            found["not_traced"].add(placeholder)
            continue
        x, y, frame = (tables.number(row, column) for column in ("X", "Y", "Frame"))
        if math.isnan(x + y + frame) or frame != int(frame):
            raise tables.SourceError(
                f"{row['where']}: coordinates must be numbers and Frame a whole number, or one of {set(_NOT_TRACED)}."
            )
        found["frames"].setdefault(int(frame), []).append((x, y))
    for found in traced.values():
        found["frames"] = {frame: np.array(points) for frame, points in found["frames"].items()}
    return traced
