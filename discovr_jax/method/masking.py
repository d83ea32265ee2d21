"""Masks as pure functions of a key. Counts are static: visible tokens are gathered, never boolean-indexed."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, Key

from discovr_jax.errors import ConfigError

KINDS = ("tube", "region", "mixed")


def num_visible(positions: int, ratio: float) -> int:
    """Visible patches of a frame when `int(ratio * positions)` are masked (the public code's rounding)."""
    visible = positions - int(ratio * positions)
    if not 1 <= visible <= positions:
        raise ConfigError(f"mask ratio {ratio} leaves {visible} of {positions} patches visible: need at least 1")
    return visible


def random_positions(
    key: Key[Array, ""], rows: int, grid: tuple[int, int], visible: int
) -> Int32[Array, "{rows} {visible}"]:
    """`visible` patch positions without replacement in each of `rows` grids. int32 [rows, visible], ascending."""
    noise = jax.random.uniform(key, (rows, grid[0] * grid[1]))
    return _first_positions(noise, visible)


def region_positions(
    key: Key[Array, ""], rows: int, grid: tuple[int, int], visible: int
) -> Int32[Array, "{rows} {visible}"]:
    """One visible rectangle a grid, of random position and shape. int32 [rows, visible], ascending.

    Where no rectangle has exactly `visible` patches, the smallest larger one, less the end of its last row.
    """
    shapes = np.array(_rectangles(grid, visible))
    shape_key, y_key, x_key = jax.random.split(key, 3)
    high, wide = jnp.asarray(shapes.T)[:, jax.random.randint(shape_key, (rows,), 0, len(shapes))]
    top = jax.random.randint(y_key, (rows,), 0, grid[0] - high + 1)
    left = jax.random.randint(x_key, (rows,), 0, grid[1] - wide + 1)
    y, x = jnp.divmod(jnp.arange(grid[0] * grid[1]), grid[1])
    down, right = y - top[:, None], x - left[:, None]
    inside = (down >= 0) & (right >= 0) & (down < high[:, None]) & (right < wide[:, None])
    return _first_positions(jnp.where(inside, down * wide[:, None] + right, y.size), visible)


def _rectangles(grid: tuple[int, int], visible: int) -> list[tuple[int, int]]:
    """Smallest shapes (height, width) that hold `visible` patches, sides within 1:2 if the grid allows."""
    fitting = [(high, -(-visible // high)) for high in range(1, grid[0] + 1) if visible <= high * grid[1]]
    square = [shape for shape in fitting if max(shape) <= 2 * min(shape)] or fitting
    least = min(high * wide for high, wide in square)
    return [shape for shape in square if shape[0] * shape[1] == least]


def visible_positions(
    key: Key[Array, ""],
    views: int,
    rows: int,
    grid: tuple[int, int],
    kind: str,
    ratio: float,
    region_fraction: float,
) -> tuple[Int32[Array, "{rows} _"], ...]:
    """Visible patch positions of `views` views of `rows` frames or clips.

    Args:
      kind: "tube" (positions at random, `ratio` masked), "region" (one rectangle, `region_fraction` visible) or
        "mixed" (even views tube, odd views region).

    Returns:
      A tuple of int32 [rows, visible of the view], ascending.
    """
    if kind not in KINDS:
        raise ConfigError(f"mask kind must be one of {KINDS}, not {kind!r}")
    positions = grid[0] * grid[1]
    out = []
    for view in range(views):
        view_key = jax.random.fold_in(key, view)
        if kind == "region" or (kind == "mixed" and view % 2):
            count = num_visible(positions, 1 - region_fraction)
            out.append(region_positions(view_key, rows, grid, count))
        else:
            out.append(random_positions(view_key, rows, grid, num_visible(positions, ratio)))
    return tuple(out)


def tube(
    positions: Int32[Array, "clips visible"], time: int, positions_per_frame: int
) -> Int32[Array, "clips {time}*visible"]:
    """The same patch positions in every tubelet: int32 [B, v] -> token indices [B, time * v], ascending."""
    offsets = jnp.arange(time, dtype=positions.dtype) * positions_per_frame
    return (offsets[None, :, None] + positions[:, None, :]).reshape(positions.shape[0], -1)


def masked(visible: Int32[Array, "clips visible"], num_tokens: int) -> Bool[Array, "clips {num_tokens}"]:
    """bool [B, N], True where a token is masked, from visible indices [B, V]."""
    shown = jax.vmap(lambda index: jnp.zeros(num_tokens, bool).at[index].set(True))(visible)
    return ~shown


def visible_then_masked(
    visible: Int32[Array, "clips visible"], num_tokens: int
) -> Int32[Array, "clips {num_tokens}"]:
    """Token indices in the public decoder's own order: visible ascending, then masked. int32 [B, N]."""
    return jnp.argsort(masked(visible, num_tokens), axis=1, stable=True).astype(visible.dtype)


def _first_positions(rank: jax.Array, visible: int) -> jax.Array:
    return jnp.sort(jnp.argsort(rank, axis=1)[:, :visible], axis=1).astype(jnp.int32)
