"""Reads a multi-frame DICOM object as grey frames. Of its header only the tags in `TAGS` are read.

So nothing that names a patient enters the process, and no error message can repeat it.
"""

import logging
import math
import mmap
import pathlib
import struct
import warnings
import zlib

import numpy as np

from discovr_jax.data import colour
from discovr_jax.data.io import video
from discovr_jax.data.io.video import NotAClip, Video, VideoError, check_size

_PALETTES = tuple(
    f"{name}PaletteColorLookupTable{part}" for name in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")
)
TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "FrameTime",
    "FrameTimeVector",
    "CineRate",
    "RecommendedDisplayFrameRate",
    "SequenceOfUltrasoundRegions",
    "PixelSpacing",
    *_PALETTES,
    *(f"Segmented{name}" for name in _PALETTES if name.endswith("Data")),
    "PixelData",
)
# What the decoded samples of an object are: its frames' luma is made accordingly.
GREY = ("MONOCHROME1", "MONOCHROME2")
LUMA_FIRST = ("YBR_FULL", "YBR_FULL_422")
COLOUR = ("RGB", "YBR_RCT", "YBR_ICT")  # the last two are undone by the JPEG 2000 decoder
PALETTE = "PALETTE COLOR"
KINDS = (*GREY, *LUMA_FIRST, *COLOUR, PALETTE)
# The decoder for each family of transfer syntaxes, so that pixels do not depend on what else is installed.
DECODERS = {
    "pillow": ("JPEGBaseline8Bit",),
    "gdcm": ("JPEGExtended12Bit", "JPEGLossless", "JPEGLosslessSV1", "JPEGLSLossless", "JPEGLSNearLossless"),
    "pylibjpeg": ("JPEG2000Lossless", "JPEG2000", "HTJ2KLossless", "HTJ2KLosslessRPCL", "HTJ2K"),
    "pydicom": ("RLELossless",),
}
_CHUNK = 2**20  # bytes
# Codes of the standard (PS3.3, US Region Calibration): a two-dimensional picture, of tissue or flow, in centimetres.
_PLANE, _PICTURES, _CENTIMETRES = 1, (1, 2), 3


