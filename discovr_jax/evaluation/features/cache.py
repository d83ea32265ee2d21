"""Frozen features of every video of a split: one pass over the clips for all encoders, cached on disk."""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.evaluation import interface

# Part of every cache key: raise it when the same inputs would give other features.
FEATURES_VERSION = 1
_LARGE = 50_000_000  # numbers of one file above which they are float16, and read from disk as they are needed
Embed = Callable[[np.ndarray, np.ndarray], Mapping[str, Any]]
Readouts = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class FeatureEncoder:
    """One frozen encoder.

    Attributes:
      embed: (frames uint8 [b, T, H, W], num_valid int32 [b]) -> {readout: float [b, D]}, arrays of any kind; of
        several processes each gives its own rows and gets those of all.
      key: says which weights and which forward pass these are, for the cache: `fingerprint(params)` and
        whatever of the model's settings changes the features without changing the parameters.
    """

    embed: Embed
    key: str


@dataclasses.dataclass(frozen=True)
class Share:
    """What one of several processes does of an evaluation; alone, everything.

    Attributes:
      index, count: it reads part `index` of every batch cut into `count`.
      gather: {name: its rows of a batch} -> {name: all rows of the batch}, the same on every process.
      writes: files; one process does.
      on_any: flags -> which of them any process has set, the same on every process. What one of them finds out from a
        disk and then does together with the others is asked here first.
    """

    index: int = 0
    count: int = 1
    gather: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = dict
    writes: bool = True
    on_any: Callable[[list[bool]], list[bool]] = list


ALONE = Share()


def cache_key(encoder_key: str, preprocessing: Mapping[str, Any], videos: Iterable[Sequence[Any]]) -> str:
    """SHA-256 over everything that features depend on.

    Args:
      encoder_key: of the weights, see `FeatureEncoder`.
      preprocessing: what turns a record into clips; JSON values.
      videos: the split's manifest in order: id and number of frames, say.
    """
    manifest = [[str(part) for part in video] for video in videos]
    content = [FEATURES_VERSION, encoder_key, dict(preprocessing), manifest]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def extract_features(
    embeds: Sequence[Embed],
    batches: Iterable[Mapping[str, np.ndarray]],
    num_videos: int,
    progress: Callable[[int], None] = lambda done: None,
    directory: pathlib.Path | None = None,
) -> list[Readouts]:
    """Features of every video under every encoder: the mean over the video's clips.

    Sums of more than 50 million numbers are not held in memory: they are float32 on disk, and there become the means.

    Args:
      embeds: one function an encoder, see `FeatureEncoder`. All see the same clips, decoded once.
      batches: dicts of frames uint8 [b, T, H, W], num_valid int32 [b], record int32 [b] (row of the video)
        and weight float32 [b]; a clip of weight 0 is padding and is never counted, whatever its features.
      num_videos: rows of the result.
      progress: called with the videos that have a clip so far.
      directory: on whose disk such sums lie; None: that of temporary files.

    Returns:
      One {readout: float32 [num_videos, D]} an encoder.

    Raises:
      ValueError: if a video had no clip, or fewer than another: then a mean would be of the clips that came.
    """
    sums: list[dict[str, np.ndarray]] = [{} for _ in embeds]
    counts = np.zeros(num_videos)
    for batch in batches:
        real = np.asarray(batch["weight"]) > 0
        rows = np.asarray(batch["record"])[real]
        np.add.at(counts, rows, 1)
        for embed, total in zip(embeds, sums, strict=True):
            for readout, values in embed(batch["frames"], batch["num_valid"]).items():
                values = np.asarray(values, np.float64)
                # Rows are picked, not multiplied by 0: a padding clip may give NaN.
                if readout not in total:
                    total[readout] = room((num_videos, values.shape[1]), np.float64, np.float32, directory)
                np.add.at(total[readout], rows, values[real])
        progress(int((counts > 0).sum()))
    if missing := np.flatnonzero(counts < counts.max(initial=1)).tolist():
        what = "no clip" if (counts[missing] == 0).any() else "fewer clips than others"
        raise ValueError(
            f"{len(missing)} of {num_videos} videos had {what} (first rows: {missing[:5]}): the batches do "
            "not cover the split; make them with pipeline.eval_batches over the whole source"
        )
    for array in (array for total in sums for array in total.values()):
        for rows, _ in interface.blocks(array):
            array[rows] /= counts[rows, None]
    return [{name: array.astype(np.float32, copy=False) for name, array in total.items()} for total in sums]


