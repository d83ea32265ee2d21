"""Reads NumPy arrays (.npy, .npz) and NIfTI images as grey frames. Pickled objects are never loaded."""

import pathlib
import zipfile

import numpy as np

from discovr_jax.data import colour, nifti_io
from discovr_jax.data.video_io import Video, VideoError, check_size

# Names by which an .npz may call its frames, and its other entries that are read, if they are there.
FRAMES, FPS, SPACING = "frames", "fps", "spacing"


def read_npy(path: pathlib.Path) -> Video:
    """An array [T, H, W] or [T, H, W, 3] (red, green, blue); see `grey_levels` for the numbers allowed.

    Raises:
      VideoError: another shape or kind of array, or no readable file.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        _check_shape(path, array.shape)
        return _video(path, np.array(array))
    except (OSError, EOFError, SyntaxError) as error:
        raise VideoError(f"{path}: not a readable NumPy array ({type(error).__name__}).") from None
    except ValueError as error:
        raise _refused(path, error) from None


def read_npz(path: pathlib.Path) -> Video:
    """The array `frames` (or the only one there is) as `read_npy` takes it, with `fps` and `spacing` [2] in mm."""
    try:
        with zipfile.ZipFile(path) as archive:
            shapes = {name.removesuffix(".npy"): _shape(archive, name) for name in archive.namelist()}
        name = FRAMES if FRAMES in shapes else next(iter(shapes), FRAMES)
        if name not in shapes or (name != FRAMES and len(shapes) > 1):
            raise VideoError(f"{path}: holds {len(shapes)} arrays and none is called '{FRAMES}'.")
        for known in (name, FPS, SPACING):
            if np.prod(shapes.get(known, ()), dtype=float) > 2 and known != name:
                raise VideoError(f"{path}: '{known}' has shape {shapes[known]}; {FPS} is one number, {SPACING} two.")
        _check_shape(path, shapes[name])
        with np.load(path, allow_pickle=False) as arrays:
            fps = float(arrays[FPS]) if FPS in shapes else np.nan
            spacing = tuple(map(float, arrays[SPACING])) if SPACING in shapes else None
            return _video(path, arrays[name], fps, spacing)
    except (OSError, EOFError, KeyError, TypeError, SyntaxError, zipfile.BadZipFile) as error:
        raise VideoError(f"{path}: not a readable .npz file ({type(error).__name__}).") from None
    except ValueError as error:
        raise _refused(path, error) from None


def read_nifti(path: pathlib.Path) -> Video:
    """A sequence of grey pictures; see `nifti_io`."""
    frames, spacing = nifti_io.read_nifti(path)
    return Video(grey_levels(path, frames), np.nan, spacing)


def grey_levels(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
    """Numbers of any kind as grey levels: uint8 of the same shape.

    uint8 is taken as it is, other integers if they lie in 0 to 255. Floats are 0 to 1 (times 255) if none is
    above 1, else 0 to 255; they are rounded.

    Raises:
      VideoError: values below 0 or above 255, not finite, or no numbers.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iuf":
        raise VideoError(f"{path}: holds {values.dtype}; frames are uint8, other integers from 0 to 255, or floats.")
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 255:
        raise VideoError(f"{path}: values from {low} to {high}; grey levels are 0 to 255, or 0 to 1 as floats.")
    if values.dtype.kind == "f":
        values = np.rint(values * (255 if high <= 1 else 1))
    return values.astype(np.uint8)


def _video(path, values: np.ndarray, fps: float = np.nan, spacing=None) -> Video:
    frames = grey_levels(path, values)
    if frames.ndim == 3:
        return Video(frames, fps, spacing)
    return Video(np.stack([colour.luma(frame) for frame in frames]), fps, spacing, colour.of_rgb(frames))


def _check_shape(path, shape: tuple[int, ...]) -> None:
    if len(shape) not in (3, 4) or shape[3:] not in ((), (3,)) or not all(shape):
        raise VideoError(f"{path}: an array of shape {shape}; frames are [T, H, W] or [T, H, W, 3].")
    check_size(path, *shape[:3])


def _shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """Shape of an array in an .npz, from its header alone."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(file)[0]


def _refused(path, error: ValueError) -> VideoError:
    """NumPy's own words would quote the file; a VideoError passes as it is."""
    if isinstance(error, VideoError):
        return error
    return VideoError(f"{path}: damaged, or it holds Python objects, which are never loaded.")
