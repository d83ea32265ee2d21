"""What a DICOM header says of time and space: all optional. A value that cannot be read is unknown, never an error."""

import math
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import BytesLengthException

from discovr_jax.data.io.video import FPS, is_plausible

TAGS = (
    "FrameTime",
    "FrameTimeVector",
    "FrameIncrementPointer",
    "CineRate",
    "RecommendedDisplayFrameRate",
    "SequenceOfUltrasoundRegions",
    "PixelSpacing",
    "PixelAspectRatio",
    "NominalScannedPixelSpacing",
)
# Codes of the standard (PS3.3 C.8.5.5.1): spatial formats, data types (tissue and colour flow; spectra), and the unit.
PLANE, _FLOW, _PICTURES, _SPECTRA, _CENTIMETRES = 1, 2, (1, 2), (3, 4), 3
_NO_CLIPS = {2: "M-mode", 3: "a spectral Doppler"}
# What pydicom raises for a value that is not what its tag demands, when it is asked for it. A fraction where integers
# belong is a TypeError.
BAD_VALUE = (ValueError, TypeError, KeyError, OverflowError, NotImplementedError, BytesLengthException)
_FRAME_TIME = 0x00181063  # its tag
_UNREADABLE = math.inf  # what no limit of `Video` lets through: the value becomes unknown, and a flag says so


def numbers(dataset, name: str | int) -> list[float] | None:
    """The numbers of an element (by keyword or tag), [] if it is absent or empty, None if they cannot be read."""
    try:
        value = dataset.get(name)
        value = value.value if isinstance(value, pydicom.DataElement) else value
        if value is None or isinstance(value, str | bytes) and not value.strip():
            return []
        items = [value] if isinstance(value, str | bytes | float | int) or not hasattr(value, "__iter__") else value
        return [float(item) for item in items]
    except BAD_VALUE:
        return None


def whole(dataset, name: str) -> int | None:
    """A whole number of an element; None if it is absent or cannot be read."""
    values = numbers(dataset, name)
    return int(values[0]) if values and len(values) == 1 and math.isfinite(values[0]) else None


def text(dataset, name: str) -> str:
    """The text of an element, "" if it is absent, empty or cannot be read."""
    try:
        return str(dataset.get(name) or "")
    except BAD_VALUE:
        return ""


def frame_times(header, count: int) -> np.ndarray | None:
    """Seconds of `count` frames, float64 [T], from the times between them.

    None if the header has none for each, or says that the one time between any two frames counts.
    """
    steps = numbers(header, "FrameTimeVector")
    if not steps or len(steps) != count or _counts_frame_time(header):
        return None
    return np.cumsum([0.0, *steps[1:]]) / 1000  # milliseconds; the first is not one between two frames


def frames_per_second(header) -> float:
    """From the time between frames (ms), else from the rate of acquisition or display.

    The first that an echocardiogram can have; else the first there is, infinite if it cannot be read; else NaN.
    """
    times, vector = numbers(header, "FrameTime"), numbers(header, "FrameTimeVector")
    rates = [_per_second(times)]
    if vector and len(vector) > 1:
        rates.append(_per_second([float(np.mean(vector[1:]))]))
    for name in ("CineRate", "RecommendedDisplayFrameRate"):
        values = numbers(header, name)
        rates.append(_single(values) or math.nan)
    known = [rate for rate in rates if not math.isnan(rate)]
    return next((rate for rate in known if is_plausible(rate, FPS)), known[0] if known else math.nan)


def _counts_frame_time(header) -> bool:
    """Whether FrameIncrementPointer names FrameTime (PS3.3 C.7.6.6.1.1), and that is one that there can be."""
    pointed = numbers(header, "FrameIncrementPointer") or []
    return _FRAME_TIME in pointed and is_plausible(_per_second(numbers(header, "FrameTime")), FPS)


