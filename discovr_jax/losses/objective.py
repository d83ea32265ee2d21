"""The whole objective: which outputs meet in which loss, and what goes into the state for the next step.

Pure: options and arrays in, losses and monitors out. Each option that `config.fidelity` selects acts here or in
the function that it is handed to.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from discovr_jax.errors import ConfigError
from discovr_jax.losses import dino, monitors, pixel, scd
from discovr_jax.losses.sinkhorn import sinkhorn


@dataclasses.dataclass(frozen=True)
class Options:
    """Weights and options of the losses; the names are those of the config."""

    weights: dict[str, float]  # vid, img, scd, pix
    student_temperature: float
    center_momentum: float
    centering: str
    center_source: str
    center_start: str
    image_weight: str  # "mean", or "released": times 256 / frames
    scd_temperature: float
    scd_epsilon: float
    scd_iterations: int
    scd_standardise: str
    scd_tokens: str  # "all" or "masked"
    scd_ignore_static: bool
    scd_targets: str  # "soft" or "hard"
    scd_pairing: str  # "aligned", or "released": tokens of different places
    scd_image_gradient: bool
    signal_floor: float
    position_momentum: float


@flax.struct.dataclass
class Memory:
    """What the losses carry from step to step, float32: centres [K], mean image token of each place [P, D]."""

    centers: dict[str, jax.Array]
    position_mean: jax.Array | None


@flax.struct.dataclass
class Batch:
    """What the losses need of the input. hidden: bool [B, tokens] of the global view; signal: [B, t, P]."""

    num_valid: jax.Array
    num_frames: int = flax.struct.field(pytree_node=False)
    hidden: jax.Array
    decoder_order: jax.Array | None  # [B, tokens], only for the released pairing
    signal: jax.Array | None
    pixel_targets: jax.Array | None


def objective(
    options: Options, student: Any, teacher: Any, memory: Memory, batch: Batch, teacher_temperature: jax.Array
) -> tuple[jax.Array, tuple[Memory, dict[str, jax.Array]]]:
    """Total loss, the memory for the next step, and scalars to log.

    Args:
      student, teacher: outputs of the model (`StudentOutputs`, `TeacherOutputs`).
      memory: centres and position means before this step.
      teacher_temperature: tau_t of this step.

    Returns:
      (total, (new memory, metrics)); total and metrics are float32 scalars.
    """
    losses, metrics, centers = {}, {}, dict(memory.centers)
    position_mean = memory.position_mean
    valid = (jnp.arange(batch.num_frames) < batch.num_valid[:, None]).astype(jnp.float32)
    rows = {"vid": None, "img": valid.reshape(-1)}
    logits = {
        "vid": (student.video_logits, teacher.video_logits),
        "img": (student.image_logits, teacher.image_logits),
    }
    for name, (student_logits, teacher_logits) in logits.items():
        if student_logits is None:
            continue
        if options.center_start == "batch":
            centers[name] = dino.started_center(centers[name], teacher_logits, rows[name])
        elif options.center_start != "zero":
            raise ConfigError(f"dino.center_start must be 'batch' or 'zero', not {options.center_start!r}")
        targets = dino.teacher_targets(
            teacher_logits, centers[name], teacher_temperature, options.centering, rows[name]
        )
        per_view = dino.cross_entropy(targets, student_logits, options.student_temperature)
        losses[name] = dino.weighted_mean(per_view, rows[name])
        centers[name] = dino.update_center(
            centers[name], teacher_logits, targets, options.center_momentum, options.center_source, rows[name]
        )
        for key, value in monitors.teacher_entropies(targets, rows[name]).items():
            metrics[f"teacher/{name}/{key}"] = value
    if "img" in losses and options.image_weight == "released":
        losses["img"] = losses["img"] * 256 / valid.size
    if teacher.cls is not None and teacher.cls.shape[0] > 2:  # two clips always lie on a line
        metrics["features/rank"] = monitors.feature_rank(teacher.cls)
    if student.prototypes is not None:
        batch_mean = scd.mean_of_positions(teacher.image_tokens)
        started = scd.started_position_mean(position_mean, batch_mean)
        losses["scd"], scd_metrics = scd_loss(
            options, student, teacher, memory.replace(position_mean=started), batch
        )
        metrics |= scd_metrics
        position_mean = scd.update_position_mean(started, batch_mean, options.position_momentum)
    if student.pixels is not None:
        losses["pix"] = pixel.pixel_loss(student.pixels, batch.pixel_targets, batch.hidden)
    total = sum(options.weights[name] * value for name, value in losses.items())
    metrics |= {f"loss/{name}": value for name, value in losses.items()} | {"loss/total": total}
    new_memory = Memory(centers, position_mean)
    return total, jax.lax.stop_gradient((new_memory, metrics))


def scd_loss(options: Options, student: Any, teacher: Any, memory: Memory, batch: Batch):
    """L_scd = CE(s_v / tau, q_i) + CE(s_i / tau, q_v), and what the prototypes encode.

    Returns: (loss, {"scd/...": scalar}).
    """
    video_scores, image_scores = scd_scores(options, student, teacher, memory, batch)
    weights = _token_weights(options, batch)
    flat_weights = None if weights is None else weights.reshape(-1)

    def assign(scores):
        soft = sinkhorn(
            jax.lax.stop_gradient(scores),
            options.scd_epsilon,
            options.scd_iterations,
            flat_weights,
            bound=1.0,
            # float16 has not the exponents for them.
            dtype=jnp.dtype("bfloat16" if student.decoded.dtype == jnp.bfloat16 else "float32"),
        )
        return jax.lax.stop_gradient(soft)

    q_video, q_image = assign(video_scores), assign(image_scores)
    labels = [q.argmax(-1).astype(jnp.int32) for q in (q_image, q_video)]
    if options.scd_targets == "hard":
        q_video, q_image = scd.hard_labels(q_video), scd.hard_labels(q_image)
    elif options.scd_targets != "soft":
        raise ConfigError(f"scd.targets must be 'soft' or 'hard', not {options.scd_targets!r}")
    if not options.scd_image_gradient:
        image_scores = jax.lax.stop_gradient(image_scores)
    video_term = scd.prototype_cross_entropy(video_scores, q_image, options.scd_temperature, flat_weights)
    image_term = scd.prototype_cross_entropy(image_scores, q_video, options.scd_temperature, flat_weights)
    grid = (student.decoded.shape[0], -1, teacher.image_tokens.shape[2])
    found = monitors.assignment_monitors(
        *(label.reshape(grid) for label in labels),
        student.prototypes.shape[0],
        None if weights is None else weights.reshape(grid[0], -1, grid[2]),
    )
    terms = {"scd/video_scores": video_term, "scd/image_scores": image_term}
    return video_term + image_term, terms | {f"scd/{key}": value for key, value in found.items()}


def scd_scores(options: Options, student: Any, teacher: Any, memory: Memory, batch: Batch):
    """Cosine of decoder tokens and of image teacher tokens to the prototypes: two float32 [B * tokens, K].

    No gradient reaches the image encoder.
    """
    video = student.decoded
    num_clips, num_tokens, width = video.shape
    if options.scd_pairing == "aligned":
        time = num_tokens // teacher.image_tokens.shape[2]
        image = image_scores(options, teacher.image_tokens, student.prototypes, memory, time)
    elif options.scd_pairing == "released":
        # Every second token of the flattened frames beside the decoder's visible-then-hidden order.
        tokens = _standardised(options, teacher.image_tokens, memory).reshape(num_clips, -1, width)
        image = _scores(tokens[:, :: tokens.shape[1] // num_tokens], student.prototypes)
        video = jnp.take_along_axis(video, batch.decoder_order[:, :, None], axis=1)
    else:
        raise ConfigError(f"scd.pairing must be 'aligned' or 'released', not {options.scd_pairing!r}")
    return _scores(video, student.prototypes), image


def image_scores(
    options: Options, image_tokens: jax.Array, prototypes: jax.Array, memory: Memory, time: int
) -> jax.Array:
    """Cosine of the image teacher's tokens of each tubelet's first frame to the prototypes.

    Args:
      image_tokens: [B, F, P, D]; no gradient reaches them.
      prototypes: float32 [K, D], unit rows.
      time: tubelets t of the clip.

    Returns:
      float32 [B * t * P, K].
    """
    return _scores(_standardised(options, _paired_frames(image_tokens, time), memory), prototypes)


def _standardised(options, image_tokens, memory):
    """In the dtype of the tokens: products of prototypes and tokens run in the compute dtype."""
    tokens = jax.lax.stop_gradient(image_tokens)
    return scd.standardise(tokens, options.scd_standardise, memory.position_mean).astype(tokens.dtype)


def _scores(tokens, prototypes):
    unit = _unit(tokens).reshape(-1, tokens.shape[-1]).astype(tokens.dtype)
    return jnp.matmul(unit, prototypes.T.astype(unit.dtype), preferred_element_type=jnp.float32)


def _paired_frames(image_tokens, time):
    """First frame of each tubelet: [B, F, P, D] -> [B, t, P, D]."""
    return image_tokens[:, :: image_tokens.shape[1] // time]


def _token_weights(options: Options, batch: Batch):
    """Weight of each token in SCD, [B, tokens], or None where all count."""
    weights = None
    if options.scd_tokens == "masked":
        weights = batch.hidden.astype(jnp.float32)
    elif options.scd_tokens != "all":
        raise ConfigError(f"scd.tokens must be 'all' or 'masked', not {options.scd_tokens!r}")
    if options.scd_ignore_static:
        signal = batch.signal.reshape(batch.hidden.shape)
        weights = signal if weights is None else weights * signal
    return weights


def _unit(x):
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-24))
