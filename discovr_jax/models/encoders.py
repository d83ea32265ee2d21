"""The Vision Transformer encoder of video tubelets and of single frames. Only visible patches are embedded.

Source: ViT, arXiv 2010.11929; tubelets and the encoding of visible tokens alone, VideoMAE, arXiv 2203.12602.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax.models import patches, positions
from discovr_jax.models.transformer import Transformer


class Encoder(nn.Module):
    """CLS token and patches through a Transformer; `tubelet` 1 makes it the image encoder."""

    width: int
    depth: int
    heads: int
    tubelet: int
    patch: int
    qkv_bias: str
    norm_eps: float
    input_normalisation: str
    dtype: jnp.dtype
    remat: str = "none"
    attention: str = "reference"
    mlp_dim: int | None = None  # None: 4 x width
    channels: int = 3  # of the patches, where they are not grey

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        visible: jax.Array | None = None,
        at: np.ndarray | None = None,
        only_cls: bool = False,
    ) -> jax.Array:
        """Encode patches.

        Args:
          tokens: [B, N, patch_dim], all patches of the clip in raster order (`patches.patchify`).
          visible: int32 [B * views, V], indices of the patches to see; rows are clip-major (the views of one
            clip follow each other). None sees all.
          at: float [N] or [N, axes], positions of the patches (`positions.KINDS`); None for 0 .. N-1.
          only_cls: the caller reads token 0 alone, so the last block computes no other.

        Returns:
          [B * views, 1 + V, D] (or [B, 1 + N, D], or [..., 1, D] of `only_cls`) after the final norm; token 0 is CLS.
        """
        table = jnp.asarray(positions.encoder_positions(tokens.shape[1], self.width, at))
        if visible is None:
            position = table[None]
        else:
            views = visible.shape[0] // tokens.shape[0]
            per_clip = visible.reshape(tokens.shape[0], views * visible.shape[1])
            tokens = patches.gather_tokens(tokens, per_clip).reshape(*visible.shape, -1)
            position = table[visible]
        embed = patches.PatchEmbed(
            self.tubelet,
            self.patch,
            self.width,
            self.input_normalisation,
            self.dtype,
            self.channels,
            name="patch_embed",
        )
        x = embed(tokens) + position.astype(self.dtype)
        cls = self.param("cls_token", nn.initializers.normal(0.02), (1, 1, self.width)).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, self.width)), x], axis=1)
        return Transformer(
            self.depth,
            self.heads,
            self.qkv_bias,
            self.norm_eps,
            self.dtype,
            self.remat,
            self.attention,
            self.mlp_dim,
            name="transformer",
        )(x, rows=1 if only_cls else None)
