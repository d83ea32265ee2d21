"""The name map between the public PyTorch code and our parameter trees, as data.

A rule is (pattern of the PyTorch name, our path, transform). Patterns are full matches; `{n}` in a path is the
block number. One PyTorch tensor is one of our arrays, so the map is a bijection (a test asserts it).
"""

import re

import numpy as np

# How an array changes from PyTorch to here, and back.
TRANSFORMS = {
    "same": (lambda x: x, lambda x: x),
    "transpose": (lambda x: x.T, lambda x: x.T),
    # Conv3d [D, C, t, p, p] <-> [t, p, p, C, D]
    "patch": (lambda x: x.transpose(2, 3, 4, 1, 0), lambda x: x.transpose(4, 3, 0, 1, 2)),
    # [3 D, D] <-> [D, 3, D]: q, k, v stacked along the output
    "qkv": (
        lambda x: x.T.reshape(x.shape[1], 3, x.shape[0] // 3),
        lambda x: x.reshape(x.shape[0], -1).T,
    ),
}

BLOCK = (
    (r"norm(?P<k>[12])\.weight", "norm{k}/scale", "same"),
    (r"norm(?P<k>[12])\.bias", "norm{k}/bias", "same"),
    (r"attn\.(?P<k>[qv])_bias", "attn/{k}_bias", "same"),
    (r"attn\.qkv\.weight", "attn/qkv", "qkv"),
    (r"attn\.proj\.weight", "attn/proj/kernel", "transpose"),
    (r"attn\.proj\.bias", "attn/proj/bias", "same"),
    (r"mlp\.fc(?P<k>[12])\.weight", "fc{k}/kernel", "transpose"),
    (r"mlp\.fc(?P<k>[12])\.bias", "fc{k}/bias", "same"),
)
ENCODER = (
    (r"cls_token", "cls_token", "same"),
    (r"patch_embed\.proj\.weight", "patch_embed/kernel", "patch"),
    (r"patch_embed\.proj\.bias", "patch_embed/bias", "same"),
    *((rf"blocks\.(?P<n>\d+)\.{p}", f"transformer/block{{n}}/{path}", t) for p, path, t in BLOCK),
    (r"norm\.weight", "transformer/norm/scale", "same"),
    (r"norm\.bias", "transformer/norm/bias", "same"),
)
DECODER = (
    *((rf"blocks\.(?P<n>\d+)\.{p}", f"transformer/block{{n}}/{path}", t) for p, path, t in BLOCK),
    (r"norm\.weight", "transformer/norm/scale", "same"),
    (r"norm\.bias", "transformer/norm/bias", "same"),
    (r"head\.weight", "head/kernel", "transpose"),
    (r"head\.bias", "head/bias", "same"),
)
# PyTorch numbers the head's layers 0, 2, 4 (GELU between them).
HEAD = (
    *((rf"mlp\.{2 * i}\.weight", f"fc{i}/kernel", "transpose") for i in range(3)),
    *((rf"mlp\.{2 * i}\.bias", f"fc{i}/bias", "same") for i in range(3)),
    (r"last_layer\.weight_v", "last", "transpose"),
)
# (PyTorch module, our tree, our module, rules)
MODULES = (
    (r"encoder\.", "params", "video_encoder", ENCODER),
    (r"image_student\.", "params", "image_encoder", ENCODER),
    (r"video_teacher\.", "teacher", "video_encoder", ENCODER),
    (r"image_teacher\.", "teacher", "image_encoder", ENCODER),
    (r"decoder\.", "params", "decoder", DECODER),
    (r"video_dino_head\.", "params", "video_head", HEAD),
    (r"image_dino_head\.", "params", "image_head", HEAD),
    (r"video_teacher_head\.", "teacher", "video_head", HEAD),
    (r"image_teacher_head\.", "teacher", "image_head", HEAD),
)
RULES = (
    *(
        (prefix + pattern, f"{tree}/{module}/{path}", transform)
        for prefix, tree, module, rules in MODULES
        for pattern, path, transform in rules
    ),
    (r"encoder_to_decoder\.weight", "params/decoder/from_encoder/kernel", "transpose"),
    (r"mask_token", "params/decoder/mask_token", "same"),
    (r"prototypes", "params/prototypes/vectors", "same"),
    (r"image_center", "memory/centers/img", "same"),
    (r"video_center", "memory/centers/vid", "same"),
)
# Known tensors that are computed, not stored: position tables, and the last layer's gain, fixed at 1.
COMPUTED = (r".*pos_embed", r".*last_layer\.weight_g")


def our_name(torch_name: str) -> tuple[str, str] | None:
    """(our path, transform) of a PyTorch tensor, or None if no rule knows it."""
    for pattern, path, transform in RULES:
        match = re.fullmatch(pattern, torch_name)
        if match:
            return path.format(**match.groupdict()), transform
    return None


def is_computed(torch_name: str) -> bool:
    return any(re.fullmatch(pattern, torch_name) for pattern in COMPUTED)


def to_ours(torch_name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Our path and array of a PyTorch tensor.

    Raises:
      KeyError: no rule knows the name.
    """
    found = our_name(torch_name)
    if found is None:
        raise KeyError(torch_name)
    path, transform = found
    array = np.asarray(array)
    if path.startswith("memory/centers/"):
        array = array.reshape(-1)
    return path, TRANSFORMS[transform][0](array)
