"""The label by an MLP (`mlp`) on a frozen pooled feature; both classes weigh the same in its loss."""

from collections.abc import Mapping
from typing import Any

from discovr_jax.evaluation import interface
from discovr_jax.evaluation.evaluators import mlp, probe, targets

TARGET = probe.TARGET
METRICS = probe.METRICS
SELECT_BY, LARGER_IS_BETTER = probe.SELECT_BY, probe.LARGER_IS_BETTER
require = probe.require


def evaluate(
    train: interface.Split,
    val: interface.Split,
    test: interface.Split,
    *,
    widths: tuple[int, ...],
    components: int,
    fit: Mapping[str, Any],
) -> list[interface.Predictions]:
    """Probability of "abnormal" for validation and test videos, one per training; arguments as of `mlp.trainings`."""
    return mlp.trainings(train, val, test, targets.LABEL, widths, components, fit)
