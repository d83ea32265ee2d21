"""DINO projection head, and the prototypes of semantic cluster distillation."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from discovr_jax.errors import ConfigError

NORM_EPS = 1e-12


def l2_normalise(x: jax.Array, axis: int = -1) -> jax.Array:
    """Unit length along `axis`, in float32 (PyTorch's `normalize`: the norm is clamped at 1e-12).

    >>> unit = l2_normalise(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    >>> jnp.linalg.norm(unit, axis=1).round(3).tolist()
    [1.0, 0.0]
    """
    x = x.astype(jnp.float32)
    # The square is clamped, not the root, so that the gradient at zero is zero instead of NaN.
    square = jnp.maximum((x * x).sum(axis, keepdims=True), NORM_EPS**2)
    return x * jax.lax.rsqrt(square)


class DINOHead(nn.Module):
    """MLP, L2 normalisation, and a weight-normalised linear layer to the scores (gain fixed at 1, no bias).

    Source: DINO, arXiv 2104.14294; weight normalisation, arXiv 1602.07868.
    """

    hidden: int
    bottleneck: int
    outputs: int
    scheme: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, cls: jax.Array) -> jax.Array:
        """[..., D] -> logits float32 [..., K]."""
        if self.scheme == "normal":
            kernel_init = nn.initializers.normal(0.02)
        elif self.scheme == "fan_in":
            kernel_init = nn.initializers.lecun_normal()
        else:
            raise ConfigError(f"head.init must be 'normal' or 'fan_in', not {self.scheme!r}")
        x = cls
        for i, width in enumerate((self.hidden, self.hidden, self.bottleneck)):
            x = nn.Dense(width, kernel_init=kernel_init, dtype=self.dtype, name=f"fc{i}")(x)
            if i < 2:
                x = nn.gelu(x, approximate=False)
        last = self.param("last", kernel_init, (self.bottleneck, self.outputs))
        # Unit vectors in `dtype`, products accumulated in float32: the logits are read by a softmax.
        return jnp.matmul(
            l2_normalise(x).astype(self.dtype),
            l2_normalise(last, axis=0).astype(self.dtype),
            preferred_element_type=jnp.float32,
        )


class Projector(nn.Module):
    """MLP from the CLS token to the embedding that LeJEPA's loss sees: twice linear, LayerNorm, GELU; then linear.

    LayerNorm in place of batch norm: a clip's embedding does not depend on the others of its batch.
    """

    hidden: int
    outputs: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, cls: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., outputs]."""
        x = cls
        for i in range(2):
            x = nn.Dense(self.hidden, dtype=self.dtype, name=f"fc{i}")(x)
            x = nn.gelu(nn.LayerNorm(dtype=self.dtype, name=f"norm{i}")(x), approximate=False)
        return nn.Dense(self.outputs, dtype=self.dtype, name="last")(x).astype(jnp.float32)


class Prototypes(nn.Module):
    """`count` unit vectors of width `width`. Returns float32 [count, width]."""

    count: int
    width: int

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("vectors", _unit_rows, (self.count, self.width))


def _unit_rows(key, shape, dtype=jnp.float32):
    return l2_normalise(jax.random.normal(key, shape, dtype))
