"""Phase of the heart beat: how a frame's embedding differs from the mean of its clip, learned by LeJEPA.

The image student embeds frames of a clip in two views (crop, brightness and noise of their own, the same in all frames
of a view). From each embedding the mean over the clip's frames is taken away; what is left must agree between the views
and spread as a standard Gaussian. What tells patients apart (position, size, gain) is constant over a clip, so it
drops out, and what is left to learn is what moves: how far the ventricle has contracted. The temporal standard
deviation of the frames' CLS tokens then measures by how much (readout `frame_std`).

Source: ours; LeJEPA is of `losses.jepa`. Measured in docs/notes/phase.md.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from discovr_jax.losses import jepa, monitors
from discovr_jax.losses.interface import Result


def term(inputs, *, sigreg_weight: float, directions: int, frames: int) -> Result:
    """The phase term of the objective; `interface.LossInputs` -> its Result.

    Args:
      sigreg_weight: (1 - sigreg_weight) * invariance + sigreg_weight * SIGReg.
      directions: random ones per step.
      frames: of a clip that are embedded, evenly spaced.
    """
    embeddings = inputs.student.frame_embeddings
    every = inputs.batch.num_frames // frames
    valid = inputs.valid_frames()[:, ::every]
    moved = deviations(embeddings, valid)
    vectors = jepa.draw_directions(inputs.batch.key, embeddings.shape[-1], directions)
    same, spread = invariance(moved, valid), sigreg(moved, valid, vectors)
    metrics = {"phase/invariance": same, "phase/sigreg": spread}
    if moved.shape[0] * frames > 2:  # two rows always lie on a line
        metrics["phase/rank"] = monitors.feature_rank(moved[:, :, 0].reshape(-1, moved.shape[-1]))
    return Result((1 - sigreg_weight) * same + sigreg_weight * spread, inputs.memory, metrics)


def deviations(
    embeddings: Float[Array, "clips frames views width"], valid: Float[Array, "clips frames"]
) -> Float[Array, "clips frames views width"]:
    """Embeddings less their mean over the real frames of the clip; 0 for frames that only fill up.

    >>> deviations(jnp.array([1.0, 3.0, 9.0]).reshape(1, 3, 1, 1), jnp.array([[1.0, 1.0, 0.0]])).ravel().tolist()
    [-1.0, 1.0, 0.0]
    """
    weights = (valid / valid.sum(1, keepdims=True))[:, :, None, None]
    return (embeddings - (embeddings * weights).sum(1, keepdims=True)) * valid[:, :, None, None]


def invariance(
    moved: Float[Array, "clips frames views width"], valid: Float[Array, "clips frames"]
) -> Float[Array, ""]:
    """Mean squared distance of a frame's views from their mean, over real frames; `jepa.invariance` of frames.

    Args:
      moved: float32 [B, F, M, E], of `deviations`.
    """
    squares = jnp.square(moved - moved.mean(2, keepdims=True)).mean((2, 3))
    return (squares * valid).sum() / valid.sum()


def sigreg(
    moved: Float[Array, "clips frames views width"],
    valid: Float[Array, "clips frames"],
    directions: Float[Array, "width directions"],
) -> Float[Array, ""]:
    """`jepa.sigreg` of the real frames of all clips, divided by the real frames per clip: frames of one clip are alike,
    so that a batch counts as so many independent rows as it has clips."""
    rows = moved.reshape(-1, *moved.shape[2:])
    return jepa.sigreg(rows, directions, valid.reshape(-1)) / valid.sum(1).mean()
