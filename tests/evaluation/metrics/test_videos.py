"""Weighted metrics against scikit-learn, and the bootstrap over patients against hand and coverage."""

import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from discovr_jax.evaluation.metrics import bootstrap
from discovr_jax.evaluation.metrics import videos as video_metrics


def _called(score):
    return (score > 0.5).astype(int)


def _calibration_error(target, probability):
    """By scikit-learn's reliability curve, whose bins are the same, and the number of videos in each."""
    share, mean = calibration_curve(target, probability, n_bins=10)
    count = np.histogram(probability, np.linspace(0, 1 + 1e-8, 11))[0]
    return np.sum(count[count > 0] * np.abs(share - mean)) / len(target)


CLASSIFICATION = {
    "macro_f1": (video_metrics.macro_f1, lambda y, s: reference.f1_score(y, _called(s), average="macro")),
    "balanced": (video_metrics.balanced_accuracy, lambda y, s: reference.balanced_accuracy_score(y, _called(s))),
    "auroc": (video_metrics.auroc, reference.roc_auc_score),
    "average_precision": (video_metrics.average_precision, reference.average_precision_score),
    "brier": (video_metrics.brier, reference.brier_score_loss),
    "calibration_error": (video_metrics.calibration_error, lambda y, s: _calibration_error(y, s)),
    "sensitivity": (video_metrics.sensitivity, lambda y, s: reference.recall_score(y, s > 0)),
    "specificity": (video_metrics.specificity, lambda y, s: reference.recall_score(y, s > 0, pos_label=0)),
}
REGRESSION = {
    "mae": (video_metrics.mae, reference.mean_absolute_error),
    "rmse": (video_metrics.rmse, reference.root_mean_squared_error),
    "r2": (video_metrics.r2, reference.r2_score),
    "bias": (video_metrics.bias, lambda y, p: np.mean(p - y)),
    "low": (video_metrics.agreement_low, lambda y, p: np.mean(p - y) - 1.96 * np.std(p - y, ddof=1)),
    "high": (video_metrics.agreement_high, lambda y, p: np.mean(p - y) + 1.96 * np.std(p - y, ddof=1)),
}


def _check_against(ours, theirs, target, prediction, rng):
    """Weights are counts: weighting must equal repeating the video."""
    weights = rng.integers(0, 4, (5, len(target)))
    weights[0] = 1
    expected = [theirs(np.repeat(target, row), np.repeat(prediction, row)) for row in weights]
    np.testing.assert_allclose(ours(target, prediction, weights), expected, rtol=1e-9)


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("digits", [8, 1])  # one digit: many tied scores
def test_classification_equals_sklearn_on_repeated_videos(name, share, digits):
    rng = np.random.default_rng(3)
    target = (rng.random(80) < share).astype(float)
    target[:2] = 0, 1
    score = np.round((rng.random(80) + 0.3 * target) / 1.3, digits)
    _check_against(*CLASSIFICATION[name], target, score, rng)


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_equals_sklearn_on_repeated_videos(name):
    rng = np.random.default_rng(4)
    target = rng.normal(55, 12, 70)
    _check_against(*REGRESSION[name], target, target + rng.normal(2, 6, 70), rng)


def test_figures_that_do_not_exist_are_nan():
    target, score = np.array([0.0, 0, 1]), np.array([0.1, 0.9, 0.8])
    only_normal = np.array([[1, 1, 0], [1, 1, 1]])
    for name in ("macro_f1", "balanced", "auroc", "average_precision"):
        ours = CLASSIFICATION[name][0]
        assert np.isnan(ours(target, score, only_normal)).tolist() == [True, False], name
    same = np.full(3, 55.3)
    assert np.isnan(video_metrics.r2(same, same + 1, np.ones((1, 3))))
    assert np.isnan(video_metrics.agreement_low(same[:1], same[:1], np.ones((1, 1))))


def test_known_values():
    ones = np.ones((1, 4))
    target = np.array([0.0, 0, 1, 1])
    assert video_metrics.auroc(target, np.array([0.1, 0.2, 0.3, 0.4]), ones) == 1
    assert video_metrics.auroc(target, np.zeros(4), ones) == 0.5  # all tied
    assert video_metrics.macro_f1(target, np.full(4, 0.5), ones) == pytest.approx(1 / 3)  # 0.5 is not a majority


