"""What tells a healthy run from a collapsing one: cheap metrics of each step, read by people and by warnings."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

EPS = 1e-12
SHARE_OUTPUTS = 256  # a correlation over these is as good, and costs nothing beside 65,536


def entropy(counts: Float[Array, "*shape"], axis: int = -1) -> Float[Array, "*rest"]:
    """Entropy in nats of distributions given by non-negative counts along `axis` (0 for an empty row).

    >>> float(entropy(jnp.array([1.0, 1.0]))) == float(jnp.log(2.0))
    True
    """
    p = counts / jnp.maximum(counts.sum(axis, keepdims=True), EPS)
    return -(p * jnp.log(jnp.maximum(p, EPS))).sum(axis)


def teacher_entropies(
    targets: Float[Array, "rows prototypes"], weights: Float[Array, "rows"] | None = None
) -> dict[str, Float[Array, ""]]:
    """DINO's three states from the targets [N, K].

    With H the mean entropy and Hm the entropy of the mean: H ~ Hm ~ ln K is uniform collapse, both ~ 0 is
    constant collapse, a gap Hm - H is health.

    Source: the two ways of collapse of DINO, arXiv 2104.14294.

    >>> found = teacher_entropies(jnp.eye(4))  # four clips, each sure of a prototype of its own: healthy
    >>> round(float(found["entropy_of_mean"] - found["entropy"]), 3)
    1.386
    """
    weights = jnp.ones(targets.shape[0]) if weights is None else weights
    mean = (targets * weights[:, None]).sum(0) / weights.sum()
    return {
        "entropy": (entropy(targets) * weights).sum() / weights.sum(),
        "entropy_of_mean": entropy(mean),
        "entropy_max": jnp.log(float(targets.shape[-1])),
    }


def predicted_share(
    teacher: Float[Array, "rows outputs"],
    student: Float[Array, "rows views outputs"],
    weights: Float[Array, "rows"] | None = None,
) -> Float[Array, ""]:
    """Share of what differs between the teacher's outputs that the student's views predict: a squared correlation.

    Near uniform targets this rho decides: the teacher's differences grow by (1 - m) (rho tau_s / tau_t - 1) per
    step, so they die out where rho < tau_t / tau_s (measured: docs/notes/learning.md).

    Args:
      teacher: [N, K]; student: [N, M, K], M views of each row. The first `SHARE_OUTPUTS` outputs are read.
      weights: [N], rows that count.

    >>> rows = jnp.array([[1.0], [2.0], [3.0]])
    >>> round(float(predicted_share(rows, 5 * rows[:, None])), 3)  # the student knows all, at another scale
    1.0
    """
    weights = jnp.ones(teacher.shape[0]) if weights is None else weights
    share = weights[:, None] / weights.sum()
    teacher, student = teacher[:, :SHARE_OUTPUTS], student[..., :SHARE_OUTPUTS]
    a = teacher - (share * teacher).sum(0)
    b = student - (share[:, None] * student).sum((0, 1)) / student.shape[1]
    both = (share[:, None] * a[:, None] * b).sum() / student.shape[1]
    lengths = (share * a**2).sum() * (share[:, None] * b**2).sum() / student.shape[1]
    return both**2 / jnp.maximum(lengths, EPS**2)


def feature_rank(features: Float[Array, "clips width"]) -> Float[Array, ""]:
    """Effective number of directions of features [B, D]: (tr C)^2 / tr(C^2) of their covariance C.

    At most B - 1; near 1 means that all clips lie on a line (dimensional collapse), 0 that they are equal.

    The participation ratio of the covariance's eigenvalues.

    >>> line = jnp.arange(4.0)[:, None] * jnp.ones(3)  # four clips on a line
    >>> round(float(feature_rank(line)), 3)
    1.0
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
