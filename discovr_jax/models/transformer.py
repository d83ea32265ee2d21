"""The pre-norm Vision Transformer that encoders and decoder share: `Attention`, which makes q, k and v, and blocks."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from discovr_jax.errors import ConfigError
from discovr_jax.models.attention import IMPLEMENTATIONS, weights

xavier = nn.initializers.xavier_uniform()


def xavier_qkv(key, shape, dtype=jnp.float32):
    """Xavier-uniform for a stacked kernel [D, 3, D], with the fans of one [D, 3D] matrix (as the public code)."""
    fan_in, parts, fan_out = shape
    bound = (6.0 / (fan_in + parts * fan_out)) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x * Phi(x), computed in float32. Its gradient keeps one array, not every step of it.

    Source: Hendrycks and Gimpel, arXiv 1606.08415.
    """
    return _gelu_and_slope(x)[0]


@gelu.defjvp
def _gelu_jvp(primals, tangents):
    value, derivative = _gelu_and_slope(*primals)
    return value, derivative * tangents[0]


def _gelu_and_slope(x):
    x32 = x.astype(jnp.float32)
    below = 0.5 * (1 + jax.lax.erf(x32 * 2**-0.5))
    density = jnp.exp(-0.5 * x32 * x32) * (2 * math.pi) ** -0.5
    return (x32 * below).astype(x.dtype), (below + x32 * density).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Layer normalisation over the last axis, two-pass variance, in float32.

    Its gradient keeps `x` and two numbers per row. Without this rule XLA recomputes the residual gradient of all
    later blocks in each block.

    Source: Ba et al., arXiv 1607.06450.

    Args:
      x: [..., D], any float dtype.
      scale, bias: float32 [D].

    Returns:
      [..., D] in the dtype of `x`.
    """
    return _normalise_forward(x, scale, bias, eps)[0]


def _normalise_forward(x, scale, bias, eps):
    x32 = x.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(x32 - mean).mean(-1, keepdims=True) + eps)
    return ((x32 - mean) * inverse * scale + bias).astype(x.dtype), (x, scale, mean, inverse)


def _normalise_backward(eps, residuals, gradient):
    x, scale, mean, inverse = residuals
    unit, gradient = (x.astype(jnp.float32) - mean) * inverse, gradient.astype(jnp.float32)
    rows = tuple(range(x.ndim - 1))
    to_unit = gradient * scale
    centred = to_unit - to_unit.mean(-1, keepdims=True) - unit * (to_unit * unit).mean(-1, keepdims=True)
    return (inverse * centred).astype(x.dtype), (gradient * unit).sum(rows), gradient.sum(rows)


normalise.defvjp(_normalise_forward, _normalise_backward)


class LayerNorm(nn.Module):
    """`normalise` with a learned scale and bias."""

    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return normalise(x.astype(self.dtype), scale, bias, self.eps)


class Attention(nn.Module):
    """Multi-head self-attention. `qkv_bias` "none" has no bias at all; "qv" has one for q and v, none for k."""

    heads: int
    qkv_bias: str
    dtype: jnp.dtype
    attention: str = "reference"  # of models/attention.py
    rows: int | None = None  # queries for the first `rows` tokens only; keys and values for all

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        kernel = self.param("qkv", xavier_qkv, (width, 3, width)).astype(self.dtype)
        # Three products and not one of three times the width, whose gradient would be put together first.
        q, k, v = x[:, : self.rows] @ kernel[:, 0], x @ kernel[:, 1], x @ kernel[:, 2]
        if self.qkv_bias == "qv":
            q = q + self.param("q_bias", nn.initializers.zeros, (width,)).astype(self.dtype)
            v = v + self.param("v_bias", nn.initializers.zeros, (width,)).astype(self.dtype)
        elif self.qkv_bias != "none":
            keys = "model.video_qkv_bias and model.image_qkv_bias"
            raise ConfigError(f"{keys} must be 'none' or 'qv', not {self.qkv_bias!r}")
        split = (self.heads, width // self.heads)
        q, k, v = (part.reshape(*part.shape[:2], *split) for part in (q, k, v))
        out = IMPLEMENTATIONS[self.attention](q, k, v)
        out = out.reshape(*out.shape[:2], width)
        return nn.Dense(width, kernel_init=xavier, dtype=self.dtype, name="proj")(out)


def attention_weights(params, x: jax.Array, heads: int, rows: int) -> jax.Array:
    """Weights that an `Attention` with these parameters gives all tokens when the first `rows` ask.

    Args:
      params: of the module.
      x: [B, N, D], what it is applied to.

    Returns:
      float32 [B, heads, rows, N].
    """
    kernel = params["qkv"].astype(x.dtype)
    q, k = x[:, :rows] @ kernel[:, 0], x @ kernel[:, 1]
    if "q_bias" in params:
        q = q + params["q_bias"].astype(x.dtype)
    return weights(*(part.reshape(*part.shape[:2], heads, -1) for part in (q, k)))


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)), with exact (erf) GELU."""

    heads: int
    qkv_bias: str
    norm_eps: float
    dtype: jnp.dtype
    attention: str = "reference"
    rows: int | None = None  # the first so many tokens come out; None for all
    mlp_dim: int | None = None  # None: 4 x width

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        norm1 = LayerNorm(self.norm_eps, self.dtype, name="norm1")
        norm2 = LayerNorm(self.norm_eps, self.dtype, name="norm2")
        attend = Attention(self.heads, self.qkv_bias, self.dtype, self.attention, self.rows, name="attn")
        x = x[:, : self.rows] + attend(norm1(x))
        h = nn.Dense(self.mlp_dim or 4 * width, kernel_init=xavier, dtype=self.dtype, name="fc1")(norm2(x))
        h = gelu(h)
        return x + nn.Dense(width, kernel_init=xavier, dtype=self.dtype, name="fc2")(h)


# model.remat: what the backward pass finds stored. "dots" keeps the projections, not the attention weights.
REMAT = {
    "none": Block,
    "blocks": nn.remat(Block),
    "dots": nn.remat(Block, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
}


class Transformer(nn.Module):
    """`depth` blocks and a final LayerNorm. [B, N, D] -> [B, N, D], or [B, rows, D]."""

    depth: int
    heads: int
    qkv_bias: str
    norm_eps: float
    dtype: jnp.dtype
    remat: str = "none"
    attention: str = "reference"
    mlp_dim: int | None = None  # None: 4 x width

    @nn.compact
    def __call__(self, x: jax.Array, rows: int | None = None) -> jax.Array:
        """With `rows` the last block computes the first so many tokens only; the numbers are the same."""
        if self.remat not in REMAT:
            raise ConfigError(f"model.remat must be one of {', '.join(REMAT)}, not {self.remat!r}")
        block = REMAT[self.remat]
        for i in range(self.depth):
            asked = rows if i == self.depth - 1 else None
            settings = (self.heads, self.qkv_bias, self.norm_eps, self.dtype, self.attention, asked, self.mlp_dim)
            x = block(*settings, name=f"block{i}")(x)
        return LayerNorm(self.norm_eps, self.dtype, name="norm")(x)
