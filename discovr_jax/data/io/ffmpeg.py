"""Reads a video container (AVI, MP4, MOV, ...; H.264, H.265, ...) as grey frames by PyAV (FFmpeg).

Which suffixes come here: `READERS` of `discovr_jax/data/read.py`.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from discovr_jax.data import colour
from discovr_jax.data.io import ffmpeg_containers
from discovr_jax.data.io.video import ASPECT, MAX_SIDE, Video, VideoError, check_size, is_plausible

# What FFmpeg may take a file for: others of its formats are lists that have it open further files or addresses. Those
# of the second group have no header that names their streams.
_HEADED, _HEADLESS = "avi,mov,mp4,matroska,webm,asf", "mpeg,mpegvideo,mpegts,m4v,h264,hevc"
# Containers whose header says when the video stream ends, to the frame; Matroska's is that of all streams, rounded.
_EXACT_ENDS, _ROUGH_ENDS = ("avi", "mov"), ("matroska",)


def read_ffmpeg(path: pathlib.Path) -> Video:
    """The first video stream of a file, as a player shows it."""
    # Absolute, because "a:b.avi" would be an address of the protocol "a".
    return decode(path, os.fspath(path.absolute()))


def decode(path: pathlib.Path, source: str | BinaryIO, has_alpha: bool = True) -> Video:
    """The video stream of a file, or of what a file of another kind holds, that a player shows, as it shows it.

    What an edit list leaves out is left out, the display matrix is applied, what is transparent is black. A file that
    is whole and holds fewer frames than it declares is read, flag `fewer_frames_than_declared`.

    Args:
      path: what messages call it.
      source: an absolute path, or the open content.
      has_alpha: a fourth sample of a pixel is its opacity; of a clip of which nothing is opaque it is none.

    Raises:
      VideoError: damaged, cut off, or without video.
    """
    import av

    frames: list[np.ndarray] = []
    chroma, times = colour.Colours(), []
    matrix, aspect, flags, is_seen = None, None, (), False
    try:
        with _open(source) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: the file holds no video stream.")
            # Not the first, which may be a thumbnail: FFmpeg's choice, unless another has more frames.
            best = container.streams.best("video")
            stream = max(container.streams.video, key=lambda each: (each.frames, each == best))
            if stream.codec_context is None:
                raise VideoError(f"{path}: its codec is not known to this FFmpeg; convert it, for example to H.264.")
            # Videos are decoded in parallel by process; threads inside a codec would only compete with those.
            stream.codec_context.thread_count = 1
            # Without this FFmpeg conceals a damaged picture with grey blocks instead of reporting it.
            stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MAX_SIDE**2)}
            check_size(path, 1, stream.codec_context.height, stream.codec_context.width)
            fps = float(stream.average_rate) if stream.average_rate else math.nan
            shown = 0.0
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise VideoError(f"{path}: cut off in frame {len(frames)} of {stream.frames}; copy it again.")
                if packet.pts is not None and packet.time_base:
                    shown = max(shown, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                for frame in packet.decode():
                    alpha = _alpha(frame) if has_alpha else None
                    is_seen = is_seen or alpha is None or bool(alpha.any())
                    grey = _luma(frame, alpha, chroma)
                    check_size(path, len(frames) + 1, *grey.shape)
                    if frames and grey.shape != frames[0].shape:
                        raise VideoError(f"{path}: frame {len(frames)} is {grey.shape}, frame 0 is {frames[0].shape}.")
                    if not frames:
                        matrix, aspect = _display_matrix(frame), stream.sample_aspect_ratio
                    frames.append(grey)
                    times.append(frame.time)
            if None in times:  # what FFmpeg calls the rate is then its own guess
                fps = float(stream.codec_context.framerate or math.nan)
            if frames:
                flags = _check_end(path, source, container, stream, len(frames), shown, times, fps)
    except (av.error.FFmpegError, EOFError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise VideoError(f"{path}: decoding failed at frame {len(frames)} ({reason}); copy it again.") from error
    if not frames:
        raise VideoError(f"{path}: not one frame could be decoded; the file is cut off or damaged, copy it again.")
    if not is_seen:
        return decode(path, source, has_alpha=False)
    if _looked_at(source, ffmpeg_containers.has_no_rate):
        fps, times = math.nan, [None]
    stacked = np.stack(frames)
    ratio = float(aspect) if aspect else math.nan
    return _turned(
        matrix,
        Video(
            stacked, fps, colour=chroma.distance(stacked),
            frame_times=None if None in times else np.array(times, np.float64),
            # What nobody can have meant is what old writers left in the field, not news.
            pixel_aspect=ratio if is_plausible(ratio, ASPECT) else math.nan,
            flags=flags,
        ),
    )  # fmt: skip


def _open(source: str | BinaryIO):
    """The opened container; raises PyAV's errors."""
    import av

    more = _lenient_metadata(av.__version__)
    limits = {"protocol_whitelist": "file"}
    if not isinstance(source, str):
        source.seek(0)
    try:
        headed = limits | {"format_whitelist": _HEADED}
        return av.open(source, options={"max_pixels": str(MAX_SIDE**2)}, container_options=headed, **more)
    except av.error.FFmpegError:  # not on the list, which is an error of another name in each PyAV
        if not isinstance(source, str):
            source.seek(0)
        # Without options for streams: PyAV before 18 crashes where they are not known before they are looked for.
        return av.open(source, container_options=limits | {"format_whitelist": _HEADLESS}, **more)


