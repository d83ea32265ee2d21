"""What containers claim, checked against what a player shows."""

import fractions
import struct

import av
import numpy as np
import pytest

from discovr_jax.data import read
from discovr_jax.data.io.video import NotAClip, VideoError
from tests.builder_case import moving_square

HEIGHT, WIDTH = 96, 128


@pytest.fixture
def frames():
    """uint8 [24, 96, 128]: a bright corner on a ramp, and a square that moves."""
    frames = moving_square(24, HEIGHT, WIDTH)
    frames[:, :24, :24] = 230
    return frames


def write(path, frames, codec="libx264", pix_fmt="yuv420p", times=None, opened=None, **stream_values):
    """Encodes uint8 [T, H, W] as good as lossless; times in milliseconds, else 40 frames per second.

    `opened`: keywords of `av.open`.
    """
    options = {"crf": "5", "g": "6", "bf": "0"} if codec == "libx264" else {"q": "1"}
    with av.open(str(path), "w", **(opened or {})) as container:
        stream = container.add_stream(codec, rate=40 if times is None else 1000, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        if times is not None:
            stream.time_base = stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for name, value in stream_values.items():
            setattr(stream.codec_context, name, value)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="gray").reformat(format=pix_fmt)
            if times is not None:
                picture.pts, picture.time_base = int(times[number]), fractions.Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def away(video, frames):
    return np.abs(video.frames.astype(int) - frames).mean()


