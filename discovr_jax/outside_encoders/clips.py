"""From the frames of a video to the arrays that an encoder of the table expects."""

import cv2
import numpy as np
from PIL import Image

from discovr_jax.data import transforms
from discovr_jax.outside_encoders.known import KnownEncoder

_OPENCV = {"cubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}


def distinct_starts(length: int, known: KnownEncoder, count: int) -> tuple[np.ndarray, np.ndarray]:
    """First frames of `count` clips of a video of `length` frames, spread evenly over it as our own encoders get them.

    Returns:
      int64 [n], each once, ascending; and int64 [n], how many of the clips begin there, `count` in all. A video no
      longer than one clip has one.

    >>> from discovr_jax.outside_encoders.known import KNOWN
    >>> [found.tolist() for found in distinct_starts(40, KNOWN["panecho"], count=3)]
    [[0, 12, 24], [1, 1, 1]]
    >>> [found.tolist() for found in distinct_starts(10, KNOWN["panecho"], count=3)]
    [[0], [3]]
    """
    return np.unique(transforms.even_starts(length, known.frames, known.stride, count), return_counts=True)


def clip(video: np.ndarray, known: KnownEncoder, start: int) -> np.ndarray:
    """A clip of a video.

    Args:
      video: uint8 [T, H, W].
      start: its first frame.

    Returns:
      float32 [3, frames, side, side]; fewer frames of a short video where `padding` is "none".

    Raises:
      ValueError: another dtype or shape, or no frames.

    >>> from discovr_jax.outside_encoders.known import KNOWN
    >>> found = clip(np.zeros((40, 112, 112), np.uint8), KNOWN["panecho"], start=12)
    >>> found.shape, [round(float(value), 3) for value in found[:, 0, 0, 0]]
    ((3, 16, 224, 224), [-2.118, -2.036, -1.804])
    """
    if video.dtype != np.uint8 or video.ndim != 3 or not len(video):
        raise ValueError(f"a video is uint8 [T, H, W] in grey, not {video.dtype} {list(video.shape)}")
    which, num_valid = transforms.clip_indices(len(video), known.frames, known.stride, start)
    which = which if known.padding == "last" else which[:num_valid]
    frames = np.stack([fitted(frame, known) for frame in video[which]]).astype(np.float32) / known.divisor
    mean, std = (np.array(each, np.float32)[:, None, None, None] for each in (known.mean, known.std))
    result = (frames - mean) / std
    if known.padding == "mean":
        result = np.pad(result, ((0, 0), (0, known.frames - len(which)), (0, 0), (0, 0)))
    return result


def fitted(frame: np.ndarray, known: KnownEncoder) -> np.ndarray:
    """A frame uint8 [H, W] as [side, side], see `KnownEncoder`."""
    height, width = frame.shape
    size = (known.resized, known.resized)  # width, height
    if known.fit == "square":
        side = min(height, width)
        edge = int(side * known.margin)
        frame = _middle(_middle(frame, side, side), side - 2 * edge, side - 2 * edge)
    elif known.fit == "short side":
        short = min(height, width)
        size = (known.resized * width // short, known.resized * height // short)
    return _middle(_resized(frame, size, known.interpolation), known.side, known.side)


def _resized(frame: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    if interpolation == "antialiased":
        return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
    return cv2.resize(frame, size, interpolation=_OPENCV[interpolation])


def _middle(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = round((frame.shape[0] - height) / 2), round((frame.shape[1] - width) / 2)
    return frame[top : top + height, left : left + width]
