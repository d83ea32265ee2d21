"""The decoder: visible tokens and mask tokens of the whole grid, in raster order.

Source: MAE, arXiv 2111.06377; DISCOVR, arXiv 2506.11777, predicts teacher tokens with it in the place of pixels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax.models import positions
from discovr_jax.models.transformer import Transformer, xavier


class Decoder(nn.Module):
    """Predicts a token of width `output` at every position of the video grid."""

    width: int
    depth: int
    heads: int
    output: int
    num_tokens: int
    qkv_bias: str
    norm_eps: float
    dtype: jnp.dtype
    remat: str = "none"
    attention: str = "reference"

    @nn.compact
    def __call__(self, encoded: jax.Array, visible: jax.Array, at: np.ndarray | None = None) -> jax.Array:
        """Decode.

        Args:
          encoded: [B, V, D], visible tokens of the encoder (no CLS).
          visible: int32 [B, V], their positions in the grid.
          at: float [N] or [N, axes], positions of all tokens (`positions.KINDS`); None for 0 .. N-1.

        Returns:
          [B, N, output] in raster order.
        """
        projected = nn.Dense(
            self.width, use_bias=False, kernel_init=xavier, dtype=self.dtype, name="from_encoder"
        )(encoded)
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.width))
        x = jnp.broadcast_to(
            mask_token.astype(self.dtype), (encoded.shape[0], self.num_tokens, self.width)
        )
        x = jax.vmap(lambda grid, index, tokens: grid.at[index].set(tokens, unique_indices=True))(
            x, visible, projected
        )
        x = x + jnp.asarray(positions.decoder_positions(self.num_tokens, self.width, at), self.dtype)
        x = Transformer(
            self.depth,
            self.heads,
            self.qkv_bias,
            self.norm_eps,
            self.dtype,
            self.remat,
            self.attention,
            name="transformer",
        )(x)
        return nn.Dense(self.output, kernel_init=xavier, dtype=self.dtype, name="head")(x)
