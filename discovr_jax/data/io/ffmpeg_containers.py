"""What the structure of an AVI or MP4 file says that FFmpeg does not tell: where it ends, and if it has a rate."""

import os
import struct
from typing import BinaryIO

_BOXES = (b"mdat", b"moof", b"moov")  # of MP4, without which frames are missing
_CLOSED = 2**32 - 1
_HEADER = 2**16  # bytes of an AVI in which the headers of its streams lie


def is_cut_off(file: BinaryIO) -> bool | None:
    """Of an AVI, or of an MP4 or QuickTime file; None for others, and where a recording was never closed."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(12)
    if start[:4] == b"RIFF":
        return _is_riff_cut_off(file, size)
    return _is_mp4_cut_off(file, size) if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") else None


def has_no_rate(file: BinaryIO) -> bool:
    """Whether the headers of an AVI leave out how long a frame lasts: FFmpeg would say 25 per second."""
    file.seek(0)
    start = file.read(_HEADER)
    stream, main = start.find(b"strh"), start.find(b"avih")
    while stream >= 0 and start[stream + 8 : stream + 12] != b"vids":
        stream = start.find(b"strh", stream + 4)
    if start[8:12] != b"AVI " or min(stream, main) < 0 or stream + 36 > len(start):
        return False
    scale, rate = struct.unpack_from("<II", start, stream + 28)
    return not (scale and rate) and start[main + 8 : main + 12] == bytes(4)  # microseconds of a frame


def _is_riff_cut_off(file: BinaryIO, size: int) -> bool | None:
    place = 0
    while place + 12 <= size:
        file.seek(place)
        start = file.read(8)
        length = int.from_bytes(start[4:], "little")
        if start[:4] != b"RIFF":
            break  # what follows the last part is none
        if length in (0, _CLOSED):
            return None
        place += 8 + length + length % 2
    return place > size + 8 + 1  # some writers count the eight bytes before, and leave out a last odd one


def _is_mp4_cut_off(file: BinaryIO, size: int) -> bool:
    place = 0
    while place + 8 <= size:
        file.seek(place)
        start = file.read(16)
        length, kind = int.from_bytes(start[:4], "big"), start[4:8]
        if length == 1:
            length = int.from_bytes(start[8:], "big")
        if length < 8 or not kind.isalnum():  # 0: as long as the file
            break
        if place + length > size:
            return kind in _BOXES
        place += length
    return False
