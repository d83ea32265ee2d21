"""How the pixel data of a DICOM object lie there: what they show of themselves corrects the header, not the reverse.

Where pictures begin, which family of transfer syntaxes they are of, their size, depth and number.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

import pydicom
from pydicom import encaps, uid

from discovr_jax.data.io import dicom_codestream, dicom_errors, video
from discovr_jax.data.io.dicom_values import text, whole
from discovr_jax.data.io.video import NotAClip, VideoError, check_size

_NATIVE = (
    uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, uid.ExplicitVRBigEndian,
)  # fmt: skip
JPEG_XL = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (110, 111, 112))
# Transfer syntaxes of each kind of compressed picture; the first is taken where a header names none of them.
_OF_KIND: dict[str, tuple[str, ...]] = {
    dicom_codestream.BASELINE: (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit),
    dicom_codestream.EXTENDED: (uid.JPEGExtended12Bit,),
    dicom_codestream.LOSSLESS: (uid.JPEGLosslessSV1, uid.JPEGLossless),
    dicom_codestream.JPEG_LS: (uid.JPEGLSNearLossless, uid.JPEGLSLossless),
    dicom_codestream.JPEG_2000: (
        uid.JPEG2000, uid.JPEG2000Lossless, uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.JPEG2000MC,
        uid.JPEG2000MCLossless,
    ),
    dicom_codestream.RUN_LENGTHS: (uid.RLELossless,),
    dicom_codestream.JPEG_XL: JPEG_XL,
}  # fmt: skip
# What a header may say that the samples of an object are.
GREY = ("MONOCHROME1", "MONOCHROME2")
LUMA_FIRST = ("YBR_FULL", "YBR_FULL_422")
COLOUR = ("RGB", "YBR_RCT", "YBR_ICT")  # the last two are undone by the JPEG 2000 decoder
PALETTE = "PALETTE COLOR"
KINDS = (*GREY, *LUMA_FIRST, *COLOUR, PALETTE)
# The numbers of a header that describe its pixels.
_NUMBERS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PlanarConfiguration", "NumberOfFrames",
)  # fmt: skip
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
_CHUNK = 2**20  # bytes
# Pixel data so many times as long as the header says are of another depth, or have other samples per pixel.
_OTHER_PIXELS = (2, 3, 4, 6)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Of the pixel data of one object, whose header agrees with it.

    Attributes:
      count: frames.
      pictures: a compressed one for each frame; None if they are not compressed.
      stream: what the first says of itself; None if it is no JPEG of any kind.
    """

    count: int
    pictures: list[bytes] | None = None
    stream: dicom_codestream.Codestream | None = None


def arrange(path: pathlib.Path, header: pydicom.Dataset) -> Layout:
    """Finds the frames, and changes in the header what they contradict; fills in what it may lack.

    Raises:
      NotAClip: one frame.
      VideoError: the header lacks what decoders need, or announces what no echocardiogram has.
    """
    _tidy(header)
    said = int(header.get("NumberOfFrames", 1))
    layout = _compressed(path, header, said) if _is_encapsulated(header) else _native(path, header, said)
    if layout.count < 2:
        raise NotAClip(f"{path}: one frame, a still; a video needs at least 2.")
    size = _pixel_bytes(header)
    if layout.pictures is not None:
        _check_pictures(path, layout, int(header.Rows) * int(header.Columns) * size)
        # One item for each, and no table of offsets that could be wrong.
        header.PixelData = encaps.encapsulate(layout.pictures, has_bot=False)
    check_size(path, layout.count, int(header.Rows), int(header.Columns), size)
    header.NumberOfFrames = layout.count
    return layout


def _tidy(header) -> None:
    """Has of what describes the pixels only whole numbers and text: a damaged element is as good as none.

    It is taken out before it is set: pydicom would read the damaged one in order to change it.
    """
    found: dict[str, int | str | None] = {name: whole(header, name) for name in _NUMBERS}
    found["PhotometricInterpretation"] = (text(header, "PhotometricInterpretation") or "none").strip().upper()
    for name, value in found.items():
        header.pop(name, None)
        if value is not None:
            setattr(header, name, value)


