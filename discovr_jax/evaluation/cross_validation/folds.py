"""Folds that no group straddles, the classes as even as the groups allow."""

import warnings

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from discovr_jax.errors import ConfigError

_DRAWS = 50  # of which one must leave every class in every training part
_BINS = 5  # of a measurement, as strata


class FoldsError(ConfigError):
    """The archive cannot be cut so; the message says which class is too small."""


def strata(target: np.ndarray) -> np.ndarray:
    """Fifths of a measurement [N], as classes to be spread evenly: int [N]."""
    return np.searchsorted(np.quantile(target, np.arange(1, _BINS) / _BINS), target)


def draw(classes: np.ndarray, groups: np.ndarray, count: int, seed: tuple[int, ...], whole: bool) -> np.ndarray:
    """Which fold each video is tested in.

    Args:
      classes: int [N]; groups: [N].
      count: of folds.
      seed: the same seed, classes and groups give the same folds.
      whole: every training part must hold every class; else the best that a few draws find is taken.

    Returns:
      int [N], 0 to count - 1; every fold has a video.

    Raises:
      FoldsError: there are too few groups.
    """
    names = np.unique(groups)
    largest = np.unique(classes, return_counts=True)[1].max()
    if min(len(names), largest) < count:
        raise FoldsError(
            f"{count} folds need as many groups and a class of as many videos: there are {len(names)} groups, the "
            f"largest class has {largest} videos"
        )
    rng, present, fewest_missing = np.random.default_rng(seed), np.unique(classes), len(classes)
    best = None
    for _ in range(_DRAWS):
        # Groups in random order, as scikit-learn keeps the given order of those that are alike.
        number = rng.permutation(len(names))[np.searchsorted(names, groups)]
        folds = np.full(len(groups), -1)
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=int(rng.integers(2**31)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class of fewer videos than folds
            for fold, (_, test) in enumerate(splitter.split(classes, classes, number)):
                folds[test] = fold
        if np.bincount(folds, minlength=count).min() == 0:
            continue
        missing = sum((~np.isin(present, classes[folds != fold])).sum() for fold in range(count))
        if missing < fewest_missing:
            best, fewest_missing = folds, missing
        if not missing:
            break
    if best is not None and not (whole and fewest_missing):
        return best
    counts = {int(k): len(np.unique(groups[classes == k])) for k in present}
    fewest = min(counts, key=lambda k: counts[k])
    raise FoldsError(
        f"no way was found to cut {len(names)} groups into {count} folds that leaves every class in every training "
        f"part: class {fewest} has {counts[fewest]} groups. Leave it out, or take fewer folds"
    )
