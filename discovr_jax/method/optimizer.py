"""Schedules as functions of the step, durations in any unit, and AdamW."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import optax

from discovr_jax.errors import ConfigError

DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*(steps?|epochs?|examples?|percent)\s*$")


def duration_steps(text: str, *, steps_per_epoch: float, batch_size: int, total: int | None = None) -> int:
    """A duration such as "400 epochs", "200 steps", "1e6 examples" or "10 percent" (of `total`) in steps.

    Raises:
      ConfigError: text that is no duration, or percent where the total itself is asked for.
    """
    match = DURATION.match(str(text))
    if match is None:
        raise ConfigError(
            f"{text!r} is no duration: write a number and one of steps, epochs, examples, percent, "
            'for example "40 epochs"'
        )
    amount, unit = float(match[1]), match[2].rstrip("s")
    if unit == "percent":
        if total is None:
            raise ConfigError(f"{text!r}: percent needs a total, and this duration is the total")
        return round(amount / 100 * total)
    scale = {"step": 1.0, "epoch": steps_per_epoch, "example": 1.0 / batch_size}[unit]
    return round(amount * scale)


def should_run(step: int, every: int, total: int) -> bool:
    """Whether something that happens every `every` steps happens at `step`; always at the last one, never at 0.

    `every` 0 means only at the end.
    """
    return step == total or (every > 0 and step > 0 and step % every == 0)


@dataclasses.dataclass(frozen=True)
class Schedules:
    """Everything that changes with the step. All durations in steps; call methods with an int32 scalar."""

    total: int
    peak_lr: float
    floor_lr: float
    warmup: int
    lr_decay: str  # "cosine" or "constant"
    teacher_temperature: tuple[float, float]
    teacher_temperature_warmup: int
    ema: tuple[float, float]
    freeze_last: int
    freeze_prototypes: int
    teacher_temperature_every: int = 1  # the temperature moves every so many steps

    def lr(self, step):
        """Linear warm-up from 0, then cosine to the floor (or constant)."""
        if self.lr_decay == "constant":
            decayed = jnp.float32(self.peak_lr)
        else:
            progress = (step - self.warmup) / max(self.total - self.warmup, 1)
            cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
            decayed = self.floor_lr + (self.peak_lr - self.floor_lr) * cosine
        return jnp.where(step < self.warmup, self.peak_lr * (step + 1) / max(self.warmup, 1), decayed)

    def temperature(self, step):
        """tau_t: linear over its warm-up (in stairs of `teacher_temperature_every` steps), then constant."""
        first, last = self.teacher_temperature
        step = step - step % self.teacher_temperature_every
        progress = jnp.clip(step / max(self.teacher_temperature_warmup, 1), 0, 1)
        return jnp.float32(first) + (last - first) * progress

    def ema_momentum(self, step):
        """Teacher momentum rising by cosine from the first to the last value over the run."""
        first, last = self.ema
        progress = jnp.clip(step / max(self.total, 1), 0, 1)
        return last - (last - first) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def peak_lr(lr: float | None, base_lr: float | None, batch_size: int) -> float:
    """Absolute `lr` where it is set, else `base_lr` times batch / 256.

    Raises:
      ConfigError: neither is set.
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


def path_name(path) -> str:
    """A leaf's name, "video_encoder/transformer/block0/attn/qkv"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def adamw(b1: float, b2: float, weight_decay: float, exempt: str, clip: float | None, image_rate: float = 1.0):
    """AdamW without its learning rate: the step multiplies by -lr, a function of the training step, so that a
    skipped update cannot shift the schedule.

    Args:
      clip: global gradient norm, None or 0 for none.
      image_rate: updates of the image branch (modules `image_...`) are this many times as large. (A weight of its loss
        would not do: Adam divides by the gradient's size, and only that loss reaches the branch.)

    Raises:
      ConfigError: image_rate below 0.
    """
    if image_rate < 0:
        raise ConfigError(f"optim.image_rate = {image_rate} must not be negative")
    parts = [optax.clip_by_global_norm(clip)] if clip else []
    parts += [
        optax.scale_by_adam(b1=b1, b2=b2, eps=1e-8),
        optax.add_decayed_weights(weight_decay, mask=lambda params: decay_mask(params, exempt)),
    ]
    if image_rate != 1:
        parts.append(optax.stateless(partial(_scale_image_branch, image_rate)))
    return optax.chain(*parts)


def _scale_image_branch(factor: float, updates: dict, _) -> dict:
    return {
        name: jax.tree.map(lambda u: factor * u, tree) if name.startswith("image_") else tree
        for name, tree in updates.items()
    }
