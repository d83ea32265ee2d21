"""EchoNet-LVH: parasternal long-axis videos with wall thickness and cavity diameter. See README.md."""

import math
import pathlib

import numpy as np

from discovr_jax.data import records, sector
from discovr_jax.data.letterbox import letterbox
from discovr_jax.data.read import read_video
from tfds_builders import echo_builder, tables, unusable

_REMEDY = (
    "Download EchoNet-LVH from https://echonet.github.io/lvh (free registration), unpack it, and point --manual_dir at "
    "the folder of MeasurementsList.csv and Batch1/ to Batch4/. An archive with FileList.csv is EchoNet-Dynamic."
)
_SPLITS = {"train": "train", "val": "val", "test": "test"}
# The measurements of diastole, which records hold, and those of systole, which only tell its frame.
_DIASTOLE = ("lvidd", "ivsd", "lvpwd")
_SYSTOLE = ("lvids", "ivss", "lvpws")
# Ratio of the calipers' largest to their smallest cm per pixel from which on they contradict each other.
_DISAGREE = 1.25


class Builder(echo_builder.EchoBuilder):
    """Builder of `echonet_lvh`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _REMEDY
    RELEASE_NOTES = {records.BUILDER_VERSION: "First release."}

    def find_clips(self, manual_dir: pathlib.Path) -> echo_builder.Listing:
        """Gathers the measurements of each video in MeasurementsList.csv, and looks for it in all folders."""
        root = tables.find_root(manual_dir, "MeasurementsList.csv", _REMEDY)
        columns = ("HashedFileName", "Calc", "CalcValue", "Frame", "X1", "X2", "Y1", "Y2", "Frames", "FPS", "split")
        by_name: dict[str, list[dict]] = {}
        for row in tables.read_table(root / "MeasurementsList.csv", columns):
            by_name.setdefault(tables.stem(row["HashedFileName"]).upper(), []).append(row)
        found, not_read = tables.list_videos(root, depth=1)
        videos = {name.upper(): path for name, path in found.items()}
        first = {name: rows[0] for name, rows in by_name.items()}
        clips = [_clip(name, rows, videos[name]) for name, rows in by_name.items() if name in videos]
        notes = {f"{calc}_unknown": sum(math.isnan(clip.fields[calc]) for clip in clips) for calc in _DIASTOLE}
        known = _DIASTOLE + _SYSTOLE
        others = [row["Calc"] for rows in by_name.values() for row in rows if row["Calc"].lower() not in known]
        notes |= {f"calc_{name}_not_known": others.count(name) for name in sorted(set(others))}
        bad, hint = unusable.unmatched(first, videos, root, "MeasurementsList.csv")
        return echo_builder.Listing(clips, bad, notes | not_read, hint)

    @staticmethod
    def read_clip(clip: echo_builder.Clip, frame_size: int) -> dict:
        """Decodes the video, cuts out the sector, and scales the calipers' pixel spacing with it."""
        video = read_video(clip.path)
        fields = dict(clip.fields)
        count, expected, flags = len(video.frames), fields.pop("num_frames"), set(fields.pop("flags"))
        if count != expected and not math.isnan(expected):
            flags.add("frame_count_differs")
        for phase in ("ed_frame", "es_frame"):
            if fields[phase] >= count:
                fields[phase] = count - 1
                flags.add("clamped_frame")
        video, sector_flags = sector.isolate_video(video)
        frames, placement = letterbox(video.frames, frame_size)
        if frames is not video.frames:
            flags.add("resized")
        fps = fields.pop("fps")
        return records.make_record(
            frames, id=clip.id, patient_id=clip.patient_id, dataset="echonet_lvh", view="PLAX",
            fps=video.fps if math.isnan(fps) else fps,
            pixel_spacing=placement.spacing((fields.pop("spacing"),) * 2),
            flags=sorted(flags | sector_flags), **fields,
        )  # fmt: skip


def _clip(name: str, rows: list[dict], path: pathlib.Path) -> echo_builder.Clip:
    """The clip that a video's rows, one a measurement, describe."""
    splits = {row["split"].lower() for row in rows}
    where = rows[0]["where"]
    if len(splits) > 1 or not splits <= set(_SPLITS):
        raise tables.SourceError(f"{where}: {name} has split {sorted(splits)}, expected one of {', '.join(_SPLITS)}.")
    flags = set()
    measured: dict[str, list[dict]] = {}
    for row in rows:
        measured.setdefault(row["Calc"].lower(), []).append(row)
    if any(len(same) > 1 for same in measured.values()):
        flags.add("repeated_measurement")
    fields = {calc: _mean([tables.number(row, "CalcValue") for row in measured.get(calc, ())]) for calc in _DIASTOLE}
    fields["ed_frame"] = _frame(measured, _DIASTOLE)
    fields["es_frame"] = _frame(measured, _SYSTOLE)
    fields["spacing"], spacing_flags = _spacing(rows)
    try:
        fields |= {"num_frames": tables.number(rows[0], "Frames"), "fps": tables.number(rows[0], "FPS")}
    except tables.SourceError:
        # In a few published rows the cells after Y2 are shifted: Frames holds text, FPS the number of frames.
        fields |= {"num_frames": math.nan, "fps": math.nan}
        flags.add("shifted_columns")
    fields["flags"] = flags | spacing_flags
    # No patient is named; the hashed file name stands for one.
    return echo_builder.Clip(name, name, _SPLITS[splits.pop()], path, where, fields)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _frame(measured: dict[str, list[dict]], calcs) -> int:
    """The frame of the first of `calcs` that is measured; -1 if none is."""
    for calc in calcs:
        for row in measured.get(calc, ()):
            frame = tables.number(row, "Frame")
            if frame >= 0:
                return int(frame)
    return -1


def _spacing(rows: list[dict]) -> tuple[float, set[str]]:
    """Millimetres per pixel from the calipers, whose ends are in pixels and whose length is in cm; NaN if unknown."""
    lengths = []
    for row in rows:
        x1, x2, y1, y2 = (tables.number(row, column) for column in ("X1", "X2", "Y1", "Y2"))
        pixels, centimetres = math.hypot(x2 - x1, y2 - y1), tables.number(row, "CalcValue")
        if pixels > 0 and centimetres > 0:
            lengths.append((centimetres, pixels))
    if not lengths:
        return math.nan, set()
    ratios = [centimetres / pixels for centimetres, pixels in lengths]
    if max(ratios) > _DISAGREE * min(ratios):
        return math.nan, {"calipers_disagree"}
    centimetres, pixels = np.sum(lengths, axis=0)
    return float(10 * centimetres / pixels), {"spacing_from_calipers"}
