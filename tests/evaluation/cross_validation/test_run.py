"""Folds, heads and attacks: what must come out at chance does, and would not if folds were cut otherwise."""

import numpy as np
import pytest
from sklearn import linear_model, metrics, multiclass, neighbors, preprocessing

from discovr_jax.evaluation.cross_validation import folds, logistic, probes, run, summary
from discovr_jax.evaluation.cross_validation.archive import Archive, FeatureFile


def archive(features, target, groups, classes=("a", "b")):
    """`features`: {name: [N, D]}."""
    sets = {name: [FeatureFile({"features": np.asarray(x, float)}, {})] for name, x in features.items()}
    ids = np.array([f"v{row}" for row in range(len(target))])
    return Archive(ids, np.asarray(groups).astype(str), np.asarray(target, float), classes, sets, [])


def scored(one, **options):
    options = run.FoldOptions(**{"repeats": 2, "resamples": 50, **options})
    found, cuts = run.predict_all(one, options)
    return summary.summarise(one, options, found, {}), found, cuts


def value(results, key, name="x"):
    return results["encoders"][name][key]["value"]


@pytest.fixture(scope="module")
def informative():
    """60 videos of 30 groups, three classes, features that tell them mostly."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 2)
    target = groups % 3
    return archive({"x": np.eye(3)[target] + 0.6 * rng.normal(size=(60, 3))}, target, groups, ("a", "b", "c"))


@pytest.fixture(scope="module")
def outcome(informative):
    return scored(informative)


def test_groups_never_straddle_folds_and_classes_are_spread(informative, outcome):
    cuts = outcome[2]
    for cut in cuts:
        assert all(len(set(cut[informative.groups == group])) == 1 for group in informative.groups)
        counts = np.array([np.bincount(informative.target[cut == fold].astype(int), minlength=3) for fold in range(5)])
        assert (counts == 4).all()
    assert len({cut.tobytes() for cut in cuts}) == len(cuts), "every repeat has its own folds"


def test_the_seed_decides_everything(informative):
    first, again, other = (run.predict_all(informative, run.FoldOptions(repeats=1, seed=seed))[0] for seed in (1, 1, 2))
    for key, said in first.items():
        np.testing.assert_array_equal(said.predictions, again[key].predictions)
    assert any((said.predictions != other[key].predictions).any() for key, said in first.items())


def test_metrics_and_confusion_are_those_of_the_predictions(informative, outcome):
    results, found, _ = outcome
    for head in run.HEADS:
        each = found["x", head].predictions[0]
        named = [informative.target.astype(int), each.argmax(2)]
        expected = np.mean([metrics.f1_score(named[0], one, average="macro") for one in named[1]])
        np.testing.assert_allclose(value(results, f"{head}/macro_f1"), expected)
        spread = np.std([metrics.f1_score(named[0], one, average="macro") for one in named[1]], ddof=1)
        np.testing.assert_allclose(results["encoders"]["x"][f"{head}/macro_f1"]["sd_over_repeats"], spread)
        np.testing.assert_allclose(
            results["confusion"]["x"][head], np.mean([metrics.confusion_matrix(named[0], one) for one in named[1]], 0)
        )
        assert value(results, f"{head}/auroc") > 0.85 > 0.55 > value(results, f"{head}/auroc", run.CONSTANT)


def test_heads_are_those_of_scikit_learn():
    """Also where there are more features than videos, which are rotated."""
    rng = np.random.default_rng(0)
    for width in (3, 80):
        train, test = rng.normal(size=(40, width)), rng.normal(size=(10, width))
        target, measured = rng.integers(0, 3, 40), rng.normal(size=40)
        scaler = preprocessing.StandardScaler().fit(train)
        x, y = scaler.transform(train), scaler.transform(test)
        task = probes.Task(("a", "b", "c"))
        found = task.predict(probes.PROBE, train, target.astype(float), test, (0.01, 1.0))
        for probability, c in zip(found, (0.01, 1.0), strict=True):
            model = linear_model.LogisticRegression(C=c, class_weight="balanced", tol=1e-10, max_iter=10_000)
            model = multiclass.OneVsRestClassifier(model).fit(x, target)
            np.testing.assert_allclose(probability, model.predict_proba(y), atol=1e-5)
        binary = (target > 0).astype(float)
        found = probes.Task(("a", "b")).predict(probes.PROBE, train, binary, test, (0.1,))[0]
        model = linear_model.LogisticRegression(C=0.1, class_weight="balanced", tol=1e-10, max_iter=10_000)
        np.testing.assert_allclose(found, model.fit(x, binary).predict_proba(y), atol=1e-5)
        found = probes.Task(()).predict(probes.PROBE, train, measured, test, (1.0, 100.0))
        for prediction, alpha in zip(found, (1.0, 100.0), strict=True):
            np.testing.assert_allclose(prediction, linear_model.Ridge(alpha).fit(x, measured).predict(y), atol=1e-8)

        def weights(distance):
            return np.exp((1 - distance) / probes.TEMPERATURE)

        near = {"n_neighbors": probes.NEIGHBOURS, "metric": "cosine", "algorithm": "brute", "weights": weights}
        model = neighbors.KNeighborsClassifier(**near).fit(x, target)
        found = task.predict(probes.KNN, train, target.astype(float), test, (10.0,))[0]
        np.testing.assert_allclose(found, model.predict_proba(y), atol=1e-8)
        model = neighbors.KNeighborsRegressor(**near).fit(x, measured)
        found = probes.Task(()).predict(probes.KNN, train, measured, test, (10.0,))[0]
        np.testing.assert_allclose(found, model.predict(y), atol=1e-8)


def test_classes_that_a_training_part_lacks_have_no_probability():
    rng = np.random.default_rng(0)
    task, x = probes.Task(("a", "b", "c")), rng.normal(size=(10, 4))
    for target, absent in ((np.repeat([0.0, 2.0], 4), 1), (np.repeat([1.0], 8), 0)):
        found = task.predict(probes.PROBE, x[:8], target, x[8:], (1.0,))[0]
        assert (found[:, absent] == 0).all()
        np.testing.assert_allclose(found.sum(1), 1)


def test_a_fit_that_newton_overshoots_converges():
    """Heavy tails and hardly a penalty: whole steps from zero end in NaN or elsewhere."""
    rng = np.random.default_rng(25)
    x = rng.standard_t(0.7, size=(20, 3))
    y = (rng.uniform(size=20) < 0.15).astype(float)
    y[0] = 1
    w = logistic.fit(x, y[None], np.ones((1, 20)), np.array([1e3]))[0]
    model = linear_model.LogisticRegression(C=1e3, tol=1e-10, max_iter=100_000).fit(x, y)
    np.testing.assert_allclose(w, [*model.coef_[0], *model.intercept_], rtol=1e-3)


def test_a_feature_that_names_the_group_is_worth_nothing():
    """The usual leak: videos of one patient look alike. Folds by video, the same features are perfect."""
    groups = np.repeat(np.arange(24), 4)
    target = np.random.default_rng(0).permutation(np.arange(24) % 2)[groups]
    features = {"x": np.eye(24)[groups]}
    grouped, _, _ = scored(archive(features, target, groups))
    leaking, _, _ = scored(archive(features, target, np.arange(len(groups))), repeats=1)
    for head in run.HEADS:
        assert abs(value(grouped, f"{head}/auroc") - 0.5) < 0.15
        assert value(leaking, f"{head}/auroc") > 0.95


def test_labels_permuted_within_groups_give_chance():
    """Each group has as many videos of either class, so nothing but the video itself could tell."""
    rng = np.random.default_rng(1)
    groups, honest = np.repeat(np.arange(30), 4), np.tile([0, 1], 60)
    features = {"x": honest[:, None] + 0.3 * rng.normal(size=(120, 4)) + rng.normal(size=(30, 4))[groups]}
    permuted = np.concatenate([rng.permutation(honest[groups == group]) for group in range(30)])
    true, false = (scored(archive(features, target, groups))[0] for target in (honest, permuted))
    assert value(true, "probe/auroc") > 0.75
    for head in run.HEADS:
        assert abs(value(false, f"{head}/auroc") - 0.5) < 0.12


def test_settings_are_chosen_without_the_test_fold(informative):
    """Labels of one fold are turned round: predictions for its videos stay what they were."""
    options = run.FoldOptions(repeats=1)
    before, cuts = run.predict_all(informative, options)
    test = cuts[0] == 0
    task, target = probes.Task(informative.classes), informative.target
    train = np.flatnonzero(~test)
    inner = folds.draw(target[train].astype(int), informative.groups[train], 3, (0, 0, 0), False)
    turned = np.where(test, (target + 1) % 3, target)
    readouts = informative.features["x"][0].readouts
    says, _ = run._fit(task, "probe", readouts, turned, train, np.flatnonzero(test), inner)
    np.testing.assert_array_equal(says, before["x", "probe"].predictions[0, 0, test])


def test_the_inner_folds_choose_the_readout(informative):
    noise = np.random.default_rng(3).normal(size=(60, 5))
    good = informative.features["x"][0].readouts["features"]
    both = {"x": [FeatureFile({"noise": noise, "good": good}, {})]}
    one = Archive(informative.ids, informative.groups, informative.target, informative.classes, both, [])
    results, found, _ = scored(one)
    assert next(iter(found["x", "probe"].chosen)).startswith("good, ")
    assert value(results, "knn/auroc") > 0.85


def test_pairs_by_hand():
    """Four groups of one video: x is right on three, y on two; differences of the metric and of the seeds' mean."""
    one = archive({"x": np.zeros((4, 1)), "y": np.zeros((4, 1))}, [0, 0, 1, 1], list("abcd"))
    says = {"x": [[0, 0, 1, 0]], "y": [[0, 1, 1, 0], [0, 0, 1, 1]]}  # class of each video, by seed
    found = {
        (name, head): run.OutOfFold(np.stack([np.eye(2)[seed][None] for seed in seeds]), {})
        for name, seeds in says.items()
        for head in run.HEADS
    }
    results = summary.summarise(one, run.FoldOptions(repeats=1, resamples=200), found, {})
    assert value(results, "knn/balanced_accuracy", "x") == 0.75
    assert value(results, "knn/balanced_accuracy", "y") == (0.5 + 1) / 2
    assert results["paired"]["x - y"]["knn/balanced_accuracy"]["value"] == 0
    assert results["paired"]["x - y"]["knn/recall of b"]["value"] == 0.5 - 0.75
    # In every resample: a video that x and both seeds of y get right adds nothing. Of 5 folds 1.5 times as wide.
    entry = results["paired"]["x - y"]["knn/recall of b"]
    assert (entry["low"], entry["high"]) == (-0.625, 0.125)
    recall = results["encoders"]["x"]["knn/recall of b"]
    assert (recall["value"], recall["low"], recall["high"]) == (0.5, 0.0, 1.0), "not below 0 or above 1"
    assert results["confusion"]["y"]["knn"].tolist() == [[1.5, 0.5], [0.5, 1.5]]


