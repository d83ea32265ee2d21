"""Amplitude of the heart beat: the video student's CLS token predicts by how much the frames move.

The target is the temporal standard deviation of the image teacher's frame CLS tokens (readout `frame_std`): one
amplitude per feature, of the whole clip. The video student sees the masked global view, as for SCD. What the image
branch learns of the beat (`losses.phase`) so reaches the video CLS token, which is what DISCOVR's users read.

Source: ours. Measured in docs/notes/phase.md.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from discovr_jax.losses.interface import Result

EPS = 1e-6  # of a variance: equal clips give a finite loss


def term(inputs) -> Result:
    """The amplitude term of the objective; `interface.LossInputs` -> its Result."""
    return Result(unexplained(inputs.student.frame_amplitudes, inputs.teacher.frame_amplitudes), inputs.memory)


def unexplained(predicted: Float[Array, "clips width"], target: Float[Array, "clips width"]) -> Float[Array, ""]:
    """Share of the targets' variance over the batch that the prediction leaves: 1 - R2, of all features together.

    1 is the mean of the batch; the unit of the features drops out.

    >>> target = jnp.array([[1.0, 0.0], [3.0, 0.0]])
    >>> float(unexplained(jnp.array([[2.0, 0.0], [3.0, 0.0]]), target).round(3))
    0.5
    """
    variance = jnp.square(target - target.mean(0)).sum()
    return jnp.square(predicted - target).sum() / (variance + EPS)
