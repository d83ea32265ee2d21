"""Reads a video file as grey frames. `READERS` is the one table of the suffixes read; DICOM goes by its content too."""

import os
import pathlib
from collections.abc import Callable

import numpy as np

from discovr_jax.data import contents
from discovr_jax.data.io.video import NotAClip, Video, VideoError

# A clip whose pixels change over time by less than the first on average, and of which not one in a thousand changes by
# the second, is one picture, repeated: coding it again changes grey levels by so much, and a heart, a lung or noise by
# more. So many frames are looked at, evenly spaced, and of large ones every other pixel or fewer.
_STILL, _STILL_ANYWHERE, _FRAMES, _SIDE = 0.5, 8.0, 16, 512
# Pixels darker than this are background, which does not change anyway.
_BACKGROUND = 16


def read_video(path: str | os.PathLike) -> Video:
    """Decodes a whole video to grey.

    Raises:
      NotAClip: it is sound, but no moving B-mode picture; see there.
      VideoError: naming the file and what is wrong with it.

    >>> import numpy as np
    >>> moving = np.stack([np.full((32, 32), 10 * t, np.uint8) for t in range(8)])
    >>> np.save("clip.npy", moving)
    >>> video = read_video("clip.npy")  # or .avi, .mp4, .mov, .dcm, .nii.gz, ...: see READERS
    >>> video.frames.shape, video.frames.dtype, video.fps
    ((8, 32, 32), dtype('uint8'), nan)
    """
    path = pathlib.Path(path)
    _check_file(path)
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
    except (NotAClip, MemoryError):
        raise
    except VideoError:
        if content := contents.told(path, _CONTAINERS if kind in _CONTAINERS else (kind,)):
            raise VideoError(f"{path}: not a readable {kind} file; {content}.") from None
        raise
    except ImportError as error:
        package = error.name or "of those that setup.py names"
        raise VideoError(f"{path}: reading {kind} needs a package that cannot be imported: {package}.") from None
    except Exception as error:  # its words, and the traceback, could quote the file
        raise VideoError(
            f"{path}: an error inside the program, not a known sign of damage ({_place(error)}). If other {kind} files "
            "are read, this one is unusual: please report it, without the file."
        ) from None
    if len(video.frames) < 2:
        raise NotAClip(f"{path}: {len(video.frames)} frame(s), a still; a video needs at least 2.")
    if video.frames.max() < _BACKGROUND:
        raise NotAClip(f"{path}: a still, all black: no grey level of it is above {video.frames.max()} of 255.")
    if is_still(video.frames, video.region):
        raise NotAClip(f"{path}: a still, repeated {len(video.frames)} times: nothing in its picture moves.")
    return video


def _check_file(path: pathlib.Path) -> None:
    """Raises VideoError if there is no file that may be opened."""
    if os.path.isfile(path):  # pathlib's raises errors for names that no file can have
        try:
            open(path, "rb").close()
        except OSError as error:
            raise VideoError(f"{path}: it cannot be opened ({error.strerror}).") from None
    elif os.path.islink(path):
        raise VideoError(f"{path}: a link to a file that is not there; fetch what it points at.")
    else:
        raise VideoError(f"{path}: {'no ordinary file' if os.path.lexists(path) else 'no such file'}.")


def read_still(path: pathlib.Path) -> Video:
    """A single picture (.png), which `read_video` refuses, as a video of one frame: for datasets of stills.

    Raises:
      VideoError: naming the file and what is wrong with it.
    """
    from discovr_jax.data.io import stills

    return stills.read_still(path)


def study_of(path: pathlib.Path) -> str:
    """What a DICOM file calls its study; "" if it does not say, and of all other files."""
    if format_of(path) != ".dcm":
        return ""
    from discovr_jax.data.io import dicom

    return dicom.read_study(path)


def dicom_source(path: pathlib.Path):
    """`data.io.dicom_source.Source` of a DICOM file: whose it is, by name. Raises VideoError."""
    from discovr_jax.data.io import dicom_source

    return dicom_source.read_source(path)


def is_still(frames: np.ndarray, region: tuple[int, int, int, int] | None = None) -> bool:
    """Whether the pixels of the picture that are not black have hardly any standard deviation over time.

    Args:
      frames: uint8 [T, H, W]; region: of the picture, see `Video`.
    """
    top, left, bottom, right = region or (0, 0, *frames.shape[1:])
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), _FRAMES)).round().astype(int)
    step = -(-max(bottom - top, right - left) // _SIDE)
    frames = frames[chosen, top:bottom:step, left:right:step]
    lit = frames.max(0) >= _BACKGROUND
    if not lit.any():
        return True
    change = frames[:, lit].std(0, dtype=np.float32)
    return bool(change.mean() < _STILL and np.quantile(change, 0.999) < _STILL_ANYWHERE)


def _place(error: BaseException) -> str:
    """Kind and place of an error, without its words: those could quote the file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    file = pathlib.Path(trace.tb_frame.f_code.co_filename)
    return f"{type(error).__name__} at {file.parent.name}/{file.name}:{trace.tb_lineno}"


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
    from discovr_jax.data.io import ffmpeg, gif

    return gif.read_gif(path) if gif.is_gif(path) else ffmpeg.read_ffmpeg(path)


def _read_dicom(path: pathlib.Path) -> Video:
    from discovr_jax.data.io import dicom, ffmpeg

    return dicom.read_dicom(path, ffmpeg.decode)


def _read_array(path: pathlib.Path) -> Video:
    from discovr_jax.data.io import arrays

    return arrays.read_npy(path) if path.suffix.lower() == ".npy" else arrays.read_npz(path)


def _read_nifti(path: pathlib.Path) -> Video:
    from discovr_jax.data.io import nifti

    return nifti.read_video(path)


# FFmpeg goes by the content: the suffix is only one of these.
_CONTAINERS = (".avi", ".mp4", ".m4v", ".mov", ".mpg", ".mpeg", ".wmv", ".mkv", ".webm", ".gif")
READERS: dict[str, Callable[[pathlib.Path], Video]] = {
    **dict.fromkeys(_CONTAINERS, _read_ffmpeg),
    **dict.fromkeys((".npy", ".npz"), _read_array),
    **dict.fromkeys((".nii", ".nii.gz"), _read_nifti),
    ".dcm": _read_dicom,
}
