"""The label by an MLP (`mlp`) on a frozen pooled feature; both classes weigh the same in its loss."""

from typing import Any

from discovr_jax.evaluation import interface
from discovr_jax.evaluation.evaluators import mlp, probe, targets

TARGET = probe.TARGET
METRICS = probe.METRICS
SELECT_BY, LARGER_IS_BETTER = probe.SELECT_BY, probe.LARGER_IS_BETTER
require = probe.require


def evaluate(
    train: interface.Split, val: interface.Split, test: interface.Split, **options: Any
) -> list[interface.Predictions]:
    """Probability of "abnormal", one array per training of the head; options and errors as of `mlp.trainings`."""
    return mlp.trainings(train, val, test, targets.LABEL, **options)
