"""GIFs as browsers show them: what frames leave behind, delays, and where a file ends."""

import io

import numpy as np
import pytest

from discovr_jax.data.io.gif import read_gif
from discovr_jax.data.io.video import VideoError
from tests.builder_case import moving_square

PIL = pytest.importorskip("PIL.Image", reason="GIFs are made with Pillow")


@pytest.fixture
def frames():
    """uint8 [8, 96, 128]; fewer grey levels than a palette holds, so nothing is lost."""
    return moving_square(8, 96, 128) // 16 * 16


def write(path, frames, **how):
    pictures = [PIL.fromarray(frame) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **{"duration": 40, "loop": 0} | how)
    return path


@pytest.mark.parametrize("disposal,left", [(1, 100), (2, 0)])
def test_what_a_frame_leaves_behind(tmp_path, disposal, left):
    """A patch over an opaque first frame; taken away again, it uncovers black, never a colour of the palette."""
    first, patch = PIL.new("L", (32, 32), 100), PIL.new("L", (8, 8), 200)
    out = io.BytesIO()
    first.save(out, "GIF")
    data = bytearray(out.getvalue()[:-1])
    data[11] = 250  # the background colour: one of the palette that is not black
    control = b"\x21\xf9\x04" + bytes([disposal << 2]) + b"\x04\x00\x00\x00"
    picture = data.index(b"\x2c")
    out = io.BytesIO()
    patch.save(out, "GIF")
    small = out.getvalue()
    start = small.index(b"\x2c", 13 + 3 * 2 ** ((small[10] & 7) + 1))
    table = 13 + 3 * 2 ** ((small[10] & 7) + 1)
    local = bytearray(small[start : start + 10])
    local[9] = 0x80 | small[10] & 7  # its palette becomes a local one
    second = bytes(local) + small[13:table] + small[start + 10 : -1]
    (tmp_path / "a.gif").write_bytes(data[:picture] + control + data[picture:] + control + second + b"\x3b")
    video = read_gif(tmp_path / "a.gif")
    assert video.frames[0].min() == video.frames[0].max() == 100
    assert video.frames[1, :8, :8].min() == 200 and video.frames[1, 20, 20] == left


@pytest.mark.parametrize("delay,fps", [(40, 25), (30, 100 / 3), (20, 50), (10, 10), (0, 10)])
def test_delays_are_those_of_players(tmp_path, frames, delay, fps):
    """Which show what is said to take less than a fiftieth of a second for a tenth."""
    video = read_gif(write(tmp_path / "a.gif", frames, duration=delay))
    np.testing.assert_array_equal(video.frames, frames)
    assert video.fps == pytest.approx(fps) and video.colour is None and video.flags == ()


def test_a_pause(tmp_path, frames):
    video = read_gif(write(tmp_path / "a.gif", frames, duration=[40, 40, 1000, 40, 40, 40, 40, 40]))
    assert video.fps == pytest.approx(25) and video.flags == ("irregular_frame_times",)
    np.testing.assert_allclose(video.frame_times, [0, 0.04, 0.08, 1.08, 1.12, 1.16, 1.2, 1.24])


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_a_file_that_is_cut_off_within_a_picture(tmp_path, frames, kept):
    data = write(tmp_path / "a.gif", np.random.default_rng(0).integers(0, 9, frames.shape, np.uint8) + frames)
    (tmp_path / "cut.gif").write_bytes(data.read_bytes()[: int(kept * data.stat().st_size)])
    with pytest.raises(VideoError, match="cut.gif: decoding failed at frame .*copy it again"):
        read_gif(tmp_path / "cut.gif")


def test_a_file_that_lacks_its_last_byte_is_whole(tmp_path, frames):
    data = write(tmp_path / "a.gif", frames).read_bytes()
    assert data[-1:] == b"\x3b"
    (tmp_path / "a.gif").write_bytes(data[:-1])
    np.testing.assert_array_equal(read_gif(tmp_path / "a.gif").frames, frames)


def test_a_picture_larger_than_the_screen_that_it_is_drawn_on_is_damage(tmp_path, frames):
    data = bytearray(write(tmp_path / "a.gif", frames).read_bytes())
    place = data.rindex(b"\x2c\0\0\0\0")  # the last picture's corner; its width and height follow
    data[place + 5 : place + 9] = b"\xff" * 4
    (tmp_path / "a.gif").write_bytes(data)
    with pytest.raises(VideoError, match="a.gif: decoding failed at frame .*copy it again"):
        read_gif(tmp_path / "a.gif")
