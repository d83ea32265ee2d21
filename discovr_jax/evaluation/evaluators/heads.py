"""Small heads on frozen tokens, trained by AdamW; weight decay and number of steps are chosen on validation.

They are trained on one device, whatever the mesh: batches and initial weights are functions of the seed alone.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface
from discovr_jax.progress import Progress, doing

logger = logging.getLogger(__name__)

# Part of every cache key of head predictions: raise it when the same tokens would give other predictions.
HEADS_VERSION = 3
_BETAS = (0.9, 0.99)
_BLOCK = 2**25  # numbers that `scaling` and `scaled` hold in float32 at once: 128 MB


@dataclasses.dataclass(frozen=True)
class HeadOptions:
    """How a head is trained.

    Attributes:
      steps: of AdamW; the learning rate falls from `learning_rate` to 0 by cosine.
      every: steps between two looks at the validation split.
      batch: rows of the training split a step.
      learning_rate: peak learning rate.
      weight_decays: values of the weight decay that are tried, smallest first; ties keep the larger (plainer) one.
    """

    steps: int
    every: int
    batch: int
    learning_rate: float
    weight_decays: tuple[float, ...]

    def __post_init__(self):
        if self.steps < 1 or self.every < 1 or self.batch < 1 or not self.learning_rate > 0 or not self.weight_decays:
            raise ConfigError(
                f"a head needs steps, every, batch >= 1, learning_rate > 0 and one of weight_decays, got {self}"
            )


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained head.

    Attributes:
      params: of the head.
      val_score: validation score, larger is better.
      details: chosen weight decay and steps.
    """

    params: Any
    val_score: float
    details: dict[str, Any]


def fit(
    head: nn.Module,
    loss: Callable[[Any, Any], jax.Array],
    score: Callable[[Any], float],
    inputs: Any,
    targets: Any,
    options: HeadOptions,
    seed: int,
) -> Fitted:
    """Trains `head` once for each weight decay and keeps the parameters with the best validation score.

    Args:
      loss: (outputs, targets of a batch) -> scalar, a mean over rows.
      score: parameters -> metric on the validation split, larger is better; NaN never wins.
      inputs: arrays [N, ...] that `head(inputs)` takes; targets: arrays [N, ...].

    Raises:
      interface.Skip: no parameters had a finite score.
    """
    key = jax.random.key(seed)
    inputs, targets = jax.tree.map(jnp.asarray, (inputs, targets))
    example = jax.tree.map(lambda x: x[:1], inputs)
    start = _init(head, jax.random.fold_in(key, 2**31 - 1), example)
    best = Fitted(None, -np.inf, {})
    steps = options.steps * len(options.weight_decays)
    progress = Progress(f"steps of {type(head).__name__}", steps, logger.info, always=False)
    for weight_decay in sorted(options.weight_decays, reverse=True):
        params, opt_state = start, _adam().init(start)
        for step in range(0, options.steps, options.every):
            count = min(options.every, options.steps - step)
            with doing(f"{type(head).__name__}, whose first steps compile", logger.info):
                params, opt_state = _train(
                    head, loss, options, count, params, opt_state, inputs, targets, key, step, weight_decay
                )
                val_score = float(score(params))
            if val_score > best.val_score:
                best = Fitted(params, val_score, {"decay": weight_decay, "steps": step + count})
            progress.add(count)
    if best.params is None:
        raise interface.Skip("the head's score on validation was never a number")
    return best


def _adam():
    return optax.scale_by_adam(*_BETAS)


@functools.partial(jax.jit, static_argnums=0)
def _init(head, key, example):
    return head.init(key, example)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _train(head, loss, options: HeadOptions, count, params, opt_state, inputs, targets, key, first, weight_decay):
    """`count` steps from step `first` on: (params, opt_state)."""
    rows = jax.tree.leaves(inputs)[0].shape[0]

    def one(carry, step):
        params, opt_state = carry
        chosen = jax.random.permutation(jax.random.fold_in(key, step), rows)[: options.batch]
        some, wanted = jax.tree.map(lambda x: x[chosen], (inputs, targets))
        grads = jax.grad(lambda p: loss(head.apply(p, some), wanted))(params)
        updates, opt_state = _adam().update(grads, opt_state)
        learning_rate = options.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * step / options.steps))

        def update(path, leaf, change):
            is_kernel = jax.tree_util.keystr(path, simple=True, separator="/").endswith("kernel")  # biases do not
            return leaf - learning_rate * (change + (weight_decay if is_kernel else 0.0) * leaf)

        return (jax.tree_util.tree_map_with_path(update, params, updates), opt_state), None

    return jax.lax.scan(one, (params, opt_state), first + jnp.arange(count))[0]


def outputs(apply: Callable[[Any, Any], Any], params: Any, inputs: Any, batch: int) -> Any:
    """`apply(params, inputs)` in batches of equal size: NumPy arrays [N, ...]; the padding of the last is cut off.

    Args:
      apply: jitted, see `applied`.
      inputs: NumPy arrays [N, ...].
    """
    rows, result = len(jax.tree.leaves(inputs)[0]), []
    for start in range(0, rows, batch):
        chosen = np.minimum(np.arange(start, start + batch), rows - 1)
        result.append(jax.device_get(apply(params, jax.tree.map(lambda x, c=chosen: x[c], inputs))))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:rows], *result)


@functools.lru_cache
def applied(head: nn.Module, after: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """(params, inputs) -> after(head(inputs)), jitted once for equal heads."""
    return jax.jit(lambda params, inputs: after(head.apply(params, inputs)))


def scaling(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (1 where there is none) of each of the D features: float32 [D] both."""
    width, rows = train.shape[-1], max(1, _BLOCK // max(1, train[0].size))

    def total(change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        blocks = (train[start : start + rows].astype(np.float32) for start in range(0, len(train), rows))
        return sum(change(block).reshape(-1, width).sum(0, dtype=np.float64) for block in blocks)

    count = train.size // width
    mean = (total(lambda block: block) / count).astype(np.float32)
    std = np.sqrt(total(lambda block: (block - mean) ** 2) / count)
    return mean, np.where(std > 1e-6 * max(std.max(initial=0.0), 1e-30), std, 1.0).astype(np.float32)


def scaled(array: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """`(array - mean) / scale` of [N, ..., D], as float16."""
    rows = max(1, _BLOCK // max(1, array[0].size)) if len(array) else 1
    out = np.empty(array.shape, np.float16)
    for start in range(0, len(array), rows):
        out[start : start + rows] = (array[start : start + rows].astype(np.float32) - mean) / scale
    return out


def mean_score(values: Sequence[np.ndarray]) -> float:
    """Mean over columns of the mean of each column's finite values; NaN if a column has none."""
    columns = [np.asarray(column, np.float64) for column in values]
    return float(np.mean([c[np.isfinite(c)].mean() if np.isfinite(c).any() else np.nan for c in columns]))
