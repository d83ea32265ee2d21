"""Reconstruction of normalised pixels of hidden tubelets (VideoMAE)."""

import jax
import jax.numpy as jnp

EPS = 1e-6


def pixel_targets(patches: jax.Array) -> jax.Array:
    """Each tubelet to zero mean and unit (unbiased) deviation. [B, N, cells] -> float32 [B, N, cells]."""
    x = patches.astype(jnp.float32)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, ddof=1, keepdims=True)
    return (x - mean) / (jnp.sqrt(variance) + EPS)


def pixel_loss(predicted: jax.Array, targets: jax.Array, hidden: jax.Array) -> jax.Array:
    """Mean squared error over hidden tokens. predicted, targets [B, N, cells]; hidden bool [B, N]."""
    per_token = jnp.square(predicted.astype(jnp.float32) - targets).mean(-1)
    return (per_token * hidden).sum() / jnp.maximum(hidden.sum(), 1)
