"""k nearest neighbours on frozen features: cosine, exponentially weighted vote, majority at 0.5.

Here is the vote; the search and its distance are in `evaluation.neighbours`.

The headline metrics have a fixed k and temperature, and features as they are. Beside them ("swept") stand those of the
k, temperature and space that do best on validation AUROC, the readout being the headline's. Spaces are the features as
they are, centred on the training videos, and PCA-whitened: so many principal components of the training videos, each
of unit variance there.

Source: the weighted vote of Wu et al., arXiv 1805.01978, with k and temperature as the DISCOVR paper's.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface
from discovr_jax.evaluation import neighbours as neighbours_lib
from discovr_jax.evaluation.evaluators import principal
from discovr_jax.evaluation.metrics import videos as video_metrics

Found = tuple[np.ndarray, np.ndarray]  # similarities and labels of neighbours, as `vote` takes them
TARGET = "label"
HEADLINE = {
    "macro_f1": video_metrics.macro_f1,
    "balanced_accuracy": video_metrics.balanced_accuracy,
    "auroc": video_metrics.auroc,
}
METRICS = {
    **HEADLINE,
    "macro_f1_threshold": video_metrics.On("at_threshold", video_metrics.macro_f1),
    **{f"{name}_swept": video_metrics.On("swept", metric) for name, metric in HEADLINE.items()},
}
SELECT_BY, LARGER_IS_BETTER = "auroc", True
NEIGHBOURS, TEMPERATURES = (1, 5, 10, 20, 50, 100), (0.02, 0.07, 0.2, 1.0)
WHITENED = (16, 64, 256)  # components
_PER_COMPONENT = 4  # training videos at least, else their variance is mostly chance
_LARGE = 50_000_000  # numbers of training features above which there is no copy in another space: 400 MB


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
    whitened: tuple[int, ...] = WHITENED,
) -> interface.Predictions:
    """Scores validation and test videos against the reference set, the training videos.

    k is cut to its size, and said so.

    Args:
      k, temperature: of the headline.
      neighbours, temperatures: of the sweep, all pairs; more than it holds are left out. Of equal
        ones the first wins: features as they are, then more neighbours, then the higher temperature, which is the
        smoother vote.
      whitened: numbers of components of the sweep; those above a quarter of the training videos are left out. Of
        approximate neighbours, or more than 50 million numbers, features are searched as they are only.

    Raises:
      ValueError: if a k or a number of components < 1, or a temperature <= 0.
    """
    if min(k, *neighbours, *whitened) < 1 or min(temperature, *temperatures) <= 0:
        raise ConfigError(
            f"knn needs k >= 1, temperature > 0 and whitened >= 1, got k={k}, temperature={temperature}, "
            f"neighbours={neighbours}, temperatures={temperatures}, whitened={whitened}"
        )
    size = len(train.target)
    sizes = sorted({min(each, size) for each in neighbours}, reverse=True)
    (near_val, in_val), (near_test, in_test) = (
        neighbours_lib.among(train, split, max(k, *sizes)) for split in (val, test)
    )
    ones = np.ones((1, len(val.target)))
    sweep, best_score = [], -np.inf
    raw = "raw", *((near, train.target[index]) for near, index in ((near_val, in_val), (near_test, in_test)))
    for space, of_val, of_test in (raw, *_other_spaces(train, val, test, max(sizes), whitened)):
        for each in sizes:
            for heat in sorted(temperatures, reverse=True):
                score = video_metrics.auroc(val.target, vote(*of_val, each, heat), ones)[0]
                sweep.append({"space": space, "k": each, "temperature": heat, "val_auroc": float(score)})
                if len(sweep) == 1 or score > best_score:  # the first, even where no score is a number
                    best, best_score, swept = sweep[-1], score, vote(*of_test, each, heat)
    val_vote, test_vote = (vote(*of_split, k, temperature) for of_split in raw[1:])
    return interface.Predictions(
        val_vote,
        test_vote,
        details={"k": min(k, size), "temperature": temperature, "swept": best} | neighbours_lib.details(train),
        outputs={"swept": swept, "at_threshold": video_metrics.at_best_f1(val.target, val_vote, test_vote)},
        report={"sweep": sweep},
    )


def _other_spaces(
    train: interface.Split, val: interface.Split, test: interface.Split, k: int, whitened: Sequence[int]
) -> Iterator[tuple[str, Found, Found]]:
    """(space, what the `vote` on validation videos is of, that on test videos) of centred and of whitened features."""
    if neighbours_lib.details(train) or train.features.size > _LARGE:
        return
    mean, ones = interface.scaling(train.features)[0], np.ones(train.features.shape[1])
    most = len(train.features) // _PER_COMPONENT
    counts = sorted({count for count in whitened if count <= most})
    vectors, std = principal.directions(train.features, mean, ones, max(counts, default=0))
    spaces = {"centred": [split.features - mean for split in (train, val, test)]}
    for count in (count for count in counts if count <= len(std)):
        to = (vectors[:count] / std[:count, None]).T
        spaces[f"whitened_{count}"] = [interface.project(one.features, mean, ones, to) for one in (train, val, test)]
    for space, (reference, *queries) in spaces.items():
        found = (neighbours_lib.nearest(query, reference, k) for query in queries)
        yield space, *((similarity, train.target[index]) for similarity, index in found)