def read_dicom(path: pathlib.Path) -> Video:
    """Decode all frames of an object to luma.

    Grey of more than 8 bits is scaled to 8; MONOCHROME1 is inverted; YBR gives its Y as it is stored. The picture's
    place on the screen and its spacing are those of the largest two-dimensional ultrasound region.

    Raises:
      VideoError: no DICOM, no pixels, a still, a photometric interpretation that is not known, or damaged.
    """
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise VideoError(f"{path}: DICOM needs pydicom (pip install pydicom).") from None

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # what it logs, like its warnings, quotes values
    with warnings.catch_warnings(action="ignore"):
        try:
            # Mapped: asked for the gigabytes that a damaged length says, a file would first make room for them.
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _check_deflated(path, content)
                header = pydicom.dcmread(content, specific_tags=list(TAGS))
            kind = str(header.get("PhotometricInterpretation", "none"))
            declared = int(header.get("NumberOfFrames") or 1)
            height, width = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
            samples, bits = int(header.get("SamplesPerPixel") or 1), int(header.get("BitsAllocated") or 8)
            found = "PixelData" in header
        except (VideoError, MemoryError):
            raise
        except Exception as error:  # pydicom raises errors of many kinds
            raise VideoError(f"{path}: not a readable DICOM file ({type(error).__name__}); copy it again.") from None
        if not found:
            raise VideoError(f"{path}: the object holds no pixels.")
        if kind not in KINDS:
            raise VideoError(f"{path}: photometric interpretation is not known; known are {', '.join(KINDS)}.")
        if declared < 2:
            raise NotAClip(f"{path}: one frame, a still; a video needs at least 2.")
        check_size(path, declared, height, width, max(samples * bits // 8, 1))
        try:
            _check_pictures(path, header, declared, height * width * max(samples * bits // 8, 1))
            # All at once: frame by frame pydicom 3.0 misreads uncompressed YBR_FULL_422.
            samples = pydicom.pixels.pixel_array(header, raw=True, decoding_plugin=_decoder(header))
            frames, tint = _grey(samples, kind, header)
            spacing, region = _geometry(header, height, width)
            fps = _frames_per_second(header)
        except (VideoError, MemoryError):
            raise
        except Exception as error:  # decoders raise errors of many kinds
            raise VideoError(
                f"{path}: its {declared} frame(s) cannot be decoded ({_syntax(header)}, {type(error).__name__}); "
                "copy it again, or install a decoder for its transfer syntax."
            ) from None
    return Video(frames, fps, spacing, tint, region)


def _check_deflated(path: pathlib.Path, content) -> None:
    """Raises VideoError if a deflated file inflates to more than any echocardiogram has: pydicom reads it whole.

    Args:
      content: the open file, which is left at its start.
    """
    from pydicom import filereader, uid

    filereader.read_preamble(content, force=False)
    syntax = filereader._read_file_meta_info(content).get("TransferSyntaxUID")
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while syntax == uid.DeflatedExplicitVRLittleEndian and not inflate.eof:
        data = inflate.unconsumed_tail or content.read(_CHUNK)
        if not data:
            break
        total += len(inflate.decompress(data, _CHUNK))
        if total > video.MAX_BYTES:
            raise VideoError(f"{path}: more than {video.MAX_BYTES} bytes when inflated; this is no echocardiogram.")
    content.seek(0)


def _check_pictures(path: pathlib.Path, header, count: int, size: int) -> None:
    """Raises VideoError if a compressed picture says that it is larger than any echocardiogram.

    Its decoder would believe that rather than the header, and ask for memory accordingly.

    Args:
      count, size: frames, and bytes of one when decompressed, as the header has them.
    """
    from pydicom import encaps

    if not header.file_meta.TransferSyntaxUID.is_compressed or "PixelData" not in header:
        return
    for number, picture in enumerate(encaps.generate_frames(header.PixelData, number_of_frames=count)):
        sides = _picture_size(picture) or (0, 0)
        if max(sides) > video.MAX_SIDE or len(picture) > 2 * size + _CHUNK:
            raise VideoError(f"{path}: frame {number} ({sides}, {len(picture)} bytes) is too large; it is damaged.")


def _picture_size(data: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG, JPEG-LS or JPEG 2000 stream starts with; None if it is none of them."""
    start = data.find(b"\xff\x4f\xff\x51", 0, _CHUNK)  # JPEG 2000: the picture's far edge on its grid
    if start >= 0:
        width, height = struct.unpack_from(">II", data, start + 8)
        return height, width
    place = 2
    while data[:2] == b"\xff\xd8" and place + 9 <= len(data):
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place] != 0xFF:
            return None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) or marker == 0xF7:
            return struct.unpack_from(">HH", data, place + 5)
        # Padding, or a segment that is passed over.
        place += 1 if marker == 0xFF else 2 + length
    return None


def _grey(samples: np.ndarray, kind: str, header) -> tuple[np.ndarray, np.ndarray | None]:
    """Decoded samples [T, H, W(, 3)] as luma uint8 [T, H, W], and distance from grey (None if all is grey)."""
    bits = int(header.BitsStored)
    if kind == PALETTE:
        import pydicom.pixels

        samples = pydicom.pixels.apply_color_lut(samples, header)
        bits = 8 * samples.dtype.itemsize
    if samples.dtype != np.uint8 or bits != 8:
        top = 2**bits - 1
        samples = np.rint(np.clip(samples, 0, top) * (255 / top)).astype(np.uint8)
    if kind in LUMA_FIRST:
        return np.ascontiguousarray(samples[..., 0]), colour.of_chroma(samples[..., 1], samples[..., 2])
    if kind in GREY:
        return 255 - samples if kind == "MONOCHROME1" else np.ascontiguousarray(samples), None
    return np.stack([colour.luma(frame) for frame in samples]), colour.of_rgb(samples)


def _geometry(header, height: int, width: int):
    """Spacing (mm; row, column) and region (top, left, bottom, right) of the picture; None each where unknown.

    Of a region that reaches outside the frame neither is used: the frames were resized after it was written.
    """
    regions = [
        region
        for region in header.get("SequenceOfUltrasoundRegions") or []
        if region.get("RegionSpatialFormat") == _PLANE and region.get("RegionDataType") in _PICTURES
    ]
    boxes = [
        (
            int(region.RegionLocationMinY0),
            int(region.RegionLocationMinX0),
            int(region.RegionLocationMaxY1) + 1,
            int(region.RegionLocationMaxX1) + 1,
        )
        for region in regions
    ]
    if not boxes:
        spacing = header.get("PixelSpacing")
        return (None if spacing is None else _positive(spacing[0], spacing[1])), None
    region, box = max(zip(regions, boxes, strict=True), key=lambda pair: _area(pair[1]))
    top, left, bottom, right = box
    # Some scanners give the last row and column one too high.
    if not (top < bottom <= height + 1 and left < right <= width + 1):
        return None, None
    box = (top, left, min(bottom, height), min(right, width))
    units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
    if units != (_CENTIMETRES, _CENTIMETRES):
        return None, box
    return _positive(10 * region.get("PhysicalDeltaY", 0), 10 * region.get("PhysicalDeltaX", 0)), box


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _positive(row, column) -> tuple[float, float] | None:
    """Both distances without the sign that says which way an axis runs; None if one is 0 or not finite."""
    spacing = abs(float(row)), abs(float(column))
    return spacing if all(0 < step < math.inf for step in spacing) else None


def _decoder(header) -> str:
    name = header.file_meta.TransferSyntaxUID.keyword
    return next((plugin for plugin, names in DECODERS.items() if name in names), "")


def _frames_per_second(header) -> float:
    """From the time between frames (ms), else from the rate of acquisition or display; NaN if none is there."""
    milliseconds = header.get("FrameTime") or 0
    vector = header.get("FrameTimeVector")
    if not milliseconds and vector is not None and not isinstance(vector, str) and len(vector) > 1:
        milliseconds = float(np.mean([float(value) for value in vector[1:]]))  # the first is always 0
    rate = header.get("CineRate") or header.get("RecommendedDisplayFrameRate") or 0
    fps = 1000 / float(milliseconds) if float(milliseconds) > 0 else float(rate)
    return fps if fps > 0 else math.nan


def _syntax(header) -> str:
    uid = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
    return "transfer syntax unknown" if uid is None else uid.name
