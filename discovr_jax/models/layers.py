"""The pre-norm Vision Transformer block that encoders and decoder share."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from discovr_jax.models.attention import IMPLEMENTATIONS

xavier = nn.initializers.xavier_uniform()


def xavier_qkv(key, shape, dtype=jnp.float32):
    """Xavier-uniform for a stacked kernel [D, 3, D], with the fans of one [D, 3D] matrix (as the public code)."""
    fan_in, parts, fan_out = shape
    bound = (6.0 / (fan_in + parts * fan_out)) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def layer_norm(eps: float, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """LayerNorm with the two-pass variance (statistics are float32 whatever the dtype)."""
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)


class Attention(nn.Module):
    """Multi-head self-attention. `qkv_bias` "none" has no bias at all; "qv" has one for q and v, none for k."""

    heads: int
    qkv_bias: str
    dtype: jnp.dtype
    attention: str = "whole"  # of models/attention.py

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        kernel = self.param("qkv", xavier_qkv, (width, 3, width)).astype(self.dtype)
        q, k, v = jnp.einsum("bnd,dce->cbne", x, kernel)
        if self.qkv_bias == "qv":
            q = q + self.param("q_bias", nn.initializers.zeros, (width,)).astype(self.dtype)
            v = v + self.param("v_bias", nn.initializers.zeros, (width,)).astype(self.dtype)
        elif self.qkv_bias != "none":
            raise ValueError(f"model.qkv_bias must be 'none' or 'qv', not {self.qkv_bias!r}")
        split = (*x.shape[:2], self.heads, width // self.heads)
        attend = IMPLEMENTATIONS[self.attention]
        out = attend(q.reshape(split), k.reshape(split), v.reshape(split)).reshape(x.shape)
        return nn.Dense(width, kernel_init=xavier, dtype=self.dtype, name="proj")(out)


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)), with exact (erf) GELU."""

    heads: int
    qkv_bias: str
    norm_eps: float
    dtype: jnp.dtype
    attention: str = "whole"
    mlp_ratio: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        norm1 = layer_norm(self.norm_eps, self.dtype, "norm1")
        norm2 = layer_norm(self.norm_eps, self.dtype, "norm2")
        x = x + Attention(self.heads, self.qkv_bias, self.dtype, self.attention, name="attn")(norm1(x))
        h = nn.Dense(self.mlp_ratio * width, kernel_init=xavier, dtype=self.dtype, name="fc1")(norm2(x))
        h = nn.gelu(h, approximate=False)
        return x + nn.Dense(width, kernel_init=xavier, dtype=self.dtype, name="fc2")(h)


# model.remat: what the backward pass finds stored. "dots" keeps the projections, not the attention weights.
REMAT = {
    "none": Block,
    "blocks": nn.remat(Block),
    "dots": nn.remat(Block, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
}


class Transformer(nn.Module):
    """`depth` blocks and a final LayerNorm. [B, N, D] -> [B, N, D]."""

    depth: int
    heads: int
    qkv_bias: str
    norm_eps: float
    dtype: jnp.dtype
    remat: str = "none"
    attention: str = "whole"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.remat not in REMAT:
            raise ValueError(f"model.remat must be one of {', '.join(REMAT)}, not {self.remat!r}")
        block = REMAT[self.remat]
        for i in range(self.depth):
            x = block(self.heads, self.qkv_bias, self.norm_eps, self.dtype, self.attention, name=f"block{i}")(x)
        return layer_norm(self.norm_eps, self.dtype, "norm")(x)
