"""Reads a video file as grey frames. `READERS` is the one table of the suffixes read; DICOM goes by its content too."""

import os
import pathlib
from collections.abc import Callable

from discovr_jax.data.io.video import NotAClip, Video, VideoError


def read_video(path: str | os.PathLike) -> Video:
    """Decodes a whole video to grey.

    Raises:
      VideoError: naming the file and what is wrong with it.
    """
    path = pathlib.Path(path)
    if not os.path.isfile(path):  # pathlib's raises errors for names that no file can have
        raise VideoError(f"{path}: no such file.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes); download or copy it again.")
    kind = format_of(path)
    if kind is None:
        raise VideoError(
            f"{path}: its format is not known; known are {', '.join(sorted(READERS))}, "
            "and DICOM of any name."
        )
    try:
        video = READERS[kind](path)
    except (VideoError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of many kinds, whose words could quote the file
        raise VideoError(f"{path}: not a readable {kind} file ({type(error).__name__}); copy it again.") from None
    if len(video.frames) < 2:
        raise NotAClip(f"{path}: {len(video.frames)} frame(s), a still; a video needs at least 2.")
    return video


def format_of(path: pathlib.Path) -> str | None:
    """The suffix in `READERS` that a file goes by: its own, or ".dcm" if it begins as DICOM does; else None."""
    for suffix in (path.suffix.lower(), "".join(path.suffixes[-2:]).lower()):
        if suffix in READERS:
            return suffix
    return ".dcm" if os.path.isfile(path) and _is_dicom(path) else None


def _is_dicom(path: pathlib.Path) -> bool:
    """Whether a file begins as DICOM does; archives often have no suffix, or a number for one."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_ffmpeg(path: pathlib.Path) -> Video:
    from discovr_jax.data.io import ffmpeg

    return ffmpeg.read_ffmpeg(path)


def _read_dicom(path: pathlib.Path) -> Video:
    from discovr_jax.data.io import dicom

    return dicom.read_dicom(path)


def _read_array(path: pathlib.Path) -> Video:
    from discovr_jax.data.io import arrays

    return arrays.read_npy(path) if path.suffix.lower() == ".npy" else arrays.read_npz(path)


def _read_nifti(path: pathlib.Path) -> Video:
    from discovr_jax.data.io import nifti

    return nifti.read_video(path)


READERS: dict[str, Callable[[pathlib.Path], Video]] = {
    **dict.fromkeys((".avi", ".mp4", ".mkv", ".gif"), _read_ffmpeg),
    **dict.fromkeys((".npy", ".npz"), _read_array),
    **dict.fromkeys((".nii", ".nii.gz"), _read_nifti),
    ".dcm": _read_dicom,
}
