"""A decoded video, the errors of what cannot become one, and the limits of both: all that readers share.

Nothing is decoded here: AVI, MP4 and MOV are in `ffmpeg`, DICOM in `dicom`.

Whatever a file claims about its frames is judged here, once, when a `Video` is made: what no echocardiogram can have
is unknown from then on, and a flag says so.
"""

import dataclasses
import math
import pathlib

import numpy as np

# No echocardiogram is larger; a header that says so is damaged, and would take all memory.
MAX_FRAMES, MAX_SIDE, MAX_BYTES = 20_000, 4096, 4 * 2**30
# What an echocardiogram can have: frames per second, millimetres per pixel, width of a pixel divided by its height.
FPS, SPACING, ASPECT = (1.0, 1000.0), (0.005, 10.0), (0.25, 4.0)
# Millimetres that the longer side of a picture can have, from a small animal's heart to the widest view of a fetus: a
# spacing beyond is of another unit. Pictures of fewer pixels may be details.
_EXTENT, _WHOLE = (5.0, 500.0), 64
# Frames with a side of so many pixels may be a scanner's whole screen, which is up to so many times as long as the
# picture on it: only where a file gives no region is that not known.
_SCREEN, _TIMES_PICTURE = 600, 3
# No picture has fewer pixels one way, and so many times as many the other.
_NARROW, _LONG = 32, 3
# Rates that differ by less are one rate, seen through rounded time stamps.
_SAME_RATE = 0.01
# Numbers that overshoot the range of grey levels by this share of it are rounded or resampled grey levels, and are
# clipped. Floats up to _UNIT are of the range 0 to 1; above it, up to _DARK, neither range fits.
_OVERSHOOT, _UNIT, _DARK = 0.05, 1.5, 16.0


class VideoError(ValueError):
    """A video that cannot be used: missing, empty, damaged, cut off, of unknown format, or no clip (`NotAClip`)."""


class NotAClip(VideoError):
    """A sound file that is no B-mode clip: a still, a spectral Doppler, M-mode, a volume, a report.

    Such files are normal in a study: they are to be skipped and counted, not taken for bad.
    """


@dataclasses.dataclass(frozen=True)
class Video:
    """Decoded frames and what the file says of them.

    Attributes:
      frames: uint8 [T, H, W], grey, full range 0-255, turned as a player shows them.
      fps: frames per second; of the time stamps where there are any (of the median interval if they are
        irregular), else as the file says; NaN if unknown.
      pixel_spacing: millimetres between rows and between columns; (NaN, NaN) if unknown.
      colour: uint8 [T, H, W], distance from grey (largest less smallest of R, G, B), or from the tint of a grey map;
        None for grey pictures.
      region: top, left, bottom, right (exclusive) of the picture on the screen; None if the file does not say.
      frame_times: float64 [T], seconds since the first frame, increasing; None if the file holds no time stamps.
      pixel_aspect: width of a pixel divided by its height; NaN if unknown.
      file_frames: int [T], which frame of the file each is, from 0; None: all of them, in their order.
      rotation: degrees, clockwise, by which the stored pictures were turned: 0, 90, 180 or 270.
      flags: what is odd about the file: `mirrored` (left to right, after the rotation), `irregular_frame_times`, and
        `implausible_fps`, `implausible_frame_times`, `implausible_pixel_spacing`, `implausible_pixel_aspect` for values
        that were taken as unknown. Readers add theirs.

    Raises:
      ValueError: frames of another shape or dtype, or as many times as there are no frames.
    """

    frames: np.ndarray
    fps: float = math.nan
    pixel_spacing: tuple[float, float] = (math.nan, math.nan)
    colour: np.ndarray | None = None
    region: tuple[int, int, int, int] | None = None
    frame_times: np.ndarray | None = None
    pixel_aspect: float = math.nan
    rotation: int = 0
    file_frames: np.ndarray | None = None
    flags: tuple[str, ...] = ()

    def __post_init__(self):
        if self.frames.ndim != 3 or self.frames.dtype != np.uint8:
            raise ValueError(f"frames are {self.frames.dtype} {self.frames.shape}, not uint8 [T, H, W]")
        flags = dict.fromkeys(self.flags)
        fps, times = float(self.fps), self.frame_times
        if times is not None:
            if len(times) != len(self.frames):
                raise ValueError(f"{len(times)} frame times for {len(self.frames)} frames")
            times = np.asarray(times, np.float64) - times[0] if len(times) else None
        if times is not None and len(times) > 1:
            rate, regular = _rate(times)
            if math.isnan(rate):
                times, flags["implausible_frame_times"] = None, None
            else:
                fps = fps if abs(fps - rate) <= _SAME_RATE * rate else rate
                flags |= {} if regular else {"irregular_frame_times": None}
        if not (math.isnan(fps) or is_plausible(fps, FPS)):
            fps, flags["implausible_fps"] = math.nan, None
        row, column = (float(step) for step in self.pixel_spacing)
        # A wrong unit is one of both sides: the shape of a pixel holds.
        shape = column / row if row > 0 and column > 0 else math.nan
        aspect = shape if is_plausible(shape, ASPECT) else float(self.pixel_aspect)
        if not self._is_plausible_spacing(row, column):
            if not (math.isnan(row) and math.isnan(column)):
                flags["implausible_pixel_spacing"] = None
            row = column = math.nan
        if not (math.isnan(aspect) or is_plausible(aspect, ASPECT)):
            aspect, flags["implausible_pixel_aspect"] = math.nan, None
        for name, value in {
            "fps": fps, "frame_times": times, "pixel_spacing": (row, column), "pixel_aspect": aspect,
            "flags": tuple(flags),
        }.items():  # fmt: skip
            object.__setattr__(self, name, value)

    def _is_plausible_spacing(self, row: float, column: float) -> bool:
        if not (is_plausible(row, SPACING) and is_plausible(column, SPACING) and is_plausible(column / row, ASPECT)):
            return False
        top, left, bottom, right = self.region or (0, 0, *self.frames.shape[1:])
        height, width = bottom - top, right - left
        shortest, longest = _EXTENT
        if self.region is None and max(height, width) >= _SCREEN:
            longest *= _TIMES_PICTURE
        return max(height, width) < _WHOLE or is_plausible(max(height * row, width * column), (shortest, longest))

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """Height and width of a pixel: millimetres, or relative where only the aspect is known; None if neither is."""
        if not math.isnan(self.pixel_spacing[0]):
            return self.pixel_spacing
        return None if math.isnan(self.pixel_aspect) else (1.0, self.pixel_aspect)


