"""Folds over the videos of an evaluation: the same heads, folds and intervals as the command's, from its features."""

import csv
import io

import numpy as np
import pytest
from ml_collections import ConfigDict

from discovr_jax import progress
from discovr_jax.data import class_labels
from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.cross_validation import folds, of_evaluation, run
from discovr_jax.evaluation.report import cross_validation as report
from tests import evaluation_case

COUNTS = {"train": 24, "val": 12, "test": 12}
SEEN = {
    split: {"test_videos": n, "trained_on": n * (split == "train"), "patients_trained_on": n * (split == "train")}
    for split, n in COUNTS.items()
}


def _config(**options):
    folds = {"folds": 3, "repeats": 2, "inner_folds": 2, "splits": tuple(COUNTS), "max_videos": 100} | options
    evaluators = {"probe": {}, "knn": {}, "labels": {}, "lvef": {"type": "regression", "field": "ef"}, "classes": {}}
    settings = {"dataset": None, "readouts": ("cls",), "resamples": 40, "evaluators": evaluators}
    data = {"abnormal_rule": None, "dataset": "echonet_dynamic"}
    return ConfigDict({"seed": 0, "data": data, "eval": settings | {"cross_validation": folds}})


def _evaluation(config, column="view/side"):
    """Two videos per patient; only `cls` of discovr knows the EF; a view of two classes that nothing knows."""
    rng = np.random.default_rng(0)
    fields = evaluation_case.make_fields(COUNTS, lambda row: row // 2)
    texts = {
        split: [class_labels.encode({column: "ab"[row // 2 % 2]}) for row in range(n)]
        for split, n in COUNTS.items()
    }
    (view,) = class_labels.decode(texts)
    good, noise = {}, [{}, {}]
    for split, columns in fields.items():
        columns |= {view.field: view.values[split], "classes": np.array(texts[split])}
        signal = (columns["ef"][:, None] - 50) / 10 + 0.3 * rng.normal(size=(COUNTS[split], 3))
        good[split] = {"cls": signal, "mean": rng.normal(size=(COUNTS[split], 3))}
        for seed in noise:
            seed[split] = {"cls": rng.normal(size=(COUNTS[split], 3))}
    return results_lib.start({"discovr": [good], "random": noise}, fields, config)


@pytest.fixture(scope="module")
def evaluated():
    config = _config()
    evaluation = _evaluation(config)
    return evaluation, of_evaluation.add(evaluation, config, SEEN.get)


def test_every_target_is_scored_on_the_videos_of_all_splits(evaluated):
    results, tables = evaluated[0].results, evaluated[1]
    found = results["cross_validation"]
    assert {name: one["field"] for name, one in found["targets"].items()} == {
        "label": "label", "lvef": "ef", "classes_view/side": "classes:view/side"
    }  # fmt: skip
    assert sorted(tables) == [f"cross_validation_{name}.csv" for name in ("classes_view_side", "label", "lvef")]
    for one in found["targets"].values():
        assert (one["videos"], one["groups"], one["folds"], one["repeats"]) == (48, 24, 3, 2)
        assert list(one["encoders"]) == ["discovr", "random", run.CONSTANT]
    label, lvef, view = (found["targets"][name] for name in ("label", "lvef", "classes_view/side"))
    assert label["encoders"]["discovr"]["probe/auroc"]["value"] > 0.9
    assert list(label["classes"]) == ["normal", "abnormal"]
    assert label["paired"]["discovr - random"]["probe/auroc"]["low"] > 0
    assert lvef["encoders"]["discovr"]["probe/r2"]["value"] > 0.8 > lvef["encoders"]["random"]["probe/r2"]["value"]
    assert abs(view["encoders"]["discovr"]["probe/auroc"]["value"] - 0.5) < 0.35
    assert set(label["chosen"]["discovr: knn"]) == {"cls, 10"}, "of eval.readouts only"


def test_no_patient_is_in_training_and_test_of_a_fold(evaluated):
    fields, rows = evaluated[0].fields, list(csv.DictReader(io.StringIO(evaluated[1]["cross_validation_lvef.csv"])))
    pairs = [pair for each in fields.values() for pair in zip(each["id"], each["patient_id"], strict=True)]
    patients = dict(pairs)
    for repeat in "01":
        folds = {}
        for row in rows:
            if row["repeat"] == repeat:
                folds.setdefault(patients[row["id"]], set()).add(row["fold"])
        assert len(folds) == 24 and all(len(each) == 1 for each in folds.values())


def test_videos_that_the_encoder_was_trained_on_are_told(evaluated):
    found = evaluated[0].results["cross_validation"]
    assert found["trained_on"] == {"videos": 48, "trained_on": 24, "patients_trained_on": 24}
    (line,) = report.seen_lines(found)
    assert "trained on 24 of these 48 videos, without labels" in line
    assert report.seen_lines(found | {"trained_on": dict.fromkeys(found["trained_on"], 0)}) == []
    assert "not known" in report.seen_lines(found | {"trained_on": None})[0]
    told = report.told(evaluated[0].results)
    assert len(told) == 4 and max(len(line) for part in told for line in part.splitlines()) <= report.WIDEST
    page = report.section(evaluated[0].results)
    assert "lvef: 48 videos of 24 patients" in page and "better</small>" in page
    assert "Videos of patients: a 24 of 12, b 24 of 12. 2 times 3-fold." in page
    assert "no folds" in report.section({})


def test_splits_are_left_out_and_too_many_videos_refused():
    for options, words in (
        ({"folds": 1}, "folds and inner_folds are at least 2"),
        ({"inner_folds": 1}, "folds and inner_folds are at least 2"),
        ({"repeats": 0}, "repeats = 0"),
        ({"splits": ("tset",)}, "tset"),
    ):
        with pytest.raises(ConfigError, match=words):
            of_evaluation.check(_config(**options).eval.cross_validation.to_dict())
    none = _config(folds=0, inner_folds=0)
    of_evaluation.check(none.eval.cross_validation.to_dict())
    evaluation = _evaluation(none)
    assert of_evaluation.add(evaluation, none, SEEN.get) == {} and "cross_validation" not in evaluation.results
    few = _config(max_videos=10)
    of_evaluation.add(evaluation, few, SEEN.get)
    assert "48 videos, eval.cross_validation.max_videos = 10" in evaluation.results["skipped"][0]["reason"]
    assert not evaluation.results["skipped"][0]["set_up"]
    for field in ("label", "ef"):
        evaluation.fields["test"][field][:] = np.nan
    part = _config(splits=("test",), repeats=1)
    of_evaluation.add(evaluation, part, SEEN.get)
    assert list(evaluation.results["cross_validation"]["targets"]) == ["classes_view/side"]
    reasons = {skip["evaluator"]: skip["reason"] for skip in evaluation.results["skipped"]}
    assert reasons["cross_validation of lvef"] == "no labels: ef unknown for all 12 videos of split test"


def test_the_target_is_told_of_while_it_is_scored_and_where_it_has_no_folds(monkeypatch):
    told = []

    def predict_all(*_):
        told.append(progress._works[-1][0])
        raise folds.FoldsError("too few patients")

    monkeypatch.setattr(run, "predict_all", predict_all)
    evaluation = _evaluation(_config())
    assert of_evaluation.add(evaluation, _config(), SEEN.get) == {}
    assert sorted(told) == [f"cross-validation of {name}" for name in ("classes_view/side", "label", "lvef")]
    assert [one["reason"] for one in evaluation.results["skipped"]] == ["too few patients"] * 3


def test_a_column_called_label_is_a_target_beside_normal_and_abnormal():
    config = _config(repeats=1)
    evaluation = _evaluation(config, column="label")
    tables = of_evaluation.add(evaluation, config, SEEN.get)
    targets = evaluation.results["cross_validation"]["targets"]
    assert {name: list(one["classes"]) for name, one in targets.items() if name != "lvef"} == {
        "classes_label": ["a", "b"], "label": ["normal", "abnormal"]
    }  # fmt: skip
    assert {"cross_validation_classes_label.csv", "cross_validation_label.csv"} < set(tables)
