"""Softmax attention, and the forms of it that suit one machine or another; all compute the same.

Functions of q, k and v only; the module with weights is `Attention` in `models/transformer.py`.

Source: Vaswani et al., arXiv 1706.03762 (attention); Rabe and Staats, arXiv 2112.05682 (memory-efficient);
FlashAttention, arXiv 2205.14135 (flash).
"""

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax.errors import ConfigError

logger = logging.getLogger(__name__)

# Scores that a CPU's caches hold. Fewer than WHOLE_BYTES in all are computed at once, more in tiles of TILE_BYTES.
WHOLE_BYTES, TILE_BYTES = 2**22, 2**21
TILE_TOKENS = 128  # queries, and keys, that cuDNN's kernel takes at once


def reference(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Softmax attention, softmax in float32.

    Args:
      q: [B, N, heads, d].
      k, v: [B, M, heads, d].

    Returns:
      [B, N, heads, d] in the dtype of `v`.
    """
    # Explicit transposes to [B, heads, N, d] keep each product a plain batched matrix product: on the CPU
    # backend that is up to four times faster than an einsum over interleaved heads.
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    return jnp.swapaxes(_weighted(q, k, v), 1, 2)


def memory_efficient(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`reference` for a single CPU device: scores are made in tiles that stay in its caches, and again for gradients.

    A tile is several (clip, head) pairs, or of a long sequence some queries of one pair. The loop over tiles runs
    through the batch: on a mesh it would gather what the devices share out.
    """
    batch, queries, heads, width = q.shape
    pair_bytes = 4 * queries * k.shape[1]
    pairs = batch * heads
    if pairs * pair_bytes <= WHOLE_BYTES:
        return reference(q, k, v)
    q, k, v = (jnp.swapaxes(x, 1, 2).reshape(pairs, x.shape[1], width) for x in (q, k, v))
    if pair_bytes <= TILE_BYTES:
        group = max(g for g in range(1, TILE_BYTES // pair_bytes + 1) if pairs % g == 0)
        tiles = tuple(x.reshape(-1, group, *x.shape[1:]) for x in (q, k, v))
        out = jax.lax.map(lambda tile: _tile(*tile), tiles)
    else:
        chunks = math.ceil(pair_bytes / TILE_BYTES)
        rows = math.ceil(queries / chunks)
        padded = jnp.pad(q, ((0, 0), (0, chunks * rows - queries), (0, 0))).reshape(pairs, chunks, rows, width)

        def one_pair(pair):
            q, k, v = pair
            return jax.lax.map(lambda some: _tile(some, k, v), q)

        out = jax.lax.map(one_pair, (padded, k, v)).reshape(pairs, chunks * rows, width)[:, :queries]
    return jnp.swapaxes(out.reshape(batch, heads, queries, width), 1, 2)


def weights(q: jax.Array, k: jax.Array) -> jax.Array:
    """What `reference` weighs the values by, for those who want to see it.

    Args:
      q: [B, N, heads, d].
      k: [B, M, heads, d].

    Returns:
      float32 [B, heads, N, M]; sums to 1 over M.
    """
    return jax.nn.softmax(_scores(*(jnp.swapaxes(x, 1, 2) for x in (q, k))), axis=-1)


def _weighted(q, k, v):
    """Queries [..., N, d], keys and values [..., M, d] -> [..., N, d]."""
    return jax.nn.softmax(_scores(q, k), axis=-1).astype(v.dtype) @ v


def _scores(q, k):
    """float32 [..., N, M], also of 16-bit queries and keys: rounded to them, scores of 16 would be off by 6 %."""
    return _product(q * q.shape[-1] ** -0.5, k)


@jax.custom_vjp
def _product(q, k):
    return jnp.matmul(q, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32)


def _product_backward(residuals, gradient):
    # By itself jax would multiply a float32 gradient with 16-bit keys, which is several products on a TPU.
    q, k = residuals
    gradient = gradient.astype(q.dtype)
    return gradient @ k, jnp.swapaxes(gradient, -1, -2) @ q


_product.defvjp(lambda q, k: (_product(q, k), (q, k)), _product_backward)


@jax.custom_vjp
def _tile(q, k, v):
    """`_weighted`, whose gradient keeps one number per query instead of the scores."""
    return _tile_forward(q, k, v)[0]


def _tile_forward(q, k, v):
    scores = _scores(q, k)
    largest = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    mass = weights.sum(-1, keepdims=True)
    out = ((weights.astype(v.dtype) @ v) / mass).astype(v.dtype)
    return out, (q, k, v, largest + jnp.log(mass))


def _tile_backward(residuals, gradient):
    q, k, v, log_mass = residuals
    weights = jnp.exp(_scores(q, k) - log_mass)
    # In float32 by request: whether XLA rounds the product of 16-bit numbers before a cast differs by version.
    to_weights = jnp.matmul(gradient, jnp.swapaxes(v, -1, -2), preferred_element_type=jnp.float32)
    mean = (weights * to_weights).sum(-1, keepdims=True)  # from the output, rounded to 16 bits, three times the error
    to_scores = (weights * (to_weights - mean) * q.shape[-1] ** -0.5).astype(q.dtype)
    return to_scores @ k, jnp.swapaxes(to_scores, -1, -2) @ q, jnp.swapaxes(weights.astype(v.dtype), -1, -2) @ gradient


_tile.defvjp(_tile_forward, _tile_backward)


def flash(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`reference` for GPUs: cuDNN's flash attention, which writes no scores, where it takes the tokens.

    Those are 16-bit floats in heads of a multiple of 8, up to 128. Its tiles are of 128 tokens, so several short
    sequences are asked as one in which each sees its own tokens only. All else, and the query of CLS alone, is
    `reference`.
    """
    taken = q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    batch, count = q.shape[:2]
    if not taken or k.shape[1] != count:
        return reference(q, k, v)
    # jax takes a mask for even lengths only, and no device may have a part of a tile.
    devices = jax.device_count()
    fitting = [n for n in range(2, TILE_TOKENS // count + 1) if batch % (n * devices) == 0 and n * count % 2 == 0]
    together = max(fitting, default=1)
    if together * count < TILE_TOKENS // 4:
        return reference(q, k, v)
    if together == 1:
        return _flash(q, k, v)
    owner = np.arange(together * count) // count
    packed = (x.reshape(batch // together, together * count, *x.shape[2:]) for x in (q, k, v))
    out = jax.nn.dot_product_attention(
        *packed, mask=jnp.asarray(owner[:, None] == owner)[None, None], implementation="cudnn"
    )
    return out.reshape(v.shape)


@jax.custom_vjp
def _flash(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def _flash_forward(q, k, v):
    return jax.vjp(_flash_even, q, k, v)


def _flash_even(q, k, v):
    """jax refuses the gradient of odd lengths (CLS makes most of ours odd): one token more, that does not count."""
    batch, count = q.shape[:2]
    if count % 2 == 0:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
    real = jnp.full(batch, count, jnp.int32)
    lengths = {"query_seq_lengths": real, "key_value_seq_lengths": real}
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn", **lengths)[:, :count]


_flash.defvjp(_flash_forward, lambda pull, gradient: pull(gradient))


def flash_suits(platform: str, dtype: jnp.dtype) -> bool:
    """Whether "auto" means `flash` on devices of a platform, for activations of a dtype."""
    return platform == "gpu" and dtype in (jnp.bfloat16, jnp.float16)


IMPLEMENTATIONS = {"reference": reference, "memory_efficient": memory_efficient, "flash": flash}


def choose(name: str, dtype: jnp.dtype) -> str:
    """The implementation that "auto" means on this process's devices; any other name stays as it is.

    Args:
      dtype: of activations.

    Raises:
      ConfigError: unknown name.
    """
    if name == "auto":
        backend = jax.default_backend()
        if flash_suits(backend, dtype):
            logger.info("attention: cuDNN's flash attention; model.attention=reference does without")
            return "flash"
        return "memory_efficient" if backend == "cpu" and jax.device_count() == 1 else "reference"
    if name not in IMPLEMENTATIONS:
        raise ConfigError(f"model.attention must be one of {('auto', *IMPLEMENTATIONS)}, not {name!r}")
    return name
