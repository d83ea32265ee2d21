"""Writes simulated clips in the native layout of EchoNet-Dynamic.

DIRECTORY/
  FileList.csv, VolumeTracings.csv   as the dataset ships them
  Videos/0X<16 hex>.avi              MJPEG, 112 x 112
  attributes.csv                     ours: what was drawn for each clip
"""

import csv
import hashlib
import io
import json
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from tfds_builders.echo_phantom.simulator import SIZE, Clip, draw_heart, simulate

FILE_LIST = ("FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split")
TRACINGS = ("FileName", "X1", "Y1", "X2", "Y2", "Frame")
SPLITS = ("train", "val", "test")
# Raise when the simulator's output changes: what another version began to write is then not continued.
SIMULATOR_VERSION = 4


def clip_name(seed: int, split: str, index: int) -> str:
    """The clip's name, hash-like as in the dataset: 0X and 16 hexadecimal digits."""
    return "0X" + hashlib.sha256(f"{seed}/{split}/{index}".encode()).hexdigest()[:16].upper()


def simulate_one(seed: int, split: str, index: int) -> Clip:
    """Clip number `index` of a split; it does not depend on how many others are made."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: one of {SPLITS}")
    return simulate(draw_heart(np.random.default_rng([seed, SPLITS.index(split), index])))


def encode_avi(frames: np.ndarray, fps: float) -> bytes:
    """An MJPEG AVI of grey frames (yuvj420p, as the dataset's), byte for byte the same at each call.

    Args:
      frames: uint8 [T, H, W].
      fps: frames per second, kept to a tenth.
    """
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mjpeg", rate=Fraction(round(fps * 10), 10))
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = "yuvj420p"
        stream.thread_count = 1
        stream.options = {"flags": "+bitexact", "qmin": str(_QUALITY), "qmax": str(_QUALITY)}
        chroma = np.full((frames.shape[1] // 2, frames.shape[2]), 128, np.uint8)
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.concatenate([frame, chroma]), format="yuvj420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


_QUALITY = 3  # of MJPEG, 1 best to 31; the dataset's files look like about this


def digest(data: bytes) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def write_echonet_dynamic(
    directory: str | Path,
    counts: dict[str, int],
    seed: int = 0,
    workers: int = 2,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Simulates and writes a data set; a directory that is already complete is left as it is.

    Work goes into `DIRECTORY.partial`, where an interrupted call is continued, and is renamed when whole.

    Args:
      directory: where to write; must not exist, or be the finished result of the same arguments.
      counts: clips per split, keys among train, val, test.
      seed: of everything.
      workers: processes; 1 works in this one.
      report: takes a line of progress now and then; default writes to stderr.

    Returns:
      The directory.

    Raises:
      ValueError: unknown split, negative or no counts.
      FileExistsError: the directory, or the partial one, holds something else.
    """
    directory = Path(directory)
    unknown = sorted(set(counts) - set(SPLITS))
    if unknown or any(count < 0 for count in counts.values()) or not sum(counts.values()):
        raise ValueError(f"counts must give clips for splits among {SPLITS}, some above 0; got {counts}")
    recipe = {
        "simulator_version": SIMULATOR_VERSION,
        "seed": seed,
        "counts": {split: counts.get(split, 0) for split in SPLITS},
    }
    if directory.exists():
        _check_recipe(directory, recipe)
        return directory
    partial = directory.with_name(directory.name + ".partial")
    if partial.exists():
        _check_recipe(partial, recipe)
    (partial / "Videos").mkdir(parents=True, exist_ok=True)
    (partial / "clips").mkdir(exist_ok=True)
    (partial / "phantom.json").write_text(json.dumps(recipe, indent=2) + "\n")
    jobs = [
        (str(partial), seed, split, index) for split in SPLITS for index in range(recipe["counts"][split])
    ]
    waiting = [job for job in jobs if not _row_file(partial, clip_name(*job[1:])).exists()]
    _run(waiting, workers, report or (lambda line: print(line, file=sys.stderr, flush=True)))
    _write_tables(partial, [clip_name(*job[1:]) for job in jobs])
    shutil.rmtree(partial / "clips")
    partial.rename(directory)
    return directory


def _check_recipe(directory: Path, recipe: dict) -> None:
    found = directory / "phantom.json"
    if not found.exists():
        raise FileExistsError(f"{directory} exists and holds no phantom.json: choose another --output")
    if json.loads(found.read_text()) != recipe:
        raise FileExistsError(
            f"{directory} holds other simulated clips ({found.read_text()}, wanted {recipe}): "
            "remove it or choose another --output"
        )


def _row_file(directory: Path, name: str) -> Path:
    return directory / "clips" / f"{name}.json"


def _run(jobs: list, workers: int, report: Callable[[str], None]) -> None:
    started = reported = time.monotonic()
    if workers > 1 and jobs:
        pool = multiprocessing.get_context("spawn").Pool(min(workers, len(jobs)))
        done = pool.imap_unordered(_write_clip, jobs, chunksize=4)
    else:
        pool, done = None, map(_write_clip, jobs)
    try:
        for count, _ in enumerate(done, start=1):
            now = time.monotonic()
            if now - reported > 5 or count == len(jobs):
                rate = count / max(now - started, 1e-9)
                left = (len(jobs) - count) / rate
                report(f"echo_phantom: {count} of {len(jobs)} clips, {rate:.1f} clips/s, {left:.0f} s left")
                reported = now
    finally:
        if pool is not None:
            pool.terminate()
            pool.join()


def _write_clip(job: tuple[str, int, str, int]) -> None:
    """Writes one video, then its rows: the rows say that the video is whole."""
    directory, seed, split, index = Path(job[0]), *job[1:]
    name = clip_name(seed, split, index)
    clip = simulate_one(seed, split, index)
    (directory / "Videos" / f"{name}.avi").write_bytes(encode_avi(clip.frames, clip.fps))
    listed = [name, clip.ef, clip.esv, clip.edv, SIZE, SIZE, clip.fps, len(clip.frames), split.upper()]
    # The dataset lists the small frame first.
    traced = [
        [f"{name}.avi", *(round(float(value), 4) for value in ends.reshape(-1)), frame]
        for frame in (clip.es_frame, clip.ed_frame)
        for ends in clip.tracings[frame]
    ]
    truth = {
        "EDFrame": clip.ed_frame,
        "ESFrame": clip.es_frame,
        "BeatFirst": clip.beat[0],
        "BeatLast": clip.beat[1],
    }
    row = {"listed": listed, "traced": traced, "attributes": {"FileName": name, **truth, **clip.attributes}}
    path = _row_file(directory, name)
    path.with_suffix(".tmp").write_text(json.dumps(row))
    path.with_suffix(".tmp").rename(path)


def _write_tables(directory: Path, names: list[str]) -> None:
    rows = [json.loads(_row_file(directory, name).read_text()) for name in names]
    _write_csv(directory / "FileList.csv", FILE_LIST, [row["listed"] for row in rows])
    _write_csv(directory / "VolumeTracings.csv", TRACINGS, [line for row in rows for line in row["traced"]])
    columns = list(rows[0]["attributes"])
    _write_csv(directory / "attributes.csv", columns, [list(row["attributes"].values()) for row in rows])


def _write_csv(path: Path, header, rows) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
