"""The network of DISCOVR in plain PyTorch, in the shapes of `discovr_jax.models`: a stand-in to be timed beside it.

Written from our own design and names (`discovr_jax/convert/names.py`), with what PyTorch brings: nothing here is the
public code. One clip in grey, no augmented views, no bias of q, k and v, terms vid, img and scd only.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIDEO_EPS, IMAGE_EPS = 1e-6, 1e-5


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Everything that the step's work depends on; the names are those of `models.discovr.Discovr` and `MaskOptions`."""

    time: int
    rows: int
    cols: int
    tubelet: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    head_hidden: int
    head_bottleneck: int
    head_outputs: int
    num_prototypes: int
    video_visible: int  # patches of a frame
    image_visible: int
    video_views: int
    image_views: int

    @property
    def positions(self) -> int:
        return self.rows * self.cols

    @property
    def tokens(self) -> int:
        return self.time * self.positions


def sinusoid(first: int, count: int, width: int) -> torch.Tensor:
    """float32 [count, width] of positions from `first`: sine on even channels, cosine on odd ones."""
    channel = torch.arange(width)
    wave = 10000.0 ** (2 * (channel // 2) / width).double()
    angle = torch.arange(first, first + count).double()[:, None] / wave
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()


def patches(frames: torch.Tensor, tubelet: int, patch: int) -> torch.Tensor:
    """uint8 [B, T, H, W] to normalised patches of three equal channels, float32 [B, N, 3 * tubelet * patch * patch]."""
    mean, std = (torch.tensor(each, device=frames.device)[:, None, None, None] for each in (MEAN, STD))
    x = (frames[:, None].float() / 255 - mean) / std
    batch, channels, time, height, width = x.shape
    x = x.view(batch, channels, time // tubelet, tubelet, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, -1, channels * tubelet * patch * patch)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x):
        batch, count, width = x.shape
        q, k, v = self.qkv(x).view(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, count, width))


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, eps: float):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps), MLP(width, hidden)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """The weight is that of a convolution; of single patches it is a product."""

    def __init__(self, width: int, tubelet: int, patch: int):
        super().__init__()
        self.proj = nn.Conv3d(3, width, (tubelet, patch, patch))

    def forward(self, x):
        return functional.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class Encoder(nn.Module):
    """Of clips, or of frames (`tubelet` 1)."""

    def __init__(self, sizes: Sizes, tubelet: int, tokens: int, eps: float):
        super().__init__()
        self.patch_embed = PatchEmbed(sizes.width, tubelet, sizes.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.blocks = nn.ModuleList(
            Block(sizes.width, sizes.heads, sizes.mlp_dim, eps) for _ in range(sizes.depth)
        )
        self.norm = nn.LayerNorm(sizes.width, eps)
        self.register_buffer("table", sinusoid(0, tokens, sizes.width), persistent=False)

    def forward(self, x, visible=None):
        """[B, N, patch] and int64 [B, views, V] or None -> [B * views, 1 + V, D]; the views of a clip in a row."""
        position = self.table
        if visible is not None:
            x = x[torch.arange(len(x))[:, None, None], visible].flatten(0, 1)
            position = self.table[visible].flatten(0, 1)
        x = self.patch_embed(x) + position
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Decoder(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.decoder_width
        self.blocks = nn.ModuleList(
            Block(width, sizes.decoder_heads, 4 * width, VIDEO_EPS) for _ in range(sizes.decoder_depth)
        )
        self.norm, self.head = nn.LayerNorm(width, VIDEO_EPS), nn.Linear(width, sizes.width)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class LastLayer(nn.Module):
    """Unit vectors: scores are cosines."""

    def __init__(self, bottleneck: int, outputs: int):
        super().__init__()
        self.weight_v = nn.Parameter(torch.randn(outputs, bottleneck))

    def forward(self, x):
        return functional.normalize(x, dim=-1) @ functional.normalize(self.weight_v, dim=1).T


class Head(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        hidden, bottleneck = sizes.head_hidden, sizes.head_bottleneck
        self.mlp = nn.Sequential(
            nn.Linear(sizes.width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )  # fmt: skip
        self.last_layer = LastLayer(bottleneck, sizes.head_outputs)

    def forward(self, x):
        return self.last_layer(self.mlp(x))


class Network(nn.Module):
    """Students, decoder, prototypes, and the teachers, which no gradient reaches; names as in `convert.names`."""

    TEACHERS = {
        "video_teacher": "encoder", "image_teacher": "image_student", "video_teacher_head": "video_dino_head",
        "image_teacher_head": "image_dino_head",
    }  # fmt: skip

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes
        for name in ("encoder", "video_teacher"):
            setattr(self, name, Encoder(sizes, sizes.tubelet, sizes.tokens, VIDEO_EPS))
        for name in ("image_student", "image_teacher"):
            setattr(self, name, Encoder(sizes, 1, sizes.positions, IMAGE_EPS))
        for name in ("video_dino_head", "image_dino_head", "video_teacher_head", "image_teacher_head"):
            setattr(self, name, Head(sizes))
        self.encoder_to_decoder = nn.Linear(sizes.width, sizes.decoder_width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, sizes.decoder_width))
        self.decoder = Decoder(sizes)
        self.prototypes = nn.Parameter(functional.normalize(torch.randn(sizes.num_prototypes, sizes.width), dim=1))
        for name in ("video_center", "image_center"):
            self.register_buffer(name, torch.zeros(1, sizes.head_outputs))
        self.register_buffer("decoder_table", sinusoid(1, sizes.tokens, sizes.decoder_width), persistent=False)
        for teacher, student in self.TEACHERS.items():
            getattr(self, teacher).load_state_dict(getattr(self, student).state_dict())
            getattr(self, teacher).requires_grad_(False)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """The teachers move towards the students."""
        for teacher, student in self.TEACHERS.items():
            pairs = zip(getattr(self, teacher).parameters(), getattr(self, student).parameters(), strict=True)
            for t, s in pairs:
                t.lerp_(s, 1 - momentum)

    def trained(self) -> dict[str, nn.Parameter]:
        """Parameters by name, those of the teachers left out."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def decode(self, encoded, visible):
        """Visible tokens [B, V, D] and their places [B, V] -> [B, tokens, D] in raster order."""
        places = visible[..., None].expand(-1, -1, self.sizes.decoder_width)
        grid = self.mask_token.expand(len(encoded), self.sizes.tokens, -1)
        grid = grid.scatter(1, places, self.encoder_to_decoder(encoded))
        return self.decoder(grid + self.decoder_table)
