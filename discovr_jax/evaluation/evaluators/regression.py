"""A measurement (ejection fraction, wall thickness) from frozen features by ridge regression, closed form; alpha
(the penalty) from validation MAE.

The fit stays the one on train (no refit on train + val), as in `probe`.
"""

from collections.abc import Mapping

import numpy as np

from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.evaluators import principal
from discovr_jax.evaluation.metrics import videos as video_metrics

TARGET = "ef"  # or the option "field": any of interface.MEASUREMENTS
METRICS = {
    "mae": video_metrics.mae,
    "rmse": video_metrics.rmse,
    "r2": video_metrics.r2,
    "bias": video_metrics.bias,
    "agreement_low": video_metrics.agreement_low,
    "agreement_high": video_metrics.agreement_high,
}
SELECT_BY, LARGER_IS_BETTER = "mae", False
ALPHAS = tuple(10.0**power for power in range(6))


def require(train: np.ndarray, val: np.ndarray, test: np.ndarray) -> None:
    """Raises interface.Skip unless the training targets [N] take at least two values."""
    del val, test  # one known value is enough for an error
    if np.unique(train).size < 2:
        raise interface.Skip(f"one value only: all {len(train)} measured videos of split train have {train[0]:g}")


def ridge(x: np.ndarray, y: np.ndarray, alphas, mean=0.0, scale=1.0) -> np.ndarray:
    """Coefficients minimising |y - z w|^2 + alpha |w|^2 for each alpha in `alphas`, z = (x - mean) / scale.

    One decomposition serves all.

    Args:
      x: float [N, D], z centred; y: float64 [N], centred; alphas: [P] penalties, each > 0.

    Returns:
      float64 [P, D].
    """
    alphas = np.asarray(alphas, np.float64)[:, None]
    if x.shape[0] >= x.shape[1]:
        gram, projected = 0.0, 0.0
        for rows, block in interface.blocks(x):
            z = (block - mean) / scale
            gram, projected = gram + z.T @ z, projected + z.T @ y[rows]
        eigenvalues, vectors = np.linalg.eigh(gram)
        return ((vectors.T @ projected) / (np.maximum(eigenvalues, 0) + alphas)) @ vectors.T
    z = (np.asarray(x, np.float64) - mean) / scale
    eigenvalues, vectors = np.linalg.eigh(z @ z.T)
    return ((vectors.T @ y) / (np.maximum(eigenvalues, 0) + alphas)) @ vectors.T @ z


def evaluate(
    train: interface.Split,
    val: interface.Split,
    test: interface.Split,
    *,
    alphas: tuple[float, ...] = ALPHAS,
    components: int = 0,
) -> interface.Predictions:
    """Predicted measurement of validation and test videos (not clipped to what is possible).

    Args:
      alphas: ridge penalties tried on standardised features; ties keep the larger (plainer) one.
      components: of the standardised features only so many principal components are read; 0: all.

    Raises:
      ConfigError: if a penalty is not positive.
    """
    alphas = sorted(alphas, reverse=True)
    if not alphas or alphas[-1] <= 0:
        raise ConfigError(f"the alphas of a regression must be positive, got {alphas}")
    centre, scale = interface.scaling(train.features)
    mean = train.target.mean()
    if components:
        vectors, _ = principal.directions(train.features, centre, scale, components)
        read = interface.project(train.features, centre, scale, vectors.T)
        coefficients = ridge(read, train.target - mean, alphas) @ vectors  # as weights of the features
    else:
        coefficients = ridge(train.features, train.target - mean, alphas, centre, scale)
    errors = np.abs(mean + interface.project(val.features, centre, scale, coefficients.T) - val.target[:, None]).mean(0)
    chosen = int(np.argmin(errors))
    fitted = {"mean": centre, "scale": scale, "weights": coefficients[chosen], "intercept": np.array([mean])}
    val_prediction, test_prediction = (apply(fitted, split.features) for split in (val, test))
    return interface.Predictions(val_prediction, test_prediction, details={"penalty": alphas[chosen]}, fitted=fitted)


def apply(fitted: Mapping[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """The measurement [N] of features [N, D], arrays of NumPy or JAX (`interface.project`)."""
    return fitted["intercept"] + interface.project(features, fitted["mean"], fitted["scale"], fitted["weights"])
