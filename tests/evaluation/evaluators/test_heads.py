"""The heads on synthetic features with known answers, and against scikit-learn."""

import numpy as np
import pytest
from scipy.special import logit
from sklearn.calibration import _SigmoidCalibration
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from discovr_jax.evaluation import interface, neighbours
from discovr_jax.evaluation.evaluators import anomaly, knn, labels, pca, probe, regression, retrieval, transfer
from discovr_jax.evaluation.metrics import videos as video_metrics
from tests import evaluation_case


def _auroc(made, split):
    return video_metrics.auroc(split.target, made.test, np.ones((1, len(split.target))))[0]


@pytest.mark.parametrize("head", [knn, probe])
def test_separable_features_are_solved_and_random_ones_are_not(head):
    separable, random = evaluation_case.make_splits(gap=9.0), evaluation_case.make_splits(gap=0.0)
    assert _auroc(head.evaluate(*separable), separable[2]) > 0.99
    assert abs(_auroc(head.evaluate(*random), random[2]) - 0.5) < 0.12


def test_knn_equals_sklearn_with_the_same_weights():
    train, val, test = evaluation_case.make_splits(gap=0.5, share=0.3)

    def weights(distances):  # of unit vectors: cosine distance
        return np.exp((1 - distances) / 0.07)

    model = KNeighborsClassifier(10, metric="cosine", weights=weights, algorithm="brute")
    model.fit(train.features, train.target)
    made = knn.evaluate(train, val, test, k=10, temperature=0.07)
    np.testing.assert_allclose(made.test, model.predict_proba(test.features)[:, 1], atol=1e-9)
    np.testing.assert_allclose(made.val, model.predict_proba(val.features)[:, 1], atol=1e-9)


def test_knn_ties_go_to_the_earlier_training_video():
    axes = np.eye(3)
    train = interface.Split("train", axes[[0, 0, 0, 1]], np.array([1.0, 0, 0, 0]))
    query = interface.Split("test", axes[[0]], np.array([1.0]))
    similarity, index = neighbours.nearest(query.features, train.features, 3)
    assert index.tolist() == [[0, 1, 2]]
    assert knn.vote(similarity, train.target[index], 1, 0.07) == [1.0]
    assert knn.vote(similarity, train.target[index], 2, 0.07) == [0.5]


def test_knn_vote_by_hand_and_k_cut_to_the_reference_set():
    train = interface.Split("train", np.array([[1.0, 0], [0, 1]]), np.array([1.0, 0]))
    test = interface.Split("test", np.array([[3.0, 4]]), np.array([0.0]))
    made = knn.evaluate(train, test, test, k=10, temperature=0.1)
    weight = np.exp(np.array([0.6, 0.8]) / 0.1)
    assert made.test[0] == pytest.approx(weight[0] / weight.sum())
    assert made.details["k"] == 2
    similarity, index = neighbours.nearest(test.features, train.features, 2)
    tiny = knn.vote(similarity, train.target[index], 2, 1e-4)  # exp(0.8 / 1e-4) would overflow
    assert np.isfinite(tiny).all() and tiny[0] < 1e-6
    with pytest.raises(ValueError, match="k=0"):
        knn.evaluate(train, test, test, k=0)


def test_knn_sweep_is_chosen_on_validation_and_equals_sklearn():
    train, val, test = evaluation_case.make_splits(gap=0.8)
    made = knn.evaluate(train, val, test, k=3, temperature=0.1, neighbours=(1, 7, 500), temperatures=(0.05, 0.5))
    spaces = {"raw": lambda x: x, "centred": StandardScaler(with_std=False).fit(train.features).transform}
    spaces["whitened_16"] = PCA(16, whiten=True).fit(train.features).transform  # all; 64 are too many for 120 videos
    assert [(row["space"], row["k"], row["temperature"]) for row in made.report["sweep"]] == [
        (space, k, heat) for space in spaces for k in (120, 7, 1) for heat in (0.5, 0.05)
    ]
    for row in made.report["sweep"]:
        heat, space = row["temperature"], spaces[row["space"]]
        model = KNeighborsClassifier(
            row["k"], metric="cosine", weights=lambda d, t=heat: np.exp((1 - d) / t), algorithm="brute"
        )
        expected = model.fit(space(train.features), train.target).predict_proba(space(val.features))[:, 1]
        assert row["val_auroc"] == pytest.approx(roc_auc_score(val.target, expected.round(12)))
        if row == made.details["swept"]:
            chosen = model.predict_proba(space(test.features))[:, 1]
    assert made.details["swept"]["val_auroc"] == max(row["val_auroc"] for row in made.report["sweep"])
    np.testing.assert_allclose(made.outputs["swept"], chosen, atol=1e-9)
    flipped = interface.Split("test", test.features, 1 - test.target)
    assert knn.evaluate(train, val, flipped).details == knn.evaluate(train, val, test).details


