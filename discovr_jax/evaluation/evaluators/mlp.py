"""MLP probe: one hidden layer on a pooled feature, trained on a grid of widths, learning rates and weight decays.

It reads the largest principal components of the standardised feature: beyond them are directions in which training
videos hardly differ, and a layer as wide as the largest pooled features would take minutes on a CPU.

Parts of it are the modules `mlp_probe` and `mlp_regression`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.evaluators import grid, principal, targets


class MlpHead(nn.Module):
    """Components [B, K] -> [B]; `width` of the hidden layer."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.gelu(nn.Dense(self.width, name="hidden")(x))
        return nn.Dense(1, kernel_init=nn.initializers.zeros, name="out")(x)[:, 0]


def parts(
    name: str, *, fields: tuple[str, ...], widths: tuple[int, ...], components: int, fit: Mapping[str, Any]
) -> list[interface.Part]:
    """A part per field: the metrics of the probe under their names, those of a measurement under FIELD_METRIC.

    Args:
      fields: "label" and measurements; widths, components, fit: of `trainings`.

    Raises:
      interface.NotSetUp: no fields.
      ConfigError: a value that cannot be.
    """
    if not fields:
        raise interface.NotSetUp(f"off unless asked for: set config.eval.evaluators.{name}.fields")
    options = {"widths": widths, "components": components, "fit": fit}
    check(name, options)
    result = []
    for field in fields:
        scores = targets.metric_names(field)
        if field == targets.LABEL:
            result.append(interface.Part(name, name, "mlp_probe", field, {each: each for each in scores}, options))
            continue
        scores = {each: each.removeprefix(f"{field}_") for each in scores}
        result.append(interface.Part(f"{name}_{field}", name, "mlp_regression", field, scores, options))
    return result


def check(name: str, options: Mapping[str, Any], depth: int = 0) -> None:
    """Refuses options that no training takes, without one. Raises ConfigError."""
    del depth  # of the encoder
    known = [targets.LABEL, *interface.MEASUREMENTS]
    if unknown := [field for field in options.get("fields", ()) if field not in known]:
        raise ConfigError(f"eval.evaluators.{name}: no field {unknown[0]!r}; there are {known}")
    try:
        grid.GridOptions(**options["fit"])
        least = min(*options["widths"], options["components"])
    except ConfigError as error:
        raise ConfigError(f"eval.evaluators.{name}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"eval.evaluators.{name}: it needs widths, components and fit ({error})") from None
    if least < 1:
        raise ConfigError(f"eval.evaluators.{name} needs widths and components >= 1, got {options}")


def trainings(
    train: interface.Split,
    val: interface.Split,
    test: interface.Split,
    field: str,
    widths: tuple[int, ...],
    components: int,
    fit: Mapping[str, Any],
) -> list[interface.Predictions]:
    """One per training of the head whose width, learning rate and weight decay validation chose.

    Trainings have the seeds 0, 1, ..., whatever `config.seed`, so that encoders are compared on the same ones.

    Args:
      field: "label", or a measurement.
      widths: of the hidden layer; ties keep the narrower one.
      components: that are read, at most.
      fit: `grid.GridOptions`.

    Raises:
      interface.Skip: no training had a finite score.
    """
    splits, options = (train, val, test), grid.GridOptions(**fit)
    mean, scale = interface.scaling(train.features)
    vectors, std = principal.directions(train.features, mean, scale, components)
    unit = np.sqrt(np.mean(np.square(std))) if len(std) else 1.0
    arrays = []
    for split in splits:
        array = np.zeros((len(split.target), components), np.float32)  # as wide for every pooling: compiled once
        array[:, : len(vectors)] = interface.project(split.features, mean, scale, vectors.T / unit)
        arrays.append(array)
    known = {split.name: np.ones(len(split.target), bool) for split in splits}
    target = targets.Target(field, known, {split.name: split.target for split in splits})
    found = {width: grid.fit(MlpHead(width), target, arrays, options, seed=0) for width in sorted(widths)}
    width = max(found, key=lambda each: found[each]["score"])
    return grid.predictions(target, found[width], width=width, components=len(vectors))
