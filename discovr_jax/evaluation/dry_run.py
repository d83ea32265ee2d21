"""Evaluators' settings are tried before a training, not found wrong after it."""

import contextlib
import importlib

import numpy as np

from discovr_jax.data import class_labels
from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface, runner
from discovr_jax.evaluation.cross_validation import of_evaluation
from discovr_jax.models import readouts

_VIDEOS = 8  # made-up ones of a split
_LEAST_SEARCHED = 1000  # of `eval.search_rows`: many times the neighbours that any evaluator asks for


def check_evaluators(config, depth: int) -> None:
    """Refuses what a long training should not be waited for: unknown poolings, evaluators, options or fields, values
    that no evaluator takes, blocks that the encoder has not.

    Evaluators of pooled features run once on a few made-up videos; those of tokens look at their options.

    Args:
      config: with `eval`; depth: blocks of the encoder.

    Raises:
      ConfigError: says which setting.
    """
    if config.eval.map_side < 1:
        raise ConfigError(f"eval.map_side = {config.eval.map_side} must be at least 1")
    if unknown := [name for name in config.eval.readouts if name not in readouts.KNOWN]:
        raise ConfigError(f"eval.readouts: unknown {unknown}; there are {list(readouts.KNOWN)}")
    if config.eval.search_rows and config.eval.search_rows < _LEAST_SEARCHED:
        raise ConfigError(
            f"eval.search_rows = {config.eval.search_rows} must be 0, for all training videos, or "
            f"at least {_LEAST_SEARCHED}"
        )
    of_evaluation.check(config.eval.cross_validation.to_dict())
    for name, options in runner.chosen(config).items():
        module = importlib.import_module(f"discovr_jax.evaluation.evaluators.{options['type']}")
        if hasattr(module, "check"):
            module.check(name, options, depth)
        elif options["type"] in runner.TYPES:
            columns = _made_up(options)
            with contextlib.suppress(interface.Skip):
                for part in runner.parts_of(name, options, columns):
                    _rehearse(name, part, columns["train"])


def _made_up(options) -> dict[str, dict[str, np.ndarray]]:
    """Columns of made-up videos, as of `read_fields`, with the `targets` of the options."""
    rng, numbers = np.random.default_rng(0), np.arange(_VIDEOS)
    columns = {field: rng.uniform(20, 70, _VIDEOS) for field in interface.MEASUREMENTS}
    columns |= {"label": numbers % 2.0, "id": numbers.astype(str), "patient_id": numbers.astype(str)}
    targets = options.get("targets") or ("any",)
    texts = [class_labels.encode({one: "ab"[number % 2] for one in targets}) for number in numbers]
    columns |= {target.field: target.values["train"] for target in class_labels.decode({"train": texts})}
    return dict.fromkeys(("train", "val", "test"), columns | {"classes": np.array(texts)})


def _rehearse(name: str, part: interface.Part, columns: dict[str, np.ndarray]) -> None:
    """Runs a part on made-up videos. Raises ConfigError for what it refuses; a Skip there says nothing."""
    module = importlib.import_module(f"discovr_jax.evaluation.evaluators.{part.kind}")
    features = np.random.default_rng(1).normal(size=(_VIDEOS, 2))
    with contextlib.suppress(interface.Skip):
        try:
            target = columns[part.field]
            splits = [interface.Split(split, features, target, columns) for split in ("train", "val", "test")]
            module.evaluate(*splits, **part.options)
        except KeyError as error:
            known = list(interface.MEASUREMENTS)
            raise ConfigError(f"eval.evaluators.{name}: no field {error}; there are {known}") from None
        except (TypeError, ValueError) as error:
            raise ConfigError(f"eval.evaluators.{name}: {error}") from None
