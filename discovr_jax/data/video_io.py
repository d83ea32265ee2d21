"""Reads a video file as grey frames. Formats are looked up by suffix in `READERS`."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable

import numpy as np


class VideoError(ValueError):
    """A video that cannot be used: missing, empty, damaged, cut off, of one frame, or of unknown format."""


@dataclasses.dataclass(frozen=True)
class Video:
    """Decoded frames.

    Attributes:
      frames: uint8 [T, H, W], grey, full range 0-255.
      fps: frames per second as the container says; NaN if it does not.
      spacing: millimetres a pixel, row then column; None if the file does not say.
      colour: uint8 [T, H, W], distance from grey (largest less smallest of R, G, B); None for grey pictures.
      region: top, left, bottom, right (exclusive) of the picture on the screen; None if the file does not say.
    """

    frames: np.ndarray
    fps: float
    spacing: tuple[float, float] | None = None
    colour: np.ndarray | None = None
    region: tuple[int, int, int, int] | None = None


def read_video(path: str | os.PathLike) -> Video:
    """Decodes a whole video to grey.

    Raises:
      VideoError: naming the file and what is wrong with it.
    """
    path = pathlib.Path(path)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise VideoError(
            f"{path}: format '{path.suffix}' is not known; known are {', '.join(sorted(READERS))}."
        )
    if not path.is_file():
        raise VideoError(f"{path}: no such file.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes); download or copy it again.")
    video = read(path)
    if len(video.frames) < 2:
        raise VideoError(f"{path}: {len(video.frames)} frame(s) decoded; a video needs at least 2.")
    return video


def _read_av(path: pathlib.Path) -> Video:
    """AVI and MP4 by PyAV (FFmpeg)."""
    import av

    frames: list[np.ndarray] = []
    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: the file holds no video stream.")
            stream = container.streams.video[0]
            # Videos are decoded in parallel by process; threads inside a codec would only compete with those.
            stream.codec_context.thread_count = 1
            # Without this FFmpeg conceals a damaged picture with grey blocks instead of reporting it.
            stream.codec_context.options = {"err_detect": "explode"}
            declared = stream.frames
            fps = float(stream.average_rate) if stream.average_rate else math.nan
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise VideoError(f"{path}: cut off in frame {len(frames)} of {declared}; copy it again.")
                for frame in packet.decode():
                    grey = _luma(frame)
                    if frames and grey.shape != frames[0].shape:
                        raise VideoError(
                            f"{path}: frame {len(frames)} is {grey.shape}, frame 0 is {frames[0].shape}."
                        )
                    frames.append(grey)
    except (av.error.FFmpegError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(
            f"{path}: decoding failed at frame {len(frames)} ({reason}); copy it again."
        ) from error
    if len(frames) < declared:
        raise VideoError(
            f"{path}: {len(frames)} frames decoded, but the container declares {declared}; "
            "the file is cut off or damaged, copy it again."
        )
    return Video(np.stack(frames) if frames else np.zeros((0, 0, 0), np.uint8), fps)


def _luma(frame) -> np.ndarray:
    """The luma of a PyAV frame as uint8 [H, W] in full range.

    Echo video is grey stored as colour: the Y plane is the picture itself, without a rounding through RGB.
    """
    name = frame.format.name
    if name.startswith("yuv") and frame.format.components[0].bits == 8 and len(frame.planes) == 3:
        plane = frame.planes[0]
        luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
        full_range = name.startswith("yuvj") or int(frame.color_range) == 2  # AVCOL_RANGE_JPEG
        if full_range:
            return luma.copy()
        return np.clip(np.rint((luma.astype(np.float32) - 16) * (255 / 219)), 0, 255).astype(np.uint8)
    if name == "gray":
        return frame.to_ndarray()
    rgb = frame.to_ndarray(format="rgb24").astype(np.float32)
    return np.rint(rgb @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)


def _read_dicom(path: pathlib.Path) -> Video:
    from discovr_jax.data import dicom_io

    return dicom_io.read_dicom(path)


READERS: dict[str, Callable[[pathlib.Path], Video]] = {
    ".avi": _read_av,
    ".mp4": _read_av,
    ".dcm": _read_dicom,
}
