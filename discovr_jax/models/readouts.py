"""Pooled features of a clip from its tokens. The pooling that serves a task best is chosen on validation."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax.errors import ConfigError

NAMES = ("cls", "mean", "std_of_mean", "mean_of_std")
MAPS = ("mean_map", "std_map")
DECODER = "decoder_"  # in front of the name of a map, where it is made from the decoder's tokens
FRAMES = ("frame_mean", "frame_std")  # of the image branch: of CLS over the frames
KNOWN = (*NAMES, *MAPS, *(DECODER + name for name in MAPS), *FRAMES, "all")
STD_EPS = 1e-12


def branches(names: Iterable[str]) -> set[str]:
    """Modules of the network, besides the video encoder, that these readouts are made from.

    >>> sorted(branches(["cls", "decoder_std_map", "frame_std"]))
    ['decoder', 'image_encoder']
    """
    needs = {"image_encoder": FRAMES, "decoder": tuple(DECODER + name for name in MAPS)}
    return {module for module, own in needs.items() if {*names} & {*own}}


def pooled(
    apply: Callable[..., jax.Array], params: dict, tokens: jax.Array, frames: jax.Array, num_valid: jax.Array,
    grid, map_side: int,
) -> dict[str, jax.Array]:  # fmt: skip
    """`readouts` of the encoder's tokens, and what else the parameters allow.

    Args:
      apply: `(params, *arrays, method) -> array`, the network.
      params: where they hold a "decoder", its maps are there as "decoder_...", where they hold an "image_encoder" those
        of `FRAMES`.
      tokens, num_valid, grid, map_side: as of `readouts`; frames [B, T, H, W]: what the tokens are of.
    """
    result = readouts(tokens, num_valid, grid, map_side)
    if "decoder" in params:
        maps = readouts(apply(params, tokens, method="decode_video"), num_valid, grid, map_side)
        result |= {DECODER + name: maps[name] for name in MAPS}
    if "image_encoder" in params:
        cls = apply(params, frames, num_valid, method="encode_frames")[:, 0]
        result |= frame_readouts(cls.reshape(*frames.shape[:2], -1), num_valid)
    return result


def frame_readouts(cls: jax.Array, num_valid: jax.Array) -> dict[str, jax.Array]:
    """Mean and standard deviation over the real frames of their CLS tokens.

    `frame_std` is how far frames move in the space of the image encoder: after training with `loss.phase`, how far the
    heart contracts.

    Args:
      cls: [B, T, D] of the image encoder. num_valid: int32 [B], real frames.

    Returns:
      float32 [B, D] each.

    >>> pair = frame_readouts(jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([2]))  # the third frame only fills up
    >>> float(pair["frame_mean"][0, 0]), float(pair["frame_std"][0, 0])
    (2.0, 1.0)
    """
    valid = jnp.arange(cls.shape[1]) < num_valid[:, None]
    share = (valid / valid.sum(1, keepdims=True))[:, :, None]
    return dict(zip(FRAMES, _moments(cls.astype(jnp.float32), share), strict=True))


def _moments(x: jax.Array, share: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation over axis 1, whose entries count by their share."""
    mean = (x * share).sum(1)
    return mean, jnp.sqrt((jnp.square(x - mean[:, None]) * share).sum(1) + STD_EPS)


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
    tokens, by_position, share = _by_position(tokens, num_valid, grid)

    def pooled_to_cells(x):
        x = x.reshape(x.shape[0], grid.rows, grid.cols, -1)
        weights = cell_weights(grid.rows, map_side), cell_weights(grid.cols, map_side)
        return jnp.einsum("brcd,yr,xc->byxd", x, *weights, precision="highest").reshape(x.shape[0], -1)

    tubelet_mean, tubelet_std = _moments(by_position.mean(2, keepdims=True), share)
    mean, motion = _moments(by_position, share)
    return {
        "cls": tokens[:, 0],
        "mean": tubelet_mean[:, 0],
        "std_of_mean": tubelet_std[:, 0],
        "mean_of_std": motion.mean(1),
        "mean_map": pooled_to_cells(mean),
        "std_map": pooled_to_cells(motion),
    }


def over_time(tokens: jax.Array, num_valid: jax.Array, grid) -> jax.Array:
    """CLS, then the mean over time of the token of each patch position, then its standard deviation.

    Args:
      tokens, num_valid, grid: as of `readouts`.

    Returns:
      float32 [B, 1 + 2 positions, D].
    """
    tokens, by_position, share = _by_position(tokens, num_valid, grid)
    return jnp.concatenate([tokens[:, :1], *_moments(by_position, share)], axis=1)


def _by_position(tokens: jax.Array, num_valid: jax.Array, grid) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tokens as float32, as [B, time, positions, D] without CLS, and the share of each tubelet, 0 of a padded one."""
    tokens = tokens.astype(jnp.float32)
    by_position = tokens[:, 1:].reshape(tokens.shape[0], grid.time, grid.num_positions, -1)
    valid = jnp.arange(grid.time) * grid.tubelet < num_valid[:, None]
    return tokens, by_position, (valid / valid.sum(1, keepdims=True))[:, :, None, None]


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
