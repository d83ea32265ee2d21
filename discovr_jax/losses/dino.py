"""Self-distillation on scores of the CLS token (DINO): targets, cross-entropy and centre."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from discovr_jax.errors import ConfigError
from discovr_jax.losses.sinkhorn import sinkhorn

SINKHORN_ITERATIONS = 3  # DINOv2's number


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
    """
    scaled = logits / temperature
    return jax.nn.logsumexp(scaled, axis=-1) - jnp.einsum("nk,nmk->nm", targets, scaled)


def weighted_mean(
    values: Float[Array, "rows *rest"], weights: Float[Array, "rows"] | None = None
) -> Float[Array, ""]:
    """Mean of [N, ...] over everything, rows weighted by [N]."""
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
      momentum: share of the old centre kept.
      source: "logits" (DINO) or "softmax" (the public DISCOVR code averages the targets instead).
      weights: [N], rows that count.
    """
    if source not in ("logits", "softmax"):
        raise ConfigError(f"dino.center_source must be 'logits' or 'softmax', not {source!r}")
    mean = _row_mean(logits if source == "logits" else targets, weights)
    return momentum * center + (1 - momentum) * jax.lax.stop_gradient(mean)


def _row_mean(rows, weights):
    return rows.mean(0) if weights is None else (rows * weights[:, None]).sum(0) / weights.sum()