def test_knn_finds_in_another_space_what_the_features_as_they_are_hide():
    """Far out along the feature that knows the label, an angle hardly sees it; beside wide features no angle does."""
    far, wide = np.r_[50.0, np.zeros(15)], np.r_[1.0, np.full(15, 40.0)]
    for offset, factor, counts, space in ((far, 1.0, (), "centred"), (0.0, wide, (16,), "whitened_16")):
        splits = [
            interface.Split(split.name, split.features * factor + offset, split.target)
            for split in evaluation_case.make_splits(gap=2.5)
        ]
        made = knn.evaluate(*splits, whitened=counts)
        assert made.details["swept"]["space"] == space
        assert _auroc(made, splits[2]) < 0.7
        assert video_metrics.auroc(splits[2].target, made.outputs["swept"], np.ones((1, 200)))[0] > 0.8
    few = [interface.Split(s.name, s.features, s.target, searches=neighbours.Searches(30)) for s in splits]
    assert {row["space"] for row in knn.evaluate(*few).report["sweep"]} == {"raw"}  # approximate ones


@pytest.mark.parametrize("count", [40, 400])
def test_linear_heads_on_principal_components_equal_sklearn(count):
    """Of fewer videos than features, and of more; the components keep their variances."""
    rng = np.random.default_rng(0)
    splits = []
    for name, rows in (("train", count), ("val", 60), ("test", 50)):
        split = evaluation_case.make_split(name, rng, rows, gap=0.7, dim=90)
        mixed = split.features @ np.random.default_rng(1).normal(size=(90, 90)) + 7
        splits.append(interface.Split(name, mixed, split.target))
    train, test = splits[0].features, splits[2].features
    reduce = make_pipeline(StandardScaler(), PCA(12, svd_solver="full")).fit(train)
    made = probe.evaluate(*splits, Cs=(0.1,), components=12)
    model = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-6).fit(reduce.transform(train), splits[0].target)
    np.testing.assert_allclose(made.test, model.predict_proba(reduce.transform(test))[:, 1], atol=1e-3)
    np.testing.assert_allclose(probe.apply(made.fitted, test), made.outputs["probability"])
    measured = [interface.Split(s.name, s.features, s.features[:, 80] + s.target) for s in splits]
    made = regression.evaluate(*measured, alphas=(5.0,), components=12)
    model = Ridge(5.0).fit(reduce.transform(train), measured[0].target)
    np.testing.assert_allclose(made.test, model.predict(reduce.transform(test)), rtol=1e-6)
    every = regression.evaluate(*measured, alphas=(5.0,)).test
    np.testing.assert_allclose(regression.evaluate(*measured, alphas=(5.0,), components=999).test, every)
    assert np.abs(made.test - every).max() > 0.01


def test_parts_of_equal_width():
    fields = {"train": {"id": np.arange(513)}}
    parts = pca.parts("pca", fields=fields, components=512, field="rvef")
    assert [(part.name, part.kind, part.field) for part in parts] == [
        ("pca_label", "probe", "label"), ("pca_rvef", "regression", "rvef")
    ]  # fmt: skip
    assert all(part.options == {"components": 512} and part.family == "pca" for part in parts)
    with pytest.raises(interface.NotSetUp, match="off .*: 513 training videos have fewer than 513"):
        pca.parts("pca", fields=fields, components=513)
    with pytest.raises(ValueError, match="components >= 1"):
        pca.parts("pca", fields=fields, components=0)


