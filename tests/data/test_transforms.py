"""Clip sampling and cropping against hand-made numbers."""

import cv2
import numpy as np
import pytest

from discovr_jax.data import transforms


def test_clip_indices_of_a_long_video():
    indices, num_valid = transforms.clip_indices(20, 4, 3, start=5)
    np.testing.assert_array_equal(indices, [5, 8, 11, 14])
    assert num_valid == 4


@pytest.mark.parametrize(
    "video_frames, expected, num_valid",
    [
        (12, [0, 3, 6, 9], 4),  # Exactly one window.
        (10, [0, 3, 6, 9], 4),  # Shorter than the window, but every frame exists.
        (9, [0, 3, 6, 6], 3),  # Repeats 6, the last frame reached, not 8, the last of the video.
        (4, [0, 3, 3, 3], 2),
        (1, [0, 0, 0, 0], 1),
    ],
)
def test_clip_indices_of_short_videos(video_frames, expected, num_valid):
    assert transforms.last_start(video_frames, 4, 3) == 0
    indices, found = transforms.clip_indices(video_frames, 4, 3, start=0)
    np.testing.assert_array_equal(indices, expected)
    assert found == num_valid


def test_a_fractional_stride_rounds_halves_up():
    indices, num_valid = transforms.clip_indices(20, 5, 2.5, start=1)
    np.testing.assert_array_equal(indices, [1, 4, 6, 9, 11])
    assert num_valid == 5


@pytest.mark.parametrize("stride", [0.3, 1, 1.2, 1.5, 2.5, 3, 7.9])
@pytest.mark.parametrize("video_frames", [1, 5, 31, 32, 100])
def test_indices_stay_in_the_video_for_every_start(stride, video_frames):
    for start in range(transforms.last_start(video_frames, 16, stride) + 1):
        indices, num_valid = transforms.clip_indices(video_frames, 16, stride, start)
        assert indices[0] == start and indices.max() < video_frames and (np.diff(indices) >= 0).all()
        assert (indices[num_valid:] == indices[num_valid - 1]).all()
        offsets = np.floor(np.arange(16) * stride + 0.5)
        assert num_valid == (start + offsets < video_frames).sum()


def test_the_last_start_is_the_public_one():
    assert transforms.last_start(200, 64, 3) == 8
    with pytest.raises(ValueError, match=r"start 9 is outside 0\.\.8"):
        transforms.clip_indices(200, 64, 3, start=9)


@pytest.mark.parametrize("arguments", [(0, 4, 3), (5, 0, 3), (5, 4, 0), (5, 4, float("nan"))])
def test_impossible_clips_are_refused(arguments):
    with pytest.raises(ValueError, match="video_frames >= 1, num_frames >= 1 and stride > 0"):
        transforms.last_start(*arguments)


def test_even_starts():
    np.testing.assert_array_equal(transforms.even_starts(32, 4, 3, clips=3), [0, 10, 20])
    np.testing.assert_array_equal(transforms.even_starts(32, 4, 3, clips=1), [10])
    np.testing.assert_array_equal(transforms.even_starts(5, 4, 3, clips=3), [0, 0, 0])
    with pytest.raises(ValueError, match="clips"):
        transforms.even_starts(32, 4, 3, clips=0)


def test_multi_scale_crop_draws_neighbouring_scales_everywhere():
    rng = np.random.default_rng(0)
    boxes = [transforms.multi_scale_crop(rng, 112, 112, (1.0, 0.875, 0.75, 0.66)) for _ in range(4000)]
    sizes = [112, 98, 84, 74]
    pairs = [(sizes.index(height), sizes.index(width)) for _, _, height, width in boxes]
    counts = {pair: pairs.count(pair) for pair in set(pairs)}
    assert set(counts) == {(i, j) for i in range(4) for j in range(4) if abs(i - j) <= 1}
    assert min(counts.values()) > 320 and max(counts.values()) < 480  # 400 expected, deviation 19.
    tops = [top for top, _, height, _ in boxes if height == 74]
    assert set(tops) == set(range(112 - 74 + 1))
    assert all(top + height <= 112 and left + width <= 112 for top, left, height, width in boxes)


def test_multi_scale_crop_of_an_oblong_frame_uses_the_shorter_side():
    rng = np.random.default_rng(0)
    boxes = np.array([transforms.multi_scale_crop(rng, 40, 100, (1.0, 0.5)) for _ in range(200)])
    assert set(boxes[:, 2]) == set(boxes[:, 3]) == {40, 20}
    assert boxes[:, 1].max() > 70


def test_anchored_crop_has_thirteen_places_and_sizes_rounded_down():
    """In a frame of 112 the smallest box is of int(73.92) = 73 pixels: it moves in steps of (112 - 73) // 4 = 9."""
    rng = np.random.default_rng(0)
    boxes = [transforms.anchored_crop(rng, 112, 112, (1.0, 0.875, 0.75, 0.66), 112) for _ in range(4000)]
    sizes = [112, 98, 84, 73]
    pairs = {(sizes.index(height), sizes.index(width)) for _, _, height, width in boxes}
    assert pairs == {(i, j) for i in range(4) for j in range(4) if abs(i - j) <= 1}
    places = [(top, left) for top, left, height, width in boxes if (height, width) == (73, 73)]
    corners_sides_centre = {(top, left) for top in (0, 18, 36) for left in (0, 18, 36)}
    assert set(places) == corners_sides_centre | {(9, 9), (9, 27), (27, 9), (27, 27)}
    assert max(places.count(place) for place in set(places)) < 60  # 31 expected, deviation 5.3


