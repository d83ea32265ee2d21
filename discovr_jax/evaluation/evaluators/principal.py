"""Principal components of standardised training features."""

import numpy as np
import scipy.linalg

from discovr_jax.evaluation import interface

_SMALLEST = 1e-10  # variance of a component, as a share of the largest; below it is rounding


def directions(
    features: np.ndarray, mean: np.ndarray, scale: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The directions in which z = (features - mean) / scale varies most.

    Args:
      features: float [N, D]; mean: [D], theirs; scale: [D].
      count: of directions, at most; there are no more than N - 1, and no more than D.

    Returns:
      Orthonormal directions, float64 [K, D], and the standard deviation of z along each, float64 [K], largest first.
    """
    rows, width = features.shape
    count = min(count, rows - 1, width)
    if count < 1:
        return np.zeros((0, width)), np.zeros(0)
    if rows >= width:
        gram = np.zeros((width, width))
        for _, block in interface.blocks(features):
            z = (block - mean) / scale
            gram += z.T @ z
    else:
        z = (np.asarray(features, np.float64) - mean) / scale
        gram = z @ z.T
    squares, vectors = scipy.linalg.eigh(gram, subset_by_index=(len(gram) - count, len(gram) - 1))
    squares, vectors = squares[::-1], vectors[:, ::-1]
    squares, vectors = (each[..., squares > _SMALLEST * squares[0]] for each in (squares, vectors))
    if rows < width:
        vectors = z.T @ vectors / np.sqrt(squares)
    return vectors.T, np.sqrt(squares / rows)
