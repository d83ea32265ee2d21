"""Reads a NIfTI image as frames. Of its header only shape, scaling and voxel size are used, never free text."""

import math
import pathlib
import zlib

import numpy as np

from discovr_jax.data.video_io import VideoError, check_size

MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def read_nifti(path: pathlib.Path) -> tuple[np.ndarray, tuple[float, float]]:
    """The picture or pictures of a file, upright.

    NIfTI counts across, down, then in time, and nibabel keeps that order: [W, H], [W, H, T] or [W, H, 1, T] become
    [T, H, W], T = 1 for a single picture.

    Returns:
      Numbers [T, H, W], of the file's own type unless its header scales them, and the millimetres between rows and
      between columns.

    Raises:
      VideoError: no such file, or not a readable image of one grey value a pixel.
    """
    import nibabel

    if not path.is_file():
        raise VideoError(f"{path}: no such file.")
    try:
        image = nibabel.load(path)
        check_size(path, math.prod(image.shape[2:]), *image.shape[1::-1])
        values = np.asanyarray(image.dataobj)
        across, down = (float(step) for step in image.header.get_zooms()[:2])
        unit = image.header.get_xyzt_units()[0]
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise VideoError(f"{path}: not a readable NIfTI file ({type(error).__name__}); copy it again.") from error
    frames = values.reshape(*values.shape[:2], -1)
    if values.ndim < 2 or frames.shape[2] != max(values.shape[2:], default=1) or values.dtype.names:
        raise VideoError(f"{path}: an image of shape {values.shape}, {values.dtype} is no sequence of grey pictures.")
    millimetres = MILLIMETRES[unit]
    return np.ascontiguousarray(frames.T), (down * millimetres, across * millimetres)
