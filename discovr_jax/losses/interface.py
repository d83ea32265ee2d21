"""What a loss term takes and gives back."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """Weights and options of the losses; the names are those of the config."""

    weights: dict[str, float]  # of the terms that are computed; names of `terms.TERMS`
    student_temperature: float
    center_momentum: float
    centering: str
    center_source: str
    center_start: str
    image_weight: str  # "mean", or "reference": times 256 / frames
    scd_temperature: float
    scd_epsilon: float
    scd_iterations: int
    scd_standardise: str
    scd_tokens: str  # "all" or "masked"
    scd_ignore_static: bool
    scd_targets: str  # "soft" or "hard"
    scd_pairing: str  # "aligned", or "reference": tokens of different patch positions
    scd_image_gradient: bool
    signal_floor: float
    position_momentum: float
    own: dict[str, dict] = dataclasses.field(default_factory=dict)  # of single terms, see `terms.Term`


@flax.struct.dataclass
class LossState:
    """What the losses carry from step to step, float32: centres [K], mean image token of each patch position [P, D]."""

    centers: dict[str, jax.Array]
    position_mean: jax.Array | None


@flax.struct.dataclass
class Batch:
    """What the losses need of the input. masked: bool [B, tokens] of the global view; signal: [B, t, P]."""

    num_valid: jax.Array
    num_frames: int = flax.struct.field(pytree_node=False)
    masked: jax.Array
    decoder_order: jax.Array | None  # [B, tokens], only for the reference pairing
    signal: jax.Array | None
    pixel_targets: jax.Array | None
    key: jax.Array | None = None  # of this step, for terms that draw something


@dataclasses.dataclass(frozen=True)
class LossInputs:
    """What every term may read.

    Attributes:
      student, teacher: outputs of the model (`StudentOutputs`, `TeacherOutputs`); no gradient reaches the teacher.
      memory: centres and position means before this step.
      teacher_temperature: tau_t of this step.
    """

    options: LossOptions
    student: Any
    teacher: Any
    memory: LossState
    batch: Batch
    teacher_temperature: jax.Array

    def valid_frames(self) -> jax.Array:
        """float32 [B, T]: 1 for real frames, 0 for those that repeat the last."""
        return (jnp.arange(self.batch.num_frames) < self.batch.num_valid[:, None]).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a term gives.

    Attributes:
      loss: float32 scalar, without its weight.
      memory: for the next step; `LossInputs.memory` where the term remembers nothing.
      metrics: scalars to log, by name.
    """

    loss: jax.Array
    memory: LossState
    metrics: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