def test_calibration_is_resampled_around_its_figure():
    """A resample repeats videos, so that its bins stray from their probability by more than chance did."""
    rng = np.random.default_rng(0)
    probability = rng.random(60)
    target = (rng.random(60) < probability).astype(float)
    weights = bootstrap.patient_weights(np.arange(60), 300, seed=0)
    raw = bootstrap.distribution(video_metrics.calibration_error, target, probability, weights)
    centred = video_metrics.On("p", video_metrics.calibration_error, centred=True)
    shifted = bootstrap.distribution(centred, target, probability, weights)
    assert raw[1:].mean() > raw[0] + 0.02 and shifted[0] == raw[0] == pytest.approx(shifted[1:].mean())
    np.testing.assert_allclose(np.diff(shifted[1:]), np.diff(raw[1:]))


def test_videos_of_a_patient_are_drawn_together():
    patients = np.array(["b", "a", "b", "c", "a", "b"])
    weights = bootstrap.patient_weights(patients, 400, seed=1)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 0] == weights[:, 5]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()  # as many patients drawn as there are
    assert weights[:, [0, 1, 3]].mean(0) == pytest.approx(np.ones(3), abs=0.12)
    np.testing.assert_array_equal(weights, bootstrap.patient_weights(patients, 400, seed=1))
    assert (weights != bootstrap.patient_weights(patients, 400, seed=2)).any()


def test_interval_of_two_patients_by_hand():
    # Draws: both once (error 5), the first twice (0), the second twice (10); 1/2, 1/4, 1/4 of the resamples.
    patients, error = np.array(["a", "b", "b"]), np.array([0.0, 10, 10])
    weights = bootstrap.patient_weights(patients, 1000, seed=0)
    values = bootstrap.distribution(video_metrics.mae, np.zeros(3), error, weights)
    assert values[0] == pytest.approx(20 / 3)
    assert set(np.round(values[1:], 6)) == {0.0, round(20 / 3, 6), 10.0}
    found = bootstrap.interval(values, 2)
    assert (found["low"], found["high"]) == (0, 10)


