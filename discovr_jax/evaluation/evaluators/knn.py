"""k nearest neighbours on frozen features: cosine, exponentially weighted vote, majority at 0.5.

Here is the vote; the search and its distance are in `evaluation.neighbours`.

The headline metrics have a fixed k and temperature. Beside them ("swept") stand those of the pair that does best on
validation AUROC, the readout being the headline's.

Source: the weighted vote of Wu et al., arXiv 1805.01978, with k and temperature as the DISCOVR paper's.
"""

import numpy as np

from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface
from discovr_jax.evaluation import neighbours as neighbours_lib
from discovr_jax.evaluation.metrics import videos as video_metrics

TARGET = "label"
HEADLINE = {
    "macro_f1": video_metrics.macro_f1,
    "balanced_accuracy": video_metrics.balanced_accuracy,
    "auroc": video_metrics.auroc,
}
METRICS = HEADLINE | {f"{name}_swept": video_metrics.On("swept", metric) for name, metric in HEADLINE.items()}
SELECT_BY, LARGER_IS_BETTER = "auroc", True
NEIGHBOURS, TEMPERATURES = (1, 5, 10, 20, 50, 100), (0.02, 0.07, 0.2, 1.0)


def require(train: np.ndarray, val: np.ndarray, test: np.ndarray) -> None:
    """Raises interface.Skip unless the known labels [N] of every split hold both classes."""
    for name, target in (("train", train), ("val", val), ("test", test)):
        interface.require_both_classes(name, target)


def vote(similarity: np.ndarray, labels: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """Share of the k nearest neighbours' weight that says "abnormal".

    A neighbour of cosine similarity s weighs exp(s / temperature).

    Args:
      similarity, labels: float [Q, K] of each query's neighbours, the nearest first; K may be below k.

    Returns:
      float64 [Q] in [0, 1].

    >>> similarity, labels = np.array([[0.9, 0.9, 0.1]]), np.array([[1.0, 0.0, 1.0]])
    >>> vote(similarity, labels, k=2, temperature=0.07).tolist()
    [0.5]
    """
    similarity, labels = similarity[:, :k], labels[:, :k]
    # Only ratios matter; the shift keeps exp finite at any temperature.
    weight = np.exp((similarity - similarity[:, :1]) / temperature)
    return (weight * labels).sum(1) / weight.sum(1)


def apply(
    reference: np.ndarray, labels: np.ndarray, features: np.ndarray, *, k: int, temperature: float
) -> np.ndarray:
    """The headline's `vote`, float64 [Q], on features [Q, D] by the reference set [N, D] with labels [N]."""
    similarity, index = neighbours_lib.nearest(features, reference, k)
    return vote(similarity, labels[index], k, temperature)


def evaluate(
    train: interface.Split,
    val: interface.Split,
    test: interface.Split,
    *,
    k: int = 10,
    temperature: float = 0.07,
    neighbours: tuple[int, ...] = NEIGHBOURS,
    temperatures: tuple[float, ...] = TEMPERATURES,
) -> interface.Predictions:
    """Scores validation and test videos against the reference set, the training videos.

    k is cut to its size, and said so.

    Args:
      k, temperature: of the headline.
      neighbours, temperatures: of the sweep, all pairs; more than it holds are left out. Of equal
        ones the first wins: more neighbours, then the higher temperature, which is the smoother vote.

    Raises:
      ValueError: if a k < 1 or a temperature <= 0.
    """
    if min(k, *neighbours) < 1 or min(temperature, *temperatures) <= 0:
        raise ConfigError(
            f"knn needs k >= 1 and temperature > 0, got k={k}, temperature={temperature}, neighbours={neighbours}, "
            f"temperatures={temperatures}"
        )
    size = len(train.target)
    sizes = sorted({min(each, size) for each in neighbours}, reverse=True)
    (near_val, in_val), (near_test, in_test) = (
        neighbours_lib.among(train, split, max(k, *sizes)) for split in (val, test)
    )
    ones = np.ones((1, len(val.target)))
    sweep = []
    for each in sizes:
        for heat in sorted(temperatures, reverse=True):
            score = video_metrics.auroc(val.target, vote(near_val, train.target[in_val], each, heat), ones)[0]
            sweep.append({"k": each, "temperature": heat, "val_auroc": float(score)})
    best = max(sweep, key=lambda row: row["val_auroc"])
    return interface.Predictions(
        vote(near_val, train.target[in_val], k, temperature),
        vote(near_test, train.target[in_test], k, temperature),
        details={"k": min(k, size), "temperature": temperature, "swept": best} | neighbours_lib.details(train),
        outputs={"swept": vote(near_test, train.target[in_test], best["k"], best["temperature"])},
        report={"sweep": sweep},
    )