def aspect(header) -> float:
    """Width of a pixel divided by its height (PS3.3 C.7.6.3.1.7); NaN if the header does not say.

    The scanned film's spacing is not the heart's, but its pixels have the same shape.
    """
    for name in ("PixelAspectRatio", "NominalScannedPixelSpacing"):
        height, width = _pair(numbers(header, name))
        if not math.isnan(height):
            return width / height if 0 < height < math.inf else _UNREADABLE
    return math.nan


def geometry(header, height: int, width: int) -> tuple[tuple[float, float], tuple[int, int, int, int] | None]:
    """Spacing (mm; row, column) and region (top, left, bottom, right) of the picture; NaN and None where unknown.

    Of a region that reaches outside the frame neither is used: the frames were resized after it was written.
    """
    boxes = [(box, region) for region in _regions(header) if _is_picture(region) and (box := _box(region))]
    if not boxes:
        return _pair(numbers(header, "PixelSpacing")), None
    (top, left, bottom, right), region = max(boxes, key=lambda pair: _area(pair[0]))
    # Some scanners give the last row and column one too high.
    if not (0 <= top < bottom <= height + 1 and 0 <= left < right <= width + 1):
        return (math.nan, math.nan), None
    box = (top, left, min(bottom, height), min(right, width))
    units = (whole(region, "PhysicalUnitsXDirection"), whole(region, "PhysicalUnitsYDirection"))
    if units != (_CENTIMETRES, _CENTIMETRES):
        return (math.nan, math.nan), box
    # The sign says which way an axis runs.
    deltas = [_single(numbers(region, name)) for name in ("PhysicalDeltaY", "PhysicalDeltaX")]
    return (10 * abs(deltas[0]), 10 * abs(deltas[1])), box


def no_picture(header) -> str | None:
    """What the object shows by its ultrasound regions (PS3.3 C.8.5.5) if none of them is a picture; else None."""
    regions = _regions(header)
    if any(_is_picture(region) for region in regions):
        return None
    for region in regions:
        form, kind = whole(region, "RegionSpatialFormat"), whole(region, "RegionDataType")
        if form in _NO_CLIPS or kind in _SPECTRA:
            return _NO_CLIPS.get(form, _NO_CLIPS[3])
    return None


def shows_flow(header) -> bool:
    """Whether a two-dimensional ultrasound region is one of colour flow, whatever its colours are."""
    return any(_is_picture(region) and whole(region, "RegionDataType") == _FLOW for region in _regions(header))


def _regions(header) -> list[Any]:
    try:
        return [region for region in header.get("SequenceOfUltrasoundRegions") or [] if hasattr(region, "get")]
    except BAD_VALUE:
        return []


def _is_picture(region) -> bool:
    return whole(region, "RegionSpatialFormat") == PLANE and whole(region, "RegionDataType") in _PICTURES


def _box(region) -> tuple[int, int, int, int] | None:
    edges = [whole(region, f"RegionLocation{edge}") for edge in ("MinY0", "MinX0", "MaxY1", "MaxX1")]
    return None if None in edges else (edges[0], edges[1], edges[2] + 1, edges[3] + 1)


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _single(values: list[float] | None) -> float:
    """The number of an element that has one; NaN if it is absent."""
    if values == []:
        return math.nan
    return values[0] if values is not None and len(values) == 1 else _UNREADABLE


def _pair(values: list[float] | None) -> tuple[float, float]:
    """The numbers of an element that has two, without sign; NaN if it is absent."""
    if values == []:
        return math.nan, math.nan
    if values is None or len(values) != 2:
        return _UNREADABLE, _UNREADABLE
    return abs(values[0]), abs(values[1])


def _per_second(milliseconds: list[float] | None) -> float:
    """Frames per second of the time between two; NaN if that is absent, or 0 as where nobody filled it in."""
    value = _single(milliseconds)
    return math.nan if value == 0 else 1000 / value if math.isfinite(value) else value
