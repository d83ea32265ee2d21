"""Amplitude of the heart beat: the video student's CLS token predicts by how much the frames move.

The target is the temporal standard deviation of the image teacher's frame CLS tokens (readout `frame_std`): one
amplitude per feature, of the whole clip. The video student sees the masked global view, as for SCD. What the image
branch learns of the beat (`losses.phase`) so reaches the video CLS token, which is what DISCOVR's users read.

Source: ours. Measured in docs/notes/phase.md.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from discovr_jax.losses.interface import Result

EPS = 1e-6  # of a sum of squares: frames that do not differ give a finite loss


def term(inputs) -> Result:
    """The amplitude term of the objective; `interface.LossInputs` -> its Result."""
    predicted, target = inputs.student.frame_amplitudes, inputs.teacher.frame_amplitudes
    metrics = {"amplitude/unexplained": error(predicted, target) / error(target.mean(0)[None], target)}
    return Result(error(predicted, target), inputs.memory, metrics)


def error(predicted: Float[Array, "#clips width"], target: Float[Array, "clips width"]) -> Float[Array, ""]:
    """Squared error relative to the squared amplitudes of the batch: the unit of the features drops out.

    (Divided by their variance it would be 1 - R2, but the variance of a few clips is mostly chance. That ratio is
    logged as `amplitude/unexplained`: 1 is as good as the mean of the batch.)

    >>> round(float(error(jnp.array([[2.0], [2.0]]), jnp.array([[1.0], [3.0]]))), 3)
    0.2
    """
    return jnp.square(predicted - target).sum() / (jnp.square(target).sum() + EPS)
