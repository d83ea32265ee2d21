"""Metrics of several labels per video against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from discovr_jax.evaluation.metrics import multilabel


@pytest.fixture(scope="module")
def case():
    """50 videos with three labels of different share, in three weightings."""
    rng = np.random.default_rng(0)
    has = rng.random((50, 3)) < (0.5, 0.3, 0.8)
    probability = np.round(np.clip(0.3 * has + 0.7 * rng.random((50, 3)), 0, 1), 1)
    weights = np.stack([np.ones(50), *rng.integers(0, 4, (2, 50))]).astype(float)
    return has, probability, weights


def test_as_scikit_learn(case):
    has, probability, weights = case
    target = (has * 2.0 ** np.arange(3)).sum(1)
    np.testing.assert_array_equal(multilabel.bits(target, 3), has)
    pairs = {
        multilabel.macro_f1: lambda t, p: sklearn_metrics.f1_score(t, p > 0.5, average="macro"),
        multilabel.auroc: lambda t, p: sklearn_metrics.roc_auc_score(t, p, average="macro"),
        multilabel.average_precision: lambda t, p: sklearn_metrics.average_precision_score(t, p, average="macro"),
    }
    for ours, theirs in pairs.items():
        repeated = [(np.repeat(has, w.astype(int), 0), np.repeat(probability, w.astype(int), 0)) for w in weights]
        expected = [theirs(*each) for each in repeated]
        np.testing.assert_allclose(ours(target, probability, weights), expected, rtol=1e-12)


def test_labels_that_all_or_none_have_are_left_out(case):
    has, probability, weights = case
    has = has.copy()
    has[:, 0], has[:, 2] = True, False
    target = (has * 2.0 ** np.arange(3)).sum(1)
    alone = sklearn_metrics.roc_auc_score(has[:, 1], probability[:, 1])
    np.testing.assert_allclose(multilabel.auroc(target, probability, weights)[0], alone)
    for metric in (multilabel.macro_f1, multilabel.auroc, multilabel.average_precision):
        assert np.isnan(metric(np.zeros(50), probability, weights)).all()
        lost = np.where(has[:, 1], 0.0, 1.0)[None]  # a resample without the label
        assert np.isnan(metric(target, probability, lost)).all()
