"""Reads a video container (AVI, MP4, ...) as grey frames by PyAV (FFmpeg)."""

import math
import os
import pathlib

import numpy as np

from discovr_jax.data import colour
from discovr_jax.data.io.video import MAX_SIDE, Video, VideoError, check_size

# What FFmpeg may take a file for: others of its formats are lists that have it open further files or addresses.
_CONTAINERS = "avi,mov,mp4,matroska,webm,gif"


def read_ffmpeg(path: pathlib.Path) -> Video:
    """AVI, MP4, MKV and GIF by PyAV (FFmpeg)."""
    import av

    frames: list[np.ndarray] = []
    colours: dict[int, np.ndarray] = {}
    try:
        # Absolute, because "a:b.avi" would be an address of the protocol "a".
        with av.open(
            os.fspath(path.absolute()),
            options={"max_pixels": str(MAX_SIDE**2)},
            container_options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"},
            **_lenient_metadata(av.__version__),
        ) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: the file holds no video stream.")
            stream = container.streams.video[0]
            # Videos are decoded in parallel by process; threads inside a codec would only compete with those.
            stream.codec_context.thread_count = 1
            # Without this FFmpeg conceals a damaged picture with grey blocks instead of reporting it.
            stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MAX_SIDE**2)}
            declared = stream.frames
            check_size(path, declared, stream.codec_context.height, stream.codec_context.width)
            fps = float(stream.average_rate) if stream.average_rate else math.nan
            # Matroska counts no frames, but says when it ends.
            timed = "matroska" in container.format.name and container.duration
            ends, last = (container.duration / av.time_base if timed else 0.0), 0.0
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise VideoError(f"{path}: cut off in frame {len(frames)} of {declared}; copy it again.")
                for frame in packet.decode():
                    grey, tint = _luma(frame)
                    check_size(path, len(frames) + 1, *grey.shape)
                    if frames and grey.shape != frames[0].shape:
                        raise VideoError(f"{path}: frame {len(frames)} is {grey.shape}, frame 0 is {frames[0].shape}.")
                    if tint is not None:
                        colours[len(frames)] = tint
                    frames.append(grey)
                    last = frame.time or 0.0
    except (av.error.FFmpegError, EOFError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise VideoError(f"{path}: decoding failed at frame {len(frames)} ({reason}); copy it again.") from error
    if len(frames) < declared:
        raise VideoError(
            f"{path}: {len(frames)} frames decoded, but the container declares {declared}; "
            "the file is cut off or damaged, copy it again."
        )
    if last + 2 / fps < ends:
        raise VideoError(
            f"{path}: the last of {len(frames)} frames is at {last:.2f} s, but the container declares {ends:.2f} s; "
            "the file is cut off, copy it again."
        )
    if not frames:
        return Video(np.zeros((0, 0, 0), np.uint8), fps)
    grey = np.zeros_like(frames[0])
    tints = np.stack([colours.get(number, grey) for number in range(len(frames))]) if colours else None
    return Video(np.stack(frames), fps, colour=tints)


def _lenient_metadata(version: str) -> dict[str, str]:
    """What lets `av.open` pass over titles and comments that are not UTF-8, which nobody reads.

    PyAV before 19 refuses the file unless told not to; from 19 on it keeps the bytes and knows no such argument.
    """
    return {"metadata_errors": "ignore"} if int(version.partition(".")[0]) < 19 else {}


def _luma(frame) -> tuple[np.ndarray, np.ndarray | None]:
    """The luma of a PyAV frame as uint8 [H, W] in full range, and its distance from grey (None if it is grey).

    Echo video is grey stored as colour: the Y plane is the picture itself, without a rounding through RGB.
    """
    name = frame.format.name
    if name.startswith("yuv") and frame.format.components[0].bits == 8 and len(frame.planes) == 3:
        luma, *chroma = (_plane(plane) for plane in frame.planes)
        tint = colour.of_chroma(*chroma)
        if tint is not None:
            down, across = -(-frame.height // tint.shape[0]), -(-frame.width // tint.shape[1])
            tint = tint.repeat(down, 0).repeat(across, 1)[: frame.height, : frame.width]
        full_range = name.startswith("yuvj") or int(frame.color_range) == 2  # AVCOL_RANGE_JPEG
        if full_range:
            return luma.copy(), tint
        # Luma runs from 16 to 235 here, chroma from 16 to 240.
        tint = None if tint is None else _stretch(tint, 0, 224)
        return _stretch(luma, 16, 219), tint
    if name == "gray":
        return frame.to_ndarray(), None
    rgb = frame.to_ndarray(format="rgb24")
    return colour.luma(rgb), colour.of_rgb(rgb)


def _stretch(values: np.ndarray, low: int, span: int) -> np.ndarray:
    return np.clip(np.rint((values.astype(np.float32) - low) * (255 / span)), 0, 255).astype(np.uint8)


def _plane(plane) -> np.ndarray:
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
