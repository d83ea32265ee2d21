"""What changes with the step: durations in any unit, periodic actions, learning rate, temperature, momentum.

`method.experiment.make_experiment` fills `Schedules` from the config: what is new in one is new in the other.
"""

import dataclasses
import re

import jax.numpy as jnp

from discovr_jax.errors import ConfigError

DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*(steps?|epochs?|examples?|percent)\s*$")


def duration_steps(text: str, *, steps_per_epoch: float, batch_size: int, total: int | None = None) -> int:
    """A duration such as "400 epochs", "200 steps", "1e6 examples" or "10 percent" (of `total`) in steps.

    Raises:
      ConfigError: text that is no duration, or percent where the total itself is asked for.

    >>> duration_steps("40 epochs", steps_per_epoch=58.3, batch_size=128)
    2332
    >>> duration_steps("10 percent", steps_per_epoch=58.3, batch_size=128, total=500)
    50
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

    >>> [step for step in range(11) if should_run(step, every=4, total=10)]
    [4, 8, 10]
    """
    return step == total or (every > 0 and step > 0 and step % every == 0)


@dataclasses.dataclass(frozen=True)
class Schedules:
    """Everything that changes with the step. All durations in steps; call methods with an int32 scalar.

    Source: warm-up, Goyal et al., arXiv 1706.02677; cosine, SGDR, arXiv 1608.03983; teacher temperature and momentum,
    DINO, arXiv 2104.14294.

    >>> schedules = Schedules(
    ...     total=100, peak_lr=1e-3, floor_lr=0.0, warmup=10, lr_decay="cosine", teacher_temperature=(0.04, 0.07),
    ...     teacher_temperature_warmup=30, ema=(0.996, 1.0), freeze_last=0, freeze_prototypes=0,
    ... )
    >>> [round(1e4 * float(schedules.lr(step)), 3) for step in (0, 9, 55, 100)]
    [1.0, 10.0, 5.0, 0.0]
    >>> [round(float(schedules.ema_momentum(step)), 4) for step in (0, 50, 100)]
    [0.996, 0.998, 1.0]
    """

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
