"""Reads a NIfTI image as frames. Of its header only shape, scaling and voxel size are used, never free text."""

import logging
import math
import pathlib
import zlib

import numpy as np

from discovr_jax.data.io.video import Video, VideoError, check_axes, check_size, grey_levels

MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
# What Python and NumPy raise for damaged files, besides nibabel's own errors.
_BAD_DATA = (ValueError, EOFError, OSError, zlib.error)
# Bytes of a file that hold its header, and bytes up to which its pixels must have begun.
_START, _MOST_OFFSET = 540, 2**20


def read_video(path: pathlib.Path) -> Video:
    """A sequence of grey pictures, as `read_nifti` has it; its frame rate is not known."""
    frames, spacing = read_nifti(path)
    check_axes(path, *frames.shape[1:], "across, down, time")
    return Video(grey_levels(path, frames), math.nan, spacing)


def read_nifti(path: pathlib.Path) -> tuple[np.ndarray, tuple[float, float]]:
    """The picture or pictures of a file, upright.

    NIfTI counts across, down, then in time, and nibabel keeps that order: [W, H], [W, H, T] or [W, H, 1, T] become
    [T, H, W], T = 1 for a single picture.

    Returns:
      Numbers [T, H, W], of the file's own type unless its header scales them, and the millimetres between rows and
      between columns (NaN if the unit is unknown to NIfTI).

    Raises:
      VideoError: no such file, or not a readable image of one grey value per pixel.
    """
    import nibabel

    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it tells how it mends headers, which is not done
    if not path.is_file():
        raise VideoError(f"{path}: no such file.")
    try:
        start = _start(path)
        _check_offset(path, start)
        image = nibabel.load(path)
        frames, height, width = math.prod(image.shape[2:]), *image.shape[1::-1]
        item, scaled = image.get_data_dtype().itemsize, (image.dataobj.slope, image.dataobj.inter) != (1, 0)
        check_size(path, frames, height, width, max(8, item) if scaled else item)
        if 0 in image.shape:
            raise VideoError(f"{path}: an image of shape {image.shape} is empty; its header is damaged, copy it again.")
        values = np.asanyarray(image.dataobj)
        across, down = _zooms(start)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, *_BAD_DATA) as error:
        if isinstance(error, VideoError):
            raise
        # Its words could quote the header.
        raise VideoError(f"{path}: not a readable NIfTI file ({type(error).__name__}); copy it again.") from None
    frames = values.reshape(*values.shape[:2], -1)
    if values.ndim < 2 or frames.shape[2] != max(values.shape[2:], default=1) or values.dtype.names:
        raise VideoError(f"{path}: an image of shape {values.shape}, {values.dtype} is no sequence of grey pictures.")
    try:
        millimetres = MILLIMETRES[image.header.get_xyzt_units()[0]]
    except KeyError:  # a code that NIfTI does not know
        millimetres = math.nan
    return np.ascontiguousarray(frames.T), (down * millimetres, across * millimetres)


def _start(path: pathlib.Path) -> bytes:
    from nibabel.openers import ImageOpener

    with ImageOpener(path) as file:
        return file.read(_START)


def _check_offset(path: pathlib.Path, start: bytes) -> None:
    """Raises VideoError if the pixels begin far into the file: nibabel reads all that lies before them."""
    for offset in _header(start, (108, "f4"), (168, "i8"), 1):  # vox_offset of NIfTI-1, and of NIfTI-2
        if not 0 <= offset <= _MOST_OFFSET:
            raise VideoError(f"{path}: its pixels begin at byte {offset}; the file is damaged, copy it again.")


def _zooms(start: bytes) -> tuple[float, float]:
    """Across and down, as the header says, without sign: nibabel would make 1 of 0. NaN if that is not known."""
    steps = [abs(float(step)) for step in _header(start, (80, "f4"), (112, "f8"), 2)]  # pixdim[1:3] of both
    return (steps[0], steps[1]) if steps else (math.nan, math.nan)


def _header(start: bytes, first: tuple[int, str], second: tuple[int, str], count: int) -> np.ndarray:
    """Numbers of the header of NIfTI-1 or NIfTI-2 at a place and of a kind, in either byte order; none if neither."""
    for size, (place, kind) in ((348, first), (540, second)):
        for order in "<>":
            if start[:4] == np.array(size, f"{order}i4").tobytes():
                return np.frombuffer(start, f"{order}{kind}", count, place)
    return np.array([])
