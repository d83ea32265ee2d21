"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, before a decoder sees it."""

import dataclasses
import struct

_CHUNK = 2**20  # bytes of a file in which a JPEG 2000 codestream must begin
_DCT = (0xC0, 0xC1, 0xC2)  # frames of JPEG whose colour may have been turned into YCbCr; lossless ones are as they are
_NO_FRAMES = (0xC4, 0xC8, 0xCC)  # markers among the frames' that are none


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
    """

    height: int
    width: int
    components: int
    precision: int
    space: str | None = None
    adobe: bool = False
    named_rgb: bool = False


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
    return Codestream(max(height - top, 0), max(width - left, 0), components, (precision & 0x7F) + 1, space)


def _jpeg(data: bytes) -> Codestream | None:
    place, jfif, adobe = 2, False, None
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES or marker == 0xF7:
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
    if components != 3 or marker not in _DCT:
        return Codestream(height, width, components, precision)
    names, sampling = zip(*struct.iter_unpack(">BBx", data[place + 10 : place + 19]), strict=True)
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
        adobe=adobe is not None, named_rgb=named_rgb and not jfif and adobe is None,
    )  # fmt: skip
