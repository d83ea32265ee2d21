"""A decoded video, the error of what cannot become one, and the limits of both: the one thing every reader imports."""

import dataclasses
import pathlib

import numpy as np

# No echocardiogram is larger; a header that says so is damaged, and would take all memory.
MAX_FRAMES, MAX_SIDE, MAX_BYTES = 20_000, 4096, 4 * 2**30


class VideoError(ValueError):
    """A video that cannot be used: missing, empty, damaged, cut off, of one frame, or of unknown format."""


class NotAClip(VideoError):
    """A sound file that is no B-mode clip: a still, a spectral Doppler, M-mode, a volume, a report.

    Such files are normal in a study: they are to be skipped and counted, not taken for bad.
    """


@dataclasses.dataclass(frozen=True)
class Video:
    """Decoded frames.

    Attributes:
      frames: uint8 [T, H, W], grey, full range 0-255.
      fps: frames per second as the container says; NaN if it does not.
      spacing: millimetres a pixel, row then column; None if the file does not say.
      colour: uint8 [T, H, W], distance from grey (largest less smallest of R, G, B); None for grey pictures.
      region: top, left, bottom, right (exclusive) of the picture on the screen; None if the file does not say.
    """

    frames: np.ndarray
    fps: float
    spacing: tuple[float, float] | None = None
    colour: np.ndarray | None = None
    region: tuple[int, int, int, int] | None = None


def check_size(path: pathlib.Path, frames: int, height: int, width: int, pixel_bytes: int = 1) -> None:
    """Raises VideoError if a header announces more frames, pixels or bytes than any echocardiogram has."""
    size = frames * height * width * pixel_bytes
    if frames > MAX_FRAMES or max(height, width) > MAX_SIDE or size > MAX_BYTES:
        raise VideoError(
            f"{path}: {frames} frames of {height} x {width}, {size} bytes, are more than {MAX_FRAMES} frames, "
            f"{MAX_SIDE} pixels a side or {MAX_BYTES} bytes; the header is damaged, or this is no echocardiogram."
        )
    if min(frames, height, width) < 0:
        raise VideoError(f"{path}: {frames} frames of {height} x {width}; the header is damaged, copy it again.")


def grey_levels(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
    """Numbers of any kind as grey levels: uint8 of the same shape.

    uint8 is taken as it is, other integers if they lie in 0 to 255. Floats are 0 to 1 (times 255) if none is
    above 1, else 0 to 255; they are rounded.

    Raises:
      VideoError: values below 0 or above 255, not finite, or no numbers.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iuf":
        raise VideoError(f"{path}: holds {values.dtype}; frames are uint8, other integers from 0 to 255, or floats.")
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 255:
        raise VideoError(f"{path}: values from {low} to {high}; grey levels are 0 to 255, or 0 to 1 as floats.")
    if values.dtype.kind == "f":
        values = np.rint(values * (255 if high <= 1 else 1))
    return values.astype(np.uint8)
