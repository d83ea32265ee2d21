"""Sinkhorn-Knopp: the only one of the project."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# exp(-4 * SAFE_EXPONENT), the least that a product of kernel and potentials can come to, is a normal float32.
SAFE_EXPONENT = 20.5
FLOAT32 = jnp.dtype("float32")


def sinkhorn(
    scores: Float[Array, "rows prototypes"],
    epsilon: float | Float[Array, ""],
    iterations: int,
    weights: Float[Array, "rows"] | None = None,
    bound: float | None = None,
    dtype: jnp.dtype = FLOAT32,
) -> Float[Array, "rows prototypes"]:
    """Soft assignments of rows to columns under equal use of the columns (SwAV, eq. 3; DISCOVR, eq. 5).

    The scores stay fixed and two log-potentials are iterated: finite for any finite score, two reads of the
    scores an iteration. Under `jit` with rows sharded over devices only vectors of column size are exchanged.
    The result is that of exponentiating and alternately normalising columns, then rows. That is also what is done
    where a `bound` says that the exponentials fit float32: once, and then an iteration is two products with a vector.

    Source: Cuturi, arXiv 1306.0895; SwAV, arXiv 2006.09882, eq. 3; DISCOVR, arXiv 2506.11777, eq. 5.

    Args:
      scores: [N, K], any float dtype; computed in float32.
      epsilon: entropic regularisation; scores are divided by it.
      iterations: passes over columns and rows.
      weights: float [N], mass of each row, >= 0; None means equal. A row of weight 0 takes no part in the
        balance but still gets the assignment that the others imply.
      bound: no score is larger in size (1 for cosines); None if that is not known.
      dtype: in which the exponentials are kept, with a bound: float32, or bfloat16, which has its exponents, is half
        the bytes to read, and whose rounding averages out over the rows. Sums and the result are float32.

    Returns:
      float32 [N, K]; each row sums to 1, and the weighted columns sum to 1/K of the mass (at convergence).

    >>> scores = jnp.array([[1.0, 0.9], [0.9, 0.1]])  # both rows like column 0 best
    >>> sinkhorn(scores, epsilon=0.05, iterations=3).argmax(1).tolist()  # each column is used equally
    [1, 0]
    """
    log_kernel = scores.astype(jnp.float32) / epsilon
    rows, columns = log_kernel.shape
    mass = jnp.ones(rows, jnp.float32) if weights is None else weights.astype(jnp.float32)
    mass = mass / mass.sum()
    if bound is not None and bound / epsilon <= SAFE_EXPONENT:
        column = _scaled(jnp.exp(log_kernel - bound / epsilon).astype(dtype), mass, iterations)
    else:
        column = _iterated(log_kernel, jnp.log(mass), iterations)
    return jax.nn.softmax(log_kernel + column[None], axis=1)


def _iterated(log_kernel, log_mass, iterations):
    """The log-potential of the columns."""
    columns = log_kernel.shape[1]

    def one_pass(_, potentials):
        _, row = potentials
        column = -jnp.log(float(columns)) - jax.nn.logsumexp(log_kernel + row[:, None], axis=0)
        row = log_mass - jax.nn.logsumexp(log_kernel + column[None], axis=1)
        return column, row

    start = (jnp.zeros(columns, jnp.float32), log_mass)
    return jax.lax.fori_loop(0, iterations, one_pass, start)[0]


def _scaled(kernel, mass, iterations):
    """The same, up to a constant, of kernel values between exp(-2 SAFE_EXPONENT) and 1."""
    columns = kernel.shape[1]
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def one_pass(_, potentials):
        _, row = potentials
        values = kernel.astype(jnp.float32)
        column = 1 / (columns * product(row, values))
        return column, mass / product(values, column)

    start = (jnp.ones(columns, jnp.float32), mass)
    return jnp.log(jax.lax.fori_loop(0, iterations, one_pass, start)[0])
