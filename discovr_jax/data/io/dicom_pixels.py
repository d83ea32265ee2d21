"""The pixels of a DICOM object as luma. What the decoder returned decides what they are, the header where that is mute.

Codestreams say more than headers: their size, components, precision and colour space win (JFIF means YCbCr, an Adobe
marker says which).
"""

import io
import math
import pathlib
from collections.abc import Callable

import numpy as np
from pydicom.errors import BytesLengthException

from discovr_jax.data import colour
from discovr_jax.data.io import dicom_codestream, dicom_grey, video
from discovr_jax.data.io.dicom_values import numbers
from discovr_jax.data.io.video import NotAClip, VideoError, check_size

_REQUIRED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
TAGS = (
    *_REQUIRED,
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "HighBit",
    "PixelData",
    *dicom_grey.TAGS,
)
# What a header may say that the samples of an object are.
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
_JPEG_XL = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (110, 111, 112))
# Samples whose planes show by their values that the header names the wrong colour space: this share of the pixels is
# that near to it, in a picture of at least that standard deviation.
_SHARE, _AWAY, _PICTURE = 0.8, 6, 8.0
_CHUNK = 2**20  # bytes
_WORDS = 400  # characters of a library's message that are passed on
# What pydicom and the decoders raise for pixels that cannot be decoded.
_BAD_PIXELS = (ValueError, RuntimeError, NotImplementedError, BytesLengthException)


