"""Fine-tuning: the last blocks, or the whole encoder with a learning rate that falls from layer to layer.

Starts from the trained and from untrained weights (one seed), with the same linear head on all readouts of the
encoder. Randomly placed and cropped clips of the training videos, as in training; the number of steps is chosen on
validation. The batch is shared out over the mesh, parameters and optimizer state lie as the rules of mesh.py say.

Source: layer-wise decay of the learning rate as in BEiT, arXiv 2106.08254.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from discovr_jax import trees
from discovr_jax.data import mixture, pipeline
from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.evaluators import heads, targets
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.evaluation.features import tokens
from discovr_jax.models.readouts import MAPS, NAMES, readouts
from discovr_jax.progress import Progress, doing

logger = logging.getLogger(__name__)

METRICS = targets.METRICS
WARMUP = 0.1  # of the steps
HEAD = "tuned_head"


@dataclasses.dataclass(frozen=True)
class Tuner:
    """The encoder that is tuned and the mesh it is tuned on.

    Attributes:
      model: `models.discovr.Discovr`; map_side: see `models.readouts`.
      teachers: {encoder: params}, {"video_encoder": ...} on the mesh.
      place_rows: arrays of this process's rows -> arrays of the batch on the mesh.
      shardings: tree of arrays -> a sharding for each leaf; replicated: of what every device holds.
    """

    model: Any
    map_side: int
    teachers: Mapping[str, Any]
    place_rows: Callable[[Any], Any]
    shardings: Callable[[Any], Any]
    replicated: Any


@dataclasses.dataclass(frozen=True)
class FinetuneOptions:
    """How it is tuned.

    Attributes:
      steps: of AdamW, `every` so many of which validation is looked at; batch: clips per step.
      learning_rate: peak, of the head, after a tenth of the steps; other layers: `layer_lr_scale`.
      layer_decay: see `layer_lr_scale`.
      weight_decay: on matrices.
    """

    steps: int
    every: int
    batch: int
    learning_rate: float
    layer_decay: float
    weight_decay: float


def scope_name(blocks: int) -> str:
    """ "whole" for -1, "last3" for 3."""
    return "whole" if blocks == -1 else f"last{blocks}"


def run(
    evaluation: results_lib.Evaluation,
    family: str,
    context: tokens.TokenContext,
    *,
    fields: tuple[str, ...],
    blocks: tuple[int, ...],
    fit: Mapping[str, Any],
) -> None:
    """Enters the metrics of each field and scope; options: `config.eval.evaluators.finetune`.

    Raises:
      interface.NotSetUp: fit.steps is 0.
    """
    options = FinetuneOptions(**fit)
    if options.steps < 1:
        raise interface.NotSetUp(
            f"off unless asked for, because it trains the encoder: set config.eval.evaluators.{family}.fit.steps=200"
        )
    for field in fields:
        try:
            target = targets.read_target(context, field)
        except interface.Skip as skip:
            results_lib.skip(evaluation, f"{family}_{field}", skip)
            continue
        for last in blocks:
            part = f"{family}_{scope_name(last)}_{field}"
            predictions = _all_predictions(evaluation, context, part, target, last, options)
            evaluation.results["videos"][part] = {split: int(known.sum()) for split, known in target.known.items()}
            names = {f"{scope_name(last)}_{name}": name for name in targets.metric_names(field)}
            results_lib.add(
                evaluation,
                family,
                target.rows,
                {metric: METRICS[name] for metric, name in names.items()},
                predictions,
                kind="finetune",
                field=field,
                readouts=dict.fromkeys(predictions, "tuned"),
                chosen_by=target.chosen_by,
                part=part,
                names=names,
            )


def _all_predictions(evaluation, context, part: str, target: targets.Target, last: int, options: FinetuneOptions):
    """{encoder: [interface.Predictions]} of the first seed of each; what is not cached is tuned."""
    predictions = {}
    digest = trees.fingerprint([dict(target.known), dict(target.values)])
    for name, teacher in context.tuner.teachers.items():
        settings = {"last": last, "options": str(options), "seed": context.config.seed, "targets": digest}
        settings |= {"crops": list(context.config.data.crop_scales), "clips": context.config.eval.clips}
        settings["map_side"] = context.tuner.map_side
        clips = [[context.key(split, "tuned")] for split in feature_extraction.SPLITS]
        key = feature_cache.cache_key(
            context.encoders[name][0].key, settings | {"version": heads.HEADS_VERSION}, clips
        )

        def make(_, name=name, teacher=teacher):
            logger.info("%s: fine-tuning %s, %d steps", part, name, options.steps)
            with doing(f"{part}, fine-tuning {name}, whose first step compiles", logger.info):
                return [_tune(context, teacher, evaluation.features[name][0]["train"], target, last, options)]

        file = f"{context.dataset}-{name}-0-test-{part}"
        (result,) = feature_cache.cached(context.directory, [file], [key], make, context.share)
        predictions[name] = [interface.Predictions(result["val"], result["test"], {"steps": result["steps"].item()})]
    return predictions


def check(name: str, options: Mapping[str, Any], depth: int) -> None:
    """Refuses options of the evaluator `name` that an encoder of `depth` blocks cannot meet; off, it asks for nothing.

    Raises:
      ConfigError: options are missing, or there are fewer blocks.
    """
    if not {"fields", "blocks", "fit"} <= set(options):
        raise ConfigError(f"eval.evaluators.{name}: finetune needs fields, blocks and fit, see configs/base.py")
    for last in options["blocks"] if options["fit"]["steps"] >= 1 else ():
        _check_blocks(last, depth)


def _check_blocks(last: int, depth: int) -> None:
    if not -1 <= last <= depth:
        raise ConfigError(f"fine-tuning of the last {last} blocks: the encoder has {depth}; -1 is all of it")


def partition(params: Any, last: int, depth: int) -> tuple[dict, dict]:
    """Flat parameters {path: array} that are tuned, and those that stay: the last blocks and the final norm, or all.

    Raises:
      ConfigError: more blocks than there are.
    """
    _check_blocks(last, depth)
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    tuned = {path for path in flat if last == -1 or layer(path, depth) > depth - last}
    return {p: flat[p] for p in flat if p in tuned}, {p: flat[p] for p in flat if p not in tuned}


def layer(path: str, depth: int) -> int:
    """0 for the embedding and the CLS token, 1 to `depth` for the blocks, depth + 1 for the final norm and the head."""
    for part in path.split("/"):
        if part.startswith("block"):
            return 1 + int(part.removeprefix("block"))
    return depth + 1 if "/norm/" in path or path.startswith(HEAD) else 0


def layer_lr_scale(path: str, depth: int, layer_decay: float) -> float:
    """1 for the head and the final norm, layer_decay times less for each layer below."""
    return layer_decay ** (depth + 1 - layer(path, depth))


def _tune(context, teacher, pooled_features, target: targets.Target, last: int, options: FinetuneOptions):
    """{"val", "test", "steps"} of the step with the best validation score."""
    tuner, depth = context.tuner, context.tuner.model.depth
    trained, frozen = partition(teacher, last, depth)
    names = sorted(pooled_features.keys() & {*NAMES, *MAPS})
    fixed = {name: _mean_and_std(pooled_features[name]) for name in names}
    width = sum(mean.size for mean, _ in fixed.values())
    trained |= {f"{HEAD}/kernel": jnp.zeros((width, 1)), f"{HEAD}/bias": jnp.zeros((1,))}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b1=0.9, b2=0.95))
    state = trained, jax.eval_shape(optimizer.init, trained)
    shardings = tuner.shardings(state)
    trained = jax.device_put(trained, shardings[0])
    opt_state = jax.jit(optimizer.init, out_shardings=shardings[1])(trained)

    def outputs(trained, frozen, frames, num_valid):
        encoder = {path: leaf for path, leaf in trained.items() if not path.startswith(HEAD)}
        params = flax.traverse_util.unflatten_dict({**frozen, **encoder}, sep="/")
        tokens_of_clip = tuner.model.apply({"params": params}, frames, num_valid, method="encode_video")
        pooled = readouts(tokens_of_clip, num_valid, tuner.model.grid, tuner.map_side)
        x = jnp.concatenate([(pooled[name] - fixed[name][0]) / fixed[name][1] for name in names], axis=1)
        return (x @ trained[f"{HEAD}/kernel"] + trained[f"{HEAD}/bias"])[:, 0]

    def step(trained, frozen, opt_state, number, frames, num_valid, wanted):
        grads = jax.grad(lambda t: target.loss()(outputs(t, frozen, frames, num_valid), wanted))(trained)
        updates, opt_state = optimizer.update(grads, opt_state)
        warm = jnp.minimum(1.0, (number + 1) / (WARMUP * options.steps))
        learning_rate = options.learning_rate * warm * 0.5 * (1 + jnp.cos(jnp.pi * number / options.steps))

        def update(path, leaf):
            scale = learning_rate * layer_lr_scale(path, depth, options.layer_decay)
            weight_decay = options.weight_decay if leaf.ndim > 1 else 0.0
            return leaf - scale * (updates[path] + weight_decay * leaf)

        return {path: update(path, leaf) for path, leaf in trained.items()}, opt_state

    # The parameters are not donated: at first they are the teacher's.
    step = jax.jit(step, donate_argnums=2, out_shardings=shardings)
    predict = jax.jit(outputs, out_shardings=tuner.replicated)
    best = {"score": -np.inf}
    with contextlib.closing(_training_clips(context, options)) as clips:
        wanted = target.weighted()
        progress = Progress("steps of fine-tuning", options.steps, logger.info, always=False)
        for number in range(options.steps):
            batch = next(clips)
            rows = tuner.place_rows((batch["frames"], batch["num_valid"], wanted[batch["record"]]))
            # Waited for, so that progress tells of steps that are done; the loader reads on meanwhile.
            trained, opt_state = jax.block_until_ready(step(trained, frozen, opt_state, number, *rows))
            progress(number + 1)
            if (number + 1) % options.every and number + 1 < options.steps:
                continue
            val = _by_video(context, "val", lambda *rows, t=trained: predict(t, frozen, *rows), target)
            if (score := target.score(val)) > best["score"]:
                test = _by_video(context, "test", lambda *rows, t=trained: predict(t, frozen, *rows), target)
                best = {"score": score, "val": val, "test": test, "steps": np.asarray(number + 1)}
    if "val" not in best:
        raise interface.Skip(f"fine-tuning ({target.field}): its score on validation was never a number")
    return {name: best[name] for name in ("val", "test", "steps")}


def _mean_and_std(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of frozen features [N, D], for the head's inputs; constant ones are only centred."""
    std = columns.std(0, dtype=np.float64)
    floor = 1e-6 * max(std.max(initial=0.0), 1e-30)
    scale = np.where(std > floor, std, 1.0)
    return columns.mean(0, dtype=np.float64).astype(np.float32), scale.astype(np.float32)


