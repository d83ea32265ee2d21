"""Features of prepared records that no network of a run made, as files for `--mode=eval --features=NAME=FILE`.

python examples/outside_features.py RECORDS --kind=hog --output=hog.parquet
RECORDS is the folder that holds manifest.csv. Kinds:

    hog      histograms of oriented gradients of the mean frame and of the standard deviation frame (64 x 64)
    pca      the first 64 principal components of 8 frames (32 x 32), found on the training videos, whitened
    flow     dense optical flow (Farneback, OpenCV) of frames of 64 x 64: over time, mean and standard deviation of
             speed and of both directions, in 4 x 4 grid cells
    phantom  the encoder of simulated hearts that comes with discovr_jax; or any other path of `load_encoder`
    torch:NAME  an encoder of others, with --loader and --weights: docs/how-to/other_encoders.md

One row per video: id, split, num_frames, features. An encoder takes clips as it was trained on, all others see
16 evenly spaced frames of the whole video.
"""

import argparse
import json
import pathlib
from collections.abc import Iterator

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.decomposition import PCA

import discovr_jax
from discovr_jax.data import manifest, records
from discovr_jax.outside_encoders.encoder import OutsideEncoder
from discovr_jax.progress import Progress

SIDE, FRAMES, GRID, COMPONENTS, BINS = 64, 16, 4, 64, 9
READOUTS = "cls,mean,std_of_mean,mean_of_std,mean_map,std_map,frame_mean,frame_std"


def videos(directory: pathlib.Path, count: int | None) -> Iterator[tuple[dict, str, np.ndarray]]:
    """(record, split, frames uint8 [T, H, W]) of every record: `count` evenly spaced frames at most, or all."""
    splits = (manifest.columns(directory, ("split",)) or {"split": np.array([], str)})["split"].tolist()
    progress = Progress("videos", len(splits))
    for split in dict.fromkeys(splits):
        source = records.open_directory(directory, split)
        for index in range(len(source)):
            record, size = source[index], source.frame_size
            length = record["num_frames"]
            which = range(length) if count is None else evenly(length, count)
            yield record, split, records.decode_frames(record["frames"], size, size, which, record_id=record["id"])
            progress.add()


def evenly(length: int, count: int) -> np.ndarray:
    """Numbers of at most `count` evenly spaced frames."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(int)


def resized(frames: np.ndarray, side: int) -> np.ndarray:
    """uint8 [T, side, side]."""
    return np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in frames])


def hog(frames: np.ndarray) -> np.ndarray:
    """float32 [1152]: of each grid cell of 8 x 8, gradients by orientation, blocks of 2 x 2 cells to unit length.

    Source: Dalal and Triggs, CVPR 2005; votes go to one bin, and blocks do not overlap.
    """
    some = resized(frames, SIDE).astype(np.float32)
    found = []
    for picture in (some.mean(0), some.std(0)):
        down, right = np.gradient(picture)
        bins = np.minimum(np.arctan2(down, right) % np.pi / np.pi * BINS, BINS - 1).astype(int)
        votes = np.hypot(down, right)[..., None] * (bins[..., None] == np.arange(BINS))
        blocks = votes.reshape(4, 2, 8, 4, 2, 8, BINS).sum((2, 5)).transpose(0, 2, 1, 3, 4).reshape(16, -1)
        found.append(blocks / (np.linalg.norm(blocks, axis=1, keepdims=True) + 1e-3))
    return np.concatenate(found).ravel()


def flow(frames: np.ndarray) -> np.ndarray:
    """float32 [96]: of speed, horizontal and vertical motion, mean and std over time in each grid cell."""
    some = resized(frames, SIDE)
    options = {"pyr_scale": 0.5, "levels": 2, "winsize": 9, "iterations": 2, "poly_n": 5, "poly_sigma": 1.1, "flags": 0}
    pairs = zip(some[:-1], some[1:], strict=True)
    moved = np.stack([cv2.calcOpticalFlowFarneback(one, two, None, **options) for one, two in pairs])
    fields = np.concatenate([np.linalg.norm(moved, axis=-1, keepdims=True), moved], axis=-1)
    cells = fields.reshape(len(fields), GRID, SIDE // GRID, GRID, SIDE // GRID, 3).mean((2, 4))
    return np.concatenate([cells.mean(0).ravel(), cells.std(0).ravel()])


def pixels(frames: np.ndarray) -> np.ndarray:
    """float32 [8192]: 8 frames of 32 x 32, of which `pca` is made."""
    some = resized(frames[evenly(len(frames), 8)], 32)
    return np.concatenate([some, np.repeat(some[-1:], 8 - len(some), axis=0)]).ravel().astype(np.float32)


def main(argv: list[str] | None = None) -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=pathlib.Path)
    parser.add_argument("--kind", required=True, help="hog, pca, flow, phantom, a path of load_encoder, torch:NAME")
    parser.add_argument("--loader", help="of torch:NAME")
    parser.add_argument("--weights", help="of torch:NAME")
    parser.add_argument("--output", required=True, help="the .parquet file")
    args = parser.parse_args(argv)
    if args.kind.startswith("torch:") and not (args.loader and args.weights):
        parser.error(f"--kind={args.kind} needs --loader and --weights")
    own, metadata = {"hog": hog, "flow": flow, "pca": pixels}, {}
    if args.kind.startswith("torch:"):
        encoder = OutsideEncoder(args.kind.removeprefix("torch:"), args.loader, args.weights)
    elif args.kind not in own:
        encoder = discovr_jax.load_encoder(args.kind, readout=READOUTS)
        metadata["readouts"] = json.dumps(encoder.parts)
    columns: dict[str, list] = {"id": [], "split": [], "num_frames": []}
    rows = []
    for record, split, frames in videos(args.records, FRAMES if args.kind in own else None):
        for column, value in zip(columns.values(), (record["id"], split, record["num_frames"]), strict=True):
            column.append(value)
        rows.append(own[args.kind](frames) if args.kind in own else encoder.embed(frames))
    features = np.stack(rows)
    if args.kind == "pca":
        train = features[np.array(columns["split"]) == "train"]
        features = PCA(min(COMPONENTS, len(train) - 1), whiten=True, random_state=0).fit(train).transform(features)
    table = pa.table(columns | {"features": list(features.astype(np.float32))})
    pq.write_table(table.replace_schema_metadata(metadata), args.output)


if __name__ == "__main__":
    main()
