"""Which datasets a config trains on and scores, and what each of them calls abnormal. No jax in here.

A name is that of a builder, with a variant of it after a slash where it has some: "rvenet",
"echonet_pediatric/a4c".
"""

import ml_collections
import numpy as np

from discovr_jax.data import bucket, facts, labels, records
from discovr_jax.errors import ConfigError

# The rule of each dataset where data.abnormal_rule is None; forms and meaning: discovr_jax/data/labels.py.
RULES = {name: known.abnormal_rule for name, known in facts.known().items()}


def weights(data: ml_collections.ConfigDict) -> dict[str, float]:
    """The datasets trained on, by name, each with its share of the clips (relative numbers).

    Raises:
      ConfigError: data.dataset and data.mixture are both set or both empty, or a weight is not above 0.
    """
    mixture = dict(sorted(data.mixture.items()))  # The order of the keys must not matter.
    if bool(data.dataset) == bool(mixture):
        raise ConfigError(
            "Set either data.dataset or data.mixture, the other empty: data.dataset is "
            f"'{data.dataset}', data.mixture is {mixture}."
        )
    if wrong := [name for name, weight in mixture.items() if not 0 < weight < np.inf]:
        raise ConfigError(f"data.mixture: the weight of {wrong[0]} must be above 0, got {mixture[wrong[0]]}.")
    return mixture or {data.dataset: 1.0}


def scored(config: ml_collections.ConfigDict) -> str:
    """The dataset whose videos an evaluation scores.

    Raises:
      ConfigError: several are trained on and eval.dataset names none.
    """
    name = config.eval.dataset or config.data.dataset
    if not name:
        raise ConfigError(
            f"data.mixture trains on {', '.join(weights(config.data))}: name the dataset to score in "
            "eval.dataset (others later, with --mode=eval)."
        )
    return name


def all_named(config: ml_collections.ConfigDict) -> list[str]:
    """Every dataset that training and evaluation read, sorted."""
    return sorted({*weights(config.data), scored(config)})


def abnormal_rule(data: ml_collections.ConfigDict, name: str) -> str:
    """The rule that says which videos of a dataset are abnormal: the config's, or else the dataset's own."""
    dataset = name.partition("/")[0]
    if data.abnormal_rule is None and dataset not in RULES:
        raise ConfigError(f"Dataset {dataset} has no rule of its own for abnormal videos: set data.abnormal_rule.")
    return data.abnormal_rule or RULES[dataset]


def check_filter(data: ml_collections.ConfigDict) -> None:
    """Raises ConfigError if data.train_filter is not known."""
    if data.train_filter not in ("normal", "all"):
        raise ConfigError(f"data.train_filter must be 'normal' or 'all', got '{data.train_filter}'.")


def check_labels(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError if the filter, or a rule of a dataset that is read, cannot be."""
    check_filter(config.data)
    for name in all_named(config):
        labels.rule_fields(abnormal_rule(config.data, name))


def config_name(data: ml_collections.ConfigDict, name: str) -> str:
    """Builder config of a dataset's records: the variant, if the name holds one, and the frame size."""
    return records.config_name(data.frame_size, name.partition("/")[2])


def open_source(data: ml_collections.ConfigDict, name: str, split: str) -> records.RecordSource:
    """`records.open_source` for a dataset that a config names, in a folder or a bucket (see `bucket`)."""
    dataset, config = name.partition("/")[0], config_name(data, name)
    if not bucket.is_url(data.data_dir):
        return records.open_source(data.data_dir, dataset, config, split)
    here = bucket.local_records(data.data_dir, dataset, config)
    return records.open_source(here, dataset, config, split, bucket.shards_at(data.data_dir, dataset, config))


def open_training(data: ml_collections.ConfigDict) -> dict[str, records.RecordSource]:
    """The training split of every dataset trained on, by name."""
    return {name: open_source(data, name, "train") for name in weights(data)}