def cached(
    directory: pathlib.Path,
    names: Sequence[str],
    keys: Sequence[str],
    make: Callable[[Sequence[int]], list[Readouts]],
    share: Share = ALONE,
    mapped: bool = False,
) -> list[Readouts]:
    """Reads features from disk and makes the missing ones together.

    There is one file for each name: features of an earlier checkpoint are replaced, so the disk does not fill
    up over a run. A damaged file is made again, with a warning.

    Args:
      directory: made if absent.
      names: of the files, "discovr-0-test" say; keys: of `cache_key`, one for each name.
      make: indices into `names` -> their features.
      share: of this process. Several processes make together what any of them could not read.
      mapped: more than 50 million numbers become float16 in a folder, one file per pooling, and stay on disk: they are
        memory-mapped, also just after they were made, so that a later evaluation sees the same numbers.

    Returns:
      Features, in the order of `names`.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}-{key[:20]}.npz" for name, key in zip(names, keys, strict=True)]
    result = [_read(path) for path in paths]
    missing = np.flatnonzero(share.on_any([features is None for features in result])).tolist()
    if missing:
        for index, made in zip(missing, make(missing), strict=True):
            large = mapped and sum(np.size(array) for array in made.values()) > _LARGE
            result[index] = made = _rounded(made, directory) if large else made
            if not share.writes:
                continue
            new = _write_folder(paths[index], made) if large else _write(paths[index], made)
            result[index] = _read(paths[index]) if large else made
            for suffix in (".npz", ""):
                for stale in directory.glob(f"{names[index]}-{'?' * 20}{suffix}"):
                    if stale != new:
                        _remove(stale)
    return result


def add_all(splits: Mapping[str, Readouts], directory: pathlib.Path | None = None) -> dict[str, Readouts]:
    """Adds the pooling "all": the others side by side, each divided by its mean length on train.

    One number per pooling, so that none drowns the others in a cosine, while differences of length between
    videos (how much the tokens move, say) stay. An encoder with a single pooling gets no "all".

    Args:
      splits: {"train": ..., "val": ..., "test": ...} of {readout: float [N, D]}.
      directory: on whose disk it lies where it has more than 50 million numbers; None: that of temporary files.

    Returns:
      The same with "all" in each split.
    """
    if len(splits["train"]) < 2:
        return {name: dict(features) for name, features in splits.items()}
    lengths = mean_lengths(splits["train"])
    return {name: {**features, "all": _joined(features, lengths, directory)} for name, features in splits.items()}


def _joined(features: Readouts, lengths: Mapping[str, float], directory: pathlib.Path | None) -> np.ndarray:
    """`join`; of more than 50 million numbers on disk, and never a copy of all in memory."""
    shape = len(next(iter(features.values()))), sum(features[part].shape[1] for part in lengths)
    if shape[0] * shape[1] <= _LARGE:
        return join(features, lengths)
    dtype = np.result_type(*(features[part].dtype for part in lengths))
    result = interface.spooled(shape, dtype, directory)
    for rows, _ in interface.blocks(result):
        result[rows] = join({part: features[part][rows] for part in lengths}, lengths)
    return result


def mean_lengths(train: Readouts) -> dict[str, float]:
    """Of each pooling of the training videos (but "all"), what `join` divides it by."""
    return {part: _mean_length(train[part]) for part in sorted(train) if part != "all"}


def join(features: Mapping[str, Any], lengths: Mapping[str, float], concatenate: Callable = np.concatenate) -> Any:
    """The pooling "all": those of `lengths` side by side, each divided by its length.

    Args:
      features: {readout: float [N, D]}.
      concatenate: of the kind of arrays that they are.
    """
    return concatenate([features[part] / lengths[part] for part in sorted(lengths)], axis=1)


def room(shape: tuple[int, int], dtype, large_dtype=np.float16, directory: pathlib.Path | None = None) -> np.ndarray:
    """Zeros for features [N, D]: in memory, but of more than 50 million numbers of `large_dtype` and on disk."""
    if shape[0] * shape[1] <= _LARGE:
        return np.zeros(shape, dtype)
    return interface.spooled(shape, large_dtype, directory)


def _mean_length(array: np.ndarray) -> float:
    """Mean length of the finite rows, or 1 if that is 0 or there is none; the runner reports NaN rows."""
    lengths = np.concatenate([np.linalg.norm(block, axis=1) for _, block in interface.blocks(array)])
    lengths = lengths[np.isfinite(lengths)]
    return (float(lengths.mean()) if lengths.size else 0.0) or 1.0


def _rounded(features: Readouts, directory: pathlib.Path) -> Readouts:
    """As float16, except a pooling with a number beyond its range."""
    result, largest = {}, np.finfo(np.float16).max
    for name, array in sorted(features.items()):
        result[name] = array
        if all(np.nanmax(np.abs(block), initial=0) <= largest for _, block in interface.blocks(array)):
            result[name] = room(array.shape, np.float16, directory=directory)
            for rows, block in interface.blocks(array):
                result[name][rows] = block
    return result


def _read(path: pathlib.Path) -> Readouts | None:
    try:
        if (folder := path.with_suffix("")).is_dir():
            return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in sorted(folder.iterdir())}
        # Opened here, because np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        logging.warning("Cached features %s cannot be read (%s); they are made again.", path, error)
        return None


def _write(path: pathlib.Path, features: Readouts) -> pathlib.Path:
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        np.savez(file, **features)
    os.replace(file.name, path)
    return path


def _write_folder(path: pathlib.Path, features: Readouts) -> pathlib.Path:
    """The folder in the place of the file `path`, whole or not at all."""
    folder = path.with_suffix("")
    temporary = pathlib.Path(tempfile.mkdtemp(dir=path.parent, suffix=".tmp"))
    for name, array in features.items():
        np.save(temporary / f"{name}.npy", array)
    _remove(folder)
    temporary.chmod(0o755)
    temporary.rename(folder)
    return folder


def _remove(path: pathlib.Path) -> None:
    """Another evaluation may have been quicker."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