def test_heads_read_features_in_blocks(monkeypatch):
    """As from one block, and as scikit-learn on a copy; features may be of any type."""
    splits = evaluation_case.make_splits(gap=0.4, share=0.3)
    splits = [interface.Split(s.name, s.features.astype(np.float16) * 2 + 5, s.target) for s in splits]
    measured = [interface.Split(s.name, s.features, s.features[:, 1] + s.target) for s in splits]
    whole = probe.evaluate(*splits, Cs=(0.1,)), regression.evaluate(*measured)
    monkeypatch.setattr(interface, "_ROWS", 50)
    in_blocks = probe.evaluate(*splits, Cs=(0.1,)), regression.evaluate(*measured)
    for one, other, name in zip(whole, in_blocks, ("probe", "regression"), strict=True):
        np.testing.assert_allclose(one.test, other.test, rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(one.val, other.val, rtol=1e-9, err_msg=name)
    train, test = (splits[number].features.astype(np.float64) for number in (0, 2))
    train, test = (StandardScaler().fit(train).transform(each) for each in (train, test))
    model = LogisticRegression(C=0.1, class_weight="balanced").fit(train, splits[0].target)
    np.testing.assert_allclose(in_blocks[0].test, model.predict_proba(test)[:, 1], atol=1e-6)


def test_difference_by_chance_needs_no_table():
    rng = np.random.default_rng(0)
    others = np.r_[rng.integers(0, 9, 50), np.nan, 4.0]
    values = np.r_[rng.integers(0, 9, 20), -5.0, 20.0, np.nan]
    expected = retrieval.differences(values, np.broadcast_to(others, (23, 52)))
    np.testing.assert_allclose(retrieval.chance(values, others), expected, rtol=1e-12)
    assert np.isnan(expected[-1]) and np.isfinite(expected[:-1]).all()


def test_zero_features_are_similar_to_nothing():
    similarity, _ = neighbours.nearest(np.zeros((1, 3)), np.eye(3), 2)
    assert similarity.tolist() == [[0.0, 0.0]]


def test_probe_finds_the_rare_class():
    splits = evaluation_case.make_splits(share=0.1, gap=1.5)
    made = probe.evaluate(*splits)
    ones = np.ones((1, len(splits[2].target)))
    assert video_metrics.balanced_accuracy(splits[2].target, made.test, ones)[0] > 0.8
    assert made.details["class_weight"] == "balanced"


def test_probe_takes_C_from_validation_alone():
    train, val, test = evaluation_case.make_splits(gap=1.0)
    chosen = probe.evaluate(train, val, test)
    flipped = interface.Split("test", test.features, 1 - test.target)
    assert probe.evaluate(train, val, flipped).details == chosen.details
    contrary = interface.Split("val", val.features, 1 - val.target)
    assert probe.evaluate(train, contrary, test).details != chosen.details


def test_probe_drops_C_that_do_not_converge():
    splits = evaluation_case.make_splits(gap=3.0)
    made = probe.evaluate(*splits, Cs=(1e-4, 1e3), max_iter=8)
    assert made.details["C"] == 1e-4 and made.details["C_not_converged"] == [1e3]
    with pytest.raises(interface.Skip, match="converged in 1 iterations"):
        probe.evaluate(*splits, Cs=(1e3,), max_iter=1)


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
        splits.append(interface.Split(name, features, ef + noise * rng.normal(size=count)))
    return splits


def test_ef_is_recovered_when_it_is_linear_and_shrunk_when_it_is_noise():
    splits = _ef_splits(noise=0.0)
    assert np.abs(regression.evaluate(*splits).test - splits[2].target).max() < 0.2
    rng = np.random.default_rng(7)
    noise = [interface.Split(s.name, s.features, rng.normal(55, 10, len(s.target))) for s in splits]
    made = regression.evaluate(*noise)
    assert made.details["penalty"] >= 1e3
    assert video_metrics.r2(noise[2].target, made.test, np.ones((1, 100)))[0] < 0.1
    with pytest.raises(ValueError, match="positive"):
        regression.evaluate(*splits, alphas=(0.0, 1.0))


def test_anomaly_ignores_abnormal_training_videos():
    rng = np.random.default_rng(0)
    train, val, test = evaluation_case.make_splits(gap=6.0)
    made = anomaly.evaluate(train, val, test)
    assert _auroc(made, test) > 0.999
    moved = train.features.copy()
    moved[train.target == 1] = rng.normal(size=(60, 16))
    again = anomaly.evaluate(interface.Split("train", moved, train.target), val, test)
    np.testing.assert_array_equal(again.test, made.test)
    by_hand = anomaly.distance(np.array([[1.0, 0], [0, 1], [-1, 0]]), np.array([[1.0, 0]]), 2)
    assert by_hand[0] == pytest.approx((0 + 1) / 2)


def test_sensitivity_at_the_threshold_of_validation_normals():
    assert anomaly.threshold(np.arange(1.0, 11), 90) == 9.0  # nine of ten do not exceed it
    assert anomaly.threshold(np.arange(1.0, 11), 95) == 10.0
    train, val, test = evaluation_case.make_splits(gap=1.0, share=0.4)
    made = anomaly.evaluate(train, val, test, k=5)
    for percent, metric, positive in ((90, "sensitivity_at_90", 1), (95, "specificity_at_95", 0)):
        normal = np.sort(made.val[val.target == 0])
        bound = normal[int(np.ceil(percent / 100 * len(normal))) - 1]
        assert made.details["thresholds"][str(percent)] == bound
        called = made.test[test.target == positive] > bound
        expected = called.mean() if positive else 1 - called.mean()
        found = anomaly.METRICS[metric](test.target, made.outputs[f"margin_{percent}"], np.ones((1, 200)))
        assert found == pytest.approx(expected)
    assert made.details["normal_validation_videos"] == 36


def test_tied_distances_call_nothing_abnormal():
    """Where all scores are the same nothing exceeds the threshold, and no ranking is better than chance."""
    same = [interface.Split(name, np.ones((8, 2)), np.arange(8.0) % 2) for name in ("train", "val", "test")]
    made = anomaly.evaluate(*same)
    ones = np.ones((1, 8))
    assert anomaly.METRICS["sensitivity_at_90"](same[2].target, made.outputs["margin_90"], ones) == 0
    assert anomaly.METRICS["specificity_at_90"](same[2].target, made.outputs["margin_90"], ones) == 1
    assert _auroc(made, same[2]) == 0.5


def test_probe_equals_sklearn_and_its_probability_has_the_share_of_the_validation_videos():
    train, val, test = (
        evaluation_case.make_split(n, np.random.default_rng(seed), 900, 0.1, 0.8, 4) for seed, n in enumerate("abc")
    )
    made = probe.evaluate(train, val, test, Cs=(1.0,))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, class_weight="balanced"))
    expected = model.fit(train.features, train.target).predict_proba(test.features)[:, 1]
    np.testing.assert_allclose(made.test, expected, atol=1e-6)
    platt = _SigmoidCalibration().fit(logit(made.val), val.target).predict(logit(made.test))
    np.testing.assert_allclose(made.outputs["probability"], platt, atol=2e-3)
    assert abs(made.outputs["probability"].mean() - 0.1) < 0.03 < abs(made.test.mean() - 0.1)
    bins = made.report["reliability"]
    assert sum(row["videos"] for row in bins) == 900
    for row in bins:
        inside = (made.outputs["probability"] >= row["from"]) & (made.outputs["probability"] < row["to"])
        assert row["videos"] == inside.sum() and row["abnormal"] == test.target[inside].mean()
    error = sum(row["videos"] / 900 * abs(row["probability"] - row["abnormal"]) for row in bins)
    found = probe.METRICS["calibration_error"](test.target, made.outputs["probability"], np.ones((1, 900)))
    assert found == pytest.approx(error) and error < 0.03


