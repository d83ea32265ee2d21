"""What each encoder expects: numbers of a tiny clip, worked out by hand from the sources that the table names."""

import dataclasses

import numpy as np
import pytest

from discovr_jax.outside_encoders import clips
from discovr_jax.outside_encoders.known import KNOWN

SHAPES = {
    "echoprime": (3, 16, 224, 224), "panecho": (3, 16, 224, 224), "echoclip": (3, 20, 224, 224),
    "echojepa": (3, 16, 224, 224), "vjepa2": (3, 16, 256, 256), "dinov3": (3, 16, 256, 256),
    "videomae": (3, 16, 224, 224),
}  # fmt: skip


def clips_of(video, known, count=1):
    """All clips of a video."""
    starts, times = clips.distinct_starts(len(video), known, count)
    assert times.sum() == count
    return [clips.clip(video, known, start) for start, each in zip(starts, times, strict=True) for _ in range(each)]


def counting(length):
    """Frame t is t everywhere."""
    return np.full((length, 12, 16), np.arange(length)[:, None, None], np.uint8)


def frame_numbers(name, length, count=1):
    """The grey values of frames in each clip: of `counting`, their numbers; NaN where a frame is 0 after scaling."""
    known = dataclasses.replace(KNOWN[name], resized=8, side=8)  # the size of frames does not matter here
    found = []
    for clip in clips_of(counting(length), known, count):
        grey = (clip[0, :, 0, 0] * known.std[0] + known.mean[0]) * known.divisor
        found.append(np.where(clip[0, :, 0, 0] == 0, np.nan, grey.round(3)).tolist())
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_shapes(name):
    (clip,) = clips_of(np.random.default_rng(0).integers(256, size=(90, 130, 90), dtype=np.uint8), KNOWN[name])
    assert clip.shape == SHAPES[name] and clip.dtype == np.float32 and np.isfinite(clip).all()
    with pytest.raises(ValueError, match="uint8"):
        clips.clip(clip[0], KNOWN[name], 0)  # what is normalised already is not normalised twice


@pytest.mark.parametrize(
    "name,expected",
    [
        ("echoprime", [2.060658, 2.150874, 2.095378]),  # (128 - 29.110628) / 47.989223: 0 to 255 stays
        ("panecho", [0.074065, 0.205182, 0.426492]),  # (128 / 255 - 0.485) / 0.229
        ("echoclip", [0.076336, 0.168897, 0.339949]),  # (128 / 255 - 0.48145466) / 0.26862954
        ("echojepa", [0.074065, 0.205182, 0.426492]),
        ("vjepa2", [0.074065, 0.205182, 0.426492]),
        ("dinov3", [0.074065, 0.205182, 0.426492]),
        ("videomae", [0.074065, 0.205182, 0.426492]),
    ],
)
def test_grey_values_are_scaled_per_channel(name, expected):
    (clip,) = clips_of(np.full((80, 20, 30), 128, np.uint8), KNOWN[name])
    assert np.ptp(clip, axis=(1, 2, 3)).max() == 0
    np.testing.assert_allclose(clip[:, 0, 0, 0], expected, atol=2e-6)


def test_frames_of_a_long_video():
    """One clip lies in the middle: 16 frames 2 apart start at frame 4 of 40."""
    assert frame_numbers("echoprime", 40) == [[*range(4, 36, 2)]]
    assert frame_numbers("panecho", 40) == [[*range(12, 28)]]
    assert frame_numbers("echoclip", 60) == [[*range(10, 50, 2)]]
    assert frame_numbers("videomae", 70) == [[*range(3, 67, 4)]]
    assert frame_numbers("vjepa2", 128, count=2) == [[*range(0, 64, 4)], [*range(64, 128, 4)]]


def test_frames_of_a_short_video():
    assert frame_numbers("panecho", 3) == [[0, 1] + [2] * 14]
    assert frame_numbers("echojepa", 5) == [[0, 2] + [4] * 14]
    assert frame_numbers("echoclip", 5) == [[0, 2, 4]] and frame_numbers("dinov3", 1) == [[0]]
    np.testing.assert_array_equal(frame_numbers("echoprime", 5), [[0, 2, 4] + [np.nan] * 13])  # zeros after scaling
    assert frame_numbers("panecho", 3, count=2) == frame_numbers("panecho", 3) * 2


def test_the_middle_square_less_a_tenth_of_each_edge():
    """Of 10 x 14: columns 2 to 11, then a pixel off every edge."""
    frame = np.arange(140, dtype=np.uint8).reshape(10, 14)
    known = dataclasses.replace(KNOWN["echoprime"], resized=8, side=8)
    np.testing.assert_array_equal(clips.fitted(frame, known), frame[1:9, 3:11])
    np.testing.assert_array_equal(clips.fitted(frame.T, known), frame.T[3:11, 1:9])


def test_a_squeezed_frame_whose_middle_is_cut_out():
    """Means of areas of 2 x 3 pixels, 4 by 4 of them; the 2 x 2 in the middle."""
    frame = np.repeat(np.repeat(np.arange(0, 160, 10, dtype=np.uint8).reshape(4, 4), 2, 0), 3, 1)
    frame[2:4, 3:6] += np.array([[0, 6, 12], [0, 6, 12]], np.uint8)
    known = dataclasses.replace(KNOWN["panecho"], resized=4, side=2)
    assert clips.fitted(frame, known).tolist() == [[50 + 6, 60], [90, 100]]


def test_the_shorter_side_is_resized_and_the_middle_cut_out():
    """4 x 8 to 2 x 4, each the mean of 2 x 2; columns 1 and 2 of it."""
    frame = np.arange(0, 64, 2, dtype=np.uint8).reshape(4, 8)
    means = frame.reshape(2, 2, 4, 2).mean((1, 3))
    known = dataclasses.replace(KNOWN["videomae"], resized=2, side=2)
    np.testing.assert_array_equal(clips.fitted(frame, known), means[:, 1:3])
    np.testing.assert_array_equal(clips.fitted(frame.T, known), means[:, 1:3].T)


def test_an_antialiased_frame():
    """Halved: pixels at distances 1/2, 1/2, 3/2 weigh 3, 3, 1 sevenths at the edge."""
    frame = np.repeat(np.array([[0, 70, 140, 210]], np.uint8), 4, axis=0)
    known = dataclasses.replace(KNOWN["dinov3"], resized=2, side=2)
    assert clips.fitted(frame, known).tolist() == [[50, 160]] * 2


def test_every_encoder_names_its_sources_and_licence():
    for name, known in KNOWN.items():
        assert known.sources.count("github.com") >= 1 and " at " in known.sources and known.weights_licence, name
        assert known.side <= known.resized and known.widths == tuple(sorted(known.widths))
