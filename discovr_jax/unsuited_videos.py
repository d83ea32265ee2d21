"""Videos that no head can read though an encoder makes features of them: their numbers are withheld."""

from collections.abc import Iterable

import numpy as np

from discovr_jax.data import read, sector, video_arrays

DOPPLER = "colour Doppler, whose colours would be read as tissue"
# Of the frames seen at 12.5 per second, 50 simulated and 8 real hearts repeat none, 37 lungs up to 27 %; those of
# a heart filmed at 5 per second are repeated to 60 %.
_MOST_REPEATED = 1 / 3


def reasons(number: int, video: np.ndarray, clips: Iterable[tuple[np.ndarray, int]]) -> list[str]:
    """Why a video is none that heads can read; empty if they can.

    Args:
      number: of the video, for the message.
      video: uint8 [T, H, W] or [T, H, W, 3].
      clips: of `video_clips.clip_frames`.

    Raises:
      ValueError: it is a still.
    """
    grey = video_arrays.luma(video)
    if len(grey) < 2 or read.is_still(grey):
        raise ValueError(f"video {number} is a still: nothing in its {len(grey)} frame(s) moves")
    found = []
    if video.ndim == 4:
        distance = video.max(3) - video.min(3)
        if sector.shows_doppler(distance, sector.find_sector(grey, distance)):
            found.append(DOPPLER)
    if (share := repeated(grey, clips)) > _MOST_REPEATED:
        found.append(f"a picture that stands still: {share:.0%} of the frames repeat the one before")
    return found


def repeated(grey: np.ndarray, clips: Iterable[tuple[np.ndarray, int]]) -> float:
    """Share of the frames of clips in which nothing has moved since the one before: a frozen picture, or a frame rate
    below that of the clips.

    Args:
      grey: uint8 [T, H, W]; clips: see `reasons`.
    """
    pairs = [pair for which, valid in clips for pair in zip(which[: valid - 1], which[1:valid], strict=True)]
    return float(np.mean([read.is_still(grey[list(pair)]) for pair in pairs])) if pairs else 0.0
