"""From videos of any size and rate to an encoder's clips, as `data.clip_reader` makes those of records."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.data import colour, transforms
from discovr_jax.data.letterbox import letterbox

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
      options: "clips", "num_frames", "stride", "trained_fps", "frame_size", "image_size", "fit" and "channels" of
        `inference.load_encoder`.

    Returns:
      options["clips"] clips of every video, those of a video after each other: frames uint8 [T, S, S(, 3)] and how
      many of them are real (the rest repeat the last); and whether there were several videos.

    Raises:
      ValueError: other dtypes or shapes, or a frame rate that cannot be met.
    """
    videos, several = _as_videos(frames)
    rates = list(fps) if isinstance(fps, (Sequence, np.ndarray)) else [fps] * len(videos)
    if len(rates) != len(videos):
        raise ValueError(f"{len(rates)} frame rates for {len(videos)} videos")
    spacing = [None] * len(videos) if spacing is None else spacing
    if len(spacing) != len(videos):
        raise ValueError(f"{len(spacing)} spacings for {len(videos)} videos")
    return [clip for one in zip(videos, rates, spacing, strict=True) for clip in _clips(*one, options)], several


def _clips(video: np.ndarray, fps: float | None, spacing, o: Mapping[str, Any]) -> list[Clip]:
    stride = float(o["stride"])
    if fps is not None:
        if not (np.isfinite(fps) and fps > 0):
            raise ValueError(f"fps must be a positive number, not {fps}; None takes frames at the stride")
        if not o["trained_fps"]:
            raise ValueError(
                "the checkpoint does not say at how many frames per second it was trained: give "
                "load_encoder(..., trained_fps=...), or embed without fps to take every "
                f"{o['stride']}th frame"
            )
        stride = fps / o["trained_fps"]
    found = []
    for start in transforms.even_starts(len(video), o["num_frames"], stride, o["clips"]):
        which, num_valid = transforms.clip_indices(len(video), o["num_frames"], stride, int(start))
        frames = video[which[:num_valid]]
        # What has the clip's size is not enlarged to the records' and back.
        side = o["image_size"] if frames.shape[1:3] == (o["image_size"],) * 2 else o["frame_size"]
        frames = _resized(fitted(frames, side, o["fit"], o["channels"], spacing), o["image_size"])
        padding = np.repeat(frames[-1:], o["num_frames"] - num_valid, axis=0)
        found.append((np.concatenate([frames, padding]), num_valid))
    return found


def _as_videos(frames) -> tuple[list[np.ndarray], bool]:
    """A list of uint8 [T, H, W(, 3)], and whether there were several."""
    if not isinstance(frames, np.ndarray) and isinstance(frames, Sequence):
        videos, several = [np.asarray(video) for video in frames], True
    else:
        frames = np.asarray(frames)
        several = frames.ndim - (frames.shape[-1:] == (3,)) == 4
        videos = list(frames) if several else [frames]
    if not videos:
        raise ValueError("there is no video to embed: the list is empty")
    for number, video in enumerate(videos):
        grey = video.ndim == 3
        if not (grey or (video.ndim == 4 and video.shape[-1] == 3)) or not video.size:
            raise ValueError(
                f"video {number} has shape {video.shape}: give [T, H, W] or [T, H, W, 3], at least one frame, "
                "with the number of videos in front for several"
            )
        if video.dtype != np.uint8:
            raise ValueError(f"video {number} is {video.dtype}: give uint8 grey levels from 0 to 255")
    return videos, several


def fitted(frames: np.ndarray, size: int, fit: str, channels: int, spacing=None) -> np.ndarray:
    """Frames uint8 [T, H, W(, 3)] at the model's size and channels: [T, size, size] or [T, size, size, 3]."""
    if channels == 1 and frames.ndim == 4:
        frames = colour.luma(frames)
    if channels == 3:
        colours = frames if frames.ndim == 4 else np.repeat(frames[..., None], 3, axis=3)
        return np.stack([fitted(colours[..., i], size, fit, 1, spacing) for i in range(3)], axis=-1)
    if fit == "squeeze":
        return transforms.crop_resize(frames, (0, 0, *frames.shape[1:]), size)
    return letterbox(frames, size, spacing)[0]


def _resized(frames: np.ndarray, size: int) -> np.ndarray:
    """Square frames uint8 [T, S, S(, 3)] at the clip's size, as `ClipReader` brings those of records to it."""
    if frames.ndim == 4:
        return np.stack([_resized(frames[..., i], size) for i in range(frames.shape[3])], axis=-1)
    return transforms.crop_resize(frames, (0, 0, *frames.shape[1:]), size)
