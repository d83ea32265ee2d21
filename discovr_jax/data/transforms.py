"""From a video to a training clip: which frames, which crop, what size. Pure: randomness is passed in."""

import cv2
import numpy as np

from discovr_jax.errors import ConfigError

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


def last_start(video_frames: int, num_frames: int, stride: float) -> int:
    """The latest first frame of a clip: video_frames - num_frames * stride, 0 for a video shorter than that.

    Args:
      video_frames: frames of the video, >= 1.
      num_frames: frames of the clip, >= 1.
      stride: frames of the video per frame of the clip, > 0; need not be whole.

    Raises:
      ValueError: an argument out of range.
    """
    if video_frames < 1 or num_frames < 1 or not stride > 0:
        raise ConfigError(
            "A clip needs video_frames >= 1, num_frames >= 1 and stride > 0, "
            f"got video_frames {video_frames}, num_frames {num_frames}, stride {stride}."
        )
    return max(0, int(np.floor(video_frames - num_frames * stride)))


def clip_indices(video_frames: int, num_frames: int, stride: float, start: int) -> tuple[np.ndarray, int]:
    """The frames of a clip. A video that ends early repeats the last frame that the stride reached.

    Args:
      video_frames, num_frames, stride: as in `last_start`.
      start: first frame, 0 <= start <= last_start(...).

    Returns:
      indices: int64 [num_frames], each in [0, video_frames).
      num_valid: how many of them, counted from the first, are not such repeats; 1 <= num_valid <= num_frames.

    Raises:
      ValueError: an argument out of range.

    >>> indices, num_valid = clip_indices(video_frames=10, num_frames=5, stride=3, start=0)
    >>> indices.tolist(), num_valid  # the video is too short, so its last frame is repeated
    ([0, 3, 6, 9, 9], 4)
    """
    latest = last_start(video_frames, num_frames, stride)
    if not 0 <= start <= latest:
        raise ValueError(f"Clip start {start} is outside 0..{latest} (video of {video_frames} frames).")
    return _repeat_last(start + _steps(num_frames, stride), video_frames)


def clip_showing(video_frames: int, num_frames: int, stride: float, frame: int) -> tuple[np.ndarray, int, int]:
    """The clip with `frame` among its sampled frames that has most real frames, then `frame` nearest its middle.

    Where the stride would step over the frame, the clip starts later than `last_start` allows others to: it is at
    most one sampled frame shorter for it.

    Args:
      video_frames, num_frames, stride: as in `last_start`.
      frame: of the video, 0 <= frame < video_frames.

    Returns:
      indices, num_valid: as of `clip_indices`.
      position: place of `frame` in the clip, 0 <= position < num_valid.

    Raises:
      ValueError: an argument out of range.
    """
    last_start(video_frames, num_frames, stride)  # checks the arguments
    if not 0 <= frame < video_frames:
        raise ValueError(f"Frame {frame} is outside a video of {video_frames} frames.")
    steps = _steps(num_frames, stride)
    positions = np.flatnonzero(steps <= frame)
    num_valid = np.searchsorted(steps, video_frames - (frame - steps[positions]))
    position = int(positions[np.lexsort((np.abs(2 * positions - (num_frames - 1)), -num_valid))[0]])
    return *_repeat_last(frame - steps[position] + steps, video_frames), position


def read_apart(indices: np.ndarray, position: int, labelled: np.ndarray, tubelet: int) -> np.ndarray:
    """The clip with the frame at `position` alone in its tubelet, if another labelled frame would share its tokens.

    Two labelled frames with the same tokens would get the same mask, as ED and ES of a video of two frames.

    Args:
      indices: int64 [num_frames], of `clip_showing`.
      labelled: frames of the video that have a mask.
      tubelet: frames per token, a divisor of num_frames.

    Returns:
      int64 [num_frames]; `indices` itself where no other labelled frame is in the tubelet.
    """
    first = position // tubelet * tubelet
    shared = indices[first : first + tubelet]
    if not np.isin(shared[shared != indices[position]], labelled).any():
        return indices
    alone = indices.copy()
    alone[first : first + tubelet] = indices[position]
    return alone


def _steps(num_frames: int, stride: float) -> np.ndarray:
    """Frames from the start of a clip to each of its frames: int64 [num_frames]."""
    # Halves round up: rounding them to even would make the steps of a stride of 2.5 uneven (2, 3, 4, 2).
    return np.floor(np.arange(num_frames) * stride + 0.5).astype(np.int64)


def _repeat_last(indices: np.ndarray, video_frames: int) -> tuple[np.ndarray, int]:
    """Indices past the end become the last one before it; and how many are before it."""
    num_valid = int(np.searchsorted(indices, video_frames))
    return np.minimum(indices, indices[num_valid - 1]), num_valid


