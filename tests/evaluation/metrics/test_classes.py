"""Metrics of several classes against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from discovr_jax.evaluation.metrics import classes


@pytest.fixture(params=[2, 4])
def case(request):
    """Targets, probabilities with ties and rows that sum to 1, and weights of three resamples."""
    rng = np.random.default_rng(request.param)
    count, k = 60, request.param
    target = rng.integers(0, k, count)
    probability = np.round(rng.dirichlet(np.ones(k), count) + 0.3 * np.eye(k)[target], 1)
    probability /= probability.sum(1, keepdims=True)
    return target, probability, np.stack([np.ones(count), *rng.integers(0, 4, (2, count))]).astype(float)


def expected(case, function):
    """A metric of scikit-learn for each weighting: rows repeated as often as they count."""
    target, probability, weights = case
    return [function(np.repeat(target, w.astype(int)), np.repeat(probability, w.astype(int), axis=0)) for w in weights]


def test_as_scikit_learn(case):
    def named(p):
        return p.argmax(1)

    k = case[1].shape[1]
    pairs = {
        classes.macro_f1: lambda t, p: sklearn_metrics.f1_score(t, named(p), average="macro"),
        classes.balanced_accuracy: lambda t, p: sklearn_metrics.balanced_accuracy_score(t, named(p)),
        classes.auroc: lambda t, p: np.mean([sklearn_metrics.roc_auc_score(t == c, p[:, c]) for c in range(k)]),
        classes.confusion: lambda t, p: sklearn_metrics.confusion_matrix(t, named(p)),
        classes.quadratic_kappa: lambda t, p: sklearn_metrics.cohen_kappa_score(
            t, named(p), weights="quadratic", labels=range(k)
        ),
        classes.Recall(1): lambda t, p: sklearn_metrics.recall_score(t, named(p), average=None)[1],
    }
    for ours, theirs in pairs.items():
        np.testing.assert_allclose(ours(*case), expected(case, theirs), rtol=1e-12)


def test_macro_auroc_of_probabilities_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    target, probability = np.repeat(np.arange(3), 20), rng.dirichlet(np.ones(3), 60)
    theirs = sklearn_metrics.roc_auc_score(target, probability, multi_class="ovr", average="macro")
    np.testing.assert_allclose(classes.auroc(target, probability, np.ones((1, 60))), theirs)


def test_a_class_that_no_video_has_is_not_averaged():
    """It can be called wrongly all the same."""
    target, probability = np.array([0, 0, 2, 2]), np.array([[2, 1, 0], [1, 2, 0], [0, 1, 2], [0, 1, 2]]) / 3
    ones, there, called = np.ones((1, 4)), [0, 2], probability.argmax(1)
    theirs = sklearn_metrics.f1_score(target, called, average="macro", labels=there)
    np.testing.assert_allclose(classes.macro_f1(target, probability, ones), theirs)
    np.testing.assert_allclose(classes.balanced_accuracy(target, probability, ones), [0.75])
    each = [sklearn_metrics.roc_auc_score(target == k, probability[:, k]) for k in there]
    np.testing.assert_allclose(classes.auroc(target, probability, ones), np.mean(each))
    kappa = sklearn_metrics.cohen_kappa_score(target, called, weights="quadratic", labels=range(3))
    np.testing.assert_allclose(classes.quadratic_kappa(target, probability, ones), kappa)


def test_kappa_of_one_grade_does_not_exist():
    assert np.isnan(classes.quadratic_kappa(np.array([1, 1]), np.eye(3)[[1, 1]], np.ones((1, 2))))


def test_a_metric_of_an_absent_class_does_not_exist():
    target, probability = np.array([0, 0, 1]), np.eye(2)[[0, 1, 1]]
    weights = np.array([[1.0, 1, 0], [1, 1, 1]])
    for metric in (classes.macro_f1, classes.balanced_accuracy, classes.auroc, classes.Recall(1)):
        assert np.isnan(metric(target, probability, weights)).tolist() == [True, False], metric
