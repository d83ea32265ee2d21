"""`evaluation.features.pixels.pixel_features` in JAX: the distance from the training videos reads them too."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax.evaluation.features.pixels import SIDE


def pixel_features(frames: jax.Array, num_valid: jax.Array) -> jax.Array:
    """Mean frame and temporal-std frame of each standardised clip.

    Args:
      frames: uint8 [B, T, S, S]; num_valid: int32 [B], real frames.

    Returns:
      float32 [B, 2 * SIDE * SIDE].
    """
    size, clips = frames.shape[-1], frames.astype(jnp.float32)
    real = (jnp.arange(frames.shape[1]) < num_valid[:, None])[:, :, None, None]
    count = num_valid.astype(jnp.float32)[:, None, None]
    # Sums first: they are exact, so that a clip of one grey level has no standard deviation.
    mean = jnp.where(real, clips, 0).sum(1) / count
    variance = jnp.where(real, (clips - mean[:, None]) ** 2, 0).sum(1) / count
    centred = mean - mean.mean((1, 2), keepdims=True)
    scale = jnp.sqrt((variance + centred**2).mean((1, 2)))
    # The resize is linear: rows of a picture by this matrix, columns by its transpose.
    rows = cv2.resize(np.eye(size, dtype=np.float32), (size, SIDE), interpolation=cv2.INTER_AREA)
    pictures = jnp.stack([centred, jnp.sqrt(variance)], 1) / jnp.where(scale > 0, scale, 1.0)[:, None, None, None]
    return (rows @ pictures @ rows.T).reshape(frames.shape[0], 2 * SIDE * SIDE)