def test_blocks_do_not_change_the_distribution():
    rng = np.random.default_rng(0)
    target, score = (rng.random(3000) < 0.4).astype(float), rng.random(3000)
    weights = bootstrap.patient_weights(np.arange(3000) // 2, 1500, seed=0)  # more than one block
    values = bootstrap.distribution(video_metrics.auroc, target, score, weights)
    assert values.shape == (1501,)
    last = video_metrics.auroc(target, score, weights[-1:])
    assert values[-1] == pytest.approx(last[0], abs=1e-12)


def test_without_a_table_the_resamples_are_the_same(monkeypatch):
    patients, rng = np.arange(90) // 3, np.random.default_rng(0)
    table = bootstrap.weights_of(patients, 40, seed=3)
    monkeypatch.setattr(bootstrap, "_TABLE", 0)
    drawn = bootstrap.weights_of(patients, 40, seed=3)
    assert isinstance(drawn, bootstrap.Resamples) and isinstance(table, np.ndarray)
    np.testing.assert_array_equal(list(drawn), table)
    np.testing.assert_array_equal(list(drawn[:, np.array([5, 1])]), table[:, [5, 1]])
    target, score = (rng.random(90) < 0.4).astype(float), rng.random(90).round(1)
    centred = video_metrics.On("", video_metrics.calibration_error, centred=True)
    scores = [(video_metrics.auroc, score), (video_metrics.auroc, 1 - score), (centred, score)]
    found = bootstrap.distributions(scores, target, drawn)
    for (metric, values), one in zip(scores, found, strict=True):
        np.testing.assert_array_equal(one, bootstrap.distribution(metric, target, values, table))
    with pytest.raises(ValueError, match="got 0 and 40"):
        bootstrap.weights_of(np.array([]), 40)


def test_auroc_of_all_resamples_counts_pairs():
    rng = np.random.default_rng(0)
    target, weights = rng.random(30) < 0.5, rng.integers(0, 4, (7, 30))
    for score in (rng.random(30), rng.random(30).round(1)):
        above = (score[:, None] > score) + (score[:, None] == score) / 2
        pairs = [w @ (above * np.outer(target, ~target)) @ w / (w[target].sum() * w[~target].sum()) for w in weights]
        np.testing.assert_allclose(video_metrics.auroc(target, score, weights), pairs, rtol=1e-13)


def test_coverage_needs_patients_not_videos():
    """Five near copies a patient: intervals over patients hold the truth about 95 %, over videos far less."""
    rng = np.random.default_rng(0)
    hits = {"patients": 0, "videos": 0}
    for trial in range(120):
        error = np.repeat(rng.normal(0, 1, 40), 5) + rng.normal(0, 0.1, 200)
        for unit, ids in (("patients", np.arange(200) // 5), ("videos", np.arange(200))):
            weights = bootstrap.patient_weights(ids, 200, seed=trial)
            values = bootstrap.distribution(video_metrics.bias, np.zeros(200), error, weights)
            found = bootstrap.interval(values, len(set(ids.tolist())))
            hits[unit] += found["low"] <= 0 <= found["high"]
    assert hits["patients"] >= 0.86 * 120
    assert hits["videos"] <= 0.75 * 120


def test_paired_difference_is_narrower_than_unpaired():
    rng = np.random.default_rng(1)
    target = rng.normal(55, 10, 100)
    shared = rng.normal(0, 8, 100)
    first, second = target + shared, target + 1.1 * shared + rng.normal(0, 0.5, 100)
    weights = bootstrap.patient_weights(np.arange(100), 500, seed=0)
    other = bootstrap.patient_weights(np.arange(100), 500, seed=1)

    def width(weights_of_second):
        a = bootstrap.distribution(video_metrics.mae, target, first, weights)
        b = bootstrap.distribution(video_metrics.mae, target, second, weights_of_second)
        found = bootstrap.interval(a - b, 100)
        return found["high"] - found["low"]

    assert width(weights) < 0.5 * width(other)


def test_missing_intervals_say_why():
    one = bootstrap.interval(np.array([0.7, 0.7, 0.7]), 1)
    assert (one["value"], one["low"], one["note"]) == (0.7, None, "one patient: no interval")
    lost = bootstrap.interval(np.array([0.7, np.nan, np.nan, np.nan, 0.6]), 9)
    assert lost["low"] is None and lost["resamples_used"] == 1 and "1 of 4 resamples" in lost["note"]
    some = bootstrap.interval(np.array([0.7, np.nan, 0.6, 0.8]), 9)
    assert some["resamples_used"] == 2 and some["low"] == pytest.approx(0.605)
    assert bootstrap.interval(np.array([np.nan, np.nan]), 9)["value"] is None
    with pytest.raises(ValueError, match="needs videos"):
        bootstrap.patient_weights(np.array([]), 10)


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_of_best_f1_is_that_of_a_search(seed):
    rng = np.random.default_rng(seed)
    target, score = (rng.random(40) < 0.3).astype(float), rng.random(40).round(1 if seed % 2 else 3)
    score = np.clip(score + 0.2 * target, 0, 1)
    found = video_metrics.at_best_f1(target, score, score)
    best = max(reference.f1_score(target, score > cut, average="macro", zero_division=0) for cut in np.unique(score))
    assert video_metrics.macro_f1(target, found, np.ones((1, 40)))[0] == pytest.approx(best)


def test_the_threshold_of_best_f1_is_near_the_usual_one_where_that_is_as_good():
    target = np.array([0.0, 0, 1, 1])
    score = np.array([0.1, 0.4, 0.8, 0.9])
    np.testing.assert_allclose(video_metrics.at_best_f1(target, score, np.array([0.7])), [0.7 - 0.6 + 0.5])
    same = video_metrics.at_best_f1(target, np.full(4, 0.3), np.array([0.3]))
    assert same.tolist() == [0.3]  # nothing to choose from
