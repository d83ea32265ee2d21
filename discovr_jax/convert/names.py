"""The name map between the public PyTorch code and our parameter trees, as data.

A rule is (PyTorch name, our path, transform); `{n}` stands for a block's number. One PyTorch tensor is one
of our arrays and the rules read both ways, so the map is a bijection (a test asserts it).
"""

import re

import numpy as np

# How an array changes from PyTorch to here, and back.
TRANSFORMS = {
    "same": (lambda x: x, lambda x: x),
    "transpose": (lambda x: x.T, lambda x: x.T),
    # [1, K] <-> [K]
    "row": (lambda x: x.reshape(-1), lambda x: x[None]),
    # Conv3d [D, C, t, p, p] <-> [t, p, p, C, D]
    "patch": (lambda x: x.transpose(2, 3, 4, 1, 0), lambda x: x.transpose(4, 3, 0, 1, 2)),
    # [3 D, D] <-> [D, 3, D]: q, k, v stacked along the output
    "qkv": (
        lambda x: x.T.reshape(x.shape[1], 3, x.shape[0] // 3),
        lambda x: x.reshape(x.shape[0], -1).T,
    ),
}
AXES = {"transpose": 2, "row": 2, "patch": 5, "qkv": 2}  # that a PyTorch tensor must have

BLOCK = (
    ("norm1.weight", "norm1/scale", "same"),
    ("norm1.bias", "norm1/bias", "same"),
    ("attn.q_bias", "attn/q_bias", "same"),
    ("attn.v_bias", "attn/v_bias", "same"),
    ("attn.qkv.weight", "attn/qkv", "qkv"),
    ("attn.proj.weight", "attn/proj/kernel", "transpose"),
    ("attn.proj.bias", "attn/proj/bias", "same"),
    ("norm2.weight", "norm2/scale", "same"),
    ("norm2.bias", "norm2/bias", "same"),
    ("mlp.fc1.weight", "fc1/kernel", "transpose"),
    ("mlp.fc1.bias", "fc1/bias", "same"),
    ("mlp.fc2.weight", "fc2/kernel", "transpose"),
    ("mlp.fc2.bias", "fc2/bias", "same"),
)
TRANSFORMER = (
    *((f"blocks.{{n}}.{name}", f"transformer/block{{n}}/{path}", t) for name, path, t in BLOCK),
    ("norm.weight", "transformer/norm/scale", "same"),
    ("norm.bias", "transformer/norm/bias", "same"),
)
ENCODER = (
    ("cls_token", "cls_token", "same"),
    ("patch_embed.proj.weight", "patch_embed/kernel", "patch"),
    ("patch_embed.proj.bias", "patch_embed/bias", "same"),
    *TRANSFORMER,
)
DECODER = (*TRANSFORMER, ("head.weight", "head/kernel", "transpose"), ("head.bias", "head/bias", "same"))
# PyTorch numbers the head's layers 0, 2, 4 (GELU between them).
HEAD = (
    *((f"mlp.{2 * i}.weight", f"fc{i}/kernel", "transpose") for i in range(3)),
    *((f"mlp.{2 * i}.bias", f"fc{i}/bias", "same") for i in range(3)),
    ("last_layer.weight_v", "last", "transpose"),
)
# PyTorch module: (our module, rules)
MODULES = {
    "encoder": ("params/video_encoder", ENCODER),
    "image_student": ("params/image_encoder", ENCODER),
    "video_teacher": ("teacher/video_encoder", ENCODER),
    "image_teacher": ("teacher/image_encoder", ENCODER),
    "decoder": ("params/decoder", DECODER),
    "video_dino_head": ("params/video_head", HEAD),
    "image_dino_head": ("params/image_head", HEAD),
    "video_teacher_head": ("teacher/video_head", HEAD),
    "image_teacher_head": ("teacher/image_head", HEAD),
}
ENCODERS = tuple(name for name, (_, rules) in MODULES.items() if rules is ENCODER)
HEADS = tuple(name for name, (_, rules) in MODULES.items() if rules is HEAD)
RULES = (
    *(
        (f"{module}.{name}", f"{ours}/{path}", transform)
        for module, (ours, rules) in MODULES.items()
        for name, path, transform in rules
    ),
    ("encoder_to_decoder.weight", "params/decoder/from_encoder/kernel", "transpose"),
    ("mask_token", "params/decoder/mask_token", "same"),
    ("prototypes", "params/prototypes/vectors", "same"),
    ("image_center", "memory/centers/img", "row"),
    ("video_center", "memory/centers/vid", "row"),
)
# Tensors of the public code that we compute: fixed position tables, and the last layers' gain, fixed at 1.
COMPUTED = (
    *(f"{module}.pos_embed" for module in ENCODERS),
    *(f"{module}.last_layer.weight_g" for module in HEADS),
)
# What wrappers put in front of a name: DistributedDataParallel, and the public fine-tuning code.
PREFIXES = ("module.", "backbone.")


def _pattern(template: str) -> re.Pattern:
    return re.compile(re.escape(template).replace(r"\{n\}", r"(?P<n>0|[1-9]\d*)"))


_FROM_TORCH = [(_pattern(name), path, transform) for name, path, transform in RULES]
_TO_TORCH = [(_pattern(path), name, transform) for name, path, transform in RULES]


def _find(rules, name: str) -> tuple[str, str] | None:
    for pattern, template, transform in rules:
        match = pattern.fullmatch(name)
        if match:
            return template.format(**match.groupdict()), transform
    return None


def our_name(torch_name: str) -> tuple[str, str] | None:
    """(our path, transform) of a PyTorch tensor, or None if no rule knows it."""
    return _find(_FROM_TORCH, torch_name)


def torch_name(path: str) -> tuple[str, str] | None:
    """(PyTorch name, transform) of one of our arrays, or None if the public code has no such tensor."""
    return _find(_TO_TORCH, path)


def is_computed(torch_name: str) -> bool:
    """Whether we compute this tensor of the public code instead of storing it."""
    return torch_name in COMPUTED


def without_prefix(torch_name: str) -> str:
    """The name without what wrappers put in front of it."""
    while torch_name.startswith(PREFIXES):
        torch_name = torch_name.split(".", 1)[1]
    return torch_name


def to_ours(torch_name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Our path and array of a PyTorch tensor.

    Raises:
      KeyError: no rule knows the name.
      ValueError: the tensor has another number of axes than its layout says.
    """
    result = our_name(torch_name)
    if result is None:
        raise KeyError(torch_name)
    path, transform = result
    array = np.asarray(array)
    if array.ndim != AXES.get(transform, array.ndim) or (transform == "qkv" and array.shape[0] % 3):
        raise ValueError(f"{torch_name} has shape {array.shape}, which is no {transform} layout")
    return path, TRANSFORMS[transform][0](array)


def to_torch(path: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """PyTorch name and tensor of one of our arrays; the inverse of `to_ours`.

    Raises:
      KeyError: the public code has no such tensor.
    """
    result = torch_name(path)
    if result is None:
        raise KeyError(path)
    name, transform = result
    return name, TRANSFORMS[transform][1](np.asarray(array))
