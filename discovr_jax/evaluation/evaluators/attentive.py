"""Attentive probe: one learned query attends to all frozen tokens of a clip, a linear layer reads the weighted mean.

The query of an attention head times its keys is a learned direction in which tokens are scored, and its values times
the output layer a linear layer of the weighted mean token; so neither keys nor values are computed for each token.
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
from discovr_jax.evaluation.evaluators import heads, targets
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.evaluation.features import tokens

METRICS = targets.METRICS


class AttentiveHead(nn.Module):
    """{"tokens": [B, N, D], "valid": bool [B, N]} -> [B]. Tokens that are not `valid` get no attention."""

    heads: int

    @nn.compact
    def __call__(self, inputs: dict[str, jax.Array]) -> jax.Array:
        x = inputs["tokens"].astype(jnp.float32)
        scores = nn.Dense(self.heads, use_bias=False, name="query")(x)
        weights = jax.nn.softmax(scores, axis=1, where=inputs["valid"][:, :, None])
        gathered = jnp.einsum("bnh,bnd->bhd", weights, x)
        out = nn.Dense(1, kernel_init=nn.initializers.zeros, name="out")
        return out(gathered.reshape(len(x), -1))[:, 0]


def valid_tokens(num_valid: np.ndarray, grid) -> np.ndarray:
    """Which tokens of clips are of real frames, CLS always: bool [N, 1 + tokens]."""
    real = np.arange(grid.time) * grid.tubelet < np.asarray(num_valid)[:, None]
    return np.concatenate([np.ones((len(real), 1), bool), np.repeat(real, grid.num_positions, axis=1)], axis=1)


def run(
    evaluation: results_lib.Evaluation,
    family: str,
    context: tokens.TokenContext,
    *,
    fields: tuple[str, ...],
    heads_of_query: int,
    fit: dict[str, Any],
    max_gib: float,
) -> None:
    """Enters the metrics of each field; options: `config.eval.evaluators.attentive`.

    Raises:
      interface.Skip: the tokens take more than `max_gib`.
    """
    grid = context.members[0][2].grid
    counts = [len(context.sources[split]) for split in feature_extraction.SPLITS]
    tokens.require_space(context, counts, 1 + grid.tokens, max_gib, f"eval.evaluators.{family}.max_gib")
    options = heads.HeadOptions(**fit)
    clips = functools.cache(partial(tokens.of_clips, context))  # read only where something is to be trained
    for field in fields:
        part = family if field == targets.LABEL else f"{family}_{field}"
        try:
            target = targets.read_target(context, field)
            predictions = _all_predictions(context, part, target, clips, heads_of_query, options)
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
            readouts=dict.fromkeys(predictions, "tokens"),
            chosen_by=target.chosen_by,
            part=part,
        )


def _all_predictions(
    context, part: str, target: targets.Target, clips, heads_of_query: int, options: heads.HeadOptions
):
    """{encoder: [interface.Predictions, one per seed]}; what is not cached is trained."""
    predictions: dict[str, list[interface.Predictions]] = {}
    digest = trees.fingerprint([dict(target.known), dict(target.values)])
    for number, (name, seed, encoder) in enumerate(context.members):
        settings = {"heads": heads_of_query, "options": str(options), "seed": context.config.seed, "targets": digest}
        inputs = [[context.key(split, "middle clip")] for split in feature_extraction.SPLITS]
        key = feature_cache.cache_key(encoder.key, settings | {"version": heads.HEADS_VERSION}, inputs)

        def make(_, number=number):
            return [_train(context, number, target, clips, heads_of_query, options)]

        file = f"{context.dataset}-{name}-{seed}-test-{part}"
        (result,) = feature_cache.cached(context.directory, [file], [key], make, context.share)
        details = {name: result[name].item() for name in ("decay", "steps")}
        predictions.setdefault(name, []).append(interface.Predictions(result["val"], result["test"], details))
    return predictions


def _train(context, number: int, target: targets.Target, clips, heads_of_query: int, options: heads.HeadOptions):
    """The probe on the tokens of one of `context.members`."""
    name, seed, encoder = context.members[number]
    result = [clips(split)[number] for split in feature_extraction.SPLITS]
    tokens.finite(name, seed, *(each["tokens"] for each in result))
    arrays = heads.standardise(*(each["tokens"] for each in result))
    train, val, test = (
        {
            "tokens": array[target.known[split]],
            "valid": valid_tokens(each["num_valid"][target.known[split]], encoder.grid),
        }
        for split, array, each in zip(feature_extraction.SPLITS, arrays, result, strict=True)
    )
    head = AttentiveHead(heads_of_query)
    apply = heads.applied(head)

    def predict(params, inputs):
        return target.predicted(heads.outputs(apply, params, inputs, options.batch))

    def score(params):
        return target.score(predict(params, val))

    wanted = target.weighted()[target.known["train"]]
    fitted = heads.fit(head, target.loss(), score, train, wanted, options, context.config.seed)
    split_predictions = {"val": predict(fitted.params, val), "test": predict(fitted.params, test)}
    return split_predictions | {name: np.asarray(value) for name, value in fitted.details.items()}
