"""Sinkhorn-Knopp: the only one of the project."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def sinkhorn(
    scores: Float[Array, "rows prototypes"],
    epsilon: float | Float[Array, ""],
    iterations: int,
    weights: Float[Array, "rows"] | None = None,
) -> Float[Array, "rows prototypes"]:
    """Soft assignments of rows to columns under equal use of the columns (SwAV, eq. 3; DISCOVR, eq. 5).

    The scores stay fixed and two log-potentials are iterated: finite for any finite score, two reads of the
    scores an iteration. Under `jit` with rows sharded over devices only vectors of column size are exchanged.
    The result is that of exponentiating and alternately normalising columns, then rows.

    Args:
      scores: [N, K], any float dtype; computed in float32.
      epsilon: entropic regularisation; scores are divided by it.
      iterations: passes over columns and rows.
      weights: float [N], mass of each row, >= 0; None means equal. A row of weight 0 takes no part in the
        balance but still gets the assignment that the others imply.

    Returns:
      float32 [N, K]; each row sums to 1, and the weighted columns sum to 1/K of the mass (at convergence).
    """
    log_kernel = scores.astype(jnp.float32) / epsilon
    rows, columns = log_kernel.shape
    mass = jnp.ones(rows, jnp.float32) if weights is None else weights.astype(jnp.float32)
    log_mass = jnp.log(mass / mass.sum())

    def one_pass(_, potentials):
        _, row = potentials
        column = -jnp.log(float(columns)) - jax.nn.logsumexp(log_kernel + row[:, None], axis=0)
        row = log_mass - jax.nn.logsumexp(log_kernel + column[None], axis=1)
        return column, row

    start = (jnp.zeros(columns, jnp.float32), log_mass)
    column, _ = jax.lax.fori_loop(0, iterations, one_pass, start)
    return jax.nn.softmax(log_kernel + column[None], axis=1)
