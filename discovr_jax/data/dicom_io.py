"""Reads a multi-frame DICOM object as grey frames. Of its header only the tags in `TAGS` are read.

So nothing that names a patient enters the process, and no error message can repeat it.
"""

import math
import pathlib
import warnings

import numpy as np

from discovr_jax.data.video_io import Video, VideoError

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
    "PixelData",
)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# What the decoded samples of an object are: its frames' luma is made accordingly.
GREY = ("MONOCHROME1", "MONOCHROME2")
LUMA_FIRST = ("YBR_FULL", "YBR_FULL_422")
COLOUR = ("RGB", "YBR_RCT", "YBR_ICT")  # the last two are undone by the JPEG 2000 decoder
PREAMBLE = 132  # bytes up to the end of the magic "DICM"


def is_dicom(path: pathlib.Path) -> bool:
    """Whether a file has DICOM's magic; archives often have no suffix."""
    with open(path, "rb") as file:
        return file.read(PREAMBLE)[-4:] == b"DICM"


def read_dicom(path: pathlib.Path) -> Video:
    """Decode all frames of an object to luma.

    Grey of more than 8 bits is scaled to 8; MONOCHROME1 is inverted; YBR gives its Y as it is stored.

    Raises:
      VideoError: no DICOM, no pixels, a photometric interpretation that is not known, or damaged.
    """
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise VideoError(f"{path}: DICOM needs pydicom (pip install pydicom).") from None

    with warnings.catch_warnings(action="ignore"):  # pydicom's warnings quote values
        try:
            header = pydicom.dcmread(path, specific_tags=list(TAGS))
        except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError, KeyError) as error:
            raise VideoError(f"{path}: not a readable DICOM file ({type(error).__name__}).") from None
        kind = str(header.get("PhotometricInterpretation", "none"))
        if "PixelData" not in header:
            raise VideoError(f"{path}: the object holds no pixels.")
        if kind not in (*GREY, *LUMA_FIRST, *COLOUR):
            known = ", ".join((*GREY, *LUMA_FIRST, *COLOUR))
            raise VideoError(f"{path}: photometric interpretation {kind} is not known; known are {known}.")
        declared = int(header.get("NumberOfFrames") or 1)
        try:
            # All at once: frame by frame pydicom 3.0 misreads uncompressed YBR_FULL_422.
            samples = pydicom.pixels.pixel_array(header, raw=True)
        except Exception as error:  # decoders raise errors of many kinds
            raise VideoError(
                f"{path}: its {declared} frame(s) cannot be decoded ({_syntax(header)}, {type(error).__name__}); "
                "copy it again, or install a decoder for its transfer syntax."
            ) from None
    samples = samples if declared > 1 else samples[None]
    return Video(_luma(samples, kind, int(header.BitsStored)), _frames_per_second(header))


def _luma(samples: np.ndarray, kind: str, bits: int) -> np.ndarray:
    """Decoded samples [T, H, W(, 3)] as uint8 [T, H, W]."""
    if kind in LUMA_FIRST:
        return np.ascontiguousarray(samples[..., 0])
    if kind in COLOUR:
        return np.stack([np.rint(frame @ LUMA).astype(np.uint8) for frame in samples])
    if bits != 8:
        top = 2**bits - 1
        samples = np.rint(np.clip(samples, 0, top) * (255 / top)).astype(np.uint8)
    return 255 - samples if kind == "MONOCHROME1" else np.ascontiguousarray(samples)


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
