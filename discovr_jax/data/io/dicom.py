"""Reads a multi-frame DICOM object as grey frames. Of its header only the tags in `TAGS` are read.

So nothing that names a patient enters the process, and no error message can repeat it. What is needed to decode the
pixels must be right; all else is optional: a value that cannot be read is unknown, and never costs the pixels.
"""

import contextlib
import dataclasses
import io
import logging
import math
import mmap
import pathlib
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

from discovr_jax.data.io import dicom_pixels, dicom_values, video
from discovr_jax.data.io.video import NotAClip, Video, VideoError

TAGS = ("SOPClassUID", *dicom_pixels.TAGS, *dicom_values.TAGS)
# Transfer syntaxes whose pixels are one stream of video: MPEG-2, MPEG-4 AVC, HEVC, each also in fragments.
_VIDEO = tuple(f"1.2.840.10008.1.2.4.{number}" for number in range(100, 109))
# SOP classes that hold ultrasound clips: multi-frame (also the retired one), secondary capture, video photography.
_CLIPS = tuple(f"1.2.840.10008.5.1.4.1.1.{number}" for number in (3, 6, 7, "77.1.1.1", "77.1.2.1", "77.1.4.1"))
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_VOLUME = "1.2.840.10008.5.1.4.1.1.6.2"
# Value representations whose length takes four bytes.
_WIDE = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_CHUNK = 2**20  # bytes
# What pydicom raises for files that are damaged or no DICOM.
_BAD_DATA = (
    InvalidDicomError, BytesLengthException, ValueError, KeyError, EOFError, OSError, NotImplementedError,
    struct.error, zlib.error,
)  # fmt: skip


def read_dicom(path: pathlib.Path, decode_video: Callable[[pathlib.Path, BinaryIO], Video]) -> Video:
    """Decode all frames of an object to luma.

    Grey goes through the object's modality and VOI look-up (rescale, window); MONOCHROME1 is inverted; YBR gives its Y
    as it is stored. The picture's place on the screen and its spacing are those of the largest two-dimensional
    ultrasound region. Where one is of colour flow, `colour_doppler` is among the flags, also of frames without colour.
    A stream of video that holds fewer frames than the header counts has the flag `fewer_frames_than_declared`.

    Args:
      decode_video: (path, content) decodes a stream of video, for objects that hold one.

    Raises:
      NotAClip: a still, or no B-mode picture: a spectrum, M-mode, a volume, a report.
      VideoError: no DICOM, no pixels, a photometric interpretation that is not known, or damaged.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # what it logs, like its warnings, quotes values
    with warnings.catch_warnings(action="ignore"):
        with _mapped(path) as content:
            _check_deflated(path, content)
            header = _parsed(path, content)
        _check_class(path, header)
        if str(header.file_meta.get("TransferSyntaxUID")).startswith(_VIDEO):
            clip = decode_video(path, io.BytesIO(dicom_pixels.video_stream(path, header)))
            said = (dicom_values.numbers(header, "NumberOfFrames") or [0])[0]
            if len(clip.frames) < said:
                clip = dataclasses.replace(clip, flags=(*clip.flags, "fewer_frames_than_declared"))
        else:
            frames, tint, flags = dicom_pixels.decode(path, header)
            times = dicom_values.frame_times(header, len(frames))
            clip = Video(frames, colour=tint, frame_times=times, flags=flags)
        spacing, region = dicom_values.geometry(header, *clip.frames.shape[1:])
        return dataclasses.replace(
            clip,
            fps=dicom_values.frames_per_second(header) if math.isnan(clip.fps) else clip.fps,
            pixel_spacing=spacing,
            pixel_aspect=dicom_values.aspect(header) if math.isnan(clip.pixel_aspect) else clip.pixel_aspect,
            region=region,
            flags=(*clip.flags, *(("colour_doppler",) if dicom_values.shows_flow(header) else ())),
        )


def read_study(path: pathlib.Path) -> str:
    """The StudyInstanceUID of an object, "" if it cannot be read. It names a study: never write it anywhere."""
    with warnings.catch_warnings(action="ignore"):
        try:
            with _mapped(path) as content:
                _check_deflated(path, content)
                header = pydicom.dcmread(
                    content, stop_before_pixels=True, specific_tags=["StudyInstanceUID"], force=_is_bare(content)
                )
            return str(header.get("StudyInstanceUID") or "")
        except Exception:  # the study is optional: whatever is wrong with it, the pixels may be sound
            return ""


@contextlib.contextmanager
def _damage_told(path: pathlib.Path) -> Iterator[None]:
    """Raises VideoError for what libraries raise of damaged files; no code of ours belongs inside."""
    try:
        yield
    except _BAD_DATA as error:
        remedy = "copy it again"
        if isinstance(error, InvalidDicomError):
            remedy = "rename it if it is of another format, else copy it again"
        raise VideoError(f"{path}: not a readable DICOM file ({type(error).__name__}); {remedy}.") from None


def _mapped(path: pathlib.Path) -> mmap.mmap:
    """A file's content. Asked for the gigabytes that a damaged length says, a file would first make room for them."""
    with _damage_told(path), open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _parsed(path: pathlib.Path, content: mmap.mmap) -> pydicom.Dataset:
    """The header, with those of `TAGS` that are there."""
    is_bare = _is_bare(content)
    with _damage_told(path):
        header = pydicom.dcmread(content, specific_tags=list(TAGS), force=is_bare)
        header.ensure_file_meta()
        header.get("PixelData")  # which pydicom makes of the file's bytes when it is first asked for it
    return header


