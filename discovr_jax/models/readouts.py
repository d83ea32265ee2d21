"""Pooled features of a clip from its tokens. The pooling that serves a task best is chosen on validation."""

import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax.errors import ConfigError

NAMES = ("cls", "mean", "std_of_mean", "mean_of_std")
MAPS = ("mean_map", "std_map")
DECODER = "decoder_"  # in front of the name of a map, where it is made from the decoder's tokens
KNOWN = (*NAMES, *MAPS, *(DECODER + name for name in MAPS), "all")
STD_EPS = 1e-12


def readouts(tokens: jax.Array, num_valid: jax.Array, grid, map_side: int) -> dict[str, jax.Array]:
    """Pooled features of clips from their tokens. Tubelets of padded frames do not count.

    Args:
      tokens: [B, 1 + tokens, D], token 0 is CLS.
      num_valid: int32 [B], real frames.
      grid: the `ClipGrid` of the tokens.
      map_side: grid cells along a side of the maps; a grid of fewer rows or columns has one for each.

    Returns:
      float32 [B, D] each: `cls`; `mean` token; `std_of_mean`, temporal standard deviation of the frame-mean token;
      `mean_of_std`, mean over patch positions of the temporal standard deviation of each one's token.
      float32 [B, cells * D] each, grid cells in raster order: `mean_map`, the mean token of a cell; `std_map`, the mean
      over its patch positions of the temporal standard deviation. They say where something moves, as no mean over all
      positions does.

    Raises:
      ConfigError: map_side below 1.
    """
    if map_side < 1:
        raise ConfigError(f"eval.map_side = {map_side} must be at least 1")
    tokens = tokens.astype(jnp.float32)
    by_position = tokens[:, 1:].reshape(tokens.shape[0], grid.time, grid.num_positions, -1)
    valid = jnp.arange(grid.time) * grid.tubelet < num_valid[:, None]
    share = (valid / valid.sum(1, keepdims=True))[:, :, None, None]

    def temporal_std(x):
        mean = (x * share).sum(1, keepdims=True)
        return jnp.sqrt(((x - mean) ** 2 * share).sum(1) + STD_EPS)

    def pooled_to_cells(x):
        x = x.reshape(x.shape[0], grid.rows, grid.cols, -1)
        weights = cell_weights(grid.rows, map_side), cell_weights(grid.cols, map_side)
        return jnp.einsum("brcd,yr,xc->byxd", x, *weights, precision="highest").reshape(x.shape[0], -1)

    frame_mean = by_position.mean(2, keepdims=True)
    motion = temporal_std(by_position)
    return {
        "cls": tokens[:, 0],
        "mean": (frame_mean * share).sum(1)[:, 0],
        "std_of_mean": temporal_std(frame_mean)[:, 0],
        "mean_of_std": motion.mean(1),
        "mean_map": pooled_to_cells((by_position * share).sum(1)),
        "std_map": pooled_to_cells(motion),
    }


def cell_weights(positions: int, most: int) -> np.ndarray:
    """Share of each patch position in each grid cell: `positions` in a row are cut into at most `most` equal cells.

    Returns:
      float32 [cells, positions], rows sum to 1.
    """
    count = min(positions, most)
    edges = np.linspace(0, positions, count + 1)[:, None]
    starts = np.arange(positions)
    overlap = np.clip(np.minimum(edges[1:], starts + 1) - np.maximum(edges[:-1], starts), 0, None)
    return (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)