def edited(path, first, count, of):
    """Has the edit list show `count` of 24 frames from `first` on, as a lossless trim leaves it."""
    data = bytearray(path.read_bytes())
    entry, media = data.index(b"elst"), data.index(b"mdhd")
    (scale,) = struct.unpack_from(">I", data, media + 16)
    length, start, rate = struct.unpack_from(">IiI", data, entry + 12)
    struct.pack_into(">IiI", data, entry + 12, length * count // of, start + scale * first // 40, rate)
    path.write_bytes(data)


@pytest.mark.parametrize("first,count", [(10, 14), (6, 6), (0, 12)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_an_edit_list_leaves_frames_out(tmp_path, frames, suffix, first, count):
    edited(write(tmp_path / f"a{suffix}", frames), first, count, 24)
    video = read.read_video(tmp_path / f"a{suffix}")
    assert video.frames.shape[0] == count and away(video, frames[first : first + count]) < 2
    assert video.fps == pytest.approx(40) and video.flags == ()


def test_an_mp4_that_is_cut_off_is_refused(tmp_path, frames):
    options = {"movflags": "faststart"}  # the index comes first, so that the file opens
    write(tmp_path / "a.mp4", frames, opened={"options": options})
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    (tmp_path / "a.mp4").write_bytes(data[: -(len(data) - data.index(b"mdat")) // 2])
    with pytest.raises(VideoError, match="a.mp4.*copy it again"):
        read.read_video(tmp_path / "a.mp4")


PAUSE = np.where(np.arange(24) < 12, np.arange(24) * 25, np.arange(24) * 25 + 2000)
TWO_RATES = np.concatenate([np.arange(12) * 20, 240 + np.arange(12) * 40])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("times,fps", [(PAUSE, 40), (TWO_RATES, 50)], ids=["pause", "two rates"])
def test_the_rate_comes_from_the_time_stamps(tmp_path, frames, suffix, times, fps):
    video = read.read_video(write(tmp_path / f"a{suffix}", frames, times=times))
    assert video.fps == pytest.approx(fps) and video.flags == ("irregular_frame_times",)
    np.testing.assert_allclose(video.frame_times, times / 1000, atol=1e-3)
    assert away(video, frames) < 2


def test_frame_times_of_a_regular_clip(tmp_path, frames):
    for suffix in (".mp4", ".avi", ".webm"):
        codec = {".avi": "mjpeg", ".webm": "libvpx"}.get(suffix, "libx264")
        path = write(tmp_path / f"a{suffix}", frames, codec, "yuvj420p" if codec == "mjpeg" else "yuv420p")
        video = read.read_video(path)
        assert video.fps == 40 and video.flags == ()
        np.testing.assert_allclose(video.frame_times, np.arange(24) / 40, atol=1e-3)


@pytest.mark.parametrize("suffix,codec", [(".mp4", "libx264"), (".mov", "libx264"), (".mkv", "libx264")])
def test_sample_aspect_ratio(tmp_path, frames, suffix, codec):
    ratio = fractions.Fraction(16, 11)
    video = read.read_video(write(tmp_path / f"a{suffix}", frames, codec, sample_aspect_ratio=ratio))
    assert video.pixel_aspect == pytest.approx(16 / 11) and video.pixel_size == (1.0, pytest.approx(16 / 11))
    assert np.isnan(video.pixel_spacing).all()


ONE = 1 << 16
MATRICES = {  # the upper left of the display matrix, what it does to a picture, the rotation, and the aspect
    "as it is": ((ONE, 0, 0, ONE), lambda f: f, 0, 2.0, ()),
    "90": ((0, ONE, -ONE, 0), lambda f: np.rot90(f, -1, (1, 2)), 90, 0.5, ()),
    "180": ((-ONE, 0, 0, -ONE), lambda f: np.rot90(f, 2, (1, 2)), 180, 2.0, ()),
    "270": ((0, -ONE, ONE, 0), lambda f: np.rot90(f, 1, (1, 2)), 270, 0.5, ()),
    "mirrored": ((-ONE, 0, 0, ONE), lambda f: f[:, :, ::-1], 0, 2.0, ("mirrored",)),
    "upside down": ((ONE, 0, 0, -ONE), lambda f: f[:, ::-1], 180, 2.0, ("mirrored",)),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_the_display_matrix_turns_frames_and_aspect(tmp_path, frames, kind):
    (a, b, c, d), turn, rotation, aspect, flags = MATRICES[kind]
    path = write(tmp_path / "a.mp4", frames, sample_aspect_ratio=fractions.Fraction(2))
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # version 0: the matrix, nine numbers, 40 bytes on
    assert struct.unpack_from(">9i", data, place) == (ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    video = read.read_video(path)
    assert video.rotation == rotation and video.flags == flags and video.pixel_aspect == pytest.approx(aspect)
    assert video.frames.shape == turn(frames).shape and away(video, turn(frames)) < 2


def test_what_is_transparent_is_black(tmp_path, frames):
    from PIL import Image

    grey = frames // 16 * 16
    grey[:, 30:60, 50:90] = 0
    alpha = np.where(grey == 0, 0, 255).astype(np.uint8)
    pictures = [Image.fromarray(np.dstack([f, f, f, a])) for f, a in zip(grey, alpha, strict=True)]
    how = {"save_all": True, "append_images": pictures[1:], "duration": 40, "disposal": 2, "loop": 0}
    pictures[0].save(tmp_path / "a.gif", **how)
    video = read.read_video(tmp_path / "a.gif")
    np.testing.assert_array_equal(video.frames, grey)
    assert video.colour is None
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "rgba"
        for frame, opaque in zip(grey, alpha, strict=True):
            rgba = np.dstack([np.where(opaque, frame, 255)] * 3 + [opaque]).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba")))
        container.mux(stream.encode())
    np.testing.assert_array_equal(read.read_video(tmp_path / "a.mov").frames, grey)


def raw_avi(path, frames, fourth=0, rate=40, scale=1, microseconds=25_000):
    """An AVI of 32 bits a pixel, whose fourth byte means nothing, as frame grabbers write it."""

    def chunk(name, data):
        return name + struct.pack("<I", len(data)) + data

    pictures = [np.dstack([f, f, f, np.full_like(f, fourth)])[::-1].tobytes() for f in frames]
    size = len(pictures[0])
    main = struct.pack("<14I", microseconds, 0, 0, 0x10, len(frames), 0, 1, size, WIDTH, HEIGHT, 0, 0, 0, 0)
    stream = b"vidsDIB " + struct.pack("<IHHIIIIIIIIhhhh", 0, 0, 0, 0, scale, rate, 0, len(frames), size, *[0] * 6)
    picture = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 32, 0, size, 0, 0, 0, 0)
    streams = chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", picture))
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + streams)
    movie = chunk(b"LIST", b"movi" + b"".join(chunk(b"00db", data) for data in pictures))
    path.write_bytes(chunk(b"RIFF", b"AVI " + header + movie))
    return path


@pytest.mark.parametrize("fourth", [0, 255])
def test_a_fourth_byte_that_is_never_opaque_is_no_alpha(tmp_path, frames, fourth):
    video = read.read_video(raw_avi(tmp_path / "a.avi", frames, fourth))
    np.testing.assert_array_equal(video.frames, frames)
    assert video.fps == 40 and video.colour is None


@pytest.mark.parametrize("rate,scale", [(0, 1), (25, 0)])
def test_an_avi_without_a_rate(tmp_path, frames, rate, scale):
    """FFmpeg would say 25 frames per second; that of the main header counts, if there is one."""
    video = read.read_video(raw_avi(tmp_path / "a.avi", frames, rate=rate, scale=scale, microseconds=0))
    assert np.isnan(video.fps) and video.frame_times is None and len(video.frames) == 24
    assert read.read_video(raw_avi(tmp_path / "a.avi", frames, rate=rate, scale=scale)).fps == pytest.approx(40)


def test_a_bare_stream_has_the_rate_that_it_says_itself(tmp_path, frames):
    path = write(tmp_path / "a.mp4", frames, opened={"format": "h264"})
    assert read.read_video(path).fps == pytest.approx(40)  # of FFmpeg's own: 25


def test_a_thumbnail_is_not_the_video(tmp_path, frames):
    for suffix in (".mp4", ".mkv"):
        with av.open(str(tmp_path / f"a{suffix}"), "w") as container:
            small, large = (container.add_stream("libx264", rate=40, options={"crf": "5"}) for _ in range(2))
            for stream, step in ((small, 2), (large, 1)):
                stream.height, stream.width, stream.pix_fmt = HEIGHT // step, WIDTH // step, "yuv420p"
            for stream, count, step in ((small, 1, 2), (large, len(frames), 1)):
                for frame in frames[:count, ::step, ::step]:
                    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="gray")
                    container.mux(stream.encode(picture.reformat(format="yuv420p")))
                container.mux(stream.encode())
        video = read.read_video(tmp_path / f"a{suffix}")
        assert video.frames.shape == frames.shape and away(video, frames) < 2


def test_an_mp4_in_fragments_that_is_cut_off_is_refused(tmp_path, frames):
    """Nothing in it says how many there should be, but the last one is longer than the file."""
    options = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}
    write(tmp_path / "a.mp4", frames, opened={"options": options})
    video = read.read_video(tmp_path / "a.mp4")
    assert len(video.frames) == 24 and video.fps == pytest.approx(40)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: data.rindex(b"moof") + 20])
    with pytest.raises(VideoError, match="a.mp4: the file ends before its last part does; it is cut off"):
        read.read_video(tmp_path / "a.mp4")
    # Something else that follows, and is cut off, costs no frame.
    (tmp_path / "a.mp4").write_bytes(data + struct.pack(">I", 999) + b"free")
    assert len(read.read_video(tmp_path / "a.mp4").frames) == 24


@pytest.mark.parametrize(
    "suffix,codec,pix_fmt",
    [
        (".mov", "libx264", "yuv420p"), (".mov", "mjpeg", "yuvj420p"), (".mov", "prores", "yuv422p10le"),
        (".mov", "libx265", "yuv420p"),
        (".m4v", "mpeg4", "yuv420p"), (".mpg", "mpeg1video", "yuv420p"), (".mpeg", "mpeg2video", "yuv420p"),
        (".mpeg", "mpeg1video", "yuv420p"), (".wmv", "wmv2", "yuv420p"), (".webm", "libvpx", "yuv420p"),
        (".webm", "libvpx-vp9", "yuv420p"), (".mkv", "ffv1", "gray16le"), (".MOV", "libx264", "yuv420p"),
    ],
)  # fmt: skip
def test_formats(tmp_path, suffix, codec, pix_fmt):
    frames = moving_square(50, HEIGHT, WIDTH)
    with av.open(str(tmp_path / f"clip{suffix.lower()}"), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pix_fmt
        stream.codec_context.bit_rate = 4_000_000
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="gray").reformat(format=pix_fmt)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    path = (tmp_path / f"clip{suffix.lower()}").rename(tmp_path / f"clip{suffix}")
    video = read.read_video(path)
    assert video.frames.shape == frames.shape and away(video, frames) < 4
    assert video.fps == pytest.approx(25) and video.colour is None


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_a_still_that_is_coded_many_times_is_no_clip(tmp_path, frames, codec):
    path = write(tmp_path / "a.mkv", np.repeat(frames[:1], 24, 0), codec)
    with pytest.raises(NotAClip, match="a.mkv: a still, repeated 24 times"):
        read.read_video(path)
