"""State dicts in the public code's layout, and its encoder in plain NumPy: written from the layout, not from ours."""

import math

import numpy as np
from scipy.special import erf

ENCODERS = {"encoder": True, "video_teacher": True, "image_student": False, "image_teacher": False}
HEADS = ("video_dino_head", "video_teacher_head", "image_dino_head", "image_teacher_head")
TINY = {
    "width": 128,
    "depth": 2,
    "heads": 2,
    "decoder_width": 16,
    "decoder_depth": 1,
    "hidden": 24,
    "bottleneck": 12,
    "outputs": 40,
    "prototypes": 20,
    "frames": 4,
    "size": 16,
    "patch": 8,
    "tubelet": 2,
}
VIT_B = {
    "width": 768,
    "depth": 12,
    "heads": 12,
    "decoder_width": 384,
    "decoder_depth": 4,
    "hidden": 2048,
    "bottleneck": 256,
    "outputs": 16384,
    "prototypes": 3000,
    "frames": 64,
    "size": 112,
    "patch": 16,
    "tubelet": 2,
}


def sinusoid_table(count, width):
    """[1, 1 + count, width]: zeros for CLS, then sin and cos of position / 10000^(2 (c // 2) / width)."""
    table = np.zeros((count + 1, width))
    for position in range(count):
        angle = position / np.power(10000, 2 * (np.arange(width) // 2) / width)
        table[position + 1, 0::2], table[position + 1, 1::2] = np.sin(angle[0::2]), np.cos(angle[1::2])
    return table.astype(np.float32)[None]


def state_dict(sizes, video_bias, seed=0):
    """{name: float32}, random, with position tables and gains as the public code makes them."""
    rng, tensors, d, s = np.random.default_rng(seed), {}, sizes["width"], sizes

    def draw(name, *shape, scale=0.02, mean=0.0):
        tensors[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(scale) + np.float32(mean)

    def norm(name, width):
        draw(f"{name}.weight", width, scale=0.1, mean=1.0)
        draw(f"{name}.bias", width, scale=0.1)

    def linear(name, fan_in, fan_out, bias=True):
        draw(f"{name}.weight", fan_out, fan_in, scale=fan_in**-0.5)
        if bias:
            draw(f"{name}.bias", fan_out)

    def blocks(module, width, depth, bias):
        for i in range(depth):
            name = f"{module}.blocks.{i}"
            norm(f"{name}.norm1", width)
            if bias:
                draw(f"{name}.attn.q_bias", width, scale=0.5)
                draw(f"{name}.attn.v_bias", width, scale=0.5)
            linear(f"{name}.attn.qkv", width, 3 * width, bias=False)
            linear(f"{name}.attn.proj", width, width)
            norm(f"{name}.norm2", width)
            linear(f"{name}.mlp.fc1", width, 4 * width)
            linear(f"{name}.mlp.fc2", 4 * width, width)
        norm(f"{module}.norm", width)

    places = (s["size"] // s["patch"]) ** 2
    draw("mask_token", 1, 1, s["decoder_width"])
    draw("prototypes", s["prototypes"], d, scale=1.0)
    for branch in ("image", "video"):
        draw(f"{branch}_center", 1, s["outputs"])
    for module, video in ENCODERS.items():
        tubelet = s["tubelet"] if video else 1
        draw(f"{module}.cls_token", 1, 1, d)
        tokens = places * s["frames"] // tubelet if video else places
        tensors[f"{module}.pos_embed"] = sinusoid_table(tokens, d)
        draw(f"{module}.patch_embed.proj.weight", d, 3, tubelet, s["patch"], s["patch"])
        draw(f"{module}.patch_embed.proj.bias", d)
        blocks(module, d, s["depth"], video and video_bias)
    blocks("decoder", s["decoder_width"], s["decoder_depth"], video_bias)
    linear("decoder.head", s["decoder_width"], d)
    linear("encoder_to_decoder", d, s["decoder_width"], bias=False)
    for head in HEADS:
        linear(f"{head}.mlp.0", d, s["hidden"])
        linear(f"{head}.mlp.2", s["hidden"], s["hidden"])
        linear(f"{head}.mlp.4", s["hidden"], s["bottleneck"])
        tensors[f"{head}.last_layer.weight_g"] = np.ones((s["outputs"], 1), np.float32)
        draw(f"{head}.last_layer.weight_v", s["outputs"], s["bottleneck"])
    return tensors


def encode(tensors, module, frames, heads):
    """The public encoder on all patches, in NumPy, float32.

    Args:
      frames: uint8 [B, T, H, W]; for an image encoder T is 1.

    Returns:
      [B, 1 + tokens, D], token 0 is CLS.
    """
    weights = {name.removeprefix(f"{module}."): x for name, x in tensors.items() if name.startswith(f"{module}.")}
    eps = 1e-6 if ENCODERS[module] else 1e-5
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    kernel = weights["patch_embed.proj.weight"]
    width, _, t, p, _ = kernel.shape
    clip = (frames[..., None] / np.float32(255) - mean) / std  # [B, T, H, W, 3]
    batch, time, rows, cols = clip.shape[0], clip.shape[1] // t, clip.shape[2] // p, clip.shape[3] // p
    cut = clip.reshape(batch, time, t, rows, p, cols, p, 3).transpose(0, 1, 3, 5, 7, 2, 4, 6)
    x = cut.reshape(batch, time * rows * cols, -1) @ kernel.reshape(width, -1).T + weights["patch_embed.proj.bias"]
    x = np.concatenate([np.broadcast_to(weights["cls_token"], (batch, 1, width)), x], 1) + weights["pos_embed"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(eps))
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def attend(x, name):
        qkv = x @ weights[f"{name}.qkv.weight"].T
        if f"{name}.q_bias" in weights:
            bias = [weights[f"{name}.q_bias"], np.zeros(width, np.float32), weights[f"{name}.v_bias"]]
            qkv = qkv + np.concatenate(bias)
        q, k, v = qkv.reshape(batch, -1, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        scores = q @ k.swapaxes(-1, -2) * np.float32((width // heads) ** -0.5)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        out = (scores / scores.sum(-1, keepdims=True)) @ v
        return linear(out.swapaxes(1, 2).reshape(batch, -1, width), f"{name}.proj")

    for i in range(len({name.split(".")[1] for name in weights if name.startswith("blocks.")})):
        block = f"blocks.{i}"
        x = x + attend(norm(x, f"{block}.norm1"), f"{block}.attn")
        hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        gelu = hidden * (1 + erf(hidden / np.float32(math.sqrt(2)))) / 2
        x = x + linear(gelu, f"{block}.mlp.fc2")
    return norm(x, "norm")


def assert_same(found, expected):
    """Equal names, dtypes and bits."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
