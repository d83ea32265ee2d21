"""Predictions of every encoder and head for every video, by heads that never saw a video of its group."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from discovr_jax.evaluation.cross_validation import folds as folds_lib
from discovr_jax.evaluation.cross_validation.archive import Archive
from discovr_jax.evaluation.cross_validation.probes import KNN, PROBE, Task
from discovr_jax.evaluation.metrics import classes as class_metrics
from discovr_jax.evaluation.metrics import videos as video_metrics

HEADS = (PROBE, KNN)
CONSTANT = "constant"  # what names the most frequent class, or the mean, of the training part: no features at all


@dataclasses.dataclass(frozen=True)
class FoldOptions:
    """How an archive is cut.

    Attributes:
      folds, repeats: of the cross-validation; inner: folds of a training part, on which settings are chosen.
      seed: of all folds; resamples: of the bootstrap.
    """

    folds: int = 5
    repeats: int = 20
    inner: int = 3
    seed: int = 0
    resamples: int = 1000


@dataclasses.dataclass(frozen=True)
class OutOfFold:
    """What one encoder and head say.

    Attributes:
      predictions: float64 [seeds, repeats, N, K] probabilities, or [seeds, repeats, N] measurements.
      chosen: how often each "READOUT, setting" was taken, most often first.
    """

    predictions: np.ndarray
    chosen: Mapping[str, int]


def predict_all(
    archive: Archive, options: FoldOptions, progress: Callable[[int], Any] = lambda repeat: None
) -> tuple[dict[tuple[str, str], OutOfFold], np.ndarray]:
    """Out-of-fold predictions of every encoder in every repeat; all encoders see the same folds.

    Args:
      progress: called with the number of repeats that are done.

    Returns:
      {(encoder, head): its predictions}, `CONSTANT` among the encoders; and the folds, int [repeats, N].

    Raises:
      FoldsError: the archive is too small.
    """
    task, target = Task(archive.classes), archive.target
    strata = target.astype(int) if task.classes else folds_lib.strata(target)
    cuts = np.stack([
        folds_lib.draw(strata, archive.groups, options.folds, (options.seed, repeat), bool(task.classes))
        for repeat in range(options.repeats)
    ])  # fmt: skip
    named = archive.features.items()
    members = [(name, seed, file.readouts) for name, files in named for seed, file in enumerate(files)]
    shape = (options.repeats, len(target)) + ((len(task.classes),) if task.classes else ())
    made = {(name, seed, head): np.full(shape, np.nan) for name, seed, _ in members for head in HEADS}
    made |= {(CONSTANT, 0, head): np.full(shape, np.nan) for head in HEADS}
    chosen: dict[tuple[str, str], dict[str, int]] = {(name, head): {} for name, _, head in made}
    with threadpool_limits(1):  # threads wait for each other more than they work on so few videos
        for repeat, cut in enumerate(cuts):
            for fold in range(options.folds):
                train, test = np.flatnonzero(cut != fold), np.flatnonzero(cut == fold)
                groups = archive.groups[train]
                count = min(options.inner, len(np.unique(groups)))
                inner = folds_lib.draw(strata[train], groups, count, (options.seed, repeat, fold), False)
                for head in HEADS:
                    made[CONSTANT, 0, head][repeat, test] = _constant(task, target[train])
                    for name, seed, readouts in members:
                        says, what = _fit(task, head, readouts, target, train, test, inner)
                        made[name, seed, head][repeat, test] = says
                        counts = chosen[name, head]
                        counts[what] = counts.get(what, 0) + 1
            progress(repeat + 1)
    return {
        (name, head): OutOfFold(
            np.stack([each for (other, _, kind), each in made.items() if (other, kind) == (name, head)]),
            dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        )
        for (name, head), counts in chosen.items()
    }, cuts


def _fit(task: Task, head: str, readouts, target, train, test, inner) -> tuple[np.ndarray, str]:
    """Predictions for the test videos by the readout and setting that do best on the inner folds; and which."""
    settings = task.settings(head)
    candidates = [(name, setting) for name in readouts for setting in settings]
    best = candidates[0]
    if len(candidates) > 1:
        score = -np.inf
        for name, matrix in readouts.items():
            guessed = _inner_predictions(task, head, matrix[train], target[train], inner, settings)
            for setting, prediction in zip(settings, guessed, strict=True):
                found = _score(task, target[train], prediction)
                if found > score:  # of equal ones the first, which is the plainer
                    best, score = (name, setting), found
    name, setting = best
    matrix = readouts[name]
    return task.predict(head, matrix[train], target[train], matrix[test], (setting,))[0], f"{name}, {setting:g}"


def _inner_predictions(task: Task, head: str, matrix, target, inner, settings) -> np.ndarray:
    """[S, n, K] or [S, n]: of each training video by heads that did not see its inner fold."""
    found = None
    for fold in np.unique(inner):
        seen, left = inner != fold, inner == fold
        part = task.predict(head, matrix[seen], target[seen], matrix[left], settings)
        if found is None:
            found = np.empty((len(settings), len(target), *part.shape[2:]))
        found[:, left] = part
    return found


def _score(task: Task, target: np.ndarray, prediction: np.ndarray) -> float:
    """Macro AUROC, or minus the mean absolute error; larger is better."""
    ones = np.ones((1, len(target)))
    if task.classes:
        return float(class_metrics.auroc(target, prediction, ones)[0])
    return -float(video_metrics.mae(target, prediction, ones)[0])


def _constant(task: Task, target: np.ndarray) -> np.ndarray:
    if not task.classes:
        return target.mean()
    return np.eye(len(task.classes))[np.bincount(target.astype(int)).argmax()]
