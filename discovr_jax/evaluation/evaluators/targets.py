"""What heads trained by gradients predict of a video: the label, or a measurement; losses, scales and metrics of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.evaluators import probe, regression
from discovr_jax.evaluation.features.extract import SPLITS
from discovr_jax.evaluation.metrics import videos as video_metrics

LABEL = "label"


def metric_names(field: str) -> dict[str, Any]:
    """{METRIC: function} of a field: those of the probe, or those of the regression under "FIELD_"."""
    if field == LABEL:
        return dict(probe.METRICS)
    return {f"{field}_{name}": function for name, function in regression.METRICS.items()}


METRICS = {name: one for field in (LABEL, *interface.MEASUREMENTS) for name, one in metric_names(field).items()}


@dataclasses.dataclass(frozen=True)
class Target:
    """One field of the videos whose value is known.

    Attributes:
      field: "label", or one of `interface.MEASUREMENTS`.
      known: {split: bool [videos]}; values: {split: float64 [known]}.
      rows: the known test videos; None where another scores them.
    """

    field: str
    known: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray]
    rows: results_lib.Rows | None = None

    @property
    def chosen_by(self) -> str:
        """In words, what `score` is."""
        return "validation auroc" if self.field == LABEL else "validation mae"

    def score(self, predictions: np.ndarray) -> float:
        """Validation metric of predictions [N] (of videos with a label); larger is better, NaN if one is not finite."""
        if not np.isfinite(predictions).all():
            return float("nan")  # ranks of NaN would be a matter of their order
        ones = np.ones((1, len(predictions)))
        if self.field == LABEL:
            return float(video_metrics.auroc(self.values["val"], predictions, ones)[0])
        return -float(video_metrics.mae(self.values["val"], predictions, ones)[0])

    def weighted(self) -> np.ndarray:
        """(target, weight) of all training videos, for `loss`: float32 [videos, 2]; weight 0 where it is unknown.

        Both classes of a label weigh the same in total; a measurement is brought to zero
        mean and unit standard deviation.
        """
        known, values = self.known["train"], self.values["train"]
        result = np.zeros((len(known), 2), np.float32)
        if self.field == LABEL:
            abnormal = values.mean()
            result[known] = np.stack([values, np.where(values == 1, 0.5 / abnormal, 0.5 / (1 - abnormal))], 1)
        else:
            result[known] = np.stack([(values - values.mean()) / values.std(), np.ones(len(values))], 1)
        return result

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs of a head -> probability of "abnormal", or the measurement in its unit: float64, same shape."""
        outputs = np.asarray(outputs, np.float64)
        if self.field == LABEL:
            return 1 / (1 + np.exp(-np.clip(outputs, -500, 500)))
        return outputs * self.values["train"].std() + self.values["train"].mean()

    def loss(self):
        """(outputs [B], (target, weight) [B, 2]) -> mean over the rows of known target; equal for equal kinds."""
        return _cross_entropy if self.field == LABEL else _squared_error


def read_target(context, field: str) -> Target:
    """A field of the videos of a `tokens.TokenContext`.

    Raises:
      interface.Skip: it is unknown, or without spread, in some split.
      ConfigError: there is no such field.
    """
    if field not in (LABEL, *interface.MEASUREMENTS):
        raise ConfigError(f"no field {field!r} to predict; there are {[LABEL, *interface.MEASUREMENTS]}")
    columns = context.fields
    known = {split: interface.known_target(split, columns[split][field], field) for split in SPLITS}
    values = {split: np.asarray(columns[split][field], np.float64)[known[split]] for split in SPLITS}
    (probe if field == LABEL else regression).require(*(values[split] for split in SPLITS))
    test = columns["test"]
    ids, patients = np.asarray(test["id"]), results_lib.patients_of(test)
    rows = results_lib.make_rows(ids[known["test"]], patients[known["test"]], values["test"], context.config)
    return Target(field, known, values, rows)


def _mean(losses: jax.Array, weights: jax.Array) -> jax.Array:
    return (losses * weights).sum() / jnp.maximum((weights > 0).sum(), 1)


def _cross_entropy(outputs: jax.Array, wanted: jax.Array) -> jax.Array:
    label, weights = wanted[:, 0], wanted[:, 1]
    return _mean(jax.nn.softplus(outputs) - label * outputs, weights)


def _squared_error(outputs: jax.Array, wanted: jax.Array) -> jax.Array:
    return _mean((outputs - wanted[:, 0]) ** 2, wanted[:, 1])
