"""EchoNet-Dynamic: 10,030 apical four-chamber videos with ejection fraction and tracings. See README.md."""

import math
import pathlib

import numpy as np

from discovr_jax.data import records
from discovr_jax.data.io.video import VideoError
from discovr_jax.data.letterbox import letterbox
from discovr_jax.data.read import read_video
from tfds_builders import echo_builder, tables, tracings, unusable

_REMEDY = (
    "Download EchoNet-Dynamic from https://echonet.github.io/dynamic (free registration), unpack it, and "
    "point --manual_dir at the folder that holds FileList.csv, VolumeTracings.csv and Videos/."
)
_SPLITS = {"TRAIN": "train", "VAL": "val", "TEST": "test"}


class Builder(echo_builder.EchoBuilder):
    """Builder of `echonet_dynamic`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _REMEDY
    RELEASE_NOTES = {records.BUILDER_VERSION: "First release."}

    def find_clips(self, manual_dir: pathlib.Path) -> echo_builder.Listing:
        """Joins FileList.csv, VolumeTracings.csv and Videos/ by the videos' stems."""
        root = tables.find_root(manual_dir, "FileList.csv", _REMEDY)
        columns = ("FileName", "EF", "ESV", "EDV", "FPS", "NumberOfFrames", "Split")
        rows = tables.by_stem(tables.read_table(root / "FileList.csv", columns), "FileName")
        videos, not_read = tables.list_videos(root / "Videos")
        traced = _read_tracings(root / "VolumeTracings.csv")
        clips = [
            _clip(name, row, videos[name], traced.get(name, {})) for name, row in rows.items() if name in videos
        ]
        bad, hint = unusable.unmatched(rows, videos, root / "Videos", "FileList.csv")
        notes = {
            f"{label}_unknown": sum(math.isnan(clip.fields[label]) for clip in clips)
            for label in ("ef", "esv", "edv", "fps")
        }
        notes["videos_without_tracing"] = sum(not clip.tracings for clip in clips)
        notes["tracings_without_row"] = len(set(traced) - set(rows))
        return echo_builder.Listing(clips, bad, notes | not_read, hint)

    @staticmethod
    def read_clip(clip: echo_builder.Clip, frame_size: int) -> dict:
        """Decodes the video, brings it to `frame_size`, and draws the masks of its traced frames."""
        video = read_video(clip.path)
        count, expected = len(video.frames), clip.fields["num_frames"]
        if count < expected:
            raise VideoError(f"{clip.path}: {count} frames decoded, FileList.csv says {expected:.0f}.")
        flags = {"more_frames_than_listed"} if count > expected else set()
        frames, placement = letterbox(video.frames, frame_size)
        if frames is not video.frames:
            flags.add("resized")
        fields = {name: clip.fields[name] for name in ("ef", "esv", "edv", "fps")}
        if math.isnan(fields["fps"]):
            fields["fps"] = video.fps
        traced = {
            frame: placement.points(rows.reshape(-1, 2, 2)).reshape(-1, 4) for frame, rows in clip.tracings.items()
        }
        annotation, trace_flags = tracings.annotate(
            traced, count, lambda rows: tracings.trace_mask(rows, frame_size, frame_size)
        )
        return records.make_record(
            frames, id=clip.id, patient_id=clip.patient_id, dataset="echonet_dynamic", view="A4C",
            flags=sorted(flags | trace_flags), **fields, **annotation,
        )  # fmt: skip


def _clip(name: str, row: dict, path: pathlib.Path, traced: dict) -> echo_builder.Clip:
    split = _SPLITS.get(row["Split"].upper())
    if split is None:
        raise tables.SourceError(
            f"{row['where']}: Split is '{row['Split']}', expected one of {', '.join(_SPLITS)}."
        )
    fields = {column.lower(): tables.number(row, column) for column in ("EF", "ESV", "EDV", "FPS")}
    fields["num_frames"] = tables.number(row, "NumberOfFrames")
    # One video per patient, so the hashed file name is the patient too.
    return echo_builder.Clip(name, name, split, path, row["where"], fields, traced)


def _read_tracings(path: pathlib.Path) -> dict[str, dict[int, np.ndarray]]:
    """VolumeTracings.csv as {stem: {frame: float64 [R, 4] of x1, y1, x2, y2 in file order}}."""
    points = ("X1", "Y1", "X2", "Y2")
    traced: dict[str, dict[int, list]] = {}
    for row in tables.read_table(path, ("FileName", *points, "Frame")):
        values = [tables.number(row, column) for column in (*points, "Frame")]
        if any(math.isnan(value) for value in values) or values[-1] != int(values[-1]):
            raise tables.SourceError(f"{row['where']}: coordinates must be numbers and Frame a whole number.")
        frames = traced.setdefault(tables.stem(row["FileName"]), {})
        frames.setdefault(int(values[-1]), []).append(values[:-1])
    return {
        name: {frame: np.array(rows) for frame, rows in frames.items()} for name, frames in traced.items()
    }
