"""Self-distillation on scores of the CLS token (DINO): targets, cross-entropy and centre.

Source: DINO, arXiv 2104.14294 (targets, centre, multi-view cross-entropy); DINOv2, arXiv 2304.07193 (Sinkhorn-Knopp in
the place of the centre); DISCOVR, arXiv 2506.11777.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from discovr_jax.errors import ConfigError
from discovr_jax.losses import monitors
from discovr_jax.losses.interface import Result
from discovr_jax.losses.sinkhorn import sinkhorn

SINKHORN_ITERATIONS = 3  # DINOv2's number


def video_term(inputs) -> Result:
    """L_vid: student's local views of a clip against the teacher's whole clip; `interface.LossInputs` -> its Result."""
    return _self_distillation(inputs, "vid", inputs.student.video_logits, inputs.teacher.video_logits, None)


def image_term(inputs) -> Result:
    """L_img: the same for each frame; mean over variants and valid frames; `interface.LossInputs` -> its Result."""
    valid = inputs.valid_frames().reshape(-1)
    result = _self_distillation(inputs, "img", inputs.student.image_logits, inputs.teacher.image_logits, valid)
    if inputs.options.image_weight == "reference":
        result = dataclasses.replace(result, loss=result.loss * 256 / valid.size)
    return result


def _self_distillation(inputs, name, student_logits, teacher_logits, rows) -> Result:
    """Cross-entropy of views [N, M, K] to the teacher's targets from [N, K]; `rows` [N] are the rows that count."""
    options, center = inputs.options, inputs.memory.centers[name]
    if options.center_start == "batch":
        center = started_center(center, teacher_logits, rows)
    elif options.center_start != "zero":
        raise ConfigError(f"dino.center_start must be 'batch' or 'zero', not {options.center_start!r}")
    targets = teacher_targets(teacher_logits, center, inputs.teacher_temperature, options.centering, rows)
    per_view = cross_entropy(targets, student_logits, options.student_temperature)
    center = update_center(center, teacher_logits, targets, options.center_momentum, options.center_source, rows)
    monitored = monitors.teacher_entropies(targets, rows) | {
        "predicted_share": monitors.predicted_share(teacher_logits, student_logits, rows),
        "needed_share": inputs.teacher_temperature / options.student_temperature,
    }
    return Result(
        weighted_mean(per_view, rows),
        inputs.memory.replace(centers=inputs.memory.centers | {name: center}),
        {f"teacher/{name}/{key}": value for key, value in monitored.items()},
    )


def teacher_targets(
    logits: Float[Array, "rows prototypes"],
    center: Float[Array, "prototypes"],
    temperature: Float[Array, ""] | float,
    centering: str,
    weights: Float[Array, "rows"] | None = None,
) -> Float[Array, "rows prototypes"]:
    """Target distributions P_t of the teacher, without gradient.

    Args:
      logits: float32 [N, K].
      center: float32 [K], used by centering "mean".
      temperature: tau_t.
      centering: "mean" (softmax((h - c) / tau_t)) or "sinkhorn" (Sinkhorn-Knopp over the batch, DINOv2).
      weights: [N], rows that count (padded frames have 0); only "sinkhorn" looks at other rows.

    Returns:
      float32 [N, K], rows sum to 1.

    >>> targets = teacher_targets(jnp.array([[1.0, 0.0]]), center=jnp.zeros(2), temperature=0.5, centering="mean")
    >>> round(float(targets[0, 0]), 3)  # softmax of [2, 0]
    0.881
    """
    if centering == "mean":
        targets = jax.nn.softmax((logits - center) / temperature, axis=-1)
    elif centering == "sinkhorn":
        targets = sinkhorn(logits, temperature, SINKHORN_ITERATIONS, weights)
    else:
        raise ConfigError(f"dino.centering must be 'mean' or 'sinkhorn', not {centering!r}")
    return jax.lax.stop_gradient(targets)


def cross_entropy(
    targets: Float[Array, "rows prototypes"], logits: Float[Array, "rows views prototypes"], temperature: float
) -> Float[Array, "rows views"]:
    """H(P, softmax(logits / temperature)) for each view.

    Args:
      targets: float32 [N, K].
      logits: float32 [N, M, K], M views of each row.

    Returns:
      float32 [N, M].

    >>> targets, logits = jnp.array([[1.0, 0.0]]), jnp.zeros((1, 3, 2))  # one row, three views, two prototypes
    >>> cross_entropy(targets, logits, temperature=0.1).shape
    (1, 3)
    """
    scaled = logits / temperature
    return jax.nn.logsumexp(scaled, axis=-1) - jnp.einsum("nk,nmk->nm", targets, scaled)


def weighted_mean(
    values: Float[Array, "rows *rest"], weights: Float[Array, "rows"] | None = None
) -> Float[Array, ""]:
    """Mean of [N, ...] over everything, rows weighted by [N].

    >>> float(weighted_mean(jnp.array([[1.0, 3.0], [9.0, 9.0]]), jnp.array([1.0, 0.0])))
    2.0
    """
    if weights is None:
        return values.mean()
    per_row = values.reshape(values.shape[0], -1).mean(1)
    return (per_row * weights).sum() / weights.sum()


def started_center(
    center: Float[Array, "prototypes"],
    logits: Float[Array, "rows prototypes"],
    weights: Float[Array, "rows"] | None = None,
) -> Float[Array, "prototypes"]:
    """The centre, or the mean of this batch where it has not started (is all zeros).

    From zeros the first targets would all share the head's arbitrary favourites, and students learn those.
    """
    return jnp.where(jnp.any(center != 0), center, jax.lax.stop_gradient(_row_mean(logits, weights)))


def update_center(
    center: Float[Array, "prototypes"],
    logits: Float[Array, "rows prototypes"],
    targets: Float[Array, "rows prototypes"],
    momentum: float,
    source: str,
    weights: Float[Array, "rows"] | None = None,
) -> Float[Array, "prototypes"]:
    """EMA of the batch mean of the teacher's output.

    Args:
      center: float32 [K].
      logits, targets: float32 [N, K] of the teacher.
      momentum: weight of the old centre.
      source: "logits" (DINO) or "softmax" (the public DISCOVR code averages the targets instead).
      weights: [N], rows that count.

    >>> logits = jnp.array([[1.0, 3.0], [3.0, 5.0]])
    >>> update_center(jnp.zeros(2), logits, targets=logits, momentum=0.5, source="logits").tolist()
    [1.0, 2.0]
    """
    if source not in ("logits", "softmax"):
        raise ConfigError(f"dino.center_source must be 'logits' or 'softmax', not {source!r}")
    mean = _row_mean(logits if source == "logits" else targets, weights)
    return momentum * center + (1 - momentum) * jax.lax.stop_gradient(mean)


def _row_mean(rows, weights):
    return rows.mean(0) if weights is None else (rows * weights[:, None]).sum(0) / weights.sum()
