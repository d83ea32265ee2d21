"""What a `Video` believes of a file: rates, times, spacing and aspect that an echocardiogram can have."""

import math
import pathlib

import numpy as np
import pytest

from discovr_jax.data.io.video import Video, VideoError, at_constant_rate, grey_levels

NAN = math.nan


def frames(count=4):
    """uint8 [T, 6, 8], frame t filled with t."""
    return np.tile(np.arange(count, dtype=np.uint8)[:, None, None], (1, 6, 8))


@pytest.mark.parametrize(
    "given,fps,flags",
    [
        (50.0, 50.0, ()),
        (NAN, NAN, ()),
        (40_000.0, NAN, ("implausible_fps",)),  # 0.025, seconds where milliseconds belong
        (0.0, NAN, ("implausible_fps",)),
        (-25.0, NAN, ("implausible_fps",)),
        (math.inf, NAN, ("implausible_fps",)),
    ],
)
def test_rates_that_no_echocardiogram_has_are_unknown(given, fps, flags):
    video = Video(frames(), given)
    np.testing.assert_equal(video.fps, fps)
    assert video.flags == flags


@pytest.mark.parametrize(
    "given,spacing,flags",
    [
        ((0.5, 0.25), (0.5, 0.25), ()),
        ((NAN, NAN), (NAN, NAN), ()),
        ((NAN, 1.0), (NAN, NAN), ("implausible_pixel_spacing",)),
        ((0.0, 0.3), (NAN, NAN), ("implausible_pixel_spacing",)),
        ((-0.3, 0.3), (NAN, NAN), ("implausible_pixel_spacing",)),
        ((300.0, 300.0), (NAN, NAN), ("implausible_pixel_spacing",)),  # micrometres
        ((0.01, 5.0), (NAN, NAN), ("implausible_pixel_spacing",)),  # a pixel 500 times as wide as high
    ],
)
def test_spacing_is_two_plausible_numbers_or_unknown(given, spacing, flags):
    video = Video(frames(), pixel_spacing=given)
    np.testing.assert_equal(video.pixel_spacing, spacing)
    assert video.flags == flags


@pytest.mark.parametrize("spacing,known", [(0.03, False), (0.06, True), (0.8, True), (6.0, False)])
def test_a_spacing_of_another_unit_is_seen_by_the_size_of_the_picture(spacing, known):
    """Centimetres taken for millimetres make a heart of 4 mm, and the reverse one of half a metre."""
    video = Video(np.zeros((2, 96, 128), np.uint8), pixel_spacing=(spacing, spacing / 2))
    assert np.isnan(video.pixel_spacing).all() != known and video.pixel_aspect == pytest.approx(0.5)
    assert video.flags == (() if known else ("implausible_pixel_spacing",))


@pytest.mark.parametrize("height,width,spacing", [(1080, 1920, 0.3), (708, 1016, 0.5), (960, 1280, 0.4)])
def test_a_whole_screen_is_larger_than_the_picture_on_it(height, width, spacing):
    """The picture is 200 mm high; a unit that is ten times too large is seen all the same."""
    screen, high = np.zeros((2, height, width), np.uint8), round(200 / spacing)
    for region in ((20, 30, 20 + high, 30 + high), None):
        video = Video(screen, pixel_spacing=(spacing, spacing), region=region)
        assert video.pixel_spacing == (spacing, spacing) and video.flags == ()
        wrong = Video(screen, pixel_spacing=(10 * spacing, 10 * spacing), region=region)
        assert np.isnan(wrong.pixel_spacing).all() and wrong.flags == ("implausible_pixel_spacing",)


def test_pixels_have_the_shape_of_their_spacing_else_of_their_aspect():
    known = Video(frames(), pixel_spacing=(0.2, 0.3), pixel_aspect=1.2)
    assert known.pixel_aspect == pytest.approx(1.5) and known.pixel_size == (0.2, 0.3)
    assert Video(frames(), pixel_aspect=1.2).pixel_size == (1.0, 1.2)
    assert Video(frames()).pixel_size is None
    wide = Video(frames(), pixel_aspect=30.0)
    assert math.isnan(wide.pixel_aspect) and wide.flags == ("implausible_pixel_aspect",)


