"""Classes, grades and labels of the dataset's own table: from records' texts to results, table, report and compare."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.linear_model import LogisticRegression

from discovr_jax.data import class_labels
from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import compare, dry_run, interface, runner
from discovr_jax.evaluation.evaluators import classes, multilabel
from discovr_jax.evaluation.metrics import bootstrap
from discovr_jax.evaluation.metrics import classes as class_metrics
from discovr_jax.evaluation.report import classes as report_classes
from discovr_jax.evaluation.report import scores, table
from tests import evaluation_case

COUNTS = {"train": 90, "val": 40, "test": 60}
SEVERITIES = ("none", "mild", "moderate")


def _fields(seed=0):
    """EF in thirds is the view, in quarters the grade (one is nobody's); two findings. Two videos per patient."""
    fields = evaluation_case.make_fields(COUNTS, lambda row: row // 2, seed)
    for split, columns in fields.items():
        texts = []
        for row, ef in enumerate(columns["ef"]):
            grade = int((ef - 30) / 10)
            values = {
                "view": ("A2C", "A4C", "PLAX")[int((ef - 30) / 13.4)],
                "mr": {"grade": grade if grade < 2 else grade + 1, "name": f"{grade}+"},
                "finding": [name for name, limit in (("low", 45), ("lower", 38)) if ef < limit],
            }
            if row in (2, 3):  # one patient of each split
                values.pop("mr")
                values["view"] = "SSN" if split == "test" else "A4C"
            texts.append(class_labels.encode(values))
        columns["classes"] = np.array(texts)
    for target in class_labels.decode({split: columns["classes"] for split, columns in fields.items()}):
        for split, values in target.values.items():
            fields[split][target.field] = values
    return fields


def _features(fields, noise, seed):
    rng = np.random.default_rng(seed)
    return {
        split: {"cls": (columns["ef"][:, None] - 50) / 10 + noise * rng.normal(size=(len(columns["ef"]), 4))}
        for split, columns in fields.items()
    }


def _config(**evaluators):
    settings = {"dataset": None, "readouts": ("cls",), "resamples": 60, "search_rows": 0}
    settings["evaluators"] = evaluators or {"classes": {}}
    settings["cross_validation"] = {"folds": 0, "inner_folds": 3, "repeats": 1, "splits": ("test",)}
    data = {"abnormal_rule": None, "dataset": "echonet_dynamic"}
    return ConfigDict({"seed": 0, "data": data, "eval": settings | {"map_side": 3}})


@pytest.fixture(scope="module")
def fields():
    return _fields()


@pytest.fixture(scope="module")
def evaluation(fields):
    encoders = {
        "discovr": [_features(fields, 0.3, 1)],
        "random": [_features(fields, 3, 2), _features(fields, 3, 3)],
        "hog": [{s: {"features": f["cls"]} for s, f in _features(fields, 1, 4).items()}],
    }
    return runner.evaluate_features(encoders, fields, _config())


def test_every_target_has_its_metrics_and_pairs(evaluation):
    results = evaluation.results
    common = {"macro_f1", "balanced_accuracy", "auroc"}
    wanted = {f"classes_view/{name}" for name in common}
    wanted |= {f"classes_mr/{name}" for name in (*common, "quadratic_kappa")}
    wanted |= {f"classes_finding/{name}" for name in ("macro_f1", "auroc", "average_precision")}
    by_patient = results["by_patient"]["encoders"]
    for metrics in (*results["encoders"].values(), *results["paired"].values(), *by_patient.values()):
        assert set(metrics) == wanted
    assert results["encoders"]["discovr"]["classes_mr/quadratic_kappa"]["value"] > 0.8
    for key in ("classes_view/auroc", "classes_mr/quadratic_kappa", "classes_finding/auroc"):
        assert results["paired"]["discovr-random"][key]["low"] > 0, key
    assert results["readouts"]["classes_mr"]["type"] == "classes"
    assert results["readouts"]["classes_finding"]["type"] == "multilabel"
    assert results["videos"]["classes_mr"] == {"train": 88, "val": 38, "test": 58}
    assert results["skipped"] == []


def test_what_must_be_known_of_the_classes_is_said(evaluation):
    notes = {(note["evaluator"], note["note"]) for note in evaluation.results["notes"]}
    assert notes == {
        ("classes_mr", "unknown for 2 videos of train, 2 videos of val, 2 videos of test"),
        ("classes_view", "SSN: no training video, so its 2 test videos count as errors"),
        ("classes_view", "SSN: one patient in test"),
    }
    details = evaluation.results["readouts"]["classes_view"]["encoders"]["discovr"]["details"][0]
    assert details["classes"] == ["A2C", "A4C", "PLAX", "SSN"] and details["videos"]["train"][3] == 0


def test_the_probe_is_that_of_scikit_learn(evaluation, fields):
    features = evaluation.features["discovr"][0]
    train, test = (fields[split]["classes:view"] for split in ("train", "test"))
    x_train, x_test = interface.standardise(features["train"]["cls"], features["test"]["cls"])
    entry = evaluation.results["readouts"]["classes_view"]["encoders"]["discovr"]
    model = LogisticRegression(C=entry["details"][0]["C"], class_weight="balanced", max_iter=2000).fit(x_train, train)
    probability = np.zeros((len(test), 4))
    probability[:, :3] = model.predict_proba(x_test)
    weights = bootstrap.patient_weights(fields["test"]["patient_id"], 60, 0)
    values = bootstrap.distribution(class_metrics.macro_f1, test, probability, weights)
    expected = bootstrap.interval(values, 30)
    assert evaluation.results["encoders"]["discovr"]["classes_view/macro_f1"] == pytest.approx(expected)
    confusion = class_metrics.confusion(test, probability, np.ones((1, len(test))))[0]
    np.testing.assert_array_equal(entry["report"]["confusion"], confusion)
    assert confusion[3, 3] == 0 and confusion[3].sum() == 2


def test_c_is_chosen_on_validation():
    rng = np.random.default_rng(0)
    target = {split: rng.integers(0, 3, n).astype(float) for split, n in COUNTS.items()}
    rows = {s: np.eye(3)[t.astype(int)] + 1.5 * rng.normal(size=(len(t), 3)) for s, t in target.items()}
    train, val, test = (interface.Split(s, rows[s], target[s]) for s in COUNTS)
    found = classes.evaluate(train, val, test, classes=("a", "b", "c"), Cs=(1e-4, 1.0))
    ones = np.ones((1, len(target["val"])))
    each = [classes.evaluate(train, val, test, classes=("a", "b", "c"), Cs=(c,)) for c in (1e-4, 1.0)]
    best = max(each, key=lambda one: class_metrics.auroc(target["val"], one.val, ones)[0])
    np.testing.assert_array_equal(found.outputs["probability of a"], best.outputs["probability of a"])
    assert found.details["C"] == best.details["C"]
    for module in (classes, multilabel):
        with pytest.raises(ConfigError, match="must be positive"):
            module.evaluate(train, val, test, classes=("a", "b", "c"), Cs=(0.0,))


def test_a_label_that_no_training_video_has(fields):
    rng = np.random.default_rng(0)
    labels = (("train", 2.0), ("val", 4.0), ("test", 4.0))
    splits = [interface.Split(name, rng.normal(size=(20, 2)), np.arange(20) % most) for name, most in labels]
    found = multilabel.evaluate(*splits, classes=("a", "b"))
    assert set(found.outputs["probability of b"]) == {0.0} and len(set(found.outputs["probability of a"])) == 20
    assert found.details["videos"]["test"] == [10, 10]


def test_it_is_shown(evaluation):
    results = evaluation.results | {"step": 3}
    told = table.metrics_table(results)
    assert max(map(len, told.splitlines())) <= table.WIDTH
    for words in ("view macro F1", "view macro AUROC", "mr kappa", "finding macro AUROC", "view: SSN: no training"):
        assert words in told
    page = scores.results_section(results)
    assert "<h3>Classes: mr</h3>" in page and "quadratic kappa" in page and "SSN: one patient in test" in page
    page = report_classes.section(results)
    assert "<h3>view</h3>" in page and "called PLAX" in page and "called SSN" in page  # SSN is recorded
    assert "no classes of the dataset" in report_classes.section({"readouts": {}})


def test_predictions_and_runs_compared(evaluation, tmp_path):
    for name in ("a", "b"):
        runner.write(evaluation, tmp_path / name, 7, manifest_sha256="m")
    lines = (tmp_path / "a" / "eval" / "7" / "predictions.csv").read_text().splitlines()
    assert sum(",classes_view,probability of A4C," in line for line in lines) == 60 * (1 + 2 + 1)
    runs = [str(tmp_path / "a"), f"{tmp_path / 'b'}:hog"]
    found = compare.compare_runs([f"ours={runs[0]}", f"hog={runs[1]}"], tmp_path / "c")
    for name, encoder in (("ours", "discovr"), ("hog", "hog")):
        for key, entry in evaluation.results["encoders"][encoder].items():
            assert found["columns"][name][key]["value"] == pytest.approx(entry["value"]), key
    assert json.loads((tmp_path / "a" / "results.json").read_text())["notes"]


def test_records_without_classes_have_no_such_part(fields):
    bare = evaluation_case.make_fields(COUNTS, lambda row: row)
    encoders = {"discovr": [_features(bare, 1, 1)]}
    found = runner.evaluate_features(encoders, bare, _config(classes={})).results
    assert found["skipped"] == [] and found["readouts"] == {} and found["notes"] == []
    found = runner.evaluate_features(encoders, bare, _config(classes={"targets": ("view",)})).results
    (skip,) = found["skipped"]
    assert "no target view in the records, only none: prepare echo_folder --class_columns" in skip["reason"]


def test_one_class_is_skipped(fields):
    one = {split: dict(columns) for split, columns in fields.items()}
    for split, columns in one.items():
        views = ["A4C"] * (COUNTS[split] - 1) + ["PLAX" if split == "train" else "A4C"]
        columns["classes"] = np.array([class_labels.encode({"view": view}) for view in views])
        columns["classes:view"] = np.array([float(view == "PLAX") for view in views])
    found = runner.evaluate_features({"discovr": [_features(one, 1, 1)]}, one, _config()).results
    assert [skip["reason"] for skip in found["skipped"]] == [
        "one class only: all 40 videos of split val with a known one have it"
    ]


def test_settings_are_tried_before_a_training():
    dry_run.check_evaluators(_config(classes={"targets": ("view",)}), depth=2)
    for options, words in (
        ({"Cs": (-1.0,)}, "must be positive"),
        ({"k": 3}, "eval.evaluators.classes: .*unexpected keyword argument 'k'"),
    ):
        with pytest.raises(ConfigError, match=words):
            dry_run.check_evaluators(_config(classes=options), depth=2)
    config = _config()
    config.eval.search_rows = 50  # fewer than the 100 neighbours that kNN sweeps
    with pytest.raises(ConfigError, match=r"eval\.search_rows = 50 must be 0, .* or at least 1000"):
        dry_run.check_evaluators(config, depth=2)
