"""A builder whose clips come from a list in the test instead of files."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from discovr_jax.data import records
from discovr_jax.data.io.video import NotAClip, VideoError
from tests.builder_case import moving_square
from tfds_builders import echo_builder


def clip(name: str, split: str, patient: str | None = None, **fields) -> echo_builder.Clip:
    """A clip of five frames that differ by `seed`; other fields go into the record, after it was made and checked.

    "broken" makes it unreadable for that reason, "still" holds no clip, "killed" ends the process that reads it.
    """
    patient = name if patient is None else patient
    return echo_builder.Clip(name, patient, split, pathlib.Path(f"/made/up/{name}.avi"), f"row {name}", fields)


class Builder(echo_builder.EchoBuilder, skip_registration=True):
    """Set `clips` before the build."""

    name = "made_up"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Nothing to download."
    pkg_dir_path = pathlib.Path(__file__).parent
    clips: list[echo_builder.Clip] = []

    def find_clips(self, manual_dir):
        return echo_builder.Listing(list(self.clips), [], {})

    @staticmethod
    def read_clip(clip, frame_size):
        fields = dict(clip.fields)
        if "broken" in fields:
            raise VideoError(f"{clip.path}: {fields['broken']}.")
        if "still" in fields:
            raise NotAClip(f"{clip.path}: a still.")
        if "killed" in fields:
            import os

            os._exit(9)
        frames = moving_square(5, frame_size, frame_size, seed=fields.pop("seed", sum(clip.id.encode())))
        masks = np.zeros((1, frame_size, frame_size), np.uint8)
        masks[0, 40:60, 40:60] = 1
        record = records.make_record(
            frames, masks=masks, mask_frames=[2], mask_is_expert=[True], id=clip.id, patient_id=clip.patient_id,
            ed_frame=2, ef=fields.pop("ef", 60.0), view="A4C",
        )  # fmt: skip
        return record | fields

    @staticmethod
    def raw_frames(clip):
        return np.full((5, 60, 90), 100, np.uint8)


def build(
    directory: pathlib.Path, clips: list[echo_builder.Clip], cls=Builder, beam_options=None, **kwargs
) -> pathlib.Path:
    """Builds the records of `clips`; returns their directory."""
    builder = cls(config="112", data_dir=directory, **kwargs)
    builder.clips = clips
    directory.mkdir(parents=True, exist_ok=True)
    download = tfds.download.DownloadConfig(manual_dir=directory, beam_options=beam_options)
    builder.download_and_prepare(download_config=download)
    return pathlib.Path(builder.data_dir)


def sound(*more: echo_builder.Clip) -> list[echo_builder.Clip]:
    """Four sound clips of three patients in three splits, and more; one of the same id replaces the sound one."""
    clips = clip("a", "train", "p1"), clip("b", "train", "p1"), clip("c", "val"), clip("d", "test")
    return list({item.id: item for item in (*clips, *more)}.values())