def test_a_measurement(informative):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(60, 4))
    target = 50 + 8 * x[:, 0] + rng.normal(size=60)
    results, found, cuts = scored(archive({"x": x}, target, informative.groups, ()))
    each = found["x", "probe"].predictions[0]
    expected = np.mean([metrics.mean_absolute_error(target, one) for one in each])
    np.testing.assert_allclose(value(results, "probe/mae"), expected)
    np.testing.assert_allclose(value(results, "probe/r2"), np.mean([metrics.r2_score(target, one) for one in each]))
    assert value(results, "probe/r2") > 0.9 > 0 >= value(results, "probe/r2", run.CONSTANT)
    fold = cuts[0] == 0
    np.testing.assert_allclose(found[run.CONSTANT, "probe"].predictions[0, 0, fold], target[~fold].mean())


def test_too_small_an_archive_is_refused():
    with pytest.raises(folds.FoldsError, match="5 folds need as many groups .*: there are 4 groups"):
        scored(archive({"x": np.zeros((4, 1))}, [0, 0, 1, 1], list("abcd")))
    with pytest.raises(folds.FoldsError, match="class 1 has 1 groups. Leave it out"):
        scored(archive({"x": np.zeros((7, 1))}, [0, 0, 0, 0, 0, 1, 1], list("abcdeff")))
    with pytest.raises(folds.FoldsError, match="the largest class has 4 videos"):
        scored(archive({"x": np.zeros((6, 1))}, [0, 0, 0, 0, 1, 1], list("abcdef")))
