"""Size and speed of lossless codecs for the frames of records."""

import argparse
import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np

_REPEATS = 10  # the fastest of them counts: what makes the others slower is other work of the machine


@dataclasses.dataclass(frozen=True)
class Codec:
    """A lossless compression of single frames.

    Attributes:
      name: as printed.
      encode: uint8 [T, H, W] -> T byte strings.
      decode: (byte strings, H, W) -> uint8 [T, H, W].
    """

    name: str
    encode: Callable[[np.ndarray], list[bytes]]
    decode: Callable[[Sequence[bytes], int, int], np.ndarray]


def codecs() -> list[Codec]:
    """The codecs compared; the first is the one of the records."""
    from discovr_jax.data import records

    return [Codec("LZ4 (records)", records.encode_frames, records.decode_frames), *map(_zstd, (1, 3)), _png()]


def _zstd(level: int) -> Codec:
    import pyarrow

    codec = pyarrow.Codec("zstd", compression_level=level)

    def decode(compressed, height, width):
        out = np.empty((len(compressed), height * width), np.uint8)
        for row, block in zip(out, compressed, strict=True):
            row[:] = np.frombuffer(codec.decompress(block, decompressed_size=height * width), np.uint8)
        return out.reshape(-1, height, width)

    def encode(frames):
        return [codec.compress(np.ascontiguousarray(frame), asbytes=True) for frame in frames]

    return Codec(f"zstd {level}", encode, decode)


def _png() -> Codec:
    import cv2

    return Codec(
        "PNG (OpenCV)",
        lambda frames: [cv2.imencode(".png", frame)[1].tobytes() for frame in frames],
        lambda compressed, height, width: np.stack(
            [cv2.imdecode(np.frombuffer(block, np.uint8), cv2.IMREAD_GRAYSCALE) for block in compressed]
        ),
    )


def compression(clips: Sequence[np.ndarray]) -> list[dict]:
    """Size and speed of each codec, one thread.

    Args:
      clips: uint8 [T, H, W] each.

    Returns:
      By codec {"codec", "bytes": a frame, "share": of the raw bytes, "encode", "decode": ms of processor time a clip}.

    Raises:
      ValueError: no clips, or a codec that does not give back what it got.
    """
    if not clips:
        raise ValueError("There is no clip to compress.")
    rows = []
    for codec in codecs():
        packed = [codec.encode(frames) for frames in clips]
        for frames, blocks in zip(clips, packed, strict=True):
            if not np.array_equal(codec.decode(blocks, *frames.shape[1:]), frames):
                raise ValueError(f"{codec.name} changed a frame.")
        count, raw = sum(map(len, clips)), sum(frames.nbytes for frames in clips)
        size = sum(len(block) for blocks in packed for block in blocks)
        rows.append(
            {
                "codec": codec.name,
                "bytes": size / count,
                "share": size / raw,
                "encode": _milliseconds(codec.encode, [(frames,) for frames in clips]),
                "decode": _milliseconds(
                    codec.decode,
                    [(blocks, *frames.shape[1:]) for frames, blocks in zip(clips, packed, strict=True)],
                ),
            }
        )
    return rows


def _milliseconds(function: Callable, calls: Sequence[tuple]) -> float:
    """The processor time of one call: the mean over `calls`, of the fastest repeat."""
    times = []
    for _ in range(_REPEATS):
        start = time.process_time()
        for arguments in calls:
            function(*arguments)
        times.append(time.process_time() - start)
    return 1000 * min(times) / len(calls)


def _read_clips(directory: pathlib.Path, frame_size: int, count: int) -> tuple[list[np.ndarray], float]:
    """The first `count` frames of every video of a folder, as records hold them; bytes per frame in its files."""
    import cv2

    from discovr_jax.data.letterbox import letterbox
    from discovr_jax.data.read import READERS, read_video

    cv2.setNumThreads(1)
    clips, size, frames = [], 0, 0
    for path in sorted(path for path in directory.iterdir() if path.suffix.lower() in READERS):
        video = read_video(path).frames
        size, frames = size + path.stat().st_size, frames + len(video)
        clips.append(letterbox(video, frame_size)[0][:count])
    return clips, size / max(frames, 1)


HELP = "codecs for the frames of records"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", type=pathlib.Path, help="folder of videos")
    parser.add_argument("--frame_size", type=int, default=112, help="pixels")
    parser.add_argument("--frames", type=int, default=64, help="frames of each video")


def run(given: argparse.Namespace) -> None:
    """Prints the table of `compression` for the videos of a folder."""
    clips, in_files = _read_clips(given.videos, given.frame_size, given.frames)
    rows = compression(clips)
    raw = given.frame_size**2
    print(f"{len(clips)} clips, {given.frame_size} x {given.frame_size}, up to {given.frames} frames each\n")
    print("| codec | bytes per frame | of raw | encode per clip, ms | decode per clip, ms |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| raw | {raw} | 100 % | | |\n| the files themselves (of their own size) | {in_files:.0f} | | | |")
    for row in rows:
        print(
            f"| {row['codec']} | {row['bytes']:.0f} | {100 * row['share']:.0f} % "
            f"| {row['encode']:.1f} | {row['decode']:.1f} |"
        )
