"""Reads NumPy arrays (.npy, .npz) as grey frames. Pickled objects are never loaded."""

import contextlib
import io
import math
import pathlib
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from discovr_jax.data import colour
from discovr_jax.data.io.video import Video, VideoError, check_axes, check_size, grey_levels

# Names by which an .npz may call its frames, and its other entries that are read, if they are there.
FRAMES, FPS, SPACING = "frames", "fps", "spacing"
# What NumPy and zipfile raise for damaged files, and the last two for another method of packing and for a password.
_BAD_DATA = (
    ValueError, EOFError, OSError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
    NotImplementedError, RuntimeError,
)  # fmt: skip
_HEADER = 2**14  # bytes that hold the header of any array of numbers


def read_npy(path: pathlib.Path) -> Video:
    """An array [T, H, W] or [T, H, W, 3] (red, green, blue); see `video.grey_levels` for the numbers allowed.

    Raises:
      VideoError: another shape or kind of array, or no readable file.
    """
    with open(path, "rb") as file:
        return _video(path, _read(path, file, _check_frames))


def read_npz(path: pathlib.Path) -> Video:
    """The array `frames` (or the only one there is) as `read_npy` takes it, with `fps` and `spacing` [2] in mm.

    NaN, what no echocardiogram can have, and what is no such number, is unknown.
    """
    with _damage_told(path, ".npz file"):
        archive = zipfile.ZipFile(path)
    with archive:
        # Of two members of one name only one would be looked at.
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        name = FRAMES if FRAMES in members else next(iter(members), FRAMES)
        if name not in members or (name != FRAMES and len(members) > 1):
            raise VideoError(f"{path}: holds {len(members)} arrays and none is called '{FRAMES}'.")

        def read(key: str, check: Callable) -> np.ndarray:
            with _damage_told(path, ".npz file"):
                file = archive.open(members[key])
            with file:
                return _read(path, file, check)

        def numbers(key: str, count: int) -> list[float]:
            if key not in members:
                return [math.nan] * count

            def check(path, shape, dtype):
                if math.prod(shape) != count or min(shape, default=0) < 0 or dtype.kind not in "iuf":
                    raise VideoError(f"{path}: '{key}' is {dtype} {shape}; {FPS} is one number, {SPACING} two.")

            try:
                return [float(value) for value in read(key, check).ravel()]
            except VideoError:  # it is optional, and costs no frames: `Video` takes this as unknown, and flags it
                return [math.inf] * count

        (fps,), spacing = numbers(FPS, 1), numbers(SPACING, 2)
        return _video(path, read(name, _check_frames), fps, spacing)


def _video(path, values: np.ndarray, fps: float = math.nan, spacing=(math.nan, math.nan)) -> Video:
    levels, chroma = grey_levels(path, values), colour.Colours()
    if levels.ndim == 3:
        return Video(levels, fps, spacing)
    frames = np.stack([colour.luma(frame) for frame in levels])
    for frame in levels:
        chroma.add_rgb(frame)
    return Video(frames, fps, spacing, chroma.distance(frames))


def _check_frames(path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) not in (3, 4) or shape[3:] not in ((), (3,)) or not all(shape):
        raise VideoError(f"{path}: an array of shape {shape}; frames are [T, H, W] or [T, H, W, 3].")
    check_size(path, *shape[:3], math.prod(shape[3:]) * dtype.itemsize)
    check_axes(path, shape[1], shape[2], "[T, H, W]")


def _read(path, file, check: Callable[[pathlib.Path, tuple[int, ...], np.dtype], None]) -> np.ndarray:
    """An array from a file of NumPy's format, after `check` of what its header says it is."""
    # The header says how long it is; no more than this is read for it (an archive's member could go on for ever).
    with _damage_told(path, "NumPy array"):
        start = io.BytesIO(file.read(_HEADER))
        version = np.lib.format.read_magic(start)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, order, dtype = read(start)
    if dtype.hasobject:
        raise VideoError(f"{path}: it holds Python objects, which are never loaded.")
    check(path, shape, dtype)
    values = np.empty(math.prod(shape), dtype)
    raw = memoryview(values.view(np.uint8))
    with _damage_told(path, "NumPy array"):
        result = start.readinto(raw)
        result += file.readinto(raw[result:])
    if result < len(raw):
        raise VideoError(f"{path}: cut off, {result} of {len(raw)} bytes; copy it again.")
    return values.reshape(shape, order="F" if order else "C")


@contextlib.contextmanager
def _damage_told(path: pathlib.Path, what: str) -> Iterator[None]:
    """Raises VideoError for what NumPy and zipfile raise; no code of ours belongs inside."""
    try:
        yield
    except _BAD_DATA as error:  # their own words would quote the file
        raise VideoError(f"{path}: not a readable {what} ({type(error).__name__}).") from None