def even_starts(video_frames: int, num_frames: int, stride: float, clips: int) -> np.ndarray:
    """First frames of `clips` clips spread evenly from the first to the last possible start: int64 [clips].

    One clip starts in the middle. A video no longer than one clip gives the same clip `clips` times.

    >>> even_starts(video_frames=100, num_frames=16, stride=3, clips=3).tolist()
    [0, 26, 52]
    """
    if clips < 1:
        raise ConfigError(f"clips must be >= 1, got {clips}.")
    latest = last_start(video_frames, num_frames, stride)
    fractions = np.linspace(0, 1, clips) if clips > 1 else np.array([0.5])
    return np.floor(fractions * latest).astype(np.int64)


def multi_scale_crop(rng: np.random.Generator, height: int, width: int, scales: tuple[float, ...]) -> Box:
    """Draws the box of a TSN multi-scale crop (Wang et al., 2016), anywhere in the frame.

    Height and width are scales of the shorter side, drawn uniformly from the pairs of `scales` at most one
    step of the list apart, so that the aspect ratio changes little; the position is uniform.

    Source: TSN, arXiv 1608.00859.

    Args:
      rng: source of randomness.
      height, width: of the frame, pixels.
      scales: in descending or ascending order, each in (0, 1].

    Raises:
      ConfigError: no scales, or one outside (0, 1].
    """
    box_height, box_width = _box_size(rng, [round(side) for side in _scaled(height, width, scales)])
    top = rng.integers(height - box_height, endpoint=True)
    left = rng.integers(width - box_width, endpoint=True)
    return int(top), int(left), box_height, box_width


# Of `anchored_crop`, in quarters of the room that a box leaves (down, right): corners, middles of the sides, the
# centre, and the four points halfway from it to the corners.
ANCHORS = tuple((down, right) for down in (0, 2, 4) for right in (0, 2, 4)) + ((1, 1), (1, 3), (3, 1), (3, 3))
SNAP = 3  # pixels


def anchored_crop(
    rng: np.random.Generator, height: int, width: int, scales: tuple[float, ...], size: int
) -> Box:
    """As `multi_scale_crop`, with the details of the public code: 13 places, and sizes that avoid resizing.

    Args:
      rng, height, width, scales: as of `multi_scale_crop`; sizes are rounded down.
      size: pixels that the box is resized to; a side less than `SNAP` pixels off becomes it.

    Raises:
      ConfigError: as `multi_scale_crop`.
    """
    sides, room = [int(side) for side in _scaled(height, width, scales)], min(height, width)
    snapped = [size if abs(side - size) < SNAP and size <= room else side for side in sides]
    box_height, box_width = _box_size(rng, snapped)
    down, right = ANCHORS[rng.integers(len(ANCHORS))]
    return (height - box_height) // 4 * down, (width - box_width) // 4 * right, box_height, box_width


CROPS = ("uniform", "anchors")  # `multi_scale_crop`, `anchored_crop`


def _scaled(height: int, width: int, scales: tuple[float, ...]) -> list[float]:
    if not scales or not all(0 < scale <= 1 for scale in scales):
        raise ConfigError(f"data.crop_scales must be numbers in (0, 1], at least one, got {tuple(scales)}.")
    return [max(1.0, min(height, width) * scale) for scale in scales]


def _box_size(rng: np.random.Generator, sides: list[int]) -> tuple[int, int]:
    """Two of `sides`, at most one step of the list apart."""
    pairs = [(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1]
    return pairs[rng.integers(len(pairs))]


def crop_resize(frames: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Cuts `box` out of every frame and resizes it to size x size.

    Shrinking averages over areas (no aliasing), enlarging is bilinear; a box of the right size is copied.

    Args:
      frames: uint8 [T, H, W].
      box: top, left, height, width; inside the frame.
      size: pixels.

    Returns:
      uint8 [T, size, size], contiguous; a view of `frames` where nothing is to be done.

    Raises:
      ValueError: a box that is empty or leaves the frame.
    """
    top, left, height, width = box
    bottom, right = top + height, left + width
    if not (0 <= top < bottom <= frames.shape[1] and 0 <= left < right <= frames.shape[2]):
        raise ValueError(f"Box (top, left, height, width) {box} is not inside frames of {frames.shape}.")
    cropped = frames[:, top:bottom, left:right]
    if (height, width) == (size, size):
        return np.ascontiguousarray(cropped)
    interpolation = cv2.INTER_AREA if height >= size and width >= size else cv2.INTER_LINEAR
    out = np.empty((len(frames), size, size), np.uint8)
    # One call per frame: frames stacked as channels took 1.5 to 4 times longer, and AREA takes at most 4.
    for source, target in zip(cropped, out, strict=True):
        cv2.resize(source, (size, size), dst=target, interpolation=interpolation)
    return out