def _lenient_metadata(version: str) -> dict[str, str]:
    """What lets `av.open` pass over titles and comments that are not UTF-8, which nobody reads.

    PyAV before 19 refuses the file unless told not to; from 19 on it keeps the bytes and knows no such argument.
    """
    return {"metadata_errors": "ignore"} if int(version.partition(".")[0]) < 19 else {}


def _check_end(path, source, container, stream, count: int, shown: float, times: list, fps: float) -> tuple[str, ...]:
    """Raises VideoError if a container says that its video goes on after the last of `count` frames.

    Its count of frames says less: an edit list leaves some of them out. An AVI that is whole is believed to hold what
    its header counts wrong, and a flag says so.

    Args:
      shown: seconds, when the last packet ends.
      times, fps: seconds of the frames, and frames per second, as far as they are known.
    """
    name, is_cut_off = container.format.name, _looked_at(source, ffmpeg_containers.is_cut_off)
    if is_cut_off and "mov" in name:  # if it comes in fragments, nothing says how many there should be
        raise VideoError(f"{path}: the file ends before its last part does; it is cut off, copy it again.")
    interval = 1 / fps if fps > 0 else math.nan
    if any(part in name for part in _EXACT_ENDS) and stream.duration:
        ends = float((stream.duration + (stream.start_time or 0)) * stream.time_base)
        slack = 0.5 * interval
    elif any(part in name for part in _ROUGH_ENDS) and container.duration and len(container.streams) == 1:
        import av

        ends = container.duration / av.time_base
        known = [time for time in times if time is not None]
        slack = max([2 * interval, *np.diff(known)])
    else:
        return ()
    if shown + slack < ends:
        if is_cut_off is False and "avi" in name:
            return ("fewer_frames_than_declared",)
        told = stream.frames or f"{ends:.2f} s"
        raise VideoError(
            f"{path}: {count} frames decoded, but the container declares {told}, and that it ends at {ends:.2f} s, not "
            f"{shown:.2f} s; the file is cut off or damaged, copy it again."
        )
    return ()


def _looked_at(source: str | BinaryIO, function: Callable[[BinaryIO], Any]) -> Any:
    """What a function of `ffmpeg_containers` says of the content."""
    if not isinstance(source, str):
        return function(source)
    with open(source, "rb") as file:
        return function(file)


def _alpha(frame) -> np.ndarray | None:
    """The opacity of a PyAV frame, uint8 [H, W]; None if its format has none."""
    if frame.format.name != "pal8" and not any(part.is_alpha for part in frame.format.components):
        return None
    return frame.to_ndarray(format="rgba")[..., 3]


def _luma(frame, alpha: np.ndarray | None, chroma: colour.Colours) -> np.ndarray:
    """The luma of a PyAV frame as uint8 [H, W] in full range; its chroma goes to `chroma`.

    Echo video is grey stored as colour: the Y plane is the picture itself, without a rounding through RGB.
    """
    kind = frame.format
    if kind.name.startswith("yuv") and kind.components[0].bits == 8 and len(frame.planes) == 3:
        planes = [_plane(plane).copy() for plane in frame.planes]
        if not (kind.name.startswith("yuvj") or int(frame.color_range) == 2):  # AVCOL_RANGE_JPEG
            # Luma runs from 16 to 235 here, chroma from 16 to 240.
            planes = [_stretch(planes[0], 16, 219, 0), *(_stretch(plane, 128, 224, 128) for plane in planes[1:])]
        chroma.add_chroma(*planes[1:])
        return planes[0]
    if kind.name.startswith("gray"):
        chroma.add_grey()
        # The format is named only where it is to change: PyAV would stretch grey that says nothing of its range.
        return frame.to_ndarray() if kind.name == "gray" else frame.to_ndarray(format="gray")
    rgb = frame.to_ndarray(format="rgb24")
    if alpha is not None:
        rgb = ((rgb * alpha[..., None].astype(np.uint16) + 127) // 255).astype(np.uint8)
    chroma.add_rgb(rgb)
    return colour.luma(rgb)


def _stretch(values: np.ndarray, low: int, span: int, start: int) -> np.ndarray:
    """uint8, of which `span` levels from `low` on become 255 from `start` on."""
    return np.clip(np.rint((values.astype(np.float32) - low) * (255 / span) + start), 0, 255).astype(np.uint8)


def _plane(plane) -> np.ndarray:
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


def _display_matrix(frame) -> np.ndarray | None:
    """int32 [3, 3], how a player turns and mirrors the pictures; None if it does not."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return None if matrix is None else np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)


def _turned(matrix: np.ndarray | None, video: Video) -> Video:
    """The video as its display matrix shows it, to the next right angle."""
    if matrix is None or not matrix[:2, :2].any():
        return video
    (a, b), (c, d) = matrix[:2, :2].astype(float)  # x' = a x + c y, y' = b x + d y
    sideways = max(abs(b), abs(c)) > max(abs(a), abs(d))
    rows, columns = (b, c) if sideways else (d, a)

    def turn(pictures):
        if pictures is None:
            return None
        pictures = pictures.transpose(0, 2, 1) if sideways else pictures
        return np.ascontiguousarray(pictures[:, :: -1 if rows < 0 else 1, :: -1 if columns < 0 else 1])

    mirrored = a * d - b * c < 0
    return dataclasses.replace(
        video,
        frames=turn(video.frames),
        colour=turn(video.colour),
        pixel_aspect=1 / video.pixel_aspect if sideways else video.pixel_aspect,
        rotation=round(math.degrees(math.atan2(b, -a if mirrored else a)) / 90) % 4 * 90,
        flags=(*video.flags, "mirrored") if mirrored else video.flags,
    )
