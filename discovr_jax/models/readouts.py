"""Features of a clip from its tokens. Which readout serves a task best is chosen on validation (DESIGN, 5)."""

import jax
import jax.numpy as jnp

NAMES = ("cls", "mean", "std_of_mean", "mean_of_std")
STD_EPS = 1e-12


def readouts(tokens: jax.Array, num_valid: jax.Array, grid) -> dict[str, jax.Array]:
    """Clip features from tokens. Tubelets of padded frames do not count.

    Args:
      tokens: [B, 1 + tokens, D], token 0 is CLS.
      num_valid: int32 [B], real frames.
      grid: the `ClipGrid` of the tokens.

    Returns:
      float32 [B, D] each: `cls`; `mean` token; `std_of_mean`, temporal deviation of the frame-mean token;
      `mean_of_std`, mean over places of the temporal deviation of each place's token.
    """
    tokens = tokens.astype(jnp.float32)
    places = tokens[:, 1:].reshape(tokens.shape[0], grid.time, grid.places, -1)
    valid = jnp.arange(grid.time) * grid.tubelet < num_valid[:, None]
    share = (valid / valid.sum(1, keepdims=True))[:, :, None, None]

    def deviation(x):
        mean = (x * share).sum(1, keepdims=True)
        return jnp.sqrt(((x - mean) ** 2 * share).sum(1) + STD_EPS)

    frame_mean = places.mean(2, keepdims=True)
    return {
        "cls": tokens[:, 0],
        "mean": (frame_mean * share).sum(1)[:, 0],
        "std_of_mean": deviation(frame_mean)[:, 0],
        "mean_of_std": deviation(places).mean(1),
    }
