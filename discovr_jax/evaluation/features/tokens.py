"""Frozen tokens of labelled frames, and of videos their mean and standard deviation over time: read from disk, or made
in one pass for all encoders."""

import contextlib
import dataclasses
import logging
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.data import manifest, mixture, pipeline
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.progress import Progress, doing

logger = logging.getLogger(__name__)

PHASES = ("ed", "es")  # of a labelled frame, by number; others have number 2
Tokens = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TokenEncoder:
    """One frozen encoder that gives its tokens; of several processes each gives its own rows and gets those of all.

    Attributes:
      of_frame: (frames uint8 [b, T, H, W], num_valid int32 [b], position int32 [b]) -> [b, positions, D], tokens of the
        tubelet that holds the frame at `position`, in raster order; NumPy arrays, as of `of_clip`.
      of_clip: (frames, num_valid) -> float32 [b, 1 + 2 positions, D], see `models.readouts.over_time`.
      key: as of `feature_cache.FeatureEncoder`.
      grid: `models.discovr.ClipGrid` of its tokens; patch: pixels of a patch side; width: D.
    """

    of_frame: Callable[..., Any]
    of_clip: Callable[..., Any]
    key: str
    grid: Any
    patch: int
    width: int


@dataclasses.dataclass(frozen=True)
class TokenContext:
    """What evaluators of tokens work on.

    Attributes:
      config: data.*, eval.*, seed.
      sources: {"train": RecordSource, "val": ..., "test": ...}.
      fields: {split: {column: [videos]}}, see `feature_extraction.read_fields`.
      encoders: {"discovr": [Encoder], "random": [Encoder, one per seed]}.
      directory: WORKDIR/eval/features, of what is cached.
      share: of this process.
      tuner: `finetune.Tuner`, for what trains the encoder too.
      pooled: {"discovr", "random", "pixels": encoders that give pooled features}.
    """

    config: Any
    sources: Mapping[str, Any]
    fields: Mapping[str, Mapping[str, np.ndarray]]
    encoders: Mapping[str, Sequence[TokenEncoder]]
    directory: pathlib.Path
    share: feature_cache.Share
    tuner: Any = None
    pooled: Mapping[str, Sequence[feature_cache.FeatureEncoder]] = dataclasses.field(default_factory=dict)

    @property
    def members(self) -> list[tuple[str, int, TokenEncoder]]:
        """(name, seed, encoder) of all."""
        return [(name, seed, one) for name, group in self.encoders.items() for seed, one in enumerate(group)]

    @property
    def dataset(self) -> str:
        """Name of the scored dataset as part of a file name."""
        return feature_extraction.folder(mixture.scored(self.config))

    def key(self, split: str, *parts: Any) -> str:
        """Cache key of what is made from a split's clips; `parts`: what else it depends on."""
        source, columns = self.sources[split], self.fields[split]
        preprocessing = {"records": feature_extraction.identity(source), "parts": parts}
        preprocessing |= {name: self.config.data[name] for name in feature_extraction.CLIP_KEYS}
        videos = zip(columns["id"], columns["num_frames"], strict=True)
        return feature_cache.cache_key("tokens", preprocessing, videos)


@dataclasses.dataclass(frozen=True)
class Labelled:
    """The frames of a split that have a mask drawn by an expert.

    Attributes:
      record, frame: int32 [N], video in the split and frame in the video.
      phase: int32 [N], index into `PHASES`, 2 for frames that are neither.
      masks: uint8 [N, S, S], classes of `records.MASK_CLASSES`.
      spacing: float32 [N, 2], mm a pixel (row, column), NaN unknown.
    """

    record: np.ndarray
    frame: np.ndarray
    phase: np.ndarray
    masks: np.ndarray
    spacing: np.ndarray


def labelled(context: TokenContext, split: str) -> Labelled:
    """Reads (or takes from the cache) the labelled frames of a split; none give arrays of length 0."""
    source = context.sources[split]
    columns = manifest.columns(source.path, ["num_masks"], split)
    counts = None if columns is None else columns["num_masks"]

    def make(_):
        result: dict[str, list] = {field.name: [] for field in dataclasses.fields(Labelled)}
        for index in range(len(source)):
            if counts is not None and not counts[index]:
                continue  # reading a record is what takes the time
            record = source[index]
            for mask, frame, expert in zip(
                record["masks"], record["mask_frames"], record["mask_is_expert"], strict=True
            ):
                if not expert:
                    continue
                marked = [int(record[f"{phase}_frame"]) for phase in PHASES]
                values = (index, frame, marked.index(frame) if frame in marked else 2, mask, record["pixel_spacing"])
                for column, value in zip(result.values(), values, strict=True):
                    column.append(value)
        size = source.frame_size
        return [
            {
                "record": np.asarray(result["record"], np.int32),
                "frame": np.asarray(result["frame"], np.int32),
                "phase": np.asarray(result["phase"], np.int32),
                "masks": np.asarray(result["masks"], np.uint8).reshape(-1, size, size),
                "spacing": np.asarray(result["spacing"], np.float32).reshape(-1, 2),
            }
        ]

    # The manifest, which names the records, has no hash of the masks: files that were written again are read again.
    files = sorted(pathlib.Path(source.path).glob(f"*-{split}.array_record*"))
    written = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key, name = context.key(split, "expert masks", written), f"{context.dataset}-masks-{split}"
    return Labelled(**feature_cache.cached(context.directory, [name], [key], make, context.share)[0])