def test_calibration_of_separated_and_of_constant_scores():
    target, score = np.array([0.0] * 6 + [1.0] * 3), np.arange(9.0)
    made = probe.calibrated(probe.platt(score, target), score)
    assert (np.diff(made) > 0).all() and 0.01 < made[0] < 0.2 < 0.7 < made[-1] < 0.99
    constant = probe.calibrated(probe.platt(np.zeros(9), target), np.zeros(2))  # the mean of Platt's targets
    assert constant == pytest.approx(np.full(2, (6 / 8 + 3 * 4 / 5) / 9), abs=1e-4)


def _library(targets, ef, features, name="train"):
    ids = np.array([f"{name}{row}" for row in range(len(targets))])
    return interface.Split(name, np.asarray(features, float), np.array(targets, float), {"id": ids, "ef": np.array(ef)})


def test_retrieval_by_hand():
    reference = _library([0, 0, 1, 1], [60.0, np.nan, 40, 30], [[1, 0], [0.9, 0.1], [0, 1], [-1, 0]])
    query = _library([0, 1], [50.0, 20], [[1, 0], [0.1, 1]], "test")
    made = retrieval.evaluate(reference, query, query)
    assert made.outputs["precision_at_1"].tolist() == [1, 1] and made.outputs["precision_at_10"].tolist() == [0.5, 0.5]
    assert made.val.tolist() == [0.5, 0.5] and made.outputs["precision_by_chance"].tolist() == [0.5, 0.5]
    expected = [(10 + 10 + 20) / 3, (40 + 20 + 10) / 3]  # the reference set holds four, one of unknown EF
    assert made.outputs["difference"].tolist() == pytest.approx(expected)
    assert made.outputs["difference_by_chance"].tolist() == pytest.approx(expected)
    first = made.report["shown"][0]
    assert first["id"] == "test0" and first["neighbours"] == ["train0", "train1", "train2", "train3"]
    assert first["similarity"] == [1.0, pytest.approx(0.9939, abs=1e-4), 0.0, -1.0]
    unknown = _library([0, 1], [np.nan, np.nan], [[1, 0], [0.1, 1]], "test")
    assert not any(name.startswith("difference") for name in retrieval.evaluate(reference, query, unknown).outputs)


