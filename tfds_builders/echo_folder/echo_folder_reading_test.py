"""What is odd about a file's time and pixels, and what the record makes of it."""

import fractions
import pathlib

import numpy as np
import pytest

from discovr_jax.data import records
from tests.builder_case import moving_square
from tests.data.io import test_ffmpeg
from tfds_builders import echo_builder
from tfds_builders.echo_folder.echo_folder_dataset_builder import Builder

SIZE = 112


def read(path, **given):
    fields = {"source_label": -1, "ef": np.nan, "fps": np.nan, "view": "", "keep_doppler": False, "whole_frame": True}
    clip = echo_builder.Clip("a", "p", "train", pathlib.Path(path), "file 1", fields | given)
    record = Builder.read_clip(clip, SIZE)
    return record, records.decode_frames(record["frames"], SIZE, SIZE)


def test_a_pause_lasts_as_long_in_the_record_as_in_the_file(tmp_path):
    """At 40 frames per second, frame 12 of 24 comes after 2 seconds more."""
    frames = moving_square(24, SIZE, SIZE)
    path = test_ffmpeg.write(tmp_path / "a.mp4", frames, times=test_ffmpeg.PAUSE)
    record, found = read(path)
    assert record["fps"] == pytest.approx(40) and record["num_frames"] == 24 + 80
    assert set(record["flags"]) >= {"irregular_frame_times", "resampled_in_time"}
    for index, frame in ((0, 0), (11, 11), (60, 11), (92, 12), (103, 23)):
        assert np.abs(found[index].astype(int) - frames[frame]).mean() < 2


@pytest.mark.parametrize("aspect,height,width", [(2, 56, 112), ("1/2", 112, 56)])
def test_pixels_that_are_not_square_become_so(tmp_path, aspect, height, width):
    """A square picture of pixels twice as wide as high fills a frame's width and half its height."""
    frames = np.clip(moving_square(24, 96, 96), 60, 255)
    path = tmp_path / "a.mp4"
    test_ffmpeg.write(path, frames, sample_aspect_ratio=fractions.Fraction(aspect))
    record, found = read(path)
    lit = found.max(0) > 30
    assert (np.count_nonzero(lit.any(1)), np.count_nonzero(lit.any(0))) == (height, width)
    assert np.isnan(record["pixel_spacing"]).all() and "resized" in record["flags"]
