"""A measurement by an MLP (`mlp`) on a frozen pooled feature."""

from typing import Any

from discovr_jax.evaluation import interface
from discovr_jax.evaluation.evaluators import mlp, regression

TARGET = regression.TARGET
METRICS = regression.METRICS
SELECT_BY, LARGER_IS_BETTER = regression.SELECT_BY, regression.LARGER_IS_BETTER
require = regression.require


def evaluate(
    train: interface.Split, val: interface.Split, test: interface.Split, **options: Any
) -> list[interface.Predictions]:
    """The measurement, one array per training of the head; options and errors as of `mlp.trainings`."""
    return mlp.trainings(train, val, test, TARGET, **options)
