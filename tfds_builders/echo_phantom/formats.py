"""Writes grey frames in the formats that laboratories keep: by the suffix of the file."""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np

from tfds_builders.echo_phantom import files

SUFFIXES = (".avi", ".mp4", ".gif", ".nii.gz", ".npy", ".mkv")


def write(path: Path, frames: np.ndarray, fps: float, spacing: float) -> None:
    """Writes a clip; the same bytes at each call.

    Args:
      path: with a suffix of `SUFFIXES`. GIF keeps whole hundredths of a second per frame; NIfTI (x, y, frame) and
        NPY (frame, y, x) know of no frame rate.
      frames: uint8 [T, H, W], H and W even.
      fps: frames per second.
      spacing: mm per pixel, which NIfTI alone keeps.
    """
    suffix = next(suffix for suffix in SUFFIXES if path.name.endswith(suffix))
    if suffix == ".avi":
        path.write_bytes(files.encode_avi(frames, fps))
    elif suffix in (".mp4", ".mkv"):
        path.write_bytes(_encode_h264(frames, fps, {".mp4": "mp4", ".mkv": "matroska"}[suffix]))
    elif suffix == ".gif":
        _write_gif(path, frames, fps)
    elif suffix == ".nii.gz":
        write_nifti(path, frames.transpose(2, 1, 0), (spacing, spacing))
    else:
        np.save(path, frames)


def write_nifti(path: Path, array: np.ndarray, spacing: tuple[float, float]) -> None:
    """Writes an array [x, y] or [x, y, ...] with the mm of a pixel in x and y."""
    import nibabel

    image = nibabel.Nifti1Image(np.ascontiguousarray(array), np.diag([*spacing, 1.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _encode_h264(frames: np.ndarray, fps: float, container_format: str) -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_format, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(round(fps * 10), 10))
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        # x264's AVX-512 code gives other bytes from call to call; its plain C does not.
        stream.options = {"flags": "+bitexact", "crf": "12", "preset": "veryfast", "x264-params": "asm=0"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="gray").reformat(format="yuv420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def _write_gif(path: Path, frames: np.ndarray, fps: float) -> None:
    from PIL import Image

    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=10 * round(100 / fps), loop=0)
