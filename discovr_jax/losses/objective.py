"""The whole objective: the sum of its terms, and what goes into the state for the next step.

A new term: `losses/terms.py`. Pure: options and arrays in, losses and monitors out. Each option of `config.fidelity`
acts in the file of its term.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from discovr_jax.losses import monitors
from discovr_jax.losses.interface import Batch, LossInputs, LossOptions, LossState
from discovr_jax.losses.terms import TERMS


def objective(
    options: LossOptions, student: Any, teacher: Any, memory: LossState, batch: Batch, teacher_temperature: jax.Array
) -> tuple[jax.Array, tuple[LossState, dict[str, jax.Array]]]:
    """Total loss, the memory for the next step, and scalars to log.

    Args:
      student, teacher: outputs of the model (`StudentOutputs`, `TeacherOutputs`). Terms whose outputs are None are
        left out (parts of a step are timed alone).
      memory: centres and position means before this step.
      teacher_temperature: tau_t of this step.

    Returns:
      (total, (new memory, metrics)); total and metrics are float32 scalars.
    """
    inputs = LossInputs(options, student, teacher, memory, batch, teacher_temperature)
    losses: dict[str, jax.Array] = {}
    metrics: dict[str, jax.Array] = {}
    # In the order of the table; each term sees what those before it remembered.
    for name, term in TERMS.items():
        if name not in options.weights or not _has(inputs, term.needs):
            continue
        result = term.function(inputs, **options.own.get(name, {}))
        losses[name] = result.loss
        metrics |= result.metrics
        inputs = dataclasses.replace(inputs, memory=result.memory)
    # Health of what is evaluated, whichever terms are on.
    if teacher.cls is not None and teacher.cls.shape[0] > 2:  # two clips always lie on a line
        metrics["features/rank"] = monitors.feature_rank(teacher.cls)
    # A term of weight 0 was never computed, so it is not in the sum.
    weighted = (options.weights[name] * value for name, value in losses.items())
    total = sum(weighted, start=jnp.zeros((), jnp.float32))
    metrics |= {f"loss/{name}": value for name, value in losses.items()} | {"loss/total": total}
    return total, jax.lax.stop_gradient((inputs.memory, metrics))


def _has(inputs: LossInputs, needs: frozenset[str]) -> bool:
    """Whether student and teacher give all of these outputs, as far as either has one of that name."""
    sides = (inputs.student, inputs.teacher)
    return all(getattr(side, name) is not None for name in needs for side in sides if hasattr(side, name))
