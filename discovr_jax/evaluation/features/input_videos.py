"""Reads the videos that `extract` and `predict` are given, a chunk ahead of the encoder."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from discovr_jax.data import read, sector
from discovr_jax.data.inputs import Input
from discovr_jax.data.io.video import NotAClip, Video, VideoError, at_constant_rate
from discovr_jax.evaluation.features.feature_table import LISTS

QUARANTINE, SKIPPED = LISTS


def read_ahead(pool, chunks, whole_frame: bool) -> Iterator[tuple[int, Sequence[Input], list]]:
    """Each chunk with its videos (or errors), the next one being read meanwhile."""
    ahead = None
    for number, chunk in [*chunks, (None, [])]:
        begun = (number, chunk, [pool.submit(_read, one, whole_frame) for one in chunk])
        if ahead is not None:
            yield ahead[0], ahead[1], [future.result() for future in ahead[2]]
        ahead = begun


def _read(one: Input, whole_frame: bool) -> tuple[Video, set[str], tuple, tuple] | tuple[str, str]:
    """A video, its flags, the shape and the place (see `isolate_at`) that it has in the file; or its list, and why."""
    path = one.path
    if path is None:
        return QUARANTINE, one.reason
    try:
        video = at_constant_rate(path, read.read_video(path))
        if not np.isnan(one.fps):
            video = dataclasses.replace(video, fps=one.fps, frame_times=None)  # which would go before it
        isolated, flags, place = (video, set(video.flags), (0, 0)) if whole_frame else sector.isolate_at(video)
        return isolated, flags, video.frames.shape, place
    except VideoError as error:
        kind = SKIPPED if isinstance(error, NotAClip) else QUARANTINE
        return kind, str(error).replace(f"{path}: ", "").replace(str(path), "the file")
    except Exception as error:  # one odd file must not end a night's work; its kind says enough
        return QUARANTINE, f"the reader failed with {type(error).__name__}; that may be its own fault"
