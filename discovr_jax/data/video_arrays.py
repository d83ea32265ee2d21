"""Videos as arrays: what a caller may give, and how frames come to the size of a clip."""

from collections.abc import Sequence

import numpy as np

from discovr_jax.data import colour, transforms
from discovr_jax.data.letterbox import letterbox


def as_videos(frames) -> tuple[list[np.ndarray], bool]:
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


def per_video(frames, fps, spacing) -> tuple[list[np.ndarray], list, list, bool]:
    """Videos, frame rates and spacings, one of each a video, and whether there were several."""
    videos, several = as_videos(frames)
    rates = list(fps) if isinstance(fps, (Sequence, np.ndarray)) else [fps] * len(videos)
    if len(rates) != len(videos):
        raise ValueError(f"{len(rates)} frame rates for {len(videos)} videos")
    spacing = [None] * len(videos) if spacing is None else list(spacing)
    if len(spacing) != len(videos):
        raise ValueError(f"{len(spacing)} spacings for {len(videos)} videos")
    return videos, rates, spacing, several


def luma(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 [T, H, W] of [T, H, W] or [T, H, W, 3] (RGB)."""
    return colour.luma(frames) if frames.ndim == 4 else frames


def fitted(frames: np.ndarray, size: int, fit: str, channels: int, spacing=None) -> np.ndarray:
    """Frames uint8 [T, H, W(, 3)] at the model's size and channels: [T, size, size] or [T, size, size, 3]."""
    if channels == 1:
        frames = luma(frames)
    if channels == 3:
        colours = frames if frames.ndim == 4 else np.repeat(frames[..., None], 3, axis=3)
        return np.stack([fitted(colours[..., i], size, fit, 1, spacing) for i in range(3)], axis=-1)
    if fit == "squeeze":
        return transforms.crop_resize(frames, (0, 0, *frames.shape[1:]), size)
    return letterbox(frames, size, spacing)[0]


def resized(frames: np.ndarray, size: int) -> np.ndarray:
    """Square frames uint8 [T, S, S(, 3)] at the clip's size, as `ClipReader` brings those of records to it."""
    if frames.ndim == 4:
        return np.stack([resized(frames[..., i], size) for i in range(frames.shape[3])], axis=-1)
    return transforms.crop_resize(frames, (0, 0, *frames.shape[1:]), size)
