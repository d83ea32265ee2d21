"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, before a decoder sees it."""

import dataclasses
import re
import struct

# Kinds of compressed pictures.
BASELINE, EXTENDED, LOSSLESS, JPEG_LS, JPEG_2000, RUN_LENGTHS, JPEG_XL = (
    "baseline JPEG", "extended JPEG", "lossless JPEG", "JPEG-LS", "JPEG 2000", "run lengths", "JPEG XL",
)  # fmt: skip
_CHUNK = 2**20  # bytes of a file in which a JPEG 2000 codestream must begin
_DCT = (0xC0, 0xC1, 0xC2)  # frames of JPEG whose colour may have been turned into YCbCr; lossless ones are as they are
_NO_FRAMES = (0xC4, 0xC8, 0xCC)  # markers among the frames' that are none
_LOSSLESS, _JPEG_LS = (0xC3, 0xC7, 0xCB, 0xCF), 0xF7
# How a stream of video begins: with a start code (MPEG-2, H.264, HEVC, program stream), as MP4, as Matroska, or with
# two packets of a transport stream, on a Blu-ray each after four bytes more.
_VIDEO = re.compile(rb"\0{2,3}\x01|.{4}ftyp|\x1a\x45\xdf\xa3|\x47.{187}\x47|.{4}\x47.{191}\x47", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Codestream:
    """The start of a codestream.

    Attributes:
      height, width, components: of the picture.
      precision: bits per sample.
      space: `RGB` or `YBR`, what the samples are when decoded without a colour transform (JPEG) or with the one that
        the stream names (JPEG 2000); None if the stream does not say.
      adobe: an Adobe marker says so, and decoders obey it.
      named_rgb: no marker but the components' names, R, G and B, say so.
      kind: `BASELINE` to `JPEG_2000`.
      signed: whether samples have a sign; None if the stream does not say, or says it of more than 8 bits, which some
        writers get wrong where the header is right.
    """

    height: int
    width: int
    components: int
    precision: int
    space: str | None = None
    adobe: bool = False
    named_rgb: bool = False
    kind: str = JPEG_2000
    signed: bool | None = None


def kind_of(data: bytes) -> str | None:
    """What a compressed picture is by its first bytes; None if it begins as none does."""
    if data[:3] == b"\xff\xd8\xff":
        stream = parse(data)
        return BASELINE if stream is None else stream.kind
    if data[:4] == b"\xff\x4f\xff\x51" or data[4:12] == b"jP  \r\n\x87\n":
        return JPEG_2000
    if data[:2] == b"\xff\x0a" or data[4:12] == b"JXL \r\n\x87\n":
        return JPEG_XL
    # The number of segments, up to 15, and where the first begins: after this header of 64 bytes (PS3.5 G.5).
    if len(data) >= 64 and 1 <= int.from_bytes(data[:4], "little") <= 15 and data[4:8] == b"\x40\0\0\0":
        return RUN_LENGTHS
    return None


def begins_video(data: bytes) -> bool:
    """Whether data begin as a stream of video does, and not as a table of offsets, whose first four bytes are zeros."""
    return _VIDEO.match(data) is not None


def parse(data: bytes) -> Codestream | None:
    """The start of a codestream; None if it is none of those three, or ends before its size is known."""
    start = data.find(b"\xff\x4f\xff\x51", 0, _CHUNK)
    try:
        if start >= 0:
            return _jpeg_2000(data, start)
        return _jpeg(data) if data[:2] == b"\xff\xd8" else None
    except struct.error:
        return None


def _jpeg_2000(data: bytes, start: int) -> Codestream:
    width, height, left, top = struct.unpack_from(">IIII", data, start + 8)
    (components,) = struct.unpack_from(">H", data, start + 40)
    (precision,) = struct.unpack_from(">B", data, start + 42)
    place, transformed = start + 2, False
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] not in (b"\x90", b""):
        if data[place + 1] == 0x52:  # coding style: its last byte but the wavelets' says whether colour was transformed
            transformed = struct.unpack_from(">B", data, place + 8)[0] == 1
            break
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    space = "RGB" if transformed and components == 3 else None
    # The picture's size is what lies between its offset and the far edge; never more than the edge says.
    signed = None if precision & 0x7F > 7 else bool(precision & 0x80)
    size = max(height - top, 0), max(width - left, 0)
    return Codestream(*size, components, (precision & 0x7F) + 1, space, signed=signed)


def _jpeg(data: bytes) -> Codestream | None:
    place, jfif, adobe = 2, False, None
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES or marker == _JPEG_LS:
            return _jpeg_frame(data, place, marker, jfif, adobe)
        if marker == 0xE0:
            jfif = jfif or data[place + 4 : place + 8] == b"JFIF"
        elif marker == 0xEE and data[place + 4 : place + 9] == b"Adobe" and length >= 14:
            (adobe,) = struct.unpack_from(">B", data, place + 15)
        # Padding, or a segment that is passed over.
        place += 1 if marker == 0xFF else 2 + length
    return None


def _jpeg_frame(data: bytes, place: int, marker: int, jfif: bool, adobe: int | None) -> Codestream:
    precision, height, width, components = struct.unpack_from(">BHHB", data, place + 4)
    signed = None
    if marker == _JPEG_LS or marker in _LOSSLESS:
        kind = JPEG_LS if marker == _JPEG_LS else LOSSLESS
    else:
        kind = BASELINE if precision <= 8 else EXTENDED
        signed = False if precision <= 8 else None  # samples are shifted before the transform: they have no sign
    if components != 3 or marker not in _DCT:
        return Codestream(height, width, components, precision, kind=kind, signed=signed)
    parts = struct.unpack_from(">BBxBBxBBx", data, place + 10)
    names, sampling = parts[::2], parts[1::2]
    named_rgb = bytes(names).upper() == b"RGB"
    space = None
    if jfif:
        space = "YBR"
    elif adobe is not None:
        space = "YBR" if adobe else "RGB"
    elif named_rgb:
        space = "RGB"
    elif sampling[0] != sampling[1]:  # nobody subsamples green
        space = "YBR"
    return Codestream(
        height, width, components, precision, space,
        adobe=adobe is not None, named_rgb=named_rgb and not jfif and adobe is None, kind=kind, signed=signed,
    )  # fmt: skip
