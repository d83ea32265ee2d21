"""Video anomaly detection without our encoder: how badly an autoencoder of normal clips reconstructs a clip.

Two baselines of the kind that video anomaly detection compares with: a plain convolutional autoencoder, and one whose
code must be put together from a few learned memory items (after Gong et al., ICCV 2019), so that what normal clips
never showed comes out wrong. They are compact, see normal training videos only, and stand in the tables beside the
encoders under the metrics of `anomaly`.
"""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from discovr_jax import trees
from discovr_jax.data import mixture, pipeline
from discovr_jax.evaluation import interface
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.evaluators import anomaly, targets
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import tokens
from discovr_jax.evaluation.features.extract import SPLITS
from discovr_jax.progress import Progress, doing

logger = logging.getLogger(__name__)

METRICS = anomaly.METRICS
VERSION = 1  # part of the cache key: raise it when the same clips would give other scores
WINDOW = 8  # frames that are reconstructed together
WIDTHS = (32, 64, 64)  # channels; each layer halves the sides
ENTROPY_WEIGHT = 2e-4  # of the addressing, in the loss


@dataclasses.dataclass(frozen=True)
class AutoencoderOptions:
    """How they are trained: `steps` of Adam at `learning_rate` on `batch` clips; `memory`: items of the memory."""

    steps: int
    batch: int
    learning_rate: float
    memory: int