def of_frames(context: TokenContext, split: str, frames: Labelled) -> list[np.ndarray]:
    """Tokens of the tubelet that holds each labelled frame, of each of `context.members`: float16 [N, positions, D]."""
    members, count = context.members, len(frames.record)
    rows = list(zip(frames.record.tolist(), frames.frame.tolist(), strict=True))

    def make(missing: Sequence[int]) -> list[Tokens]:
        progress = Progress(f"frames of {split}, tokens of {len(missing)} encoders", count, logger.info, always=False)
        progress(0)
        first = doing(f"frames of {split} (the first batch compiles)", logger.info)
        batches = pipeline.labelled_batches(
            context.sources[split], context.config, rows, tubelet=members[0][2].grid.tubelet, **_loading(context)
        )
        with first, contextlib.closing(batches) as loader:
            encoders = [members[index][2] for index in missing]
            return _fill(encoders, _whole(loader, context.share), count, progress)

    asked = ["read apart", frames.record.tolist(), frames.frame.tolist()]
    return [each["tokens"] for each in _cached(context, split, "frames", asked, make)]


def of_videos(context: TokenContext, split: str) -> list[np.ndarray]:
    """`TokenEncoder.of_clip` of each video, mean over its clips, of each of `context.members`.

    Returns:
      float16 [N, 1 + 2 positions, D] each.
    """
    source, members = context.sources[split], context.members

    def make(missing: Sequence[int]) -> list[Tokens]:
        what = f"{split} videos, tokens of {len(missing)} encoders"
        progress = Progress(what, len(source), logger.info, always=False)
        progress(0)
        first = doing(f"tokens of {split} videos (the first batch compiles)", logger.info)
        with first, contextlib.closing(pipeline.eval_batches(source, context.config, **_loading(context))) as loader:
            embeds = [_flat(members[index][2]) for index in missing]
            batches = _whole(loader, context.share)
            made = feature_cache.extract_features(embeds, batches, len(source), progress, context.directory)
        return [{"tokens": each["tokens"].astype(np.float16)} for each in made]

    found = _cached(context, split, "clips", ["over time", context.config.eval.clips], make)
    return [
        each["tokens"].reshape(len(source), -1, encoder.width)
        for each, (_, _, encoder) in zip(found, members, strict=True)
    ]


def _flat(encoder: TokenEncoder) -> feature_cache.Embed:
    """`of_clip` as a pooled feature: [b, (1 + 2 positions) * D]."""

    def embed(frames, num_valid):
        tokens = np.asarray(encoder.of_clip(frames, num_valid))
        return {"tokens": tokens.reshape(len(tokens), -1)}

    return embed


def require_space(context: TokenContext, counts: Sequence[int], tokens: int, limit: float, option: str) -> None:
    """Raises interface.NotSetUp if the float16 tokens of all encoders take more than `limit` GiB.

    Args:
      counts: clips (or frames) of each split; tokens: of each of them; option: the config key of the limit.
    """
    width = sum(encoder.width for _, _, encoder in context.members)
    needed = sum(counts) * tokens * width * 2 / 2**30
    if needed > limit:
        raise interface.NotSetUp(
            f"the tokens of {len(context.members)} encoders take {needed:.1f} GiB of memory and disk, {option} allows "
            f"{limit:g}: set it to {math.ceil(needed)} where there is room"
        )


def finite(name: str, seed: int, *arrays: np.ndarray) -> None:
    """Raises interface.Skip if an encoder's tokens (of any split) are not finite in float16."""
    for array in arrays:
        bad = int((~np.isfinite(array.reshape(len(array), -1)).all(1)).sum())
        if bad:
            raise interface.Skip(f"tokens not finite: {bad} of {len(array)} clips of {name} (seed {seed})")


def _loading(context: TokenContext) -> dict[str, int]:
    share = context.share
    return {"batch_size": context.config.eval.batch_size, "process_index": share.index, "process_count": share.count}


def _cached(context: TokenContext, split: str, what: str, asked: Any, make) -> list[Tokens]:
    """What `make` returns for each of `context.members`, for those (by number) that are not on disk."""
    members = context.members
    names = [f"{context.dataset}-{name}-{seed}-{split}-{what}" for name, seed, _ in members]
    keys = [context.key(split, encoder.key, asked) for _, _, encoder in members]
    return feature_cache.cached(context.directory, names, keys, make, context.share)


def _whole(loader, share: feature_cache.Share) -> Iterable[dict[str, np.ndarray]]:
    """Batches with the bookkeeping of all processes' rows; what an encoder takes stays this process's."""
    for batch in loader:
        yield batch | share.gather({name: batch[name] for name in ("record", "weight")})


def _fill(encoders: Sequence[TokenEncoder], batches, count: int, progress) -> list[Tokens]:
    """Tokens of frames in their order, as float16; a row of weight 0 is padding and is left out."""
    arrays: list[np.ndarray] = []
    filled = np.zeros(count, bool)
    for batch in batches:
        real = batch["weight"] > 0
        rows = batch["record"][real]
        filled[rows] = True
        clips = batch["frames"], batch["num_valid"], batch["position"]
        for number, encoder in enumerate(encoders):
            values = np.asarray(encoder.of_frame(*clips))[real]
            if number == len(arrays):
                arrays.append(np.zeros((count, *values.shape[1:]), np.float16))
            arrays[number][rows] = values
        progress(int(filled.sum()))
    if not filled.all():
        raise ValueError(f"{int((~filled).sum())} of {count} rows had no clip: the batches do not cover the split")
    return [{"tokens": array} for array in arrays]
