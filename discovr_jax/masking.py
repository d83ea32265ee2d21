"""Masks as pure functions of a key. Counts are static, so visible tokens are gathered, never boolean-indexed."""

import jax
import jax.numpy as jnp

KINDS = ("tube", "region", "mixed")


def num_visible(places: int, ratio: float) -> int:
    """Visible patches of a frame when `int(ratio * places)` are hidden (the public code's rounding)."""
    visible = places - int(ratio * places)
    if not 1 <= visible <= places:
        raise ValueError(f"mask ratio {ratio} leaves {visible} of {places} patches visible: need at least 1")
    return visible


def random_places(key: jax.Array, rows: int, grid: tuple[int, int], visible: int) -> jax.Array:
    """`visible` places drawn without replacement in each of `rows` grids. int32 [rows, visible], ascending."""
    noise = jax.random.uniform(key, (rows, grid[0] * grid[1]))
    return _first_places(noise, visible)


def region_places(key: jax.Array, rows: int, grid: tuple[int, int], visible: int) -> jax.Array:
    """One visible rectangle a grid, of random place and shape (sides within 1:2), of exactly `visible` cells
    (an incomplete row or column at its border where `visible` is no product). int32 [rows, visible], ascending.
    """
    height, width = grid
    keys = jax.random.split(key, 4)
    aspect = jnp.exp2(jax.random.uniform(keys[0], (rows, 1), minval=-0.5, maxval=0.5))
    half = 0.5 * jnp.sqrt(float(visible))
    centre_y = _within(jax.random.uniform(keys[1], (rows, 1)), half * aspect, height)
    centre_x = _within(jax.random.uniform(keys[2], (rows, 1)), half / aspect, width)
    y, x = jnp.divmod(jnp.arange(height * width), width)
    distance = jnp.maximum(
        jnp.abs(y[None] + 0.5 - centre_y) / aspect, jnp.abs(x[None] + 0.5 - centre_x) * aspect
    )
    return _first_places(distance + 1e-3 * jax.random.uniform(keys[3], distance.shape), visible)


def view_places(
    key: jax.Array, views: int, rows: int, grid: tuple[int, int], kind: str, ratio: float, region_fraction: float
) -> tuple[jax.Array, ...]:
    """Visible places of `views` views of `rows` frames or clips.

    Args:
      kind: "tube" (places at random, `ratio` hidden), "region" (one rectangle, `region_fraction` visible) or
        "mixed" (even views tube, odd views region).

    Returns:
      A tuple of int32 [rows, visible of the view], ascending.
    """
    if kind not in KINDS:
        raise ValueError(f"mask kind must be one of {KINDS}, not {kind!r}")
    places = grid[0] * grid[1]
    out = []
    for view in range(views):
        view_key = jax.random.fold_in(key, view)
        if kind == "region" or (kind == "mixed" and view % 2):
            count = num_visible(places, 1 - region_fraction)
            out.append(region_places(view_key, rows, grid, count))
        else:
            out.append(random_places(view_key, rows, grid, num_visible(places, ratio)))
    return tuple(out)


def tube(places: jax.Array, time: int, places_per_frame: int) -> jax.Array:
    """The same places in every tubelet: int32 [B, v] -> token indices [B, time * v], ascending."""
    offsets = jnp.arange(time, dtype=places.dtype) * places_per_frame
    return (offsets[None, :, None] + places[:, None, :]).reshape(places.shape[0], -1)


def hidden(visible: jax.Array, num_tokens: int) -> jax.Array:
    """bool [B, N], True where a token is hidden, from visible indices [B, V]."""
    shown = jax.vmap(lambda index: jnp.zeros(num_tokens, bool).at[index].set(True))(visible)
    return ~shown


def visible_then_hidden(visible: jax.Array, num_tokens: int) -> jax.Array:
    """Token indices in the public decoder's own order: visible ascending, then hidden. int32 [B, N]."""
    return jnp.argsort(hidden(visible, num_tokens), axis=1, stable=True).astype(visible.dtype)


def _first_places(rank: jax.Array, visible: int) -> jax.Array:
    return jnp.sort(jnp.argsort(rank, axis=1)[:, :visible], axis=1).astype(jnp.int32)


def _within(uniform: jax.Array, half: jax.Array, side: int) -> jax.Array:
    """A centre so that +-half stays inside [0, side] where it fits."""
    half = jnp.minimum(half, side / 2)
    return half + uniform * (side - 2 * half)