def test_retrieval_finds_what_is_alike_and_random_features_find_chance():
    def scores(gap):
        rng, splits = np.random.default_rng(0), []
        for name, count in (("train", 200), ("val", 50), ("test", 100)):
            split = evaluation_case.make_split(name, rng, count, 0.3, gap)
            ef = 60 - 20 * split.target + rng.normal(0, 1, count)
            splits.append(_library(split.target, ef, split.features, name))
        outputs = retrieval.evaluate(*splits).outputs
        return {name: metric(None, outputs[name], np.ones((1, 100)))[0] for name, metric in retrieval.METRICS.items()}

    solved, random = scores(9.0), scores(0.0)
    assert solved["precision_at_10"] == 1 and solved["difference"] < 2 < 8 < solved["difference_by_chance"]
    assert random["precision_by_chance"] == pytest.approx(0.3**2 + 0.7**2)
    assert random["precision_at_10"] == pytest.approx(random["precision_by_chance"], abs=0.05)
    assert random["difference"] == pytest.approx(random["difference_by_chance"], abs=1.0)


def test_draws_of_labels_keep_patients_and_classes():
    rng = np.random.default_rng(0)
    patients = rng.permutation(np.repeat(np.arange(300), 2)).astype(str)
    label = np.array([float(int(patient) % 5 == 0) for patient in patients])
    label[patients == "299"] = np.nan
    tenth = labels.draws(patients, label, 0.1, 4, seed=0)
    for mask in tenth:
        assert len(set(patients[mask]) & set(patients[~mask])) == 0
        assert label[mask].tolist().count(1) == 12 and label[mask].tolist().count(0) == 48  # patients are 60 and 239
        assert mask[patients == "299"].all()  # the only patient without a label
    assert len({tuple(mask) for mask in tenth}) == 4
    np.testing.assert_array_equal(tenth, labels.draws(patients, label, 0.1, 4, seed=0))
    assert (labels.draws(patients, label, 0.1, 1, seed=1)[0] != tenth[0]).any()
    assert (labels.draws(patients, label, 0.5, 1, seed=0)[0] >= tenth[0]).all()
    few = labels.draws(patients, label, 1e-9, 1, seed=0)[0]
    assert sorted(label[few & np.isfinite(label)]) == [0, 0, 1, 1]  # a patient of each class at least


def test_parts_of_label_efficiency_and_transfer():
    parts = labels.parts("labels", fractions=(0.01, 1.0), draws=3, field="rvef")
    assert [part.name for part in parts] == ["labels_label_1", "labels_rvef_1", "labels_label_100", "labels_rvef_100"]
    assert [dict(part.scores) for part in parts] == [
        {"auroc_1": "auroc"}, {"mae_1": "mae"}, {"auroc_100": "auroc"}, {"mae_100": "mae"}
    ]  # fmt: skip
    with pytest.raises(ValueError, match="fractions"):
        labels.parts("labels", fractions=(0.0,))
    with pytest.raises(interface.Skip, match="eval.evaluators.transfer.source_dataset"):
        transfer.parts("transfer")
    names = [name for part in transfer.parts("transfer", source_dataset="rvenet") for name in part.scores]
    assert "knn_macro_f1" in names and "probe_auroc" in names and "ef_mae" in names


def test_standardise_leaves_constant_columns_alone():
    train = np.array([[1.0, 5e6, 0], [3, 5e6 + 1e-9, 0]])
    scaled, other = interface.standardise(train, np.array([[2.0, 5e6 + 1, 7]]))
    np.testing.assert_allclose(scaled, [[-1, 0, 0], [1, 0, 0]], atol=1e-8)
    np.testing.assert_allclose(other, [[0, 1, 7]], atol=1e-8)


def test_reasons_for_skipping():
    nan = np.full(7, np.nan)
    with pytest.raises(interface.Skip, match="no labels: ef unknown for all 7 videos of split test"):
        interface.known_target("test", nan, "ef")
    with pytest.raises(interface.Skip, match="no videos in split val"):
        interface.known_target("val", nan[:0], "ef")
    normal, both = np.zeros(4), np.array([0.0, 1])
    with pytest.raises(interface.Skip, match="one class only: all 4 labelled videos of split train are normal"):
        knn.require(normal, both, both)
    anomaly.require(normal, both, both)  # normal videos alone are enough to train on
    with pytest.raises(interface.Skip, match="no normal training videos: all 4"):
        anomaly.require(normal + 1, both, both)
    with pytest.raises(interface.Skip, match="one value only"):
        regression.require(np.full(3, 55.0), both, both)
