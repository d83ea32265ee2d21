"""Intervals of cross-validation hold what heads of such archives reach on new patients, about as often as they say."""

import numpy as np
import pytest

from discovr_jax.evaluation.cross_validation import run, summary
from discovr_jax.evaluation.cross_validation.archive import Archive
from discovr_jax.evaluation.metrics import videos as video_metrics

PATIENTS, WIDTH, FOLDS, ARCHIVES = 20, 8, 5, 150


def made_up(rng, patients):
    """Classes of two videos per patient, and the features of two encoders that know equally much."""
    groups = np.repeat(np.arange(patients), 2)
    target = (np.arange(patients) % 2)[groups].astype(float)
    shape = (2, patients, WIDTH)
    features = 0.7 * rng.normal(size=shape)[:, groups] + 0.7 * rng.normal(size=(2, 2 * patients, WIDTH))
    features[:, :, 0] += 1.2 * (target - 0.5)
    return groups, target, features


def predictions(x, target, new):
    """Ridge, as probabilities of the two classes would be: only their order counts."""
    mean, std = x.mean(0), x.std(0)
    z = (x - mean) / std
    says = ((new - mean) / std) @ np.linalg.solve(z.T @ z + 10 * np.eye(WIDTH), z.T @ (target - target.mean()))
    return np.stack([-says, says], axis=1)


@pytest.mark.long
def test_coverage_in_archives_of_twenty_patients():
    """The plain bootstrap's hold it in about 82 % of archives; of equal encoders it calls one in five different."""
    rng = np.random.default_rng(99)
    reached = []
    for _ in range(200):
        _, target, features = made_up(rng, PATIENTS * (FOLDS - 1) // FOLDS)
        _, new, fresh = made_up(rng, 200)
        says = predictions(features[0], target, fresh[0])[:, 1]
        reached.append(video_metrics.auroc(new, says, np.ones((1, len(new))))[0])
    truth, holds, equal = np.mean(reached), [], []
    for number in range(ARCHIVES):
        rng = np.random.default_rng(number)
        groups, target, features = made_up(rng, PATIENTS)
        fold = (rng.permutation(PATIENTS // 2) % FOLDS)[groups // 2]  # one patient of each class together
        says = np.empty((2, 1, 1, len(target), 2))
        for test in (fold == each for each in range(FOLDS)):
            for encoder in range(2):
                x = features[encoder]
                says[encoder, 0, 0, test] = predictions(x[~test], target[~test], x[test])
        archive = Archive(np.arange(len(target)).astype(str), groups, target, ("a", "b"), {}, [])
        found = {(name, "probe"): run.OutOfFold(one, {}) for name, one in zip("xy", says, strict=True)}
        results = summary.summarise(archive, run.FoldOptions(FOLDS, 1, 3, number, 200), found, {})
        entry, pair = results["encoders"]["x"]["probe/auroc"], results["paired"]["x - y"]["probe/auroc"]
        holds.append(entry["low"] <= truth <= entry["high"])
        equal.append(pair["low"] <= 0 <= pair["high"])
    assert 0.9 <= np.mean(holds) <= 0.99
    assert 0.9 <= np.mean(equal) <= 0.99