def _native(path: pathlib.Path, header, said: int) -> Layout:
    _complete(path, header)
    _name_native(header)
    return Layout(_count_native(path, header, said))


def _compressed(path: pathlib.Path, header, said: int) -> Layout:
    pictures = _pictures(header.PixelData, said)
    _name_compressed(path, header, dicom_codestream.kind_of(pictures[0]) if pictures else None)
    stream = dicom_codestream.parse(pictures[0]) if pictures else None
    if stream is not None:
        _conform(header, stream)
    _complete(path, header)
    return Layout(max(said, len(pictures)), pictures, stream)


def items(data: bytes) -> Iterator[bytes]:
    """The fragments of encapsulated pixel data, without the table of offsets."""
    for number, (start, end) in enumerate(_places(data)):
        item = data[start:end]
        # Some writers leave the table out.
        is_table = number == 0 and dicom_codestream.kind_of(item) is None and not dicom_codestream.begins_video(item)
        if item and not is_table:
            yield item


def _places(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each item begins and ends, the table of offsets included."""
    end = 0
    while data[end : end + 4] == _ITEM:
        start = end + 8
        end = start + int.from_bytes(data[end + 4 : start], "little")
        yield start, end


def _is_encapsulated(header) -> bool:
    """Whether the pixels lie in items; those of a native syntax may also begin with the bytes of one by chance."""
    data, ends = header.PixelData, [end for _, end in _places(header.PixelData)]
    if not ends or header["PixelData"].is_undefined_length:
        return bool(ends)
    is_native = header.file_meta.get("TransferSyntaxUID", "") in _NATIVE
    return not is_native or ends[-1] == len(data) or data[ends[-1] :] == _END


def _pictures(data: bytes, said: int) -> list[bytes]:
    """The compressed pictures, put together from their fragments: each begins as the first does."""
    fragments = list(items(data))
    kind = dicom_codestream.kind_of(fragments[0]) if fragments else None
    if kind is None:
        with dicom_errors.library():
            return list(encaps.generate_frames(data, number_of_frames=max(said, 1))) if fragments else []
    pictures: list[list[bytes]] = []
    for fragment in fragments:
        if not pictures or dicom_codestream.kind_of(fragment) == kind:
            pictures.append([])
        pictures[-1].append(fragment)
    return [b"".join(parts) for parts in pictures]


def _name_compressed(path: pathlib.Path, header, kind: str | None) -> None:
    """Sees to it that the header names a transfer syntax of the kind of its pictures."""
    syntax = header.file_meta.get("TransferSyntaxUID") or ""
    if kind is not None and syntax not in _OF_KIND[kind]:
        header.file_meta.TransferSyntaxUID = _OF_KIND[kind][0]
    elif not syntax or syntax in _NATIVE:
        named = "names no transfer syntax" if not syntax else "says that its pixels are not compressed"
        raise VideoError(
            f"{path}: its pixels lie in fragments, its header {named}, and they begin as no known picture does; export "
            "it again."
        )


def _name_native(header) -> None:
    """The same for pixels that are not compressed, where the header says that they are, or nothing."""
    syntax = uid.UID(header.file_meta.get("TransferSyntaxUID") or "")
    if not syntax or syntax not in _NATIVE and syntax in uid.UID_dictionary:
        little = header.original_encoding[1]
        header.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _conform(header, stream: dicom_codestream.Codestream) -> None:
    """Corrects what a header says of size, samples and precision by what the codestream says."""
    header.Rows, header.Columns, header.SamplesPerPixel = stream.height, stream.width, stream.components
    kind = header.PhotometricInterpretation
    if stream.components == 1 and kind not in (*GREY, PALETTE):
        header.PhotometricInterpretation = "MONOCHROME2"
    if stream.components == 3 and kind not in (*LUMA_FIRST, *COLOUR):
        luma_first = kind.startswith("YBR") if stream.space is None else stream.space == "YBR"
        header.PhotometricInterpretation = "YBR_FULL" if luma_first else "RGB"
    allocated, stored = (header.get(name, 0) for name in ("BitsAllocated", "BitsStored"))
    # Twelve bits are often stored with a precision of 16. Believed are fewer than BitsStored, and more than have room.
    if stream.precision < stored or stream.precision > allocated or not stored:
        header.BitsStored, header.HighBit = stream.precision, stream.precision - 1
        header.BitsAllocated = 8 if stream.precision <= 8 else 16
    if stream.signed is not None:
        header.PixelRepresentation = int(stream.signed)


def _complete(path: pathlib.Path, header) -> None:
    """Fills in what a header lacks and can only be one thing; raises VideoError if it lacks what decoders need."""
    kind = header.PhotometricInterpretation
    if kind not in KINDS:
        raise VideoError(f"{path}: photometric interpretation is not known; known are {', '.join(KINDS)}.")
    wrong = [name for name in ("Rows", "Columns", "BitsAllocated") if name not in header]
    if wrong:
        raise VideoError(f"{path}: the header lacks {', '.join(wrong)}, or they are no numbers; export it again.")
    if not 1 <= header.get("BitsStored", 0) <= int(header.BitsAllocated):
        header.BitsStored, header.HighBit = int(header.BitsAllocated), int(header.BitsAllocated) - 1
    if header.get("PixelRepresentation") not in (0, 1):
        header.PixelRepresentation = 0
    if "SamplesPerPixel" not in header:
        header.SamplesPerPixel = 1 if kind in (*GREY, PALETTE) else 3
    if int(header.SamplesPerPixel) > 1 and header.get("PlanarConfiguration") not in (0, 1):
        header.PlanarConfiguration = 0


def _pixel_bytes(header) -> int:
    return max(int(header.SamplesPerPixel) * int(header.BitsAllocated) // 8, 1)


def _count_native(path: pathlib.Path, header, said: int) -> int:
    """The number of frames: as many as there are, if the header says fewer.

    Raises:
      VideoError: the header seems to be wrong about the pixels, not about their number.
    """
    size = int(header.Rows) * int(header.Columns) * _pixel_bytes(header)
    there = len(header.PixelData) // max(size, 1)
    if there <= said or header.PhotometricInterpretation == "YBR_FULL_422":  # two bytes a pixel, or the header lies
        return said
    if there in [times * max(said, 1) for times in _OTHER_PIXELS]:
        raise VideoError(
            f"{path}: its pixel data are {there // max(said, 1)} times as long as its header says, so NumberOfFrames, "
            "SamplesPerPixel or BitsAllocated is wrong; export it again."
        )
    return there


def _check_pictures(path: pathlib.Path, layout: Layout, size: int) -> None:
    """Looks at what each picture says of itself: its decoder would believe that, and ask for memory accordingly.

    Args:
      size: bytes of one when decompressed, as the header has it.

    Raises:
      VideoError: there are fewer than frames, or one says that it is larger than any echocardiogram.
    """
    for number, picture in enumerate(layout.pictures or []):
        stream = dicom_codestream.parse(picture)
        sides = (stream.height, stream.width) if stream is not None else (0, 0)
        if max(sides) > video.MAX_SIDE or len(picture) > 2 * size + _CHUNK:
            raise VideoError(f"{path}: frame {number} ({sides}, {len(picture)} bytes) is too large; it is damaged.")
    if (there := len(layout.pictures or [])) < layout.count:
        raise VideoError(
            f"{path}: it holds {there} of {layout.count} frames: it is cut off (copy it again), or its header counts "
            "wrong (export it again)."
        )
