"""Semantic cluster distillation: decoder tokens and image teacher tokens share prototypes (DISCOVR, eq. 4-6)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from discovr_jax.errors import ConfigError

STANDARDISE_EPS = 1e-6


def standardise(
    tokens: Float[Array, "clips frames places width"], how: str, position_mean: Float[Array, "places width"]
) -> Float[Array, "clips frames places width"]:
    """Take the common part out of image teacher tokens.

    Args:
      tokens: [B, F, P, D].
      how: "frame" (zero mean and unit unbiased deviation over the patches of the frame), "position" (minus
        the running mean of each patch position) or "none".
      position_mean: float32 [P, D], read by "position".

    Returns:
      float32 [B, F, P, D].
    """
    tokens = tokens.astype(jnp.float32)
    if how == "frame":
        deviation = tokens.std(axis=2, ddof=1, keepdims=True)
        return (tokens - tokens.mean(axis=2, keepdims=True)) / (deviation + STANDARDISE_EPS)
    if how == "position":
        return tokens - position_mean
    if how == "none":
        return tokens
    raise ConfigError(f"scd.standardise must be 'frame', 'position' or 'none', not {how!r}")


def mean_of_positions(tokens: Float[Array, "clips frames places width"]) -> Float[Array, "places width"]:
    """Mean token of a batch at each patch position, without gradient. [B, F, P, D] -> float32 [P, D]."""
    # Frames are summed by products: for a plain mean XLA lays out the whole image teacher with frames last on GPUs, and
    # moves its axes four times in each block (docs/speed.md).
    ones = jnp.ones(tokens.shape[:2], tokens.dtype)
    sums = jnp.einsum("bf,bfpd->bpd", ones, tokens, precision="highest", preferred_element_type=jnp.float32)
    return jax.lax.stop_gradient(sums.mean(0) / tokens.shape[1])


def started_position_mean(
    position_mean: Float[Array, "places width"], batch_mean: Float[Array, "places width"]
) -> Float[Array, "places width"]:
    """The running mean, or the mean of this batch where it has not started (is all zeros).

    From zeros an average of momentum 0.99 would take 69 steps to hold half of the mean.
    """
    return jnp.where(jnp.any(position_mean != 0), position_mean, batch_mean)


def update_position_mean(
    position_mean: Float[Array, "places width"], batch_mean: Float[Array, "places width"], momentum: float
) -> Float[Array, "places width"]:
    """EMA of the mean token at each patch position; both float32 [P, D]."""
    return momentum * position_mean + (1 - momentum) * batch_mean


def prototype_cross_entropy(
    scores: Float[Array, "rows prototypes"],
    assignments: Float[Array, "rows prototypes"],
    temperature: float,
    weights: Float[Array, "rows"] | None = None,
) -> Float[Array, ""]:
    """Mean over rows of CE(softmax(scores / temperature), assignments).

    Args:
      scores, assignments: float32 [N, K].
      weights: [N] or None; the mean is over the mass.
    """
    log_probs = jax.nn.log_softmax(scores / temperature, axis=-1)
    per_row = -(assignments * log_probs).sum(-1)
    if weights is None:
        return per_row.mean()
    return (per_row * weights).sum() / jnp.maximum(weights.sum(), 1e-9)


def hard_labels(assignments: Float[Array, "rows prototypes"]) -> Float[Array, "rows prototypes"]:
    """One-hot of the largest assignment, as the public code uses for targets."""
    return jax.nn.one_hot(assignments.argmax(-1), assignments.shape[-1], dtype=jnp.float32)


def signal_weights(
    frames: UInt8[Array, "clips time height width"],
    num_valid: Int[Array, "clips"],
    tubelet: int,
    patch: int,
    floor: float,
) -> Float[Array, "clips tubelets places"]:
    """1 for tokens that hold signal, 0 for padded frames and for patches without signal.

    A patch holds signal if its grey values deviate by more than `floor` anywhere in the clip: the black
    surround of the sector does not.

    Args:
      frames: uint8 [B, T, H, W].
      num_valid: int32 [B].
      floor: grey levels (0..255).

    Returns:
      float32 [B, T / tubelet, P].
    """
    batch, time, height, width = frames.shape
    x = frames.astype(jnp.float32).reshape(batch, time, height // patch, patch, width // patch, patch)
    valid = jnp.arange(time) < num_valid[:, None]
    moment = jnp.where(valid[:, :, None, None], (x**2).mean((3, 5)), 0).sum(1) / num_valid[:, None, None]
    mean = jnp.where(valid[:, :, None, None], x.mean((3, 5)), 0).sum(1) / num_valid[:, None, None]
    signal = jnp.sqrt(jnp.maximum(moment - mean**2, 0)) > floor
    real = valid[:, ::tubelet]
    return (real[:, :, None] & signal.reshape(batch, 1, -1)).astype(jnp.float32)
