"""Reads an animated GIF as grey frames, as browsers show it, by Pillow: FFmpeg restores an opaque background colour."""

import io
import pathlib
import struct
import warnings
from collections.abc import Iterator

import numpy as np

from discovr_jax.data import colour
from discovr_jax.data.io.video import Video, VideoError, check_size

# What Pillow raises for damaged files.
_BAD_DATA = (OSError, EOFError, SyntaxError, ValueError, IndexError, struct.error)
# Milliseconds from which on a delay is believed, and what players make of shorter ones.
_SHORTEST, _USUAL = 20, 100


def is_gif(path: pathlib.Path) -> bool:
    """Whether a file begins as a GIF does."""
    with open(path, "rb") as file:
        return file.read(4) == b"GIF8"


def read_gif(path: pathlib.Path) -> Video:
    """All frames, each laid over what the one before left; what is transparent is black.

    Raises:
      VideoError: damaged, cut off, or larger than any echocardiogram.
    """
    frames, delays, chroma = [], [], colour.Colours()
    content = path.read_bytes()
    check_size(path, 1, *struct.unpack("<HH", content[6:10].ljust(4, b"\0"))[::-1])  # before Pillow sees it
    with warnings.catch_warnings(action="ignore"):
        for rgba, delay in _pictures(path, content):
            rgb = (rgba[..., :3] * rgba[..., 3:].astype(np.uint16) // 255).astype(np.uint8)
            chroma.add_rgb(rgb)
            frames.append(colour.luma(rgb))
            delays.append(delay)
    steps = [delay if delay >= _SHORTEST else _USUAL for delay in delays]
    stacked = np.stack(frames)
    return Video(
        stacked, colour=chroma.distance(stacked), frame_times=np.cumsum([0, *steps[:-1]], dtype=np.float64) / 1000
    )


def _pictures(path: pathlib.Path, content: bytes) -> Iterator[tuple[np.ndarray, float]]:
    """Each picture, uint8 [H, W, 4] (red, green, blue, opacity), and its delay in milliseconds."""
    from PIL import Image

    number = 0
    try:
        with Image.open(io.BytesIO(content), formats=["GIF"]) as image:
            while True:
                check_size(path, number + 1, *image.size[::-1])
                yield np.asarray(image.convert("RGBA")), image.info.get("duration", 0)
                number += 1
                try:
                    image.seek(number)
                except EOFError:
                    break
    except (*_BAD_DATA, Image.DecompressionBombError) as error:
        if isinstance(error, VideoError):
            raise
        kind = type(error).__name__
        raise VideoError(f"{path}: decoding failed at frame {number} ({kind}); copy it again.") from None