def is_plausible(value: float, limits: tuple[float, float]) -> bool:
    """Whether a value lies within `FPS`, `SPACING` or `ASPECT`; False for NaN."""
    return limits[0] <= value <= limits[1]


def at_constant_rate(path: pathlib.Path, video: Video) -> Video:
    """Where frame times are irregular: the frames that are on show at every 1 / fps, so that counting frames is time.

    A pause is filled with copies of the frame before it. Videos with regular times, or none, are returned as they are.

    Raises:
      VideoError: there would be more frames than any echocardiogram has.
    """
    if video.frame_times is None or "irregular_frame_times" not in video.flags:
        return video
    count = round(video.frame_times[-1] * video.fps) + 1
    check_size(path, count, *video.frames.shape[1:])
    # Half an interval of grace: time stamps are rounded.
    shown = np.searchsorted(video.frame_times, (np.arange(count) + 0.5) / video.fps) - 1
    return dataclasses.replace(
        video,
        frames=video.frames[shown],
        colour=None if video.colour is None else video.colour[shown],
        frame_times=np.arange(count) / video.fps,
        file_frames=shown,
        flags=(*video.flags, "resampled_in_time"),
    )


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


def check_axes(path: pathlib.Path, height: int, width: int, order: str) -> None:
    """Raises VideoError if frames are so narrow that an array's axes must be in another order than `order`."""
    if min(height, width) < _NARROW and max(height, width) > _LONG * min(height, width):
        raise VideoError(f"{path}: frames of {height} x {width}; are its axes in another order than {order}?")


def grey_levels(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
    """Numbers of any kind as grey levels: uint8 of the same shape.

    uint8 is taken as it is. Other integers are 0 to 255; floats are 0 to 1 (times 255) if the largest is at most 1.5,
    and 0 to 255 if it is at least 16; they are rounded. Values that overshoot the range by up to 5 % of it, as rounding
    and resampling make them, are clipped.

    Raises:
      VideoError: values of another range, not finite, or no numbers.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iuf":
        raise VideoError(f"{path}: holds {values.dtype}; frames are uint8, other integers from 0 to 255, or floats.")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    top = 1.0 if values.dtype.kind == "f" and high <= _UNIT else 255.0
    neither = values.dtype.kind == "f" and _UNIT < high < _DARK
    most = _UNIT if top == 1.0 else 255 * (1 + _OVERSHOOT)
    if not (math.isfinite(low) and math.isfinite(high)) or low < -_OVERSHOOT * top or high > most or neither:
        raise VideoError(f"{path}: values from {low} to {high}; grey levels are 0 to 255, or 0 to 1 as floats.")
    return np.clip(np.rint(values * (255 / top) if top == 1.0 else values), 0, 255).astype(np.uint8)


def _rate(times: np.ndarray) -> tuple[float, bool]:
    """Frames per second of time stamps (NaN if they are no times of frames), and whether they are evenly spaced.

    Even time stamps may be rounded, to hundredths of a second in a GIF: none is further than half an interval from
    where it should be. The rate of uneven ones is that of the median interval: a pause does not slow the rest.
    """
    intervals = np.diff(times)
    mean = float(times[-1] / len(intervals))
    if not (np.isfinite(times).all() and (intervals > 0).all() and is_plausible(1 / mean, FPS)):
        return math.nan, False
    away = np.abs(times - np.arange(len(times)) * mean).max()
    if away <= 0.5 * mean and intervals.max() < 1.8 * mean:
        return 1 / mean, True
    usual = float(np.sort(intervals)[(len(intervals) - 1) // 2])
    return (1 / usual, False) if is_plausible(1 / usual, FPS) else (math.nan, False)
