"""LeJEPA: views agree, and embeddings spread as a standard Gaussian. `term` asks it of CLS of a clip's views.

Source: Balestriero and LeCun, "LeJEPA", arXiv 2511.08544 (SIGReg: the Epps-Pulley test along random directions). No
teacher, no centre and no temperature, hence no collapse to a uniform output; `losses.dino` needs all three.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from discovr_jax.losses import monitors
from discovr_jax.losses.interface import Result

_KNOTS, _LARGEST = 17, 5.0  # of the quadrature over the argument of the characteristic function


def term(inputs, *, sigreg_weight: float, directions: int) -> Result:
    """LeJEPA as a term of the objective; `interface.LossInputs` -> its Result.

    Args:
      sigreg_weight: lambda of the paper; (1 - lambda) * invariance + lambda * SIGReg.
      directions: random ones per step.
    """
    embeddings = inputs.student.embeddings
    vectors = draw_directions(inputs.batch.key, embeddings.shape[-1], directions)
    same, spread = invariance(embeddings), sigreg(embeddings, vectors)
    metrics = {"jepa/invariance": same, "jepa/sigreg": spread}
    if embeddings.shape[0] > 2:  # two clips always lie on a line
        metrics["jepa/rank"] = monitors.feature_rank(embeddings[:, 0])
    return Result((1 - sigreg_weight) * same + sigreg_weight * spread, inputs.memory, metrics)


def invariance(embeddings: Float[Array, "clips views width"]) -> Float[Array, ""]:
    """Mean squared distance of a clip's views from their mean. embeddings: float32 [B, M, E].

    >>> float(invariance(jnp.array([[[1.0], [3.0]]])))  # two views of one clip, 1 away from their mean
    1.0
    """
    return jnp.square(embeddings - embeddings.mean(1, keepdims=True)).mean()


def draw_directions(key: jax.Array, width: int, count: int) -> Float[Array, "width directions"]:
    """Random unit vectors, float32 [width, count]."""
    vectors = jax.random.normal(key, (width, count))
    return vectors / jnp.linalg.norm(vectors, axis=0, keepdims=True)


def sigreg(
    embeddings: Float[Array, "clips views width"],
    directions: Float[Array, "width directions"],
    weights: Float[Array, "clips"] | None = None,
) -> Float[Array, ""]:
    """Distance of the embeddings from a standard Gaussian, 0 for a perfect one.

    Along each direction the empirical characteristic function of a view's B projections is compared with exp(-t^2 / 2)
    for t from -5 to 5, weighted by exp(-t^2 / 2) and multiplied by B, as the Epps-Pulley statistic.

    Args:
      embeddings: float32 [B, M, E].
      directions: float32 [E, R], unit columns; other ones at each step.
      weights: float32 [B], how much each row counts; their sum takes the place of B. None: 1 each.

    Returns:
      Mean over directions and views.

    >>> import jax
    >>> gauss = jax.random.normal(jax.random.key(0), (512, 1, 4))
    >>> directions = draw_directions(jax.random.key(1), width=4, count=16)
    >>> bool(sigreg(gauss, directions) < sigreg(3 * gauss, directions))  # embeddings that spread too far
    True
    """
    knots = jnp.linspace(-_LARGEST, _LARGEST, _KNOTS)
    gauss = jnp.exp(-0.5 * knots**2)
    angles = jnp.einsum("bme,er->mbr", embeddings, directions)[..., None] * knots
    weights = jnp.ones(embeddings.shape[0]) if weights is None else weights
    count = weights.sum()

    def mean(x):
        return jnp.einsum("mbrk,b->mrk", x, weights / count)

    error = jnp.square(mean(jnp.cos(angles)) - gauss) + jnp.square(mean(jnp.sin(angles)))
    return count * jnp.trapezoid(error * gauss, knots, axis=-1).mean()
