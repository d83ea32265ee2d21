"""Simulates videos as one array of frames, for training on a device that holds them (discovr_jax.benchmark.learning).

python -m tfds_builders.echo_phantom.frames --output DIR --train 2000 --val 400 --test 1200

DIR/
  frames.npy   uint8 [all frames, size * size], video after video, those of val, then test, then train
  table.npz    counts int32 [videos] of frames, ef float64 [videos]
  complete     empty; there when the others are whole
"""

import argparse
import multiprocessing
import pathlib
import time

import numpy as np

from tfds_builders.echo_phantom.layout_echonet_dynamic import simulate_one

SPLITS = ("val", "test", "train")


def simulated(job: tuple[str, int, int]) -> tuple[np.ndarray, float]:
    """One video (split, index, size): frames uint8 [T, size * size] and its ejection fraction in percent."""
    import cv2

    split, index, size = job
    clip = simulate_one(0, split, index)
    frames = [cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA).reshape(-1) for frame in clip.frames]
    return np.stack(frames), clip.ef


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--size", type=int, default=48, help="pixels of a frame's side, data.image_size")
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    for split, videos in (("train", 2000), ("val", 400), ("test", 1200)):
        parser.add_argument(f"--{split}", type=int, default=videos, help="videos")
    flags = parser.parse_args()
    started = time.monotonic()
    jobs = [(split, index, flags.size) for split in SPLITS for index in range(getattr(flags, split))]
    videos = []
    with multiprocessing.get_context("spawn").Pool(flags.workers) as pool:
        for number, video in enumerate(pool.imap(simulated, jobs, chunksize=4), 1):
            videos.append(video)
            if number % 200 == 0 or number == len(jobs):
                print(f"{number} of {len(jobs)} videos, {time.monotonic() - started:.0f} s", flush=True)
    flags.output.mkdir(parents=True, exist_ok=True)
    frames, ef = zip(*videos, strict=True)
    np.save(flags.output / "frames.npy", np.concatenate(frames))
    np.savez(flags.output / "table.npz", counts=np.array([len(each) for each in frames], np.int32), ef=ef)
    (flags.output / "complete").touch()


if __name__ == "__main__":
    main()
