import builtins
import os
import sys

import numpy as np
import pytest

from discovr_jax.data import read
from discovr_jax.data.io.ffmpeg import _lenient_metadata
from discovr_jax.data.io.video import NotAClip, VideoError, check_size
from discovr_jax.data.read import read_video
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
    ramp[1::2] = ramp[1::2, :, ::-1]
    write_video(tmp_path / "clip.mp4", ramp, codec="libx264")
    frames = read_video(tmp_path / "clip.mp4").frames
    assert frames.min() == 0 and frames.max() == 255
    assert np.abs(frames.astype(int) - ramp).max() <= 2


def test_metadata_that_is_not_text_does_not_matter(tmp_path):
    write_video(tmp_path / "clip.mkv", moving_square(12), fps=25)
    data = (tmp_path / "clip.mkv").read_bytes()
    assert data.count(b"ENCODER") >= 1  # the name of a tag of every Matroska file
    (tmp_path / "clip.mkv").write_bytes(data.replace(b"Lavf", b"\xe9\xff\xfe\xe8"))
    assert len(read_video(tmp_path / "clip.mkv").frames) == 12


def test_opens_with_the_arguments_that_this_pyav_knows():
    for version, arguments in (("14.0.0", {"metadata_errors": "ignore"}), ("19.0.2", {}), ("20.1.0rc1", {})):
        assert _lenient_metadata(version) == arguments


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


@pytest.mark.parametrize("declared", [13, 50_000, 2**32 - 1])
def test_a_whole_avi_holds_fewer_frames_than_it_declares(avi, declared):
    """As a recorder leaves it whose last frames were dropped; a player shows what there is."""
    # The header of the AVI stream holds the count of frames, after "vids".
    data = bytearray(avi.read_bytes())
    place = data.index(b"strh") + 8 + 32
    assert int.from_bytes(data[place : place + 4], "little") == 12
    data[place : place + 4] = declared.to_bytes(4, "little")
    avi.write_bytes(data)
    video = read_video(avi)
    assert len(video.frames) == 12 and video.fps == 40 and "fewer_frames_than_declared" in video.flags
    avi.write_bytes(data[: data.index(b"idx1")])  # cut off after the last frame
    with pytest.raises(VideoError, match="12 frames decoded, but the container declares"):
        read_video(avi)


def test_other_unusable_files_say_why(tmp_path):
    (tmp_path / "empty.avi").touch()
    (tmp_path / "text.avi").write_text("not a video" * 50)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty.npy").touch()
    write_video(tmp_path / "one.avi", moving_square(1))
    os.symlink(tmp_path / "gone.avi", tmp_path / "linked.avi")
    os.mkfifo(tmp_path / "pipe.avi")
    for name, reason in {
        "empty.avi": "0 bytes",
        "empty.npy": "0 bytes",
        "text.avi": "decoding failed",
        "linked.avi": "a link to a file that is not there",
        "pipe.avi": "no ordinary file",
        "notes.txt": r"format is not known; known are \.avi, \.dcm, \.gif, \.m4v, \.mkv, \.mov, \.mp4, .*DICOM",
        "one.avi": "at least 2",
        "absent.avi": "no such file",
    }.items():
        with pytest.raises(VideoError, match=f"{name}.*{reason}"):
            read_video(tmp_path / name)


