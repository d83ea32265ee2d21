"""Features and columns of everything that an evaluation looks at: the scored dataset, and those of `transfer`."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.data import mixture, records
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.evaluation.features import outside as outside_features

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What evaluators read.

    Attributes:
      features: {encoder: [{split: {readout: [N, D]}}, one per seed]}, pixels and those of files included.
      fields: {split: {column: [N]}}.
      transfer: {source dataset: (features, fields) of its splits train and val, or why there are none}.
      outside: {encoder: what was read from files}.
    """

    features: Mapping[str, Sequence[Mapping[str, Mapping[str, np.ndarray]]]]
    fields: Mapping[str, Mapping[str, np.ndarray]]
    transfer: Mapping[str, Any]
    outside: Mapping[str, outside_features.OutsideFeatures]


def gather(
    config,
    sources,
    encoders,
    directory: pathlib.Path,
    share: feature_cache.Share,
    evaluators: Mapping[str, Mapping[str, Any]],
    outside: Mapping[str, Sequence[str]],
) -> Gathered:
    """Extracts (or reads cached) features; files of others are read, and refused, before that.

    Args:
      directory: of the cached features; evaluators: as of `runner.chosen`; the rest as of `runner.run_evaluators`.

    Raises:
      TableError: a file of features that does not fit the records.
    """
    everyone = {**encoders, "pixels": [feature_extraction.pixels(share)]}

    def extract(dataset, opened, fields):
        return feature_extraction.extract_splits(config, dataset, opened, fields, everyone, directory, share)

    dataset = mixture.scored(config)
    fields = feature_extraction.read_fields(sources, config, dataset)
    others = outside_features.read(outside, fields, config.eval.readouts)
    for name, one in others.items():
        for note in one.about["notes"]:
            logger.warning("features %s: %s", name, note)
    features = extract(dataset, sources, fields) | {name: list(one.seeds) for name, one in others.items()}
    transfer: dict[str, Any] = {}
    for options in evaluators.values():
        if source := options.get("source_dataset"):
            try:
                opened = {split: mixture.open_source(config.data, source, split) for split in records.SPLITS[:2]}
                reason = ""
            except records.RecordsError as error:
                reason = str(error)
            if any(share.on_any([bool(reason)])):
                reason = reason or "another process cannot"
                transfer[source] = interface.Skip(f"the other dataset cannot be read: {reason}")
            else:
                of_source = feature_extraction.read_fields(opened, config, source)
                transfer[source] = extract(source, opened, of_source), of_source
    return Gathered(features, fields, transfer, others)


def check_lengths(encoders, fields) -> None:
    """Raises ValueError unless features have a row per video; arguments as of `runner.evaluate_features`."""
    for name, group in encoders.items():
        for seed, splits in enumerate(group):
            for split in fields:
                expected = len(fields[split]["id"])
                for readout, array in splits[split].items():
                    if len(array) != expected:
                        raise ValueError(
                            f"features {name} (seed {seed}) {split}/{readout} have {len(array)} rows, "
                            f"the split has {expected} videos; delete WORKDIR/eval/features if they are old"
                        )
