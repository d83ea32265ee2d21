"""AdamW, which matrices decay, and the peak learning rate."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import optax

from discovr_jax.errors import ConfigError
from discovr_jax.trees import path_name

IMAGE_BRANCH = ("image_", "frame_projector")  # first words of the image branch's modules


def peak_lr(lr: float | None, base_lr: float | None, batch_size: int) -> float:
    """Absolute `lr` where it is set, else `base_lr` times batch / 256.

    Source: the linear scaling rule, Goyal et al., arXiv 1706.02677.

    Raises:
      ConfigError: neither is set.

    >>> peak_lr(None, base_lr=1.5e-4, batch_size=128)
    7.5e-05
    """
    if lr is not None:
        return float(lr)
    if base_lr is None:
        raise ConfigError("set optim.lr (absolute) or optim.base_lr (per 256 clips)")
    return base_lr * batch_size / 256


def decay_mask(params, exempt: str):
    """True for matrices (two axes or more) whose path does not match `exempt`; vectors never decay."""

    def decays(path, leaf):
        return leaf.ndim >= 2 and re.search(exempt, path_name(path)) is None

    return jax.tree_util.tree_map_with_path(decays, params)


def adamw(b1: float, b2: float, weight_decay: float, exempt: str, clip: float | None, image_lr_scale: float = 1.0):
    """AdamW without its learning rate: the step multiplies by -lr, a function of the training step, so that a
    skipped update cannot shift the schedule.

    Source: Loshchilov and Hutter, arXiv 1711.05101.

    Args:
      clip: largest norm of the gradients of each branch, None or 0 for none. The image branch and the rest share no
        parameter, so that a large gradient of one must not shrink the steps of the other (docs/notes/phase.md).
      image_lr_scale: updates of the image branch (`IMAGE_BRANCH`) are this many times as large. (A weight of its
        loss would not do: Adam divides by the gradient's size, and only that loss reaches the branch.)

    Raises:
      ConfigError: image_lr_scale below 0.
    """
    if image_lr_scale < 0:
        raise ConfigError(f"optim.image_lr_scale = {image_lr_scale} must not be negative")
    parts = [optax.stateless(partial(_clip_branches, clip))] if clip else []
    parts += [
        optax.scale_by_adam(b1=b1, b2=b2, eps=1e-8),
        optax.add_decayed_weights(weight_decay, mask=lambda params: decay_mask(params, exempt)),
    ]
    if image_lr_scale != 1:
        parts.append(optax.stateless(partial(_scale_image_branch, image_lr_scale)))
    return optax.chain(*parts)


def _clip_branches(clip: float, updates: dict, _) -> dict:
    image = {name: tree for name, tree in updates.items() if name.startswith(IMAGE_BRANCH)}
    others = {name: tree for name, tree in updates.items() if name not in image}
    clipped = {}
    for branch in (image, others):
        clipped |= _scaled(branch, clip / jnp.maximum(optax.tree.norm(branch), clip))
    return {name: clipped[name] for name in updates}


def _scale_image_branch(factor: float, updates: dict, _) -> dict:
    return {name: _scaled(tree, factor) if name.startswith(IMAGE_BRANCH) else tree for name, tree in updates.items()}


def _scaled(tree, factor):
    return jax.tree.map(lambda leaf: factor * leaf, tree)
