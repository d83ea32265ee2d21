"""What tells a healthy run from a collapsing one: cheap metrics of each step, read by people and by warnings."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

EPS = 1e-12


def entropy(counts: Float[Array, "*shape"], axis: int = -1) -> Float[Array, "*rest"]:
    """Entropy in nats of distributions given by non-negative counts along `axis` (0 for an empty row)."""
    p = counts / jnp.maximum(counts.sum(axis, keepdims=True), EPS)
    return -(p * jnp.log(jnp.maximum(p, EPS))).sum(axis)


def teacher_entropies(
    targets: Float[Array, "rows prototypes"], weights: Float[Array, "rows"] | None = None
) -> dict[str, Float[Array, ""]]:
    """DINO's three states from the targets [N, K].

    With H the mean entropy and Hm the entropy of the mean: H ~ Hm ~ ln K is uniform collapse, both ~ 0 is
    constant collapse, a gap Hm - H is health.
    """
    weights = jnp.ones(targets.shape[0]) if weights is None else weights
    mean = (targets * weights[:, None]).sum(0) / weights.sum()
    return {
        "entropy": (entropy(targets) * weights).sum() / weights.sum(),
        "entropy_of_mean": entropy(mean),
        "entropy_max": jnp.log(float(targets.shape[-1])),
    }


def feature_rank(features: Float[Array, "clips width"]) -> Float[Array, ""]:
    """Effective number of directions of features [B, D]: (tr C)^2 / tr(C^2) of their covariance C.

    At most B - 1; near 1 means that all clips lie on a line (dimensional collapse), 0 that they are equal.
    """
    centred = features.astype(jnp.float32) - features.astype(jnp.float32).mean(0)
    covariance = centred.T @ centred  # not of clip with clip: that would gather the batch
    return jnp.trace(covariance) ** 2 / jnp.maximum((covariance**2).sum(), EPS)


def assignment_monitors(
    image_labels: Int[Array, "clips tubelets positions"],
    video_labels: Int[Array, "clips tubelets positions"],
    num_prototypes: int,
    weights: Float[Array, "clips tubelets positions"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """What the prototypes encode, from the hard labels of both sides.

    Args:
      image_labels, video_labels: int32 [B, t, P], prototype of each token.
      num_prototypes: K.
      weights: float32 [B, t, P], tokens that count (None: all).

    Returns:
      Scalars: `perplexity` (prototypes in use), `position_information` I(prototype; position) / H(position),
      `clip_information` I(prototype; clip | position) / ln B (both biased up where samples are few),
      `agreement` of the two labels, `agreement_position_only`: what one would reach from position alone.
    """
    batch, _, positions = image_labels.shape
    weights = jnp.ones(image_labels.shape) if weights is None else weights
    bins = jnp.arange(positions) * num_prototypes + image_labels

    def histogram(labels, mass):
        return jnp.zeros(positions * num_prototypes).at[labels.reshape(-1)].add(mass.reshape(-1))

    per_clip = jax.vmap(histogram)(bins, weights).reshape(batch, positions, num_prototypes)
    joint = per_clip.sum(0)
    total = joint.sum()
    given_position = (entropy(joint) * joint.sum(-1)).sum() / total
    given_both = (entropy(per_clip) * per_clip.sum(-1)).sum() / total
    usage, position = entropy(joint.sum(0)), entropy(joint.sum(-1))
    return {
        "perplexity": jnp.exp(usage),
        "position_information": (usage - given_position) / jnp.maximum(position, EPS),
        "clip_information": (given_position - given_both) / jnp.log(float(max(batch, 2))),
        "agreement": ((image_labels == video_labels) * weights).sum() / total,
        "agreement_position_only": joint.max(-1).sum() / total,
    }
