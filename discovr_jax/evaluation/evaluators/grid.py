"""Nonlinear heads on frozen features: trained by AdamW at every point of a grid of learning rates and weight decays.

The grid's point is chosen on validation, by the mean over the trainings (seeds) there; each training stops where its
own validation score was best. All points of a grid are trained at once, on the same batches (`jax.vmap`). They are
trained on one device, whatever the mesh: batches and initial weights are functions of the seed alone.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.evaluators import heads, targets
from discovr_jax.evaluation.metrics import videos as video_metrics
from discovr_jax.progress import Progress, doing

logger = logging.getLogger(__name__)

# Part of the attentive probe's cache key: raise it when the same tokens would give other predictions. (The MLP's key
# holds the source itself, see `prediction_cache.code`.)
GRID_VERSION = 1
_ROWS = 64  # of videos that a head is applied to at once
_WARMUP = 0.1  # of the steps
_BETAS = (0.9, 0.99)
_CLIP = 1.0  # global norm of the gradient
_LOOKS = 10  # at the validation split in a training


@dataclasses.dataclass(frozen=True)
class GridOptions:
    """How heads are trained, at every point of a grid.

    Attributes:
      steps, epochs: a training has as many steps as the longer of the two asks for.
      batch: rows of the training split a step.
      learning_rates: peaks; each rises over a tenth of the steps, and falls to 0 by cosine.
      weight_decays: of kernels and of everything else that is not a vector.
      seeds: trainings of each point of the grid; initial weights and batches differ.
    """

    steps: int
    epochs: int
    batch: int
    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]
    seeds: int

    def __post_init__(self):
        counts = (self.steps, self.batch, self.seeds, len(self.learning_rates), len(self.weight_decays))
        if min(counts) < 1 or self.epochs < 0 or min(self.learning_rates) <= 0 or min(self.weight_decays) < 0:
            raise ConfigError(
                "heads need steps, batch, seeds >= 1, epochs >= 0, learning_rates > 0 and weight_decays >= 0, "
                f"got {self}"
            )

    def steps_of(self, rows: int) -> int:
        """Steps of a training on so many rows."""
        return max(self.steps, -(-self.epochs * rows // self.batch))

    @property
    def points(self) -> list[tuple[float, float]]:
        """(weight decay, learning rate) of the grid; the plainer first, which ties keep."""
        rates = sorted(self.learning_rates)
        return [(decay, rate) for decay in sorted(self.weight_decays, reverse=True) for rate in rates]


def fit(
    head: nn.Module,
    target: targets.Target,
    arrays: Sequence[np.ndarray],
    options: GridOptions,
    seed: int,
) -> dict[str, np.ndarray]:
    """Trains `head`, [B, ...] -> [B], at all points of the grid, for all seeds.

    Args:
      target: what is predicted.
      arrays: inputs of the training, validation and test videos whose target is known, float [N, ...].
      seed: of the first training.

    Returns:
      Of the point that validation chose, for `predictions`: "val", "test", float32 outputs [seeds, N];
      "weight_decay", "learning_rate"; "steps", int [seeds]; "score" on validation, larger is better.

    Raises:
      interface.Skip: no point had a finite score in every training.
    """
    train, val, test = arrays
    wanted, points = target.weighted()[target.known["train"]], options.points
    total = options.seeds * options.steps_of(len(train))
    progress = Progress(f"steps of {type(head).__name__}", total, logger.info, always=False)
    best_params, scores, steps = [], [], []
    for number in range(options.seeds):
        best, best_scores, best_steps = None, np.full(len(points), -np.inf), np.zeros(len(points), int)
        for params, step in _training(head, target.loss(), train, wanted, options, seed + number, progress):
            found = np.array([target.score(target.predicted(each)) for each in _outputs(head, params, val)])
            better = found > best_scores  # not where one is NaN
            best = params if best is None else _where(better, params, best)
            best_scores, best_steps = np.where(better, found, best_scores), np.where(better, step, best_steps)
        best_params.append(best)
        scores.append(best_scores)
        steps.append(best_steps)
    mean = np.mean(scores, axis=0)
    chosen = int(np.argmax(mean))
    if not np.isfinite(mean[chosen]):
        raise interface.Skip("the head's score on validation was never a number")
    picked = [jax.tree.map(lambda leaf: leaf[chosen : chosen + 1], params) for params in best_params]
    result = {
        name: np.concatenate([_outputs(head, params, inputs) for params in picked])
        for name, inputs in (("val", val), ("test", test))
    }
    named = zip(("weight_decay", "learning_rate"), points[chosen], strict=True)
    result |= {name: np.array(value) for name, value in named}
    return result | {"steps": np.array(steps)[:, chosen], "score": mean[chosen]}


def predictions(
    target: targets.Target, fitted: Mapping[str, np.ndarray], **details: Any
) -> list[interface.Predictions]:
    """Of `fit`, one per training; `details`: further ones, of the head."""
    result = []
    for number, steps in enumerate(fitted["steps"].tolist()):
        chosen = {name: fitted[name].item() for name in ("weight_decay", "learning_rate")} | {"steps": steps}
        val, test = (target.predicted(fitted[split][number]) for split in ("val", "test"))
        outputs = {}
        if target.field == targets.LABEL:
            outputs["at_threshold"] = video_metrics.at_best_f1(target.values["val"], val, test)
        result.append(interface.Predictions(val, test, details | chosen, outputs, head_seed=number))
    return result


def _training(head, loss, train, wanted, options: GridOptions, seed: int, progress: Progress) -> Iterator:
    """(parameters of every point of the grid, steps so far), a few times over one training."""
    key, total = jax.random.key(seed), options.steps_of(len(train))
    train, wanted = jnp.asarray(train), jnp.asarray(wanted)
    decays, rates = (jnp.asarray(column, jnp.float32) for column in zip(*options.points, strict=True))
    start = _init(head, jax.random.fold_in(key, 2**31 - 1), train[:1])
    params = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(decays), *leaf.shape)), start)
    opt_state = jax.vmap(_adam().init)(params)
    every, step = max(1, total // _LOOKS), 0
    while step < total:
        count = min(every, total - step)
        with doing(f"{type(head).__name__}, whose first steps compile", logger.info):
            params, opt_state = _train(
                head, loss, options.batch, total, count, params, opt_state, train, wanted, key, step, decays, rates
            )
        step += count
        progress.add(count)
        yield params, step


def _adam():
    return optax.chain(optax.clip_by_global_norm(_CLIP), optax.scale_by_adam(*_BETAS))


@functools.partial(jax.jit, static_argnums=0)
def _init(head, key, example):
    return head.init(key, example)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _train(head, loss, batch, total, count, params, opt_state, train, wanted, key, first, decays, rates):
    """`count` steps from step `first` on, of every point: (params, opt_state)."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, int(_WARMUP * total) + 1, total + 1)

    def one(carry, step):
        rows = jax.random.permutation(jax.random.fold_in(key, step), train.shape[0])[:batch]
        some, target = train[rows], wanted[rows]

        def of_point(params, opt_state, decay, rate):
            grads = jax.grad(lambda p: loss(head.apply(p, some), target))(params)
            updates, opt_state = _adam().update(grads, opt_state)

            def update(leaf, change):
                return leaf - schedule(step + 1) * rate * (change + (decay if leaf.ndim > 1 else 0.0) * leaf)

            return jax.tree.map(update, params, updates), opt_state

        return jax.vmap(of_point)(*carry, decays, rates), None

    return jax.lax.scan(one, (params, opt_state), first + jnp.arange(count))[0]


def _outputs(head: nn.Module, params: Any, inputs: np.ndarray) -> np.ndarray:
    """Outputs of every point: float32 [points, N]."""
    return heads.outputs(_applied(head), params, inputs, _ROWS).T


@functools.lru_cache
def _applied(head: nn.Module) -> Callable[[Any, Any], Any]:
    """(params of every point, inputs [B, ...]) -> [B, points], jitted once for equal heads."""
    return jax.jit(jax.vmap(head.apply, (0, None), 1))


@jax.jit
def _where(better, one, other):
    """Of every point the parameters of `one` where it is `better` [points], else those of `other`."""
    return jax.tree.map(lambda a, b: jnp.where(better.reshape(-1, *(1,) * (a.ndim - 1)), a, b), one, other)
