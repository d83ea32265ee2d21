"""The four heads on synthetic features with known answers, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from discovr_jax.evaluation import anomaly, knn, metrics, probe, regression, task


def _split(name, rng, count, share=0.5, gap=0.0, dim=16):
    target = (np.arange(count) < share * count).astype(float)
    features = rng.normal(size=(count, dim))
    features[:, 0] += gap * (2 * target - 1)
    return task.Split(name, features, target)


def _splits(seed=0, **options):
    rng = np.random.default_rng(seed)
    return [_split(name, rng, n, **options) for name, n in (("train", 120), ("val", 60), ("test", 200))]


def _auroc(made, split):
    return metrics.auroc(split.target, made.test, np.ones((1, len(split.target))))[0]


@pytest.mark.parametrize("head", [knn, probe])
def test_separable_features_are_solved_and_random_ones_are_not(head):
    separable, random = _splits(gap=9.0), _splits(gap=0.0)
    assert _auroc(head.evaluate(*separable), separable[2]) > 0.99
    assert abs(_auroc(head.evaluate(*random), random[2]) - 0.5) < 0.12


def test_knn_equals_sklearn_with_the_same_weights():
    train, val, test = _splits(gap=0.5, share=0.3)

    def weights(distances):  # of unit vectors: cosine distance
        return np.exp((1 - distances) / 0.07)

    model = KNeighborsClassifier(10, metric="cosine", weights=weights, algorithm="brute")
    model.fit(train.features, train.target)
    made = knn.evaluate(train, val, test, k=10, temperature=0.07)
    np.testing.assert_allclose(made.test, model.predict_proba(test.features)[:, 1], atol=1e-9)
    np.testing.assert_allclose(made.val, model.predict_proba(val.features)[:, 1], atol=1e-9)


def test_knn_ties_go_to_the_earlier_training_video():
    axes = np.eye(3)
    train = task.Split("train", axes[[0, 0, 0, 1]], np.array([1.0, 0, 0, 0]))
    query = task.Split("test", axes[[0]], np.array([1.0]))
    assert knn.vote(train, query.features, 1, 0.07) == [1.0]
    assert knn.vote(train, query.features, 2, 0.07) == [0.5]


def test_knn_vote_by_hand_and_k_cut_to_the_bank():
    train = task.Split("train", np.array([[1.0, 0], [0, 1]]), np.array([1.0, 0]))
    test = task.Split("test", np.array([[3.0, 4]]), np.array([0.0]))
    made = knn.evaluate(train, test, test, k=10, temperature=0.1)
    weight = np.exp(np.array([0.6, 0.8]) / 0.1)
    assert made.test[0] == pytest.approx(weight[0] / weight.sum())
    assert made.details["k"] == 2
    tiny = knn.vote(train, test.features, 2, 1e-4)  # exp(0.8 / 1e-4) would overflow
    assert np.isfinite(tiny).all() and tiny[0] < 1e-6
    with pytest.raises(ValueError, match="k=0"):
        knn.evaluate(train, test, test, k=0)


def test_nearest_in_blocks_equals_a_full_sort(monkeypatch):
    monkeypatch.setattr(task, "_BLOCK", 2000)  # 10 rows a block
    rng = np.random.default_rng(0)
    bank, query = rng.integers(-2, 3, (200, 2)), rng.normal(size=(57, 2))  # full of ties
    similarity, index = task.nearest(query, bank, 3)
    whole = task.unit_length(query) @ task.unit_length(bank).T
    np.testing.assert_array_equal(index, np.argsort(-whole, axis=1, kind="stable")[:, :3])
    np.testing.assert_allclose(similarity, np.take_along_axis(whole, index, axis=1), atol=1e-12)


def test_zero_features_are_similar_to_nothing():
    similarity, _ = task.nearest(np.zeros((1, 3)), np.eye(3), 2)
    assert similarity.tolist() == [[0.0, 0.0]]


def test_probe_finds_the_rare_class():
    splits = _splits(share=0.1, gap=1.5)
    made = probe.evaluate(*splits)
    ones = np.ones((1, len(splits[2].target)))
    assert metrics.balanced_accuracy(splits[2].target, made.test, ones)[0] > 0.8
    assert made.details["class_weight"] == "balanced"


def test_probe_takes_the_strength_from_validation_alone():
    train, val, test = _splits(gap=1.0)
    chosen = probe.evaluate(train, val, test)
    flipped = task.Split("test", test.features, 1 - test.target)
    assert probe.evaluate(train, val, flipped).details == chosen.details
    contrary = task.Split("val", val.features, 1 - val.target)
    assert probe.evaluate(train, contrary, test).details != chosen.details


def test_probe_drops_strengths_that_do_not_converge():
    splits = _splits(gap=3.0)
    made = probe.evaluate(*splits, strengths=(1e-4, 1e3), max_iter=8)
    assert made.details["C"] == 1e-4 and made.details["C_not_converged"] == [1e3]
    with pytest.raises(task.Skip, match="converged in 1 iterations"):
        probe.evaluate(*splits, strengths=(1e3,), max_iter=1)


@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_ridge_equals_sklearn(shape):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=shape), rng.normal(size=shape[0])
    x, y = x - x.mean(0), y - y.mean()
    for found, penalty in zip(regression.ridge(x, y, [0.1, 10.0, 1e4]), [0.1, 10.0, 1e4], strict=True):
        expected = Ridge(penalty, fit_intercept=False, solver="svd").fit(x, y).coef_
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-10)


def _ef_splits(noise, seed=0):
    rng = np.random.default_rng(seed)
    direction, splits = rng.normal(size=12), []
    for name, count in (("train", 150), ("val", 50), ("test", 100)):
        features = rng.normal(size=(count, 12)) * 10 ** np.linspace(-2, 2, 12)  # scales must not matter
        ef = 55 + (features / 10 ** np.linspace(-2, 2, 12)) @ direction
        splits.append(task.Split(name, features, ef + noise * rng.normal(size=count)))
    return splits


def test_ef_is_recovered_when_it_is_linear_and_shrunk_when_it_is_noise():
    splits = _ef_splits(noise=0.0)
    assert np.abs(regression.evaluate(*splits).test - splits[2].target).max() < 0.2
    rng = np.random.default_rng(7)
    noise = [task.Split(s.name, s.features, rng.normal(55, 10, len(s.target))) for s in splits]
    made = regression.evaluate(*noise)
    assert made.details["penalty"] >= 1e3
    assert metrics.r2(noise[2].target, made.test, np.ones((1, 100)))[0] < 0.1
    with pytest.raises(ValueError, match="positive"):
        regression.evaluate(*splits, strengths=(0.0, 1.0))


def test_anomaly_ignores_abnormal_training_videos():
    rng = np.random.default_rng(0)
    train, val, test = _splits(gap=6.0)
    made = anomaly.evaluate(train, val, test)
    assert _auroc(made, test) > 0.999
    moved = train.features.copy()
    moved[train.target == 1] = rng.normal(size=(60, 16))
    again = anomaly.evaluate(task.Split("train", moved, train.target), val, test)
    np.testing.assert_array_equal(again.test, made.test)
    by_hand = anomaly.distance(np.array([[1.0, 0], [0, 1], [-1, 0]]), np.array([[1.0, 0]]), 2)
    assert by_hand[0] == pytest.approx((0 + 1) / 2)


def test_standardise_leaves_constant_columns_alone():
    train = np.array([[1.0, 5e6, 0], [3, 5e6 + 1e-9, 0]])
    scaled, other = task.standardise(train, np.array([[2.0, 5e6 + 1, 7]]))
    np.testing.assert_allclose(scaled, [[-1, 0, 0], [1, 0, 0]], atol=1e-8)
    np.testing.assert_allclose(other, [[0, 1, 7]], atol=1e-8)


def test_reasons_for_skipping():
    nan = np.full(7, np.nan)
    with pytest.raises(task.Skip, match="no labels: ef unknown for all 7 videos of split test"):
        task.known_target("test", nan, "ef")
    with pytest.raises(task.Skip, match="no videos in split val"):
        task.known_target("val", nan[:0], "ef")
    normal, both = np.zeros(4), np.array([0.0, 1])
    with pytest.raises(task.Skip, match="one class only: all 4 labelled videos of split train are normal"):
        knn.require(normal, both, both)
    anomaly.require(normal, both, both)  # normal videos alone are enough to train on
    with pytest.raises(task.Skip, match="no normal training videos: all 4"):
        anomaly.require(normal + 1, both, both)
    with pytest.raises(task.Skip, match="one value only"):
        regression.require(np.full(3, 55.0), both, both)
