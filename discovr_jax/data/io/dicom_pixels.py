"""The pixels of a DICOM object as luma. What the decoder returned decides what they are, the header where that is mute.

Codestreams say more than headers: their size, components, precision and colour space win (JFIF means YCbCr, an Adobe
marker says which).
"""

import io
import math
import pathlib
from collections.abc import Callable

import numpy as np
from pydicom import uid

from discovr_jax.data import colour
from discovr_jax.data.io import dicom_errors, dicom_frames, dicom_grey
from discovr_jax.data.io.video import VideoError, check_size

TAGS = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "HighBit",
    "PixelData",
    *dicom_grey.TAGS,
)
# The decoder for each family of transfer syntaxes, so that pixels do not depend on what else is installed.
DECODERS = {
    "pillow": ("JPEGBaseline8Bit",),
    "gdcm": ("JPEGExtended12Bit", "JPEGLossless", "JPEGLosslessSV1", "JPEGLSLossless", "JPEGLSNearLossless"),
    "pylibjpeg": ("JPEG2000Lossless", "JPEG2000", "HTJ2KLossless", "HTJ2KLosslessRPCL", "HTJ2K"),
    "pydicom": ("RLELossless",),
}
# Samples whose planes show by their values that the header names the wrong colour space: this share of the pixels is
# that near to it, in a picture of at least that standard deviation.
_SHARE, _AWAY, _PICTURE = 0.8, 6, 8.0


def decode(path: pathlib.Path, header) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Decodes all frames of an object.

    Returns:
      Luma uint8 [T, H, W], distance from grey uint8 [T, H, W] (None if all is grey), and flags out of
      `bits_unlike_header` and `implausible_window`.

    Raises:
      NotAClip: one frame.
      VideoError: what the header lacks, or why the pixels cannot be decoded, in the library's words.
    """
    try:
        layout = dicom_frames.arrange(path, header)
        if str(header.file_meta.TransferSyntaxUID) in dicom_frames.JPEG_XL:
            values, space = _decode_jpeg_xl(path, layout)
        else:
            values, space = _decode(path, header, layout)
        return _luma(header, values, space)
    except dicom_errors.Undecodable as error:
        syntax = uid.UID(header.file_meta.get("TransferSyntaxUID") or "")
        raise VideoError(f"{path}: its frames ({syntax.name}) cannot be decoded: {error}") from None


def video_stream(path: pathlib.Path, header) -> bytes:
    """The stream of MPEG-2, MPEG-4 or HEVC that an object holds, put together from its fragments."""
    stream = b"".join(dicom_frames.items(header.PixelData))
    if not stream:
        raise VideoError(f"{path}: it holds no video stream; copy it again.")
    return stream


def _decode(path: pathlib.Path, header, layout: dicom_frames.Layout) -> tuple[np.ndarray, str | None]:
    """Samples [T, H, W(, 3)] as decoded, and their colour space: `RGB`, `YBR`, or None for one sample a pixel."""
    import pydicom.pixels

    stream, plugin = layout.stream, _plugin(header)
    if stream is not None and stream.named_rgb and plugin == "pillow":
        plugin, header.PhotometricInterpretation = "gdcm", "RGB"  # pydicom asks Pillow for the impossible
    with dicom_errors.library():
        # All at once: frame by frame pydicom 3.0 misreads uncompressed YBR_FULL_422.
        values, result = pydicom.pixels.get_decoder(header.file_meta.TransferSyntaxUID).as_array(
            header, raw=True, decoding_plugin=plugin, correct_unused_bits=False
        )
    if values.ndim == 3:
        return values, None
    space = "YBR" if result["photometric_interpretation"] in dicom_frames.LUMA_FIRST else "RGB"
    if stream is not None and stream.space is not None:
        space = "RGB" if plugin == "pillow" and stream.adobe else stream.space  # Pillow has undone it there
    return values, space


def _decode_jpeg_xl(path: pathlib.Path, layout: dicom_frames.Layout) -> tuple[np.ndarray, str | None]:
    """The same for JPEG XL, which pydicom does not decode; its decoders return grey or RGB."""
    decode_picture = _jpeg_xl_decoder(path)
    pictures = []
    for picture in layout.pictures or []:
        with dicom_errors.library():
            pictures.append(decode_picture(picture))
        size = pictures[-1].shape
        check_size(path, layout.count, *size[:2], math.prod(size[2:]) * pictures[-1].itemsize)
        if size != pictures[0].shape:
            raise VideoError(f"{path}: frame {len(pictures) - 1} is {size}, frame 0 is {pictures[0].shape}.")
    values = np.stack(pictures)
    return values, None if values.ndim == 3 else "RGB"


def _jpeg_xl_decoder(path: pathlib.Path) -> Callable[[bytes], np.ndarray]:
    try:
        import imagecodecs

        return imagecodecs.jpegxl_decode
    except ImportError:
        pass
    try:
        import pillow_jxl  # noqa: F401 (makes Pillow know the format)
        from PIL import Image

        return lambda data: np.asarray(Image.open(io.BytesIO(data)))
    except ImportError:
        raise VideoError(
            f"{path}: its frames are JPEG XL, and no decoder for it is installed: pip install imagecodecs, or "
            "pip install pillow-jxl-plugin."
        ) from None


def _luma(header, values: np.ndarray, space: str | None):
    """Decoded samples as `decode` returns them."""
    kind, chroma = str(header.PhotometricInterpretation), colour.Colours()
    if space is None and kind == dicom_frames.PALETTE:
        rgb = dicom_grey.per_value(values, lambda every: dicom_grey.palette(header, every))
        frames = dicom_grey.looked_up(colour.luma(rgb), values)
        for frame in values:
            chroma.add_rgb(dicom_grey.looked_up(rgb, frame))
        return frames, chroma.distance(frames), ()
    if space is None:
        frames, flags = dicom_grey.grey(header, values)
        return frames, None, flags
    flags = ()
    if values.dtype != np.uint8 or int(header.BitsStored) != 8:
        values, flags = dicom_grey.grey(header, values, apply_lookups=False)
    space = _space_of(values, space)
    if space == "YBR":
        frames = np.ascontiguousarray(values[..., 0])
        for frame in values:
            chroma.add_chroma(np.ascontiguousarray(frame[..., 1]), np.ascontiguousarray(frame[..., 2]))
    else:
        frames = np.stack([colour.luma(frame) for frame in values])
        for frame in values:
            chroma.add_rgb(frame)
    return frames, chroma.distance(frames), flags


def _space_of(values: np.ndarray, said: str) -> str:
    """The colour space of uint8 [T, H, W, 3]: what is said, unless the planes show plainly that it is the other.

    Grey in YCbCr has both chroma planes at 128, in RGB all planes are equal.
    """
    some = values[:: max(1, len(values) // 8), ::2, ::2].astype(np.int16)
    if some[..., 0].std() < _PICTURE:
        return said
    other, target = ("YBR", 128) if said == "RGB" else ("RGB", some[..., :1])
    near = (np.abs(some[..., 1:] - target) <= _AWAY).all(-1)
    return other if near.mean() >= _SHARE else said


def _plugin(header) -> str:
    name = header.file_meta.TransferSyntaxUID.keyword
    return next((plugin for plugin, names in DECODERS.items() if name in names), "")
