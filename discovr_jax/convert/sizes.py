"""Sizes of a model from the shapes of its PyTorch tensors."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from discovr_jax.configs import base
from discovr_jax.convert import names
from discovr_jax.models.variants import VARIANTS, Variant

# Heads of encoder and decoder by the encoder's width in the public code's models; shapes do not show them.
PUBLIC_HEADS = {384: (6, 3), 768: (12, 6), 1024: (16, 8), 1280: (16, 8)}
HEAD_WIDTH = 64
LARGEST_TABLE = 2**26  # numbers in a table of positions, far above any model's: it is computed to be compared
Shapes = Mapping[str, tuple[int, ...]]


class ConversionError(ValueError):
    """A checkpoint cannot be converted; the message names the tensors and what to do."""


@dataclasses.dataclass(frozen=True)
class Hints:
    """What shapes cannot tell, where somebody knows it. None: taken from the position tables, or assumed."""

    heads: int | None = None
    decoder_heads: int | None = None
    num_frames: int | None = None
    image_size: int | None = None
    stride: int | None = None

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> "Hints":
        """From the arguments that the public training script saves beside its weights."""

        def whole(name):
            value = args.get(name)
            return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

        return cls(
            num_frames=whole("num_frames"), image_size=whole("input_size"), stride=whole("sampling_rate")
        )

    def over(self, other: "Hints") -> "Hints":
        """These hints, and those of `other` where these say nothing."""
        mine = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return dataclasses.replace(other, **mine)


def infer(shapes: Shapes, hints: Hints) -> tuple[ConfigDict, list[str]]:
    """A config whose model has the sizes of these tensors, and what had to be assumed.

    Every size is the most common one among the tensors that show it, so that one wrong tensor is found out
    (and named, when shapes are compared) instead of changing the size of all.

    Args:
      shapes: of tensors by PyTorch name, prefixes removed.
      hints: what shapes cannot tell.

    Raises:
      ConversionError: no encoder, or sizes that no model of ours has.
    """
    c, notes = base.get_config(), []
    encoders = [module for module in names.ENCODERS if f"{module}.norm.weight" in shapes]
    if not encoders:
        raise ConversionError(
            f"no encoder found: none of {', '.join(f'{m}.norm.weight' for m in names.ENCODERS)} is there. "
            "Is this a DISCOVR checkpoint?"
        )
    width = _most_common(shapes[f"{module}.norm.weight"][0] for module in encoders)
    depth = _blocks(shapes, encoders)
    _set_patch(c, shapes, width)
    _set_clip(c, shapes, hints, width, notes)

    heads, decoder_heads = _heads(width, hints, notes)
    decoder_parts = ("decoder.norm.weight", "decoder.norm.bias", "mask_token")
    decoder = [shapes[name][-1] for name in decoder_parts if name in shapes]
    decoder_width = _most_common(decoder) if decoder else width // 2
    if hints.decoder_heads is None and width not in PUBLIC_HEADS:
        decoder_heads = max(decoder_width // HEAD_WIDTH, 1)
    c.model.decoder_depth = _blocks(shapes, ["decoder"]) or c.model.decoder_depth
    c.model.video_qkv_bias = _qkv_bias(shapes, ("encoder", "video_teacher", "decoder"))
    c.model.image_qkv_bias = _qkv_bias(shapes, ("image_student", "image_teacher"))
    c.model.variant = "custom"
    layers = [shapes[n][0] for m in encoders if len(shapes.get(n := f"{m}.blocks.0.mlp.fc1.bias", ())) == 1]
    mlp_dim = _most_common(layers) if layers else 4 * width
    sizes = Variant(width, depth, heads, mlp_dim, decoder_width, decoder_heads)
    for variant, known in VARIANTS.items():
        if sizes == known:
            c.model.variant = variant
    if c.model.variant == "custom":
        c.model.update(dataclasses.asdict(sizes))
        c.model.mlp_dim = None if mlp_dim == 4 * width else mlp_dim

    def from_heads(name, axis, default):
        result = [shapes[f"{m}.{name}"][axis] for m in names.HEADS if f"{m}.{name}" in shapes]
        return _most_common(result) if result else default

    c.head.hidden = from_heads("mlp.0.bias", 0, c.head.hidden)
    c.head.bottleneck = from_heads("mlp.4.bias", 0, c.head.bottleneck)
    c.head.outputs = from_heads("last_layer.weight_v", 0, c.head.outputs)
    if "prototypes" in shapes:
        c.model.num_prototypes = shapes["prototypes"][0]
    return c, notes


def _most_common(values: Iterable[int]) -> int:
    return collections.Counter(values).most_common(1)[0][0]


def _blocks(shapes: Shapes, modules: Iterable[str]) -> int:
    """Number of blocks: how many different numbers are in names (the largest could be damaged, and absurd)."""
    pattern = re.compile(rf"(?:{'|'.join(modules)})\.blocks\.(\d+)\..*")
    return len({match[1] for name in shapes if (match := pattern.fullmatch(name))})


def _set_patch(c: ConfigDict, shapes: Shapes, width: int) -> None:
    """Patch and tubelet from the patch embeddings [width, 3, tubelet, patch, patch]."""
    result = []
    for module in names.ENCODERS:
        name = f"{module}.patch_embed.proj.weight"
        shape = shapes.get(name, ())
        if len(shape) == 5 and shape[1] == 1:
            raise ConversionError(
                f"{name} has shape {shape}, one input channel: weights of the public code's grayscale mode "
                "are not supported, ours take three equal channels"
            )
        if len(shape) == 5 and shape[:2] == (width, 3) and shape[3] == shape[4]:
            result.append((module, shape[2], shape[3]))
    if not result:
        raise ConversionError(
            f"no patch embedding of shape ({width}, 3, tubelet, patch, patch) found, looked for "
            f"{', '.join(f'{m}.patch_embed.proj.weight' for m in names.ENCODERS)}"
        )
    c.model.patch = _most_common(patch for _, _, patch in result)
    tubelets = [tubelet for module, tubelet, _ in result if module in ("encoder", "video_teacher")]
    c.model.tubelet = _most_common(tubelets) if tubelets else c.model.tubelet


def _set_clip(c: ConfigDict, shapes: Shapes, hints: Hints, width: int, notes: list[str]) -> None:
    """Frames and pixels from the position tables [1, 1 + tokens, width], else from hints, else assumed."""

    def tokens(*modules):
        result = [shapes[name][1] - 1 for m in modules if len(shapes.get(name := f"{m}.pos_embed", ())) == 3]
        return _most_common(result) if result else None

    positions, clip = tokens("image_student", "image_teacher"), tokens("encoder", "video_teacher")
    patch, tubelet = c.model.patch, c.model.tubelet
    size, frames = hints.image_size, hints.num_frames
    if positions is not None:
        side = round(positions**0.5)
        if side * side != positions:
            raise ConversionError(f"a position table of {positions} patches is no square of patches")
        size = side * patch
    if size is None:
        size = c.data.image_size
        notes.append(f"image size {size} is assumed (no position table, no args); --image_size sets it")
    if clip is not None:
        frames, rest = divmod(clip * tubelet, (size // patch) ** 2)
        if rest or not frames:
            raise ConversionError(
                f"a position table of {clip} tubelets does not fit frames of {size} pixels in patches of "
                f"{patch}: set --image_size"
            )
    if frames is None:
        frames = c.data.num_frames
        notes.append(f"{frames} frames per clip are assumed (no position table, no args); --num_frames sets it")
    table = (frames // tubelet + 1) * ((size // patch) ** 2 + 1) * width
    if table > LARGEST_TABLE:
        raise ConversionError(
            f"clips of {frames} frames of {size} pixels in patches of {patch} x {patch} x {tubelet}, width {width}: "
            f"a table of {table} positions is no model's. Set --num_frames and --image_size"
        )
    c.data.image_size, c.data.num_frames = size, frames
    if hints.stride is not None:
        c.data.stride = hints.stride


def _heads(width: int, hints: Hints, notes: list[str]) -> tuple[int, int]:
    heads, decoder_heads = PUBLIC_HEADS.get(width, (None, None))
    if hints.heads is None and heads is None:
        if width % HEAD_WIDTH:
            raise ConversionError(
                f"the number of attention heads cannot be seen in tensors, and width {width} is no multiple "
                f"of {HEAD_WIDTH}: set --heads"
            )
        heads = width // HEAD_WIDTH
        notes.append(f"{heads} heads are assumed ({HEAD_WIDTH} channels each); --heads sets it")
    return hints.heads or heads, hints.decoder_heads or decoder_heads


def _qkv_bias(shapes: Shapes, modules: Iterable[str]) -> str:
    pattern = re.compile(rf"(?:{'|'.join(modules)})\.blocks\.\d+\.attn\.[qv]_bias")
    return "qv" if any(pattern.fullmatch(name) for name in shapes) else "none"