def test_times_decide_the_rate_and_count_from_the_first():
    video = Video(frames(5), 40.0, frame_times=3 + np.arange(5) / 25)
    assert video.fps == pytest.approx(25) and video.flags == ()
    np.testing.assert_allclose(video.frame_times, np.arange(5) / 25)
    # Rounded to milliseconds, and to hundredths of a second: the stated rate is kept, exactly.
    for fps, digits in ((30.0, 3), (30.0, 2)):
        video = Video(frames(40), fps, frame_times=np.round(np.arange(40) / fps, digits))
        assert video.fps == fps and video.flags == ()


@pytest.mark.parametrize(
    "times,fps",
    [
        (np.where(np.arange(24) < 12, np.arange(24) / 40, np.arange(24) / 40 + 2), 40),  # a pause of two seconds
        (np.concatenate([np.arange(12) / 50, 0.24 + np.arange(12) / 25]), 50),
        (np.delete(np.arange(25) / 40, 12), 40),  # one frame was dropped
    ],
)
def test_a_pause_does_not_slow_the_rest(times, fps):
    video = Video(frames(24), 9.3, frame_times=times)
    assert video.fps == pytest.approx(fps) and video.flags == ("irregular_frame_times",)


@pytest.mark.parametrize("times", [[0, 0, 0, 0], [0, 0.04, 0.02, 0.06], [0, 60, 120, 180], [0, NAN, 0.1, 0.2]])
def test_times_that_are_none_are_unknown_and_the_stated_rate_is_kept(times):
    video = Video(frames(4), 25.0, frame_times=np.array(times))
    assert video.frame_times is None and video.fps == 25 and video.flags == ("implausible_frame_times",)


def test_at_a_constant_rate_each_moment_shows_the_frame_that_was_on_show():
    times = np.array([0, 0.1, 0.2, 0.5, 0.6])  # frame 2 stays for three intervals
    video = Video(frames(5), frame_times=times, colour=frames(5))
    shown = at_constant_rate(pathlib.Path("a"), video)
    assert shown.frames[:, 0, 0].tolist() == [0, 1, 2, 2, 2, 3, 4]
    assert shown.colour[:, 0, 0].tolist() == [0, 1, 2, 2, 2, 3, 4]
    assert shown.file_frames.tolist() == shown.frames[:, 0, 0].tolist()
    assert shown.fps == pytest.approx(10) and "resampled_in_time" in shown.flags
    np.testing.assert_allclose(np.diff(shown.frame_times), 0.1)
    even = Video(frames(5), frame_times=np.arange(5) / 10)
    assert at_constant_rate(pathlib.Path("a"), even) is even and at_constant_rate(pathlib.Path("a"), shown) is not None


def test_frames_of_another_kind_are_an_error_of_the_reader():
    with pytest.raises(ValueError, match="not uint8"):
        Video(frames().astype(float))
    with pytest.raises(ValueError, match="3 frame times for 4 frames"):
        Video(frames(), frame_times=np.arange(3.0))


@pytest.mark.parametrize(
    "scale,odd,grey",
    [
        (1 / 255, None, True),
        (1.0000001 / 255, None, True),
        (1 / 255, 1.004, True),  # one pixel overshoots
        (1 / 255, 1.2, True),  # as bicubic interpolation does
        (1 / 255, -0.03, True),
        (1.0, 258.0, True),
        (1.0, -4.0, True),
        (1 / 255, -0.5, False),
        (1 / 255, 7.0, False),  # neither 0 to 1 nor 0 to 255
        (1.0, 400.0, False),
    ],
)
def test_the_range_of_numbers_is_judged_with_tolerance(scale, odd, grey):
    levels = np.tile(np.arange(256.0), (2, 3, 1))
    values = levels * scale
    if odd is not None:
        values[0, 0, 7] = odd
        levels[0, 0, 7] = np.clip(odd * (255 if scale < 1 else 1), 0, 255)
    if grey:
        np.testing.assert_array_equal(grey_levels(pathlib.Path("a"), values), np.rint(levels))
    else:
        with pytest.raises(VideoError, match="values from .* grey levels are 0 to 255"):
            grey_levels(pathlib.Path("a"), values)
