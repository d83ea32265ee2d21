"""Label efficiency: the linear probe and the ridge regression with a share of the training labels.

The validation split keeps its labels: penalty and pooling are chosen on all of it at every share.
"""

import numpy as np

from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface


def parts(
    name: str, *, fractions: tuple[float, ...] = (0.01, 0.05, 0.1, 1.0), draws: int = 3, field: str = "ef"
) -> list[interface.Part]:
    """A probe and a regression for each share of the training patients: metrics auroc_PERCENT and mae_PERCENT.

    Args:
      fractions: of the patients, 0 < f <= 1; draws: how often fewer than all are drawn (metrics are averaged).
      field: the measurement of the regression.

    Raises:
      ValueError: a fraction out of range, or no draw.
    """
    if draws < 1 or not all(0 < fraction <= 1 for fraction in fractions):
        raise ConfigError(f"{name} needs fractions above 0 and up to 1, and draws, got {fractions} and {draws}")
    heads = (("probe", "label", "auroc"), ("regression", field, "mae"))
    return [
        interface.Part(
            f"{name}_{target}_{100 * fraction:g}", name, kind, target, {f"{metric}_{100 * fraction:g}": metric},
            fraction=fraction, draws=draws,
        )
        for fraction in fractions
        for kind, target, metric in heads
    ]  # fmt: skip


def draws(patients: np.ndarray, label: np.ndarray, fraction: float, count: int, seed: int) -> list[np.ndarray]:
    """Random training subsets, all videos of a patient or none, the classes as frequent as in the whole.

    Args:
      patients: [N]; label: float [N], 0 normal, 1 abnormal, NaN unknown. A patient is abnormal if one video is.
      fraction: of the patients of each class (at least one); count: of subsets; seed: of the draws.

    Returns:
      `count` masks, bool [N]: the same for the same arguments, whatever is predicted from whichever features.
    """
    names, index = np.unique(patients, return_inverse=True)
    classes = np.full(len(names), -1.0)
    np.maximum.at(classes, index, np.where(np.isfinite(label), label, -1))
    result = []
    for draw in range(count):
        rng = np.random.default_rng([seed, draw])
        picked = np.zeros(len(names), bool)
        for each in np.unique(classes):
            members = np.flatnonzero(classes == each)
            size = max(1, round(fraction * len(members)))
            picked[rng.permutation(members)[:size]] = True  # a larger fraction holds the smaller one's
        result.append(picked[index])
    return result
