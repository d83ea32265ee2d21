"""From videos of any size and rate to an encoder's clips, as `data.clip_reader` makes those of records.

`options` is that of an `inference.VideoEncoder`, of which "clips", "num_frames", "stride", "trained_fps", "frame_size",
"image_size", "fit", "channels" and "target_fps" are read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.data import transforms, video_arrays

FITS = ("letterbox", "squeeze")
Clip = tuple[np.ndarray, int]


def clips_of(
    frames: np.ndarray | Sequence[np.ndarray],
    fps: float | Sequence[float | None] | None,
    spacing: Sequence[tuple[float, float] | None] | None,
    options: Mapping[str, Any],
) -> tuple[list[Clip], bool]:
    """Evenly spaced clips of one video or of several.

    Args:
      frames, fps, spacing: as of `inference.VideoEncoder.embed`.

    Returns:
      options["clips"] clips of every video (see `clips`), those of a video after each other; and whether there were
      several videos.

    Raises:
      ValueError: other dtypes or shapes, or a frame rate that cannot be met.
    """
    videos, rates, spacing, several = video_arrays.per_video(frames, fps, spacing)
    return [clip for one in zip(videos, rates, spacing, strict=True) for clip in clips(*one, options)], several


def clips(video: np.ndarray, fps: float | None, spacing, options: Mapping[str, Any]) -> list[Clip]:
    """Evenly spaced clips of a video, each with its number of real frames.

    Args:
      video: uint8 [T, H, W] or [T, H, W, 3]; fps, spacing: of this one.

    Returns:
      options["clips"] clips, uint8 [num_frames, S, S(, 3)]; frames that are not real repeat the last that is.

    Raises:
      ValueError: a frame rate that cannot be met.
    """
    size, result = options["image_size"], []
    for which, num_valid in clip_frames(len(video), fps, options):
        frames = video[which[:num_valid]]
        # What has the clip's size is not enlarged to the records' and back.
        side = size if frames.shape[1:3] == (size, size) else options["frame_size"]
        frames = video_arrays.fitted(frames, side, options["fit"], options["channels"], spacing)
        frames = video_arrays.resized(frames, size)
        padding = np.repeat(frames[-1:], options["num_frames"] - num_valid, axis=0)
        result.append((np.concatenate([frames, padding]), num_valid))
    return result


def clip_frames(length: int, fps: float | None, options: Mapping[str, Any]) -> list[Clip]:
    """Frame numbers [num_frames] of the clips of a video of `length` frames, and how many of them are real.

    Raises:
      ValueError: a frame rate that cannot be met.
    """
    count, stride = options["num_frames"], float(options["stride"])
    if fps is not None and not np.isnan(fps):
        if not 0 < fps < np.inf:
            raise ValueError(f"fps must be a positive number, not {fps}; None or NaN takes frames at the stride")
        if not options["trained_fps"]:
            raise ValueError(
                "the checkpoint does not say at how many frames per second it was trained: give "
                "load_encoder(..., trained_fps=...), or embed without fps to take "
                f"frames at the stride of the training, {options['stride']}"
            )
        stride = fps / options["trained_fps"]
    elif fps is not None and "target_fps" in options:
        raise ValueError(
            f"its frame rate is not known, and the encoder was trained at {options['target_fps']:g} frames per second: "
            "give fps, of files in a CSV"
        )
    starts = transforms.even_starts(length, count, stride, options["clips"])
    return [transforms.clip_indices(length, count, stride, int(start)) for start in starts]
