"""Sizes of the Vision Transformers, by the name that `model.variant` takes."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Variant:
    """Sizes of an encoder and of the decoder that goes with it.

    Attributes:
      width: D of a token; depth: blocks; heads: of attention; mlp_dim: hidden layer of a block's MLP.
      decoder_width, decoder_heads: of the decoder, whose depth is `model.decoder_depth` and whose MLP is 4 x its width.
    """

    width: int
    depth: int
    heads: int
    mlp_dim: int
    decoder_width: int
    decoder_heads: int


# ti to h: DeiT (arXiv 2012.12877) and ViT (arXiv 2010.11929); g: Scaling ViT (arXiv 2106.04560).
VARIANTS = {
    "ti": Variant(192, 12, 3, 768, 96, 3),
    "s": Variant(384, 12, 6, 1536, 192, 3),
    "b": Variant(768, 12, 12, 3072, 384, 6),
    "l": Variant(1024, 24, 16, 4096, 512, 8),
    "h": Variant(1280, 32, 16, 5120, 640, 10),
    "g": Variant(1408, 40, 16, 6144, 704, 11),
}