def decode(path: pathlib.Path, header) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Decodes all frames of an object.

    Returns:
      Luma uint8 [T, H, W], distance from grey uint8 [T, H, W] (None if all is grey), and flags out of
      `bits_unlike_header` and `implausible_window`.

    Raises:
      NotAClip: one frame.
      VideoError: what the header lacks, or why the pixels cannot be decoded, in the library's words.
    """
    syntax = header.file_meta.TransferSyntaxUID
    try:
        size, count = _check_header(path, header)
        if str(syntax) in _JPEG_XL:
            values, space = _decode_jpeg_xl(path, header, count)
        else:
            values, space = _decode(path, header, count, size)
        return _luma(header, values, space)
    except _BAD_PIXELS as error:
        if isinstance(error, VideoError):
            raise
        # Pydicom's messages hold numbers of the pixels' description, no other text of the header.
        words = " ".join(str(error).split())[:_WORDS]
        raise VideoError(f"{path}: its frames ({syntax.name}) cannot be decoded: {words}") from None


def video_stream(path: pathlib.Path, header) -> bytes:
    """The stream of MPEG-2, MPEG-4 or HEVC that an object holds, put together from its fragments."""
    from pydicom import encaps

    try:
        return next(encaps.generate_frames(header.PixelData, number_of_frames=1))
    except (*_BAD_PIXELS, StopIteration) as error:
        words = " ".join(str(error).split())[:_WORDS]
        raise VideoError(f"{path}: its video stream cannot be taken out ({words}); copy it again.") from None


def _check_header(path: pathlib.Path, header) -> tuple[int, int]:
    """Bytes per pixel and number of frames, as a header says; raises VideoError if it lacks what decoders need."""
    if str(header.get("PhotometricInterpretation", "none")) not in KINDS:
        raise VideoError(f"{path}: photometric interpretation is not known; known are {', '.join(KINDS)}.")
    wrong = [name for name in _REQUIRED if len(numbers(header, name) or ()) != 1]
    if wrong:
        raise VideoError(f"{path}: the header lacks {', '.join(wrong)}, or they are no numbers; export it again.")
    samples, count = (int((numbers(header, name) or [1])[0]) for name in ("SamplesPerPixel", "NumberOfFrames"))
    if count < 2:
        raise NotAClip(f"{path}: one frame, a still; a video needs at least 2.")
    size = max(samples * int(header.BitsAllocated) // 8, 1)
    check_size(path, count, int(header.Rows), int(header.Columns), size)
    return size, count


def _decode(path: pathlib.Path, header, count: int, size: int) -> tuple[np.ndarray, str | None]:
    """Samples [T, H, W(, 3)] as decoded, and their colour space: `RGB`, `YBR`, or None for one sample a pixel."""
    import pydicom.pixels

    syntax = header.file_meta.TransferSyntaxUID
    stream, plugin = None, _plugin(header)
    if syntax.is_encapsulated:
        stream = _check_pictures(path, header, count, int(header.Rows) * int(header.Columns) * size)
        if stream is not None:
            _conform(header, stream)
            check_size(path, count, stream.height, stream.width, stream.components * int(header.BitsAllocated) // 8)
        if stream is not None and stream.named_rgb and plugin == "pillow":
            plugin, header.PhotometricInterpretation = "gdcm", "RGB"  # pydicom asks Pillow for the impossible
    # All at once: frame by frame pydicom 3.0 misreads uncompressed YBR_FULL_422.
    values, result = pydicom.pixels.get_decoder(syntax).as_array(
        header, raw=True, decoding_plugin=plugin, correct_unused_bits=False
    )
    if values.ndim == 3:
        return values, None
    space = "YBR" if result["photometric_interpretation"] in LUMA_FIRST else "RGB"
    if stream is not None and stream.space is not None:
        space = "RGB" if plugin == "pillow" and stream.adobe else stream.space  # Pillow has undone it there
    return values, space


def _decode_jpeg_xl(path: pathlib.Path, header, count: int) -> tuple[np.ndarray, str | None]:
    """The same for JPEG XL, which pydicom does not decode; its decoders return grey or RGB."""
    from pydicom import encaps

    decode_picture = _jpeg_xl_decoder(path)
    pictures = []
    for picture in encaps.generate_frames(header.PixelData, number_of_frames=count):
        pictures.append(decode_picture(picture))
        check_size(path, count, *pictures[-1].shape[:2], math.prod(pictures[-1].shape[2:]) * pictures[-1].itemsize)
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


def _check_pictures(path: pathlib.Path, header, count: int, size: int) -> dicom_codestream.Codestream | None:
    """What the first compressed picture says of itself; None if it is no JPEG of any kind.

    Args:
      count, size: frames, and bytes of one when decompressed, as the header has them.

    Raises:
      VideoError: there are fewer, or one says that it is larger than any echocardiogram. Its decoder would believe that
        rather than the header, and ask for memory accordingly.
    """
    from pydicom import encaps

    first, number = None, -1
    for number, picture in enumerate(encaps.generate_frames(header.PixelData, number_of_frames=count)):
        stream = dicom_codestream.parse(picture)
        sides = (stream.height, stream.width) if stream is not None else (0, 0)
        if max(sides) > video.MAX_SIDE or len(picture) > 2 * size + _CHUNK:
            raise VideoError(f"{path}: frame {number} ({sides}, {len(picture)} bytes) is too large; it is damaged.")
        first = stream if number == 0 else first
    if number + 1 < count:
        raise VideoError(f"{path}: it holds {number + 1} of {count} frames; it is cut off, copy it again.")
    return first


def _conform(header, stream: dicom_codestream.Codestream) -> None:
    """Corrects what a header says of size, samples and precision by what the codestream says."""
    header.Rows, header.Columns, header.SamplesPerPixel = stream.height, stream.width, stream.components
    kind = str(header.PhotometricInterpretation)
    if stream.components == 1 and kind not in (*GREY, PALETTE):
        header.PhotometricInterpretation = "MONOCHROME2"
    if stream.components == 3:
        if kind in (*GREY, PALETTE):
            header.PhotometricInterpretation = "YBR_FULL" if stream.space == "YBR" else "RGB"
        header.PlanarConfiguration = header.get("PlanarConfiguration") or 0
    # Twelve bits are often stored with a precision of 16. Believed are fewer than BitsStored, and more than have room.
    if stream.precision < int(header.BitsStored) or stream.precision > int(header.BitsAllocated):
        header.BitsStored, header.HighBit = stream.precision, stream.precision - 1
        header.BitsAllocated = 8 if stream.precision <= 8 else 16


def _luma(header, values: np.ndarray, space: str | None):
    """Decoded samples as `decode` returns them."""
    kind, chroma = str(header.PhotometricInterpretation), colour.Colours()
    if space is None and kind == PALETTE:
        rgb = dicom_grey.per_value(values, lambda every: dicom_grey.palette(header, every))
        frames = dicom_grey.looked_up(colour.luma(rgb), values)
        for frame in values:
            chroma.add_rgb(dicom_grey.looked_up(rgb, frame))
        return frames, chroma.distance(frames), ()
    if space is None:
        frames, flags = dicom_grey.grey(header, values)
        return (255 - frames if kind == "MONOCHROME1" else frames), None, flags
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
