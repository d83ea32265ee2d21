"""Semantic cluster distillation: decoder tokens and image teacher tokens share prototypes (DISCOVR, eq. 4-6)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from discovr_jax.errors import ConfigError
from discovr_jax.losses import monitors
from discovr_jax.losses.interface import Result
from discovr_jax.losses.sinkhorn import sinkhorn

STANDARDISE_EPS = 1e-6


def term(inputs) -> Result:
    """L_scd as a term of the objective, and the position means for the next step; `LossInputs` -> its Result."""
    options, memory, tokens = inputs.options, inputs.memory, inputs.teacher.image_tokens
    batch_mean = mean_of_positions(tokens)
    started = started_position_mean(memory.position_mean, batch_mean)
    loss, metrics = scd_loss(
        options, inputs.student, inputs.teacher, memory.replace(position_mean=started), inputs.batch
    )
    position_mean = update_position_mean(started, batch_mean, options.position_momentum)
    return Result(loss, memory.replace(position_mean=position_mean), metrics)


def scd_loss(options, student, teacher, memory, batch):
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
        q_video, q_image = hard_labels(q_video), hard_labels(q_image)
    elif options.scd_targets != "soft":
        raise ConfigError(f"scd.targets must be 'soft' or 'hard', not {options.scd_targets!r}")
    if not options.scd_image_gradient:
        image_scores = jax.lax.stop_gradient(image_scores)
    video_term = prototype_cross_entropy(video_scores, q_image, options.scd_temperature, flat_weights)
    image_term = prototype_cross_entropy(image_scores, q_video, options.scd_temperature, flat_weights)
    grid = (student.decoded.shape[0], -1, teacher.image_tokens.shape[2])
    monitored = monitors.assignment_monitors(
        *(label.reshape(grid) for label in labels),
        student.prototypes.shape[0],
        None if weights is None else weights.reshape(grid[0], -1, grid[2]),
    )
    terms = {"scd/video_scores": video_term, "scd/image_scores": image_term}
    return video_term + image_term, terms | {f"scd/{key}": value for key, value in monitored.items()}


def scd_scores(options, student, teacher, memory, batch):
    """Cosine of decoder tokens and of image teacher tokens to the prototypes: two float32 [B * tokens, K].

    No gradient reaches the image encoder.
    """
    video = student.decoded
    num_clips, num_tokens, width = video.shape
    if options.scd_pairing == "aligned":
        time = num_tokens // teacher.image_tokens.shape[2]
        image = image_scores(options, teacher.image_tokens, student.prototypes, memory, time)
    elif options.scd_pairing == "reference":
        # Every second token of the flattened frames beside the decoder's visible-then-masked order.
        tokens = _standardised(options, teacher.image_tokens, memory).reshape(num_clips, -1, width)
        image = _scores(tokens[:, :: tokens.shape[1] // num_tokens], student.prototypes)
        video = jnp.take_along_axis(video, batch.decoder_order[:, :, None], axis=1)
    else:
        raise ConfigError(f"scd.pairing must be 'aligned' or 'reference', not {options.scd_pairing!r}")
    return _scores(video, student.prototypes), image


def image_scores(options, image_tokens: jax.Array, prototypes: jax.Array, memory, time: int) -> jax.Array:
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
    return standardise(tokens, options.scd_standardise, memory.position_mean).astype(tokens.dtype)


def _scores(tokens, prototypes):
    unit = _unit(tokens).reshape(-1, tokens.shape[-1]).astype(tokens.dtype)
    return jnp.matmul(unit, prototypes.T.astype(unit.dtype), preferred_element_type=jnp.float32)


def _paired_frames(image_tokens, time):
    """First frame of each tubelet: [B, F, P, D] -> [B, t, P, D]."""
    return image_tokens[:, :: image_tokens.shape[1] // time]


def _token_weights(options, batch):
    """Weight of each token in SCD, [B, tokens], or None where all count."""
    weights = None
    if options.scd_tokens == "masked":
        weights = batch.masked.astype(jnp.float32)
    elif options.scd_tokens != "all":
        raise ConfigError(f"scd.tokens must be 'all' or 'masked', not {options.scd_tokens!r}")
    if options.scd_ignore_static:
        signal = batch.signal.reshape(batch.masked.shape)
        weights = signal if weights is None else weights * signal
    return weights


def _unit(x):
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-24))


def standardise(
    tokens: Float[Array, "clips frames positions width"], how: str, position_mean: Float[Array, "positions width"]
) -> Float[Array, "clips frames positions width"]:
    """Take the common part out of image teacher tokens.

    Args:
      tokens: [B, F, P, D].
      how: "frame" (zero mean and unit unbiased standard deviation over the patches of the frame), "position" (minus
        the running mean of each patch position) or "none".
      position_mean: float32 [P, D], read by "position".

    Returns:
      float32 [B, F, P, D].
    """
    tokens = tokens.astype(jnp.float32)
    if how == "frame":
        std = tokens.std(axis=2, ddof=1, keepdims=True)
        return (tokens - tokens.mean(axis=2, keepdims=True)) / (std + STANDARDISE_EPS)
    if how == "position":
        return tokens - position_mean
    if how == "none":
        return tokens
    raise ConfigError(f"scd.standardise must be 'frame', 'position' or 'none', not {how!r}")


def mean_of_positions(tokens: Float[Array, "clips frames positions width"]) -> Float[Array, "positions width"]:
    """Mean token of a batch at each patch position, without gradient. [B, F, P, D] -> float32 [P, D]."""
    # Frames are summed by products: for a plain mean XLA lays out the whole image teacher with frames last on GPUs, and
    # moves its axes four times in each block (docs/speed.md).
    ones = jnp.ones(tokens.shape[:2], tokens.dtype)
    sums = jnp.einsum("bf,bfpd->bpd", ones, tokens, precision="highest", preferred_element_type=jnp.float32)
    return jax.lax.stop_gradient(sums.mean(0) / tokens.shape[1])


def started_position_mean(
    position_mean: Float[Array, "positions width"], batch_mean: Float[Array, "positions width"]
) -> Float[Array, "positions width"]:
    """The running mean, or the mean of this batch where it has not started (is all zeros).

    From zeros an average of momentum 0.99 would take 69 steps to hold half of the mean.
    """
    return jnp.where(jnp.any(position_mean != 0), position_mean, batch_mean)


def update_position_mean(
    position_mean: Float[Array, "positions width"], batch_mean: Float[Array, "positions width"], momentum: float
) -> Float[Array, "positions width"]:
    """EMA of the mean token at each patch position; both float32 [P, D]."""
    return momentum * position_mean + (1 - momentum) * batch_mean


def prototype_cross_entropy(
    scores: Float[Array, "rows prototypes"],
    assignments: Float[Array, "rows prototypes"],
    temperature: float,
    weights: Float[Array, "rows"] | None = None,
) -> Float[Array, ""]:
    """Mean over rows of CE(softmax(scores / temperature), assignments).

    Args:
      scores, assignments: float32 [N, K].
      weights: [N] or None; the mean is over the mass.
    """
    log_probs = jax.nn.log_softmax(scores / temperature, axis=-1)
    per_row = -(assignments * log_probs).sum(-1)
    if weights is None:
        return per_row.mean()
    return (per_row * weights).sum() / jnp.maximum(weights.sum(), 1e-9)


def hard_labels(assignments: Float[Array, "rows prototypes"]) -> Float[Array, "rows prototypes"]:
    """One-hot of the largest assignment, as the public code uses for targets."""
    return jax.nn.one_hot(assignments.argmax(-1), assignments.shape[-1], dtype=jnp.float32)


def signal_weights(
    frames: UInt8[Array, "clips time height width"],
    num_valid: Int[Array, "clips"],
    tubelet: int,
    patch: int,
    floor: float,
) -> Float[Array, "clips tubelets positions"]:
    """1 for tokens that hold signal, 0 for padded frames and for patches without signal.

    A patch holds signal if the standard deviation of its grey values over the clip is above `floor`: the
    black surround of the sector has none.

    Args:
      frames: uint8 [B, T, H, W].
      num_valid: int32 [B].
      floor: grey levels (0..255).

    Returns:
      float32 [B, T / tubelet, P].
    """
    batch, time, height, width = frames.shape
    x = frames.astype(jnp.float32).reshape(batch, time, height // patch, patch, width // patch, patch)
    valid = jnp.arange(time) < num_valid[:, None]
    mean_square = jnp.where(valid[:, :, None, None], (x**2).mean((3, 5)), 0).sum(1) / num_valid[:, None, None]
    mean = jnp.where(valid[:, :, None, None], x.mean((3, 5)), 0).sum(1) / num_valid[:, None, None]
    signal = jnp.sqrt(jnp.maximum(mean_square - mean**2, 0)) > floor
    real = valid[:, ::tubelet]
    return (real[:, :, None] & signal.reshape(batch, 1, -1)).astype(jnp.float32)
