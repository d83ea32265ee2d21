"""Stills: one frame, grey; every damage is a VideoError that names the file."""

import io

import numpy as np
import PIL.Image
import pytest

from discovr_jax.data.io.video import VideoError
from discovr_jax.data.read import read_still


def write(path, array, mode=None):
    picture = PIL.Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, "PNG")
    return path


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)


def test_a_still_is_a_video_of_one_frame(tmp_path, grey):
    video = read_still(write(tmp_path / "a.png", grey))
    assert video.frames.shape == (1, 30, 40) and np.array_equal(video.frames[0], grey)
    assert np.isnan(video.fps) and np.isnan(video.pixel_spacing).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_in_other_modes_is_the_same_grey(tmp_path, grey, mode):
    assert np.array_equal(read_still(write(tmp_path / "a.png", grey, mode)).frames[0], grey)


def test_colour_becomes_luma(tmp_path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    assert (read_still(write(tmp_path / "a.png", red)).frames == round(0.299 * 200)).all()


def test_sixteen_bits_are_refused(tmp_path, grey):
    path = write(tmp_path / "a.png", grey.astype(np.uint16) * 257)
    with pytest.raises(VideoError, match="a.png: a picture of mode I;16"):
        read_still(path)


def jpeg(grey):
    buffer = io.BytesIO()
    PIL.Image.fromarray(grey).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "jpeg", "header", "bomb"])
def test_damaged_files_are_refused(tmp_path, grey, damage):
    path = write(tmp_path / "a.png", grey)
    data = bytearray(path.read_bytes())
    if damage == "bomb":
        data[16:24] = (60000).to_bytes(4, "big") * 2
    if damage == "header":
        data[30] ^= 255  # the checksum of the header
    path.write_bytes({"cut": data[:-200], "empty": b"", "text": b"hello", "jpeg": jpeg(grey)}.get(damage, bytes(data)))
    with pytest.raises(VideoError, match="a.png: "):
        read_still(path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(VideoError, match="b.png: no such file"):
        read_still(tmp_path / "b.png")
