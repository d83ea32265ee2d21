import numpy as np
import pytest

from discovr_jax.data.video_io import VideoError, read_video
from tests.builder_case import moving_square, write_video


@pytest.fixture
def avi(tmp_path):
    path = tmp_path / "clip.avi"
    write_video(path, moving_square(12), fps=40)
    return path


def test_reads_all_frames_as_grey_with_the_frame_rate(avi):
    video = read_video(avi)
    assert video.frames.dtype == np.uint8 and video.frames.shape == (12, 112, 112)
    assert video.fps == 40
    assert np.abs(video.frames.astype(int) - moving_square(12)).mean() < 2


def test_expands_limited_range_to_full_range(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 128).astype(np.uint8), (4, 64, 1))
    write_video(tmp_path / "clip.mp4", ramp, codec="libx264")
    frames = read_video(tmp_path / "clip.mp4").frames
    assert frames.min() == 0 and frames.max() == 255
    assert np.abs(frames.astype(int) - ramp).max() <= 2


def test_upper_case_suffix(avi):
    assert len(read_video(avi.rename(avi.with_suffix(".AVI"))).frames) == 12


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.8])
def test_a_file_that_is_cut_off_is_refused(avi, kept):
    data = avi.read_bytes()
    avi.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(VideoError, match=r"clip\.avi.*copy it again"):
        read_video(avi)


def test_a_damaged_picture_is_refused_with_its_frame(avi):
    data = bytearray(avi.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = np.random.default_rng(0).bytes(300)
    avi.write_bytes(data)
    with pytest.raises(VideoError, match=r"clip\.avi.*frame [1-9]"):
        read_video(avi)


def test_fewer_frames_than_the_container_declares_is_refused(avi):
    # The header of the AVI stream holds the count of frames, after "vids".
    data = bytearray(avi.read_bytes())
    place = data.index(b"strh") + 8 + 32
    assert int.from_bytes(data[place : place + 4], "little") == 12
    data[place : place + 4] = (13).to_bytes(4, "little")
    avi.write_bytes(data)
    with pytest.raises(VideoError, match="12 frames decoded, but the container declares 13"):
        read_video(avi)


def test_other_unusable_files_say_why(tmp_path):
    (tmp_path / "empty.avi").touch()
    (tmp_path / "text.avi").write_text("not a video" * 50)
    (tmp_path / "notes.txt").write_text("x")
    write_video(tmp_path / "one.avi", moving_square(1))
    for name, reason in {
        "empty.avi": "0 bytes",
        "text.avi": "decoding failed",
        "notes.txt": r"'\.txt' is not known; known are \.avi, \.dcm, \.mp4",
        "one.avi": "at least 2",
        "absent.avi": "no such file",
    }.items():
        with pytest.raises(VideoError, match=f"{name}.*{reason}"):
            read_video(tmp_path / name)
