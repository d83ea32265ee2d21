"""Fixed sinusoid positions: of a flattened token grid, or along each of its axes.

They are added to the tokens. Rotary positions (RoPE) would begin here, with a kind in `KINDS`; q and k are turned in
`Attention` of models/transformer.py, and docs/extending.md names the files in between.
"""

import numpy as np
from jaxtyping import Float, Float32, Shaped

BASE = 10000.0
AXIS_BASE = 100.0  # an axis has tens of grid cells, not thousands of tokens


def sinusoid(
    positions: Shaped[np.ndarray, "tokens"], width: int, base: float = BASE
) -> Float32[np.ndarray, "tokens {width}"]:
    """Sinusoid embedding of (possibly fractional) positions: sine on even channels, cosine on odd ones.

    Source: Vaswani et al., arXiv 1706.03762, section 3.5.

    Args:
      positions: float or int [N], position of each token.
      width: number of channels D.
      base: the longest wave is 2 pi times this.

    Returns:
      float32 [N, D].

    >>> sinusoid(np.arange(3), width=4).shape
    (3, 4)
    """
    channel = np.arange(width)
    angle = np.asarray(positions, np.float64)[:, None] / base ** (2 * (channel // 2) / width)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def axis_sinusoid(positions: Float[np.ndarray, "tokens axes"], width: int) -> Float32[np.ndarray, "tokens {width}"]:
    """An equal share of the channels for each axis, the same for neighbours along it; channels left over are zero.

    Args:
      positions: float [N, A], coordinates of each token.
      width: number of channels D.

    Returns:
      float32 [N, D].

    Raises:
      ValueError: no wave (two channels) for each axis.
    """
    axes = positions.shape[1]
    share = width // axes // 2 * 2
    if share == 0:
        raise ValueError(f"{width} channels have no wave for each of {axes} axes: take {2 * axes} or more")
    parts = [sinusoid(positions[:, axis], share, AXIS_BASE) for axis in range(axes)]
    return np.pad(np.concatenate(parts, axis=1), ((0, 0), (0, width - axes * share)))


def sincos_factorised(
    grid: tuple[int, ...], counted_in: tuple[int, ...] | None = None
) -> Float[np.ndarray, "tokens axes"]:
    """Coordinates of every token of a grid, counted in the units of another grid of the same extent.

    Cell centres are aligned: cell i of n lies at (i + 1/2) N / n - 1/2 of N.

    Args:
      grid: grid cells along each axis, (rows, columns) or (tubelets, rows, columns).
      counted_in: grid cells along each axis of the grid that the weights were trained on; None for `grid` itself.

    Returns:
      float64 [N, axes], raster order; whole numbers where the two grids are equal.

    >>> sincos_factorised((2, 2)).tolist()
    [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    counted_in = grid if counted_in is None else tuple(counted_in)
    if len(counted_in) != len(grid):
        raise ValueError(f"positions of a grid {grid} cannot be counted in a grid {counted_in} of other rank")
    along = [
        np.arange(float(size)) if size == trained else (np.arange(size) + 0.5) * trained / size - 0.5
        for size, trained in zip(grid, counted_in, strict=True)
    ]
    return np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, len(grid))


def sincos_1d(
    grid: tuple[int, ...], counted_in: tuple[int, ...] | None = None
) -> Float[np.ndarray, "tokens"]:
    """As `sincos_factorised`, flattened: t' (H W) + h' W + w', with fractional coordinates.

    (Interpolating the table itself would be wrong: the rows between two rows of a frame belong to other columns.)

    Returns:
      float64 [N], raster order; exactly 0 .. N-1 where the two grids are equal.
    """
    counted_in = grid if counted_in is None else tuple(counted_in)
    units = [np.prod(counted_in[axis + 1 :]) for axis in range(len(counted_in))]
    return sincos_factorised(grid, counted_in) @ np.array(units, np.float64)


# model.positions: "1d" (the public code) or "factorised"
KINDS = {"1d": sincos_1d, "factorised": sincos_factorised}


def encoder_positions(
    num_tokens: int, width: int, positions: Float[np.ndarray, "{num_tokens} *axes"] | None = None
) -> Float32[np.ndarray, "{num_tokens} {width}"]:
    """Positions 0 .. N-1 of the encoders, or `positions`; CLS has none (zeros). Returns float32 [N, D]."""
    positions = np.arange(num_tokens) if positions is None else positions
    return sinusoid(positions, width) if positions.ndim == 1 else axis_sinusoid(positions, width)


def decoder_positions(
    num_tokens: int, width: int, positions: Float[np.ndarray, "{num_tokens} *axes"] | None = None
) -> Float32[np.ndarray, "{num_tokens} {width}"]:
    """Positions 1 .. N of the decoder (or `positions` + 1): the public code drops a longer table's first row."""
    return encoder_positions(num_tokens, width, 1.0 + (np.arange(num_tokens) if positions is None else positions))