def _check_class(path: pathlib.Path, header) -> None:
    """Raises NotAClip if an object is not of a kind that holds B-mode clips."""
    from pydicom import uid

    texts = dicom_values.text(header, "SOPClassUID"), dicom_values.text(header.file_meta, "MediaStorageSOPClassUID")
    name = uid.UID(texts[0] or texts[1])
    clip = any(name == known or name.startswith(f"{known}.") for known in _CLIPS)
    if name == _VOLUME:
        raise NotAClip(f"{path}: a three-dimensional volume, no clip of a plane.")
    # The name of a class that the standard knows holds no text of the file's own.
    if name in uid.UID_dictionary and not clip:
        raise NotAClip(f"{path}: of the class '{name.name}', which holds no ultrasound clips.")
    shown = dicom_values.no_picture(header)
    if shown is not None:
        raise NotAClip(f"{path}: its regions show {shown}, and no B-mode picture.")
    if not header.get("PixelData"):
        if name and not clip:
            raise NotAClip(f"{path}: of a maker's own class, without pixel data that the standard knows.")
        remedy = "export it again, with its pixel data" if name else "and does not say what it is: copy it again"
        raise VideoError(f"{path}: the object holds no pixels; {remedy}.")


def _is_bare(content) -> bool:
    """Whether a file begins with its first element (of group 2 or 8), as some do that lack preamble and "DICM"."""
    return content[128:132] != b"DICM" and content[:2] in (b"\x02\x00", b"\x08\x00") and content[3:4] == b"\x00"


def _check_deflated(path: pathlib.Path, content) -> None:
    """Raises VideoError if a deflated file inflates to more than any echocardiogram has: pydicom reads it whole.

    Args:
      content: of the file, as bytes.
    """
    place, syntax = _meta(content)
    if syntax != _DEFLATED:
        return
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while not inflate.eof:
        data = inflate.unconsumed_tail or content[place : place + _CHUNK]
        place += 0 if inflate.unconsumed_tail else len(data)
        if not data:
            break
        with _damage_told(path):
            total += len(inflate.decompress(data, _CHUNK))
        if total > video.MAX_BYTES:
            raise VideoError(f"{path}: more than {video.MAX_BYTES} bytes when inflated; this is no echocardiogram.")


def _meta(content) -> tuple[int, bytes]:
    """Where group 2 ends, which is in explicit VR little endian whatever follows (PS3.10, 7.1), and its syntax."""
    place, syntax = 132 if content[128:132] == b"DICM" else 0, b""
    while content[place : place + 2] == b"\x02\x00":
        wide = content[place + 4 : place + 6] in _WIDE
        start = place + (12 if wide else 8)
        end = start + int.from_bytes(content[place + 8 : start] if wide else content[place + 6 : start], "little")
        if content[place + 2 : place + 4] == b"\x10\x00":
            syntax = content[start:end].rstrip(b"\0 ")
        place = end
    return place, syntax
