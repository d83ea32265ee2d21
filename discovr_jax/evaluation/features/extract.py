"""The columns and the frozen features of a dataset's splits, for all encoders together."""

import contextlib
import logging
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from discovr_jax.data import class_labels, facts, labels, mixture
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.progress import Progress, doing

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
# What decides which pixels an encoder sees; part of the cache key.
CLIP_KEYS = ("frame_size", "image_size", "num_frames", "stride", "target_fps")
_FIELDS = ("id", "patient_id", "study_id", "num_frames", "view", "classes", *interface.MEASUREMENTS)


def read_fields(sources, config, dataset: str) -> dict[str, dict[str, np.ndarray]]:
    """Columns of every split: id, patient_id, study_id, num_frames, view, all measurements, the label of the dataset's
    rule, and each target of the field `classes` (the view among them, see `with_views`) under `ClassTarget.field`.
    What `Facts.described` names is no target of an evaluator: the column `described` has it, if it is there, not
    `classes`.

    Args:
      sources: {split: RecordSource} of `dataset`.

    Raises:
      RecordsError: classes that are damaged.
    """
    from discovr_jax.data import records

    rule = mixture.abnormal_rule(config.data, dataset)
    columns = {}
    for split, source in sources.items():
        names = dict.fromkeys((*_FIELDS, *labels.rule_fields(rule)))
        columns[split] = dict(records.record_fields(source, list(names)))
        columns[split]["label"] = labels.normal_label(columns[split], rule)
    try:
        texts, views = ({split: each[name] for split, each in columns.items()} for name in ("classes", "view"))
        texts = class_labels.with_views(texts, views)
        targets = class_labels.decode(texts)
        about, described = facts.of(dataset), {}
        if about and about.described:
            texts, described = class_labels.apart(texts, about.described)
    except ValueError as error:
        raise records.RecordsError(f"Records of {dataset}: {error}; prepare them again.") from None
    for split, column in texts.items():
        columns[split]["classes"] = np.array(column)
        if any(text for each in described.values() for text in each):
            columns[split]["described"] = np.array(described[split])
    for target in targets:
        for split, values in target.values.items():
            columns[split][target.field] = values
    return columns


def extract_splits(
    config,
    dataset: str,
    sources,
    fields: Mapping[str, Mapping[str, np.ndarray]],
    encoders: Mapping[str, Sequence[feature_cache.FeatureEncoder]],
    directory: pathlib.Path,
    share: feature_cache.Share = feature_cache.ALONE,
) -> dict[str, list[dict[str, feature_cache.Readouts]]]:
    """Features of every encoder and seed on every split: cached ones are read, the others made in one pass.

    Args:
      sources, fields: of `dataset`, by split; see `read_fields`.
      directory: of the cache, made if absent.
      share: of this process.

    Returns:
      {encoder: [{split: {readout: float32 [N, D]}}, one per seed]}.
    """
    result = {name: [{} for _ in group] for name, group in encoders.items()}
    members = [(name, seed) for name, group in encoders.items() for seed in range(len(group))]
    for split, source in sources.items():
        preprocessing = {"records": identity(source), "clips": config.eval.clips}
        preprocessing |= {key: config.data[key] for key in CLIP_KEYS}
        videos = list(zip(fields[split]["id"], fields[split]["num_frames"], strict=True))
        keys = [feature_cache.cache_key(encoders[name][seed].key, preprocessing, videos) for name, seed in members]

        def make(indices, source=source, videos=videos, split=split):
            embeds = [encoders[members[index][0]][members[index][1]].embed for index in indices]
            progress = Progress(f"{split} videos under {len(embeds)} encoders", len(videos), logger.info, always=False)
            progress(0)
            first = doing(f"{split} videos (the first batch compiles)", logger.info)
            with first, contextlib.closing(_batches(config, source, share)) as batches:
                return feature_cache.extract_features(embeds, batches, len(videos), progress, directory)

        names = [f"{folder(dataset)}-{name}-{seed}-{split}" for name, seed in members]
        features = feature_cache.cached(directory, names, keys, make, share, mapped=True)
        for (name, seed), readouts in zip(members, features, strict=True):
            result[name][seed][split] = readouts
    return result


def pixels(share: feature_cache.Share = feature_cache.ALONE) -> feature_cache.FeatureEncoder:
    """The pixel baseline as an encoder: it needs the same clips and no weights."""
    from discovr_jax.evaluation.features import pixels as pixel_baseline

    def embed(frames, num_valid):
        clips = zip(frames, num_valid, strict=True)
        rows = [pixel_baseline.readouts(clip, int(valid)) for clip, valid in clips]
        names = pixel_baseline.NAMES
        found = share.gather({name: np.stack([row[name] for row in rows]) for name in names})
        # In their order, which JAX does not keep: of equally good poolings the first is chosen.
        return {name: found[name] for name in names}

    return feature_cache.FeatureEncoder(
        embed, "pixels: mean and std frame, 28 x 28; motion energy, 12 x 12, 6 x 6, 3 x 3"
    )


def poolings(group, asked: Sequence[str]) -> list[str]:
    """Poolings to choose from: the configured ones that this encoder has; where it has some that no network of ours
    has (pixels, features of another program), all its own."""
    from discovr_jax.models import readouts

    available = list(group[0]["train"])
    if not set(available) <= set(readouts.KNOWN):
        return [name for name in available if name != "all"]
    return [name for name in asked if name in available]


def identity(source) -> str:
    """What names the records of a source wherever they lie: the hash of their manifest, which holds that of every
    video's frames; for records without one their path."""
    from discovr_jax.data import manifest

    return manifest.sha256(source.path) or str(source.path)


def folder(dataset: str) -> str:
    """Folder of a dataset's results; a variant's name holds a slash."""
    return dataset.replace("/", "-")


def _batches(config, source, share: feature_cache.Share):
    """Batches of a whole split: this process's clips, and whose they are for the rows of all processes."""
    from discovr_jax.data import pipeline

    batches = pipeline.eval_batches(
        source, config, batch_size=config.eval.batch_size, process_index=share.index, process_count=share.count
    )
    with contextlib.closing(batches):
        for batch in batches:
            yield batch | share.gather({name: batch[name] for name in ("record", "weight")})