def test_matroska(tmp_path):
    write_video(tmp_path / "clip.mkv", moving_square(50), fps=25)
    video = read_video(tmp_path / "clip.mkv")
    assert video.frames.shape == (50, 112, 112) and video.fps == 25 and video.colour is None
    assert np.abs(video.frames.astype(int) - moving_square(50)).mean() < 2
    data = (tmp_path / "clip.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match=r"cut\.mkv.*(cut off|decoding failed)"):
        read_video(tmp_path / "cut.mkv")


def test_gif(tmp_path):
    from PIL import Image

    frames = moving_square(6) // 16 * 16  # fewer grey levels than a palette holds: nothing is lost
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(tmp_path / "clip.gif", save_all=True, append_images=pictures[1:], duration=40)
    video = read_video(tmp_path / "clip.gif")
    np.testing.assert_array_equal(video.frames, frames)
    assert video.fps == pytest.approx(25) and video.colour is None


@pytest.mark.parametrize("suffix, codec", [(".avi", "mjpeg"), (".mp4", "libx264")])
def test_colour_is_told_from_grey(tmp_path, suffix, codec):
    import av

    rgb = np.full((4, 48, 64, 3), 90, np.uint8)
    rgb[:, 16:32, 16:48] = 220, 30, 30
    rgb[::2, 40:] = 60
    with av.open(str(tmp_path / f"clip{suffix}"), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = rgb.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for frame in rgb:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    colour = read_video(tmp_path / f"clip{suffix}").colour
    assert colour.shape == (4, 48, 64)
    assert np.abs(colour[:, 20:28, 20:44].astype(int) - 190).max() < 25
    assert colour[:, :8].max() < 10


def test_arrays(tmp_path):
    grey = moving_square(5, 40, 60)
    cases = {
        "uint8": grey,
        "int64": grey.astype(np.int64),
        "float": grey.astype(np.float32) + 0.2,
        "share": grey / 255,
        "colour": np.repeat(grey[..., None], 3, axis=3),
    }
    for name, array in cases.items():
        np.save(tmp_path / f"{name}.npy", array)
        video = read_video(tmp_path / f"{name}.npy")
        np.testing.assert_array_equal(video.frames, grey, err_msg=name)
        assert video.frames.dtype == np.uint8 and np.isnan(video.fps) and np.isnan(video.pixel_spacing).all()
    np.savez_compressed(tmp_path / "a.npz", other=np.zeros(3), frames=grey, fps=30, spacing=[0.5, 0.25])
    video = read_video(tmp_path / "a.npz")
    np.testing.assert_array_equal(video.frames, grey)
    assert (video.fps, video.pixel_spacing) == (30, (0.5, 0.25))
    np.savez(tmp_path / "b.npz", grey)
    np.testing.assert_array_equal(read_video(tmp_path / "b.npz").frames, grey)


def test_arrays_that_are_no_video_are_refused(tmp_path):
    grey = moving_square(3, 40, 40)
    for name, array, reason in (
        ("flat", grey[0], r"shape \(40, 40\)"),
        ("four", np.zeros((3, 40, 40, 4), np.uint8), "T, H, W, 3"),
        ("negative", grey - 60.0, "from -60.0 to 140.0"),
        ("wide", grey.astype(np.uint16) * 2, "to 400"),
        ("nan", np.where(grey > 100, np.nan, 1.0), "nan"),
        ("complex", grey.astype(complex), "complex"),
        ("still", grey[:1], "a still"),
        ("pickle", np.array([{"a": 1}] * 2, object), "never loaded"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(VideoError, match=f"{name}.npy.*{reason}"):
            read_video(tmp_path / f"{name}.npy")
    np.savez(tmp_path / "two.npz", a=grey, b=grey)
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "pickle.npz", frames=np.array([{"a": 1}] * 2, object))
    for name, reason in (("two", "none is called 'frames'"), ("text", "not a readable")):
        with pytest.raises(VideoError, match=f"{name}.npz.*{reason}"):
            read_video(tmp_path / f"{name}.npz")
    with pytest.raises(VideoError, match="pickle.npz"):
        read_video(tmp_path / "pickle.npz")


def test_nifti(tmp_path):
    """A marker in the upper right corner stays there; across is the first axis of the file."""
    nibabel = pytest.importorskip("nibabel", reason="reading NIfTI needs nibabel")
    grey = moving_square(5, 40, 60)
    grey[:, :4, -4:] = 255
    for name, array in (("a.nii", grey.T), ("b.nii.gz", grey.T), ("c.nii.gz", grey.T[:, :, None])):
        image = nibabel.Nifti1Image(array, np.diag([0.3, 0.5, 1, 1]))
        image.header["descrip"] = b"DOE^JANE"
        nibabel.save(image, tmp_path / name)
        assert read.format_of(tmp_path / name) == "".join((tmp_path / name).suffixes)
        video = read_video(tmp_path / name)
        np.testing.assert_array_equal(video.frames, grey)
        assert video.pixel_spacing == pytest.approx((0.5, 0.3))
    data = (tmp_path / "b.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="cut.nii.gz: not a readable"):
        read_video(tmp_path / "cut.nii.gz")


def test_absurd_headers_are_refused_before_memory_is_asked_for(tmp_path):
    shape = (30_000, 1000, 1000)
    with open(tmp_path / "huge.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(30_000 * 10**6 + 200)  # sparse: takes no room on the disk
    with pytest.raises(VideoError, match="30000 frames of 1000 x 1000, 30000000000 bytes, are more than"):
        read_video(tmp_path / "huge.npy")
    for frames, height, width in ((20_001, 8, 8), (2, 4097, 8), (2, 8, 4097), (5000, 1000, 1000)):
        with pytest.raises(VideoError, match="no echocardiogram"):
            check_size(tmp_path / "x", frames, height, width)
    check_size(tmp_path / "x", 1002, 1040, 768)


@pytest.mark.parametrize("error", [TypeError("open() got an unexpected keyword"), AttributeError("DOE^JANE")])
def test_an_error_of_the_program_is_not_told_of_the_file(avi, monkeypatch, error):
    """As when a new PyAV took an argument away: every file was said to be damaged."""

    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr("av.open", broken)
    with pytest.raises(VideoError, match=rf"clip\.avi: an error inside the program.*{type(error).__name__}") as caught:
        read_video(avi)
    assert "copy it again" not in str(caught.value) and "JANE" not in str(caught.value)
    assert "test_read.py" in str(caught.value)  # where it was raised


@pytest.mark.parametrize("name", ["clip.gif", "clip.npy", "clip.npz"])
def test_an_error_in_our_own_numbers_is_not_told_of_the_file(tmp_path, monkeypatch, name):
    """Also one of a kind that libraries raise for damaged files."""
    rgb = np.repeat(moving_square(4, 40, 40)[..., None], 3, -1)
    if name == "clip.gif":
        from PIL import Image

        first, *others = (Image.fromarray(frame) for frame in rgb)
        first.save(tmp_path / name, save_all=True, append_images=others)
    else:
        {"clip.npy": np.save, "clip.npz": np.savez}[name](tmp_path / name, rgb)
    assert len(read_video(tmp_path / name).frames) == 4

    def broken(rgb):
        raise ValueError("a mistake of ours")

    monkeypatch.setattr("discovr_jax.data.colour.luma", broken)
    with pytest.raises(VideoError, match=rf"{name}: an error inside the program.*ValueError at .*test_read.py"):
        read_video(tmp_path / name)


def test_a_file_that_may_not_be_opened(avi, monkeypatch):
    """The tests may run as root, who may read all."""
    real = builtins.open

    def refuse(path, *args, **kwargs):
        if path == avi:
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(VideoError, match=r"clip.avi: it cannot be opened \(Permission denied\)\.$"):
        read_video(avi)


@pytest.mark.parametrize("shape", [(96, 128, 24), (96, 128, 3)])
def test_axes_in_another_order(tmp_path, shape):
    """Time last, and one picture in colour: frames would be 128 x 24 and 128 x 3."""
    nibabel = pytest.importorskip("nibabel", reason="reading NIfTI needs nibabel")
    array = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    np.save(tmp_path / "a.npy", array)
    nibabel.save(nibabel.Nifti1Image(np.moveaxis(array, -1, 0), np.eye(4)), tmp_path / "a.nii")
    for name, order in (("a.npy", r"\[T, H, W\]"), ("a.nii", "across, down, time")):
        with pytest.raises(VideoError, match=f"{name}.*axes in another order than {order}"):
            read_video(tmp_path / name)


def test_a_package_that_is_missing_is_named(avi, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match="clip.avi: reading .avi needs a package that cannot be imported: av"):
        read_video(avi)


def test_a_still_is_no_clip_whatever_holds_it(tmp_path):
    grey = moving_square(1, 40, 40)
    np.save(tmp_path / "one.npy", grey)
    np.save(tmp_path / "many.npy", np.repeat(grey, 30, 0))
    np.save(tmp_path / "black.npy", np.zeros((4, 40, 40), np.uint8))
    np.save(tmp_path / "binary.npy", moving_square(4, 40, 40) // 200)
    words = {"one": "at least 2", "many": "nothing .* moves", "black": "black", "binary": "no grey level .* above 1 of"}
    for name, why in words.items():
        with pytest.raises(NotAClip, match=f"{name}.npy.*still.*{why}"):
            read_video(tmp_path / f"{name}.npy")
    noise = np.random.default_rng(0).integers(0, 9, (30, 40, 40), np.uint8)
    np.save(tmp_path / "noisy.npy", grey // 2 + noise)
    assert len(read_video(tmp_path / "noisy.npy").frames) == 30


def test_unknown_and_implausible_values_of_arrays(tmp_path):
    grey = moving_square(5, 40, 60)
    for values, flags in (
        ({"fps": 0.0}, ("implausible_fps",)),
        ({"fps": np.nan}, ()),
        ({"spacing": [np.nan, 1.0]}, ("implausible_pixel_spacing",)),
        ({"spacing": [np.nan, np.nan]}, ()),
        ({"fps": "50"}, ("implausible_fps",)),
        ({"fps": [1, 2, 3]}, ("implausible_fps",)),
        ({"fps": np.array(None)}, ("implausible_fps",)),
        ({"spacing": 0.3}, ("implausible_pixel_spacing",)),
    ):
        np.savez(tmp_path / "a.npz", frames=grey, **values)
        video = read_video(tmp_path / "a.npz")
        assert np.isnan(video.fps) and np.isnan(video.pixel_spacing).all() and video.flags == flags


def test_nifti_with_a_unit_that_it_does_not_know(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="reading NIfTI needs nibabel")
    nibabel.save(nibabel.Nifti1Image(moving_square(5, 40, 60).T, np.diag([0.3, 0.5, 1, 1])), tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[123] = 7  # xyzt_units
    (tmp_path / "a.nii").write_bytes(data)
    video = read_video(tmp_path / "a.nii")
    assert np.isnan(video.pixel_spacing).all() and len(video.frames) == 5
