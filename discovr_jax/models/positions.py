"""Fixed sinusoid positions over a flattened token grid."""

import numpy as np
from jaxtyping import Float, Float32, Shaped

BASE = 10000.0


def sinusoid(
    positions: Shaped[np.ndarray, "tokens"], width: int
) -> Float32[np.ndarray, "tokens {width}"]:
    """Sinusoid embedding of (possibly fractional) positions: sine on even channels, cosine on odd ones.

    Args:
      positions: float or int [N], position of each token in the flattened grid.
      width: number of channels D.

    Returns:
      float32 [N, D].
    """
    channel = np.arange(width)
    angle = np.asarray(positions, np.float64)[:, None] / BASE ** (2 * (channel // 2) / width)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def flat_positions(
    grid: tuple[int, ...], counted_in: tuple[int, ...] | None = None
) -> Float[np.ndarray, "tokens"]:
    """Flattened position of every token of a grid, counted in the units of another grid of the same extent.

    Cell centres are aligned: cell i of n lies at (i + 1/2) N / n - 1/2 of N; the flattened position is then
    t' (H W) + h' W + w' with fractional coordinates. (Interpolating the table itself would be wrong: the rows
    between two rows of a frame belong to other columns.)

    Args:
      grid: cells along each axis, (rows, columns) or (tubelets, rows, columns).
      counted_in: cells along each axis of the grid that the weights were trained on; None for `grid` itself.

    Returns:
      float64 [N], raster order; exactly 0 .. N-1 where the two grids are equal.
    """
    counted_in = grid if counted_in is None else tuple(counted_in)
    if len(counted_in) != len(grid):
        raise ValueError(f"positions of a grid {grid} cannot be counted in a grid {counted_in} of other rank")
    flat = np.zeros(grid)
    for axis, (size, trained) in enumerate(zip(grid, counted_in, strict=True)):
        along = np.arange(size) if size == trained else (np.arange(size) + 0.5) * trained / size - 0.5
        unit = np.prod(counted_in[axis + 1 :])
        flat += np.expand_dims(along * unit, tuple(i for i in range(len(grid)) if i != axis))
    return flat.reshape(-1)


def encoder_positions(
    num_tokens: int, width: int, flat: Float[np.ndarray, "{num_tokens}"] | None = None
) -> Float32[np.ndarray, "{num_tokens} {width}"]:
    """Positions 0 .. N-1 of the encoders, or `flat`; CLS has none (zeros). Returns float32 [N, D]."""
    return sinusoid(np.arange(num_tokens) if flat is None else flat, width)


def decoder_positions(
    num_tokens: int, width: int, flat: Float[np.ndarray, "{num_tokens}"] | None = None
) -> Float32[np.ndarray, "{num_tokens} {width}"]:
    """Positions 1 .. N of the decoder (or `flat` + 1): the public code drops a longer table's first row."""
    return sinusoid(np.arange(1, num_tokens + 1) if flat is None else flat + 1, width)
