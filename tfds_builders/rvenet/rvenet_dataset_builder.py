"""RVENet: apical four-chamber DICOM clips with the right ventricle's ejection fraction from 3-D echo. See README.md."""

import dataclasses
import math
import pathlib

from discovr_jax.data import class_labels, records, sector
from discovr_jax.data.letterbox import letterbox
from discovr_jax.data.read import read_video
from tfds_builders import described, echo_builder, tables, unusable
from tfds_builders.splits import hashed_split

_REMEDY = (
    "Ask for RVENet at https://rvenet.github.io/dataset, unpack both archives with 7z into one folder, and point "
    "--manual_dir at the folder that holds codebook.csv and the .dcm files."
)
# No test split is published: it is half of the patients of the one called validation.
_VALIDATION_SHARES = {"val": 1, "test": 1}
_QUALITIES = tuple("012345")  # 1 to 5; a grade is the number itself


class Builder(echo_builder.EchoBuilder):
    """Builder of `rvenet`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _REMEDY
    RELEASE_NOTES = {records.BUILDER_VERSION: "First release."}
    OPTIONS = (
        echo_builder.Option("split_seed", int, 0, "seed that divides the validation patients between val and test"),
    )

    def find_clips(self, manual_dir: pathlib.Path) -> echo_builder.Listing:
        """Joins codebook.csv and the DICOM files by name."""
        root = tables.find_root(manual_dir, "codebook.csv", _REMEDY)
        columns = (
            "FileName", "PatientHash", "FPS", "NumFrames", "VideoViewType", "VideoOrientation", "VideoQuality",
            "RVEF", "Split", *tables.having(root / "codebook.csv", ("Sex", "Age")),
        )  # fmt: skip
        rows = tables.by_stem(tables.read_table(root / "codebook.csv", columns), "FileName")
        videos, not_read = tables.list_videos(root, depth=1)
        bad, hint = unusable.unmatched(rows, videos, root, "codebook.csv")
        seed = self.options["split_seed"]
        clips = [_clip(name, row, videos[name], seed) for name, row in rows.items() if name in videos]
        notes = {f"{label}_unknown": sum(math.isnan(clip.fields[label]) for clip in clips) for label in ("rvef", "fps")}
        # What the codebook calls the views is not documented, so what was found is written down.
        views = [row["VideoViewType"] or "empty" for row in rows.values()]
        notes |= {f"view_type_{view}": views.count(view) for view in sorted(set(views))}
        notes |= described.unknown(clips, described.NAMES)
        return echo_builder.Listing(clips, bad, notes | not_read, hint)

    @staticmethod
    def read_clip(clip: echo_builder.Clip, frame_size: int) -> dict:
        """Decodes the clip, cuts out the sector, and mirrors it if it is shown the Stanford way."""
        video = read_video(clip.path)
        fields = dict(clip.fields)
        expected, flags = fields.pop("num_frames"), set(fields.pop("flags"))
        if len(video.frames) != expected and not math.isnan(expected):
            flags.add("frame_count_differs")
        video, sector_flags = sector.isolate_video(video)
        if "mirrored" in flags:
            video = dataclasses.replace(video, frames=video.frames[:, :, ::-1])
        frames, placement = letterbox(video.frames, frame_size, video.pixel_size)
        if frames is not video.frames:
            flags.add("resized")
        if math.isnan(fields["fps"]):
            fields["fps"] = video.fps
        return records.make_record(
            frames, id=clip.id, patient_id=clip.patient_id, dataset="rvenet", view="A4C",
            pixel_spacing=placement.spacing(video.pixel_spacing),
            flags=sorted(flags | sector_flags), **fields,
        )  # fmt: skip


def _clip(name: str, row: dict, path: pathlib.Path, seed: int) -> echo_builder.Clip:
    patient = row["PatientHash"]
    if not patient:
        raise tables.SourceError(f"{row['where']}: PatientHash is empty.")
    split = row["Split"].lower()
    if split not in ("train", "validation"):
        raise tables.SourceError(f"{row['where']}: Split is '{row['Split']}', expected train or validation.")
    if split == "validation":
        split = hashed_split(patient, seed, _VALIDATION_SHARES)
    orientation, quality = row["VideoOrientation"].lower(), tables.number(row, "VideoQuality")
    if orientation not in ("mayo", "stanford", ""):
        raise tables.SourceError(
            f"{row['where']}: VideoOrientation is '{row['VideoOrientation']}', expected Mayo or Stanford."
        )
    flags = {"mayo": set(), "stanford": {"mirrored"}, "": {"orientation_unknown"}}[orientation]
    if "rv" in row["VideoViewType"].lower():
        flags.add("rv_focused")
    if not math.isnan(quality):
        flags.add(f"quality_{quality:.0f}")
    about = described.values(row.get("Sex", ""), row.get("Age", ""), f"{quality:.0f}", _QUALITIES)
    fields = {
        "classes": class_labels.encode(about),
        "rvef": tables.number(row, "RVEF"),
        "fps": tables.number(row, "FPS"),
        "num_frames": tables.number(row, "NumFrames"),
        # The last of the three parts of a name is the number of the clip.
        "study_id": "_".join(name.split("_")[:2]),
        "flags": flags,
    }
    return echo_builder.Clip(name, patient, split, path, row["where"], fields)