def _training_clips(context, options: FinetuneOptions):
    """Randomly placed and cropped clips of all training videos of the scored dataset, forever."""
    config = context.config.copy_and_resolve_references()
    name = mixture.scored(config)
    with config.unlocked():
        config.batch_size, config.data.dataset, config.data.mixture = options.batch, name, {}
        config.data.train_filter, config.data.stride_jitter = "all", 0.0
    share = context.share
    return pipeline.train_batches(
        {name: context.sources["train"]}, config, process_index=share.index, process_count=share.count
    )


def _by_video(context, split: str, predict, target: targets.Target) -> np.ndarray:
    """Prediction of the known videos of a split, the mean over a video's clips: float64 [known]."""
    share, config = context.share, context.config
    total, count = (np.zeros(len(target.known[split])) for _ in range(2))
    chosen = np.flatnonzero(target.known[split])
    batches = pipeline.eval_batches(
        context.sources[split],
        config,
        batch_size=config.eval.batch_size,
        indices=chosen,
        process_index=share.index,
        process_count=share.count,
    )
    progress = Progress(f"{split} clips", len(chosen) * config.eval.clips, logger.info, always=False)
    with contextlib.closing(batches):
        for batch in batches:
            result = jax.device_get(predict(*context.tuner.place_rows((batch["frames"], batch["num_valid"]))))
            rows = share.gather({name: batch[name] for name in ("record", "weight")})
            real = rows["weight"] > 0
            np.add.at(total, rows["record"][real], target.predicted(result)[real])
            np.add.at(count, rows["record"][real], 1)
            progress(int(count.sum()))
    return (total / np.maximum(count, 1))[chosen]