def test_anchored_crop_takes_the_inputs_size_where_it_is_near():
    """Sides of 100, 98, 97 pixels and an input of 100: two pixels off are taken as 100, three are not."""
    rng = np.random.default_rng(0)
    boxes = [transforms.anchored_crop(rng, 100, 120, (1.0, 0.98, 0.97), 100) for _ in range(300)]
    assert {box[2] for box in boxes} == {box[3] for box in boxes} == {100, 97}
    assert {box[1] for box in boxes if box[3] == 100} == {0, 5, 10, 15, 20}
    # A frame smaller than the input holds no box of its size.
    assert transforms.anchored_crop(rng, 98, 98, (1.0,), 100) == (0, 0, 98, 98)


@pytest.mark.parametrize("scales", [(), (1.2,), (0.0, 1.0)])
def test_bad_scales_are_refused(scales):
    for crop, size in ((transforms.multi_scale_crop, ()), (transforms.anchored_crop, (8,))):
        with pytest.raises(ValueError, match="data.crop_scales"):
            crop(np.random.default_rng(0), 8, 8, scales, *size)


def test_crop_resize_cuts_the_named_rows_and_columns():
    frames = np.arange(2 * 6 * 8, dtype=np.uint8).reshape(2, 6, 8)
    cut = transforms.crop_resize(frames, (1, 3, 4, 4), 4)
    np.testing.assert_array_equal(cut, frames[:, 1:5, 3:7])
    assert cut.flags.c_contiguous


def test_a_whole_frame_of_the_right_size_is_not_copied():
    frames = np.zeros((3, 8, 8), np.uint8)
    assert transforms.crop_resize(frames, (0, 0, 8, 8), 8).base is frames


def test_shrinking_averages_and_enlarging_interpolates():
    checkers = np.indices((8, 8)).sum(0, keepdims=True) % 2 * 200
    small = transforms.crop_resize(checkers.astype(np.uint8), (0, 0, 8, 8), 4)
    np.testing.assert_array_equal(small, np.full((1, 4, 4), 100))
    frame = np.random.default_rng(0).integers(0, 256, (1, 8, 8), dtype=np.uint8)
    large = transforms.crop_resize(frame, (2, 1, 4, 6), 12)
    wanted = cv2.resize(frame[0, 2:6, 1:7], (12, 12), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(large[0], wanted)


@pytest.mark.parametrize("box", [(-1, 0, 4, 4), (0, 5, 4, 4), (0, 0, 0, 4)])
def test_boxes_outside_the_frame_are_refused(box):
    with pytest.raises(ValueError, match="is not inside"):
        transforms.crop_resize(np.zeros((1, 8, 8), np.uint8), box, 4)


@pytest.mark.parametrize(
    "video_frames, frame, expected, num_valid, position",
    [
        (20, 8, [5, 8, 11, 14], 4, 1),  # Both middles are possible with four real frames: the earlier one.
        (20, 1, [1, 4, 7, 10], 4, 0),  # Too early for the middle.
        (20, 19, [10, 13, 16, 19], 4, 3),  # After the last start (8): the frame would be stepped over.
        (10, 4, [1, 4, 7, 7], 3, 1),  # A short video: start 0 shows 0, 3, 6, 9 only.
        (10, 9, [0, 3, 6, 9], 4, 3),
        (3, 2, [2, 2, 2, 2], 1, 0),
        (1, 0, [0, 0, 0, 0], 1, 0),
    ],
)
def test_a_clip_that_shows_a_frame(video_frames, frame, expected, num_valid, position):
    indices, found, place = transforms.clip_showing(video_frames, 4, 3, frame)
    assert (indices.tolist(), found, place) == (expected, num_valid, position)


@pytest.mark.parametrize("stride", [0.3, 1, 1.5, 2.5, 3, 7.9])
@pytest.mark.parametrize("video_frames", [1, 5, 31, 100])
def test_every_frame_of_every_video_can_be_shown(stride, video_frames):
    whole = transforms.clip_indices(video_frames, 16, stride, 0)[1]
    for frame in range(video_frames):
        indices, num_valid, position = transforms.clip_showing(video_frames, 16, stride, frame)
        assert indices[position] == frame and 0 <= position < num_valid
        assert num_valid >= whole - 1 and indices.max() < video_frames
        assert (indices[num_valid:] == indices[num_valid - 1]).all()


def test_a_frame_outside_the_video_cannot_be_shown():
    with pytest.raises(ValueError, match="Frame 7 is outside a video of 7 frames"):
        transforms.clip_showing(7, 4, 3, 7)


@pytest.mark.parametrize(
    ("indices", "position", "labelled", "tubelet", "expected"),
    [
        ([0, 1, 1, 1], 0, [0, 1], 2, [0, 0, 1, 1]),  # ED and ES of a video of two frames
        ([0, 1, 1, 1], 1, [0, 1], 2, [1, 1, 1, 1]),
        ([0, 1, 2, 3], 2, [2, 5], 2, [0, 1, 2, 3]),  # the other one is elsewhere: the clip stays as it is
        ([0, 1, 2, 3], 2, [1, 2], 2, [0, 1, 2, 3]),  # next to it, but in another tubelet
        ([0, 1, 2, 3], 2, [1, 2], 1, [0, 1, 2, 3]),
        ([0, 1, 2, 3], 3, [0, 3], 4, [3, 3, 3, 3]),
        ([4, 4, 4, 4], 0, [4], 2, [4, 4, 4, 4]),
    ],
)
def test_labelled_frames_do_not_share_a_tubelet(indices, position, labelled, tubelet, expected):
    before = np.array(indices)
    found = transforms.read_apart(before, position, np.array(labelled, np.int32), tubelet)
    assert found.tolist() == expected and before.tolist() == indices
