"""Attentive probe: one block of cross-attention with an MLP reads where, and how much, the frozen tokens change.

Its tokens are CLS and, of each patch position, mean and standard deviation over time (`models.readouts.over_time`), and
the pooled features `frame_mean` and `frame_std` of the image teacher where `eval.readouts` names them. Of all tokens of
a clip, a block of this size learns some hundred training videos by heart (docs/evaluation.md).

The query of an attention head times its keys is a learned direction in which tokens are scored, and a position has a
learned score of its own; so keys are not computed for each token.

Source: the attentive probe of V-JEPA, arXiv 2404.08471, with one query, and without the block's residual connection
from that query, which is the same for all videos.
"""

import functools
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax import trees
from discovr_jax.evaluation import interface
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.evaluators import grid, heads, targets
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.evaluation.features import tokens
from discovr_jax.models.readouts import FRAMES

METRICS = targets.METRICS
_POSITION_STD = 2.0  # of the initial scores of positions: each attention head begins with a few of them


class AttentiveHead(nn.Module):
    """Tokens [B, N, D] -> [B].

    Attributes:
      heads: of the attention; width: of what each passes on.
    """

    heads: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        positions = self.param("positions", nn.initializers.normal(_POSITION_STD), (x.shape[1], self.heads))
        scores = nn.Dense(self.heads, use_bias=False, name="query")(x) + positions
        gathered = jnp.einsum("bnh,bnd->bhd", jax.nn.softmax(scores, axis=1), x)
        init = nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
        values = jnp.einsum("bhd,hdk->bhk", gathered, self.param("values", init, (self.heads, x.shape[2], self.width)))
        z = nn.Dense(x.shape[2], name="attended")(values.reshape(len(x), -1))
        z += nn.Dense(x.shape[2], name="down")(nn.gelu(nn.Dense(2 * x.shape[2], name="up")(nn.LayerNorm()(z))))
        return nn.Dense(1, kernel_init=nn.initializers.normal(0.02), name="out")(nn.LayerNorm()(z))[:, 0]


def standardise(positions: int, train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Tokens [N, 1 + 2 positions + M, D] less their mean over the training videos, by a standard deviation.

    The mean is that of each token; there is one standard deviation of CLS, one of all means over time, one of all
    standard deviations over time, and one of each of the M tokens of the image teacher, per feature.

    Args:
      positions: of patches; train: float16, finite; others: likewise, by the same numbers.

    Returns:
      float16, in their order.
    """
    mean, scale = train.mean(0, dtype=np.float64).astype(np.float32), np.empty(train.shape[1:], np.float32)
    sizes = (1, positions, positions, *(1,) * (train.shape[1] - 1 - 2 * positions))
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        part = slice(end - size, end)
        std = np.sqrt(np.mean([np.square(row[part] - mean[part]).mean(0) for row in train], 0, dtype=np.float64))
        scale[part] = np.where(std > 1e-6 * max(std.max(initial=0.0), 1e-30), std, 1.0)
    return [heads.scaled(array, mean, scale) for array in (train, *others)]


def run(
    evaluation: results_lib.Evaluation,
    family: str,
    context: tokens.TokenContext,
    *,
    fields: tuple[str, ...],
    heads_of_query: int,
    head_width: int,
    fit: dict[str, Any],
    max_gib: float,
) -> None:
    """Enters the metrics of each field; options: `config.eval.evaluators.attentive`.

    Raises:
      interface.Skip: the tokens take more than `max_gib`.
    """
    if not fields:
        raise interface.NotSetUp(f"off unless asked for: set config.eval.evaluators.{family}.fields")
    counts = [len(context.sources[split]) for split in feature_extraction.SPLITS]
    positions = context.members[0][2].grid.num_positions
    frames = _frames_of(evaluation, context)
    each = 1 + 2 * positions + len(frames)
    tokens.require_space(context, counts, each, max_gib, f"eval.evaluators.{family}.max_gib")
    head, options = AttentiveHead(heads_of_query, head_width), grid.GridOptions(**fit)
    # Read only where something is to be trained.
    videos = functools.cache(partial(_of_videos, evaluation, context, frames))
    for field in fields:
        part = family if field == targets.LABEL else f"{family}_{field}"
        try:
            target = targets.read_target(context, field)
            predictions = _all_predictions(context, part, target, videos, head, options, bool(frames))
        except interface.Skip as skip:
            results_lib.skip(evaluation, part, skip)
            continue
        evaluation.results["videos"][part] = {split: int(known.sum()) for split, known in target.known.items()}
        results_lib.add(
            evaluation,
            family,
            target.rows,
            targets.metric_names(field),
            predictions,
            kind="attentive",
            field=field,
            readouts=dict.fromkeys(predictions, ", ".join(("tokens", *frames))),
            chosen_by=target.chosen_by,
            part=part,
        )


def _frames_of(evaluation: results_lib.Evaluation, context: tokens.TokenContext) -> list[str]:
    """Pooled features of the image teacher that all encoders have."""
    pooled = [evaluation.features[name][seed].get("train", {}) for name, seed, _ in context.members]
    return [name for name in FRAMES if all(name in each for each in pooled)]


def _of_videos(
    evaluation: results_lib.Evaluation, context: tokens.TokenContext, frames: list[str], split: str
) -> list[np.ndarray]:
    """`tokens.of_videos`, and the pooled features `frames` behind them: float16 [N, tokens, D] of each encoder."""
    videos = tokens.of_videos(context, split)
    if not frames:
        return videos  # no copy: they may be gigabytes
    result = []
    for (encoder, seed, _), found in zip(context.members, videos, strict=True):
        pooled = (evaluation.features[encoder][seed][split][name] for name in frames)
        result.append(np.concatenate([found, *(each[:, None].astype(np.float16) for each in pooled)], axis=1))
    return result


def _all_predictions(
    context, part: str, target: targets.Target, videos, head: AttentiveHead, options, with_frames: bool
) -> dict[str, list[interface.Predictions]]:
    """{encoder: [predictions, of each seed all trainings]}; what is not cached is trained."""
    predictions: dict[str, list[interface.Predictions]] = {}
    digest = trees.fingerprint([dict(target.known), dict(target.values)])
    for number, (name, seed, encoder) in enumerate(context.members):
        settings = {"head": str(head), "options": str(options), "seed": context.config.seed, "targets": digest}
        settings |= {"clips": context.config.eval.clips, "version": grid.GRID_VERSION}
        inputs = [[context.key(split, "over time")] for split in feature_extraction.SPLITS]
        # The token encoder's key knows the video encoder alone.
        weights = context.pooled[name][seed].key if with_frames else encoder.key
        key = feature_cache.cache_key(weights, settings, inputs)

        def make(_, number=number):
            return [_train(context, number, target, videos, head, options)]

        file = f"{context.dataset}-{name}-{seed}-test-{part}"
        (result,) = feature_cache.cached(context.directory, [file], [key], make, context.share)
        predictions.setdefault(name, []).extend(grid.predictions(target, result))
    return predictions


def _train(context, number: int, target: targets.Target, videos, head: AttentiveHead, options: grid.GridOptions):
    """The probe on the tokens of one of `context.members`."""
    name, seed, encoder = context.members[number]
    arrays = [videos(split)[number] for split in feature_extraction.SPLITS]
    tokens.finite(name, seed, *arrays)
    known = (target.known[split] for split in feature_extraction.SPLITS)
    arrays = [array[rows] for rows, array in zip(known, standardise(encoder.grid.num_positions, *arrays), strict=True)]
    return grid.fit(head, target, arrays, options, context.config.seed)
