"""Reconstruction of normalised pixels of masked tubelets (VideoMAE)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from discovr_jax.losses.interface import Result

EPS = 1e-6


def term(inputs) -> Result:
    """Pixel reconstruction as a term of the objective; `interface.LossInputs` -> its Result."""
    batch = inputs.batch
    return Result(pixel_loss(inputs.student.pixels, batch.pixel_targets, batch.masked), inputs.memory)


def pixel_targets(patches: Float[Array, "clips tokens patch_dim"]) -> Float[Array, "clips tokens patch_dim"]:
    """Each tubelet to zero mean and unit (unbiased) standard deviation: [B, N, patch_dim], the result in float32."""
    x = patches.astype(jnp.float32)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, ddof=1, keepdims=True)
    return (x - mean) / (jnp.sqrt(variance) + EPS)


def pixel_loss(
    predicted: Float[Array, "clips tokens patch_dim"],
    targets: Float[Array, "clips tokens patch_dim"],
    masked: Bool[Array, "clips tokens"],
) -> Float[Array, ""]:
    """Mean squared error over masked tokens. predicted, targets [B, N, patch_dim]; masked bool [B, N]."""
    per_token = jnp.square(predicted.astype(jnp.float32) - targets).mean(-1)
    return (per_token * masked).sum() / jnp.maximum(masked.sum(), 1)