class MemoryModule(nn.Module):
    """Each code [..., C] becomes a mean of the memory's items, weighted by similarity; few weights stay above 0."""

    items: int

    @nn.compact
    def __call__(self, codes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[..., C] -> the same shape, and the entropy of the weights (nats, mean over codes)."""
        items = self.param("items", nn.initializers.normal(1.0), (self.items, codes.shape[-1]))
        unit = items / jnp.linalg.norm(items, axis=1, keepdims=True)
        similarity = codes / (jnp.linalg.norm(codes, axis=-1, keepdims=True) + 1e-6) @ unit.T
        weights = jax.nn.softmax(similarity / 0.1)
        weights = jnp.where(weights > 1 / self.items, weights, 0.0)
        weights /= weights.sum(-1, keepdims=True) + 1e-12
        entropy = -(weights * jnp.log(weights + 1e-12)).sum(-1).mean()
        return weights @ items, entropy


class Autoencoder(nn.Module):
    """Windows of clips float [B, H, W, WINDOW] -> reconstructions of the same shape, and the memory's entropy (or 0).

    The frames of a window are the channels of a picture (Hasan et al., CVPR 2016).
    """

    memory: int  # items; 0 for none

    @nn.compact
    def __call__(self, windows: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, entropy = windows, jnp.zeros(())
        for width in WIDTHS:
            x = nn.gelu(nn.Conv(width, (3, 3), (2, 2))(x))
        if self.memory:
            x, entropy = MemoryModule(self.memory, name="memory")(x)
        for width in WIDTHS[-2::-1]:
            x = nn.gelu(nn.ConvTranspose(width, (3, 3), (2, 2))(x))
        x = nn.ConvTranspose(WINDOW, (3, 3), (2, 2))(x)
        return x[:, : windows.shape[1], : windows.shape[2]], entropy  # longer where sides are no multiple of 8


def standardise(frames: jax.Array, num_valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Clips to zero mean and unit standard deviation over their real frames.

    Args:
      frames: uint8 [B, T, H, W]; num_valid: int32 [B].

    Returns:
      float32 [B, T, H, W], 0 in padded frames, and which frames are real: float32 [B, T, 1, 1].
    """
    x = frames.astype(jnp.float32)
    real = (jnp.arange(x.shape[1]) < num_valid[:, None]).astype(jnp.float32)[:, :, None, None]
    count = real.sum((1, 2, 3), keepdims=True) * x.shape[2] * x.shape[3]
    mean = (x * real).sum((1, 2, 3), keepdims=True) / count
    std = jnp.sqrt((((x - mean) * real) ** 2).sum((1, 2, 3), keepdims=True) / count)
    return (x - mean) / (std + 1e-6) * real, real


def windows(clips: jax.Array) -> jax.Array:
    """[B, T, H, W] -> [B * windows, H, W, WINDOW]; the last window of a clip is filled up with zeros."""
    count, frames, height, width = clips.shape
    clips = jnp.pad(clips, ((0, 0), (0, -frames % WINDOW), (0, 0), (0, 0)))
    return jnp.moveaxis(clips.reshape(-1, WINDOW, height, width), 1, -1)


def errors(model: Autoencoder, params, frames, num_valid) -> tuple[jax.Array, jax.Array]:
    """Mean squared error of each clip over its real frames: float32 [B], and the memory's entropy."""
    clips, real = standardise(frames, num_valid)
    wanted = windows(clips)
    reconstructed, entropy = model.apply(params, wanted)
    by_frame = ((reconstructed - wanted) ** 2).mean((1, 2)).reshape(len(clips), -1)[:, : clips.shape[1]]
    real = real[:, :, 0, 0]
    return (by_frame * real).sum(1) / real.sum(1), entropy


def run(
    evaluation: results_lib.Evaluation,
    family: str,
    context: tokens.TokenContext,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    memory: int,
) -> None:
    """Enters `anomaly` metrics of both autoencoders; options: `config.eval.evaluators.reconstruction`.

    Raises:
      interface.NotSetUp: steps is 0.
      interface.Skip: no labels, or no normal training video.
    """
    settings = AutoencoderOptions(steps, batch, learning_rate, memory)
    if steps < 1:
        raise interface.NotSetUp(
            f"off unless asked for, because it trains two autoencoders: set config.eval.evaluators.{family}.steps=500"
        )
    columns = context.fields
    known = {split: interface.known_target(split, columns[split][targets.LABEL], targets.LABEL) for split in SPLITS}
    labels = {split: np.asarray(columns[split][targets.LABEL], np.float64)[known[split]] for split in SPLITS}
    anomaly.require(*(labels[split] for split in SPLITS))
    test = columns["test"]
    ids, patients = np.asarray(test["id"])[known["test"]], results_lib.patients_of(test)[known["test"]]
    rows = results_lib.make_rows(ids, patients, labels["test"], context.config)
    predictions = {}
    for name, items in (("autoencoder", 0), ("memory_autoencoder", memory)):
        scores = _scores(context, settings, known, name, items)
        predictions[name] = [anomaly.scored(scores["val"], labels["val"], scores["test"])]
    evaluation.results["videos"][family] = {split: int(known[split].sum()) for split in SPLITS}
    results_lib.add(
        evaluation,
        "anomaly",
        rows,
        METRICS,
        predictions,
        kind="reconstruction",
        field=targets.LABEL,
        readouts=dict.fromkeys(predictions, "reconstruction error"),
        chosen_by="nothing",
        part=family,
    )


def _scores(context, options: AutoencoderOptions, known, name: str, memory: int) -> dict[str, np.ndarray]:
    """{"val", "test": float64 [known]} reconstruction errors; cached."""
    config = context.config
    digest = trees.fingerprint({split: known[split] for split in SPLITS})
    settings = dataclasses.asdict(options) | {
        "version": VERSION, "seed": config.seed, "labels": digest, "name": name,
        "rule": mixture.abnormal_rule(config.data, mixture.scored(config)), "clips": config.eval.clips,
        "crops": list(config.data.crop_scales),
    }  # fmt: skip
    key = feature_cache.cache_key("reconstruction", settings, [[context.key(split, "errors")] for split in SPLITS])

    def make(_):
        logger.info("training %s of normal clips, %d steps", name, options.steps)
        model = Autoencoder(memory)
        with doing(f"training {name}, whose first step compiles", logger.info):
            params = _train(context, model, options)
        predict = jax.jit(lambda *batch: errors(model, params, *batch)[0])
        return [{split: _by_video(context, split, predict)[known[split]] for split in ("val", "test")}]

    file = f"{context.dataset}-{name}-0-test-reconstruction"
    return feature_cache.cached(context.directory, [file], [key], make, context.share)[0]


def _train(context, model: Autoencoder, options: AutoencoderOptions):
    """Parameters after `options.steps` on normal training clips. Every process trains on all of them alike."""
    config = context.config.copy_and_resolve_references()
    name = mixture.scored(config)
    with config.unlocked():
        config.batch_size, config.data.dataset, config.data.mixture = options.batch, name, {}
        config.data.train_filter, config.data.stride_jitter = "normal", 0.0
    optimizer = optax.adam(optax.cosine_decay_schedule(options.learning_rate, options.steps))

    def loss(params, frames, num_valid):
        error, entropy = errors(model, params, frames, num_valid)
        return error.mean() + ENTROPY_WEIGHT * entropy

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state, frames, num_valid):
        grads = jax.grad(loss)(params, frames, num_valid)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    window = jnp.zeros((1, config.data.image_size, config.data.image_size, WINDOW))
    params = jax.jit(model.init)(jax.random.key(config.seed), window)
    opt_state = optimizer.init(params)
    progress = Progress("steps of an autoencoder", options.steps, logger.info, always=False)
    with contextlib.closing(pipeline.train_batches({name: context.sources["train"]}, config)) as batches:
        for number in range(options.steps):
            batch = next(batches)
            # Waited for, so that progress tells of steps that are done; the loader reads on meanwhile.
            params, opt_state = jax.block_until_ready(step(params, opt_state, batch["frames"], batch["num_valid"]))
            progress(number + 1)
    return params


def _by_video(context, split: str, predict) -> np.ndarray:
    """Mean over the clips of each video: float64 [videos]."""
    source, config = context.sources[split], context.config

    def embed(frames, num_valid) -> Mapping[str, np.ndarray]:
        return {"error": np.asarray(predict(frames, num_valid))[:, None]}

    batches = pipeline.eval_batches(source, config, batch_size=config.eval.batch_size)
    with contextlib.closing(batches):
        progress = Progress(f"{split} videos under the autoencoder", len(source), logger.info, always=False)
        (result,) = feature_cache.extract_features([embed], batches, len(source), progress)
    return result["error"][:, 0].astype(np.float64)
