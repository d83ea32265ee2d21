"""Metrics within groups of the test videos: by hand, unknown groups, one class only, few patients, and masks."""

import copy
import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from discovr_jax.data import class_labels
from discovr_jax.evaluation import interface, prediction_cache, results_io, runner, subgroups
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.evaluators import probe, regression, segmentation
from discovr_jax.evaluation.metrics import bootstrap
from discovr_jax.evaluation.metrics import videos as video_metrics
from tests import evaluation_case

SEX = ["female", "female", "female", "female", "male", "male", "male", "male", "", ""]
QUALITY = ["good"] * 6 + ["poor"] * 4
PATIENTS = np.array(list("jihgfedcab"))  # not sorted: numbers of patients must draw the same resamples
LABEL = np.array([0.0, 0, 1, 1, 0, 1, 0, 1, 0, 1])
SCORE = np.array([0.1, 0.6, 0.4, 0.9, 0.2, 0.3, 0.1, 0.8, 0.7, 0.2])
IDS = np.array([f"video{number}" for number in range(10)])


def config(*names, resamples=200):
    data = {"abnormal_rule": "ef < 50", "dataset": "camus"}
    return ConfigDict({"seed": 3, "data": data, "eval": {"dataset": None, "resamples": resamples, "subgroups": names}})


def made(scored, about=None, names=("discovr", "random")):
    """An evaluation of ten videos whose records know `about`: {attribute: values}."""
    about = {"sex": SEX} if about is None else about
    texts = [
        class_labels.encode({name: values[row] for name, values in about.items() if values[row]}) for row in range(10)
    ]
    fields = {"test": {"id": IDS, "patient_id": PATIENTS, "described": np.array(texts)}}
    return results_lib.start({name: [{}] for name in names}, fields, scored)


def enter(evaluation, scored, predictions, target=LABEL, field="label", kind="probe", scores=None, ids=IDS, **part):
    patients = PATIENTS if len(ids) == len(PATIENTS) else np.repeat(PATIENTS, 2)
    rows = results_lib.make_rows(ids, patients, target, scored)
    scores = scores or {"auroc": video_metrics.auroc, "brier": probe.METRICS["brier"]}
    readouts = dict.fromkeys(predictions, "cls")
    results_lib.add(
        evaluation, part.pop("family", "probe"), rows, scores, predictions, kind=kind, field=field, readouts=readouts,
        chosen_by="-", **part,
    )  # fmt: skip
    return rows


def said(score, probability=None):
    return interface.Predictions(None, score, outputs={"probability": score if probability is None else probability})


def frames(evaluation, scored):
    """Enters two frames of each video and scores the groups; the Dice of each."""
    ids = np.array([f"{name}:{frame}" for name in IDS for frame in (0, 17)])
    dice = np.linspace(0.5, 0.975, 20)
    outputs = {"dice": dice, "dice_ed": np.where(np.arange(20) % 2, np.nan, dice)}
    enter(
        evaluation, scored, {"discovr": [interface.Predictions(None, None, outputs=outputs)]}, np.full(20, np.nan),
        "masks", "segmentation", {name: segmentation.METRICS[name] for name in outputs}, ids, family="segmentation",
    )  # fmt: skip
    subgroups.add(evaluation, scored)
    return dice


@pytest.fixture
def few(monkeypatch):
    """Groups of two patients have metrics."""
    monkeypatch.setattr(subgroups, "LEAST_PATIENTS", 2)


def test_each_group_and_its_difference_by_hand(few):
    scored = config("sex")
    evaluation = made(scored)
    rows = enter(evaluation, scored, {"discovr": [said(SCORE)], "random": [said(1 - SCORE), said(SCORE)]})
    subgroups.add(evaluation, scored)
    (found,) = evaluation.results["subgroups"].values()
    assert found["unknown"] == {"videos": 2, "patients": 2} and list(found["groups"]) == ["female", "male"]
    female, male = found["groups"].values()
    assert (female["videos"], female["patients"], female["left_out"]) == (4, 4, {})
    assert male["counts"] == {"probe": {"rows": 4, "patients": 4, "abnormal": 2}}
    # Of four pairs of an abnormal and a normal woman 0.4 against 0.6 is wrong; of the men none is.
    assert female["encoders"]["discovr"]["probe/auroc"]["value"] == pytest.approx(3 / 4)
    assert male["encoders"]["discovr"]["probe/auroc"]["value"] == pytest.approx(1)
    assert female["encoders"]["random"]["probe/auroc"]["value"] == pytest.approx((1 / 4 + 3 / 4) / 2)
    brier = (0.1**2 + 0.6**2 + 0.6**2 + 0.1**2) / 4
    assert female["encoders"]["discovr"]["probe/brier"]["value"] == pytest.approx(brier)
    assert female["less_others"]["discovr"]["probe/auroc"]["value"] == pytest.approx(3 / 4 - 1)
    assert male["less_others"]["discovr"]["probe/auroc"]["value"] == pytest.approx(1 - 3 / 4)
    # Intervals: the resamples of the whole test split, for both groups the same.
    each = [
        bootstrap.distribution(video_metrics.auroc, LABEL[some], SCORE[some], rows.weights[:, some])
        for some in (np.arange(4), np.arange(4, 8))
    ]
    assert female["encoders"]["discovr"]["probe/auroc"] == bootstrap.interval(each[0], 4)
    assert female["less_others"]["discovr"]["probe/auroc"] == bootstrap.interval(each[0] - each[1], 4)
    assert female["less_others"]["discovr"]["probe/auroc"]["low"] < 0


def test_all_videos_in_one_group_are_the_whole_test_split(few):
    scored = config("view")
    evaluation = made(scored, {"view": ["A4C"] * 10})
    enter(evaluation, scored, {"discovr": [said(SCORE)]})
    subgroups.add(evaluation, scored)
    (group,) = evaluation.results["subgroups"]["view"]["groups"].values()
    assert group["encoders"]["discovr"] == evaluation.results["encoders"]["discovr"] and group["less_others"] == {}
    assert evaluation.results["subgroups"]["view"]["unknown"] == {"videos": 0, "patients": 0}


def test_three_groups_are_each_compared_with_all_others(few):
    ages = ["41-65"] * 3 + ["over 65"] * 3 + ["18-40"] * 3 + [""]
    scored = config("age_group")
    evaluation = made(scored, {"age_group": ages})
    ef = np.arange(40.0, 50)
    error = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 100])
    mae = {"mae": regression.METRICS["mae"]}
    enter(
        evaluation, scored, {"discovr": [interface.Predictions(None, ef + error)]}, ef, "ef", "regression", mae,
        family="lvef",
    )  # fmt: skip
    subgroups.add(evaluation, scored)
    groups = evaluation.results["subgroups"]["age_group"]["groups"]
    values = {name: group["encoders"]["discovr"]["lvef/mae"]["value"] for name, group in groups.items()}
    assert values == {"18-40": pytest.approx(8), "41-65": pytest.approx(2), "over 65": pytest.approx(5)}
    less = {name: group["less_others"]["discovr"]["lvef/mae"]["value"] for name, group in groups.items()}
    assert less == {"18-40": pytest.approx(8 - 3.5), "41-65": pytest.approx(2 - 6.5), "over 65": pytest.approx(0)}
    assert "abnormal" not in groups["18-40"]["counts"]["lvef"]


def test_a_group_of_one_class_has_counts_and_no_number(few):
    scored = config("sex")
    evaluation = made(scored, {"sex": ["male" if label else "female" for label in LABEL[:8]] + ["other", "other"]})
    enter(evaluation, scored, {"discovr": [said(SCORE)]})
    subgroups.add(evaluation, scored)
    groups = evaluation.results["subgroups"]["sex"]["groups"]
    assert groups["female"]["counts"]["probe"] == {"rows": 4, "patients": 4, "abnormal": 0}
    assert groups["male"]["left_out"] == groups["female"]["left_out"] == {"probe": "one class only"}
    assert groups["male"]["encoders"] == groups["male"]["less_others"] == {}
    assert groups["other"]["encoders"]["discovr"]["probe/auroc"]["value"] == 0


def test_a_group_of_few_patients_has_counts_and_no_number():
    scored = config("image_quality", "sex")
    evaluation = made(scored, {"image_quality": QUALITY, "sex": SEX})
    enter(evaluation, scored, {"discovr": [said(SCORE)]})
    subgroups.add(evaluation, scored)
    groups = evaluation.results["subgroups"]["image_quality"]["groups"]
    assert groups["poor"]["left_out"] == {"probe": "4 patients, fewer than 10"}
    assert groups["poor"]["counts"]["probe"] == {"rows": 4, "patients": 4}  # not how many are ill
    assert groups["good"]["encoders"] == {} and list(evaluation.results["subgroups"]) == ["image_quality", "sex"]


def test_rows_do_not_make_up_for_patients():
    """Twelve frames of six patients are six."""
    scored = config("image_quality")
    evaluation = made(scored, {"image_quality": QUALITY}, names=("discovr",))
    frames(evaluation, scored)
    good = evaluation.results["subgroups"]["image_quality"]["groups"]["good"]
    assert good["counts"]["segmentation"]["rows"] == 12 and good["encoders"] == {}
    assert good["left_out"] == {"segmentation": "6 patients, fewer than 10"}


def test_frames_are_of_their_video_s_group(few):
    scored = config("image_quality")
    evaluation = made(scored, {"image_quality": QUALITY}, names=("discovr",))
    dice = frames(evaluation, scored)
    poor = evaluation.results["subgroups"]["image_quality"]["groups"]["poor"]
    assert poor["counts"] == {"segmentation": {"rows": 8, "patients": 4}}
    assert poor["encoders"]["discovr"]["segmentation/dice"]["value"] == pytest.approx(dice[12:].mean())
    assert poor["encoders"]["discovr"]["segmentation/dice_ed"]["value"] == pytest.approx(dice[12::2].mean())
    difference = poor["less_others"]["discovr"]["segmentation/dice"]
    assert difference["value"] == pytest.approx(dice[12:].mean() - dice[:12].mean())
    assert 0 < difference["low"] < difference["value"] < difference["high"]


def test_trainings_of_a_head_are_resampled_as_elsewhere(few):
    scored = config("view")
    evaluation = made(scored, {"view": ["A4C"] * 10})
    trainings = [
        interface.Predictions(None, LABEL + error, head_seed=training)
        for of_seed in ((1.0, 2.0, 6.0), (10.0, 20.0, 60.0))
        for training, error in enumerate(of_seed)
    ]
    mae = {"mae": regression.METRICS["mae"]}
    enter(evaluation, scored, {"discovr": trainings, "random": trainings[:3]}, LABEL, "ef", "regression", mae)
    subgroups.add(evaluation, scored)
    (group,) = evaluation.results["subgroups"]["view"]["groups"].values()
    assert group["encoders"] == evaluation.results["encoders"]
    assert group["encoders"]["discovr"]["probe/mae"]["low"] < group["encoders"]["discovr"]["probe/mae"]["high"]


def test_what_no_record_knows_is_skipped_and_the_rest_goes_on(few):
    scored = config("sex", "scanner")
    evaluation = made(scored)
    enter(evaluation, scored, {"discovr": [said(SCORE)]})
    subgroups.add(evaluation, scored)
    assert list(evaluation.results["subgroups"]) == ["sex"]
    (skipped,) = evaluation.results["skipped"]
    assert skipped["evaluator"] == "subgroups by scanner" and skipped["set_up"]
    assert skipped["reason"].startswith("the records know scanner of no test video, only sex;")


def test_classes_of_an_archive_s_own_table_are_groups_too(few):
    """They are targets besides; a video with several labels is in several groups."""
    scored = config("finding", "sex")
    evaluation = made(scored)
    findings = [["effusion"]] * 4 + [["effusion", "thrombus"]] * 4 + [[]] * 2
    evaluation.fields["test"]["classes"] = np.array([class_labels.encode({"finding": each}) for each in findings])
    enter(evaluation, scored, {"discovr": [said(SCORE)]})
    subgroups.add(evaluation, scored)
    groups = evaluation.results["subgroups"]["finding"]["groups"]
    assert {name: group["videos"] for name, group in groups.items()} == {"effusion": 8, "thrombus": 4}
    none = video_metrics.auroc(LABEL[8:], SCORE[8:], np.ones((1, 2)))[0]
    eight = video_metrics.auroc(LABEL[:8], SCORE[:8], np.ones((1, 8)))[0]
    assert groups["effusion"]["less_others"]["discovr"]["probe/auroc"]["value"] == pytest.approx(eight - none)
    assert list(evaluation.results["subgroups"]["sex"]["groups"]) == ["female", "male"]


def test_results_without_the_key_stay_as_they_are(few):
    scored = config("sex")
    evaluation = made(scored)
    enter(evaluation, scored, {"discovr": [said(SCORE)]})
    before, rows = copy.deepcopy(evaluation.results), list(evaluation.predictions)
    subgroups.add(evaluation, config())
    assert evaluation.results == before
    subgroups.add(evaluation, scored)
    assert {key: value for key, value in evaluation.results.items() if key != "subgroups"} == before
    assert list(evaluation.predictions) == rows
    assert "video" not in json.dumps(results_io.plain(evaluation.results["subgroups"])).replace('"videos"', "")


def test_a_second_evaluation_with_the_key_fits_nothing(tmp_path, monkeypatch):
    """All that pooled features are scored by: groups of everybody have the metrics of the whole, all else is equal."""
    fields = evaluation_case.make_fields({"train": 60, "val": 40, "test": 40}, lambda row: row // 2, 1)
    sex = ["female", "male"] * 10
    for columns in fields.values():
        rows = range(len(columns["id"]))
        texts = [class_labels.encode({"sex": sex[row // 2 % 20], "view": "AP"[row % 2]}) for row in rows]
        columns |= {"classes": np.array(texts)}
        columns |= {each.field: each.values["all"] for each in class_labels.decode({"all": texts})}
    rng = np.random.default_rng(0)

    def features():
        return {
            split: {"cls": np.c_[columns["ef"], rng.normal(size=(len(columns["ef"]), 3))]}
            for split, columns in fields.items()
        }

    encoders = {"discovr": [features()], "random": [features(), features()]}
    evaluators = {
        "knn": {}, "anomaly": {}, "probe": {}, "lvef": {"type": "regression", "field": "ef"}, "classes": {},
        "labels": {"fractions": (0.5, 1.0), "draws": 2}, "retrieval": {},
    }  # fmt: skip
    settings = {"dataset": None, "readouts": ("cls",), "resamples": 30, "search_rows": 0, "evaluators": evaluators}
    data = {"abnormal_rule": None, "dataset": "echonet_dynamic"}
    fitted, fit = [], runner._run_readout
    monkeypatch.setattr(runner, "_run_readout", lambda job, *rest: fitted.append(job.part.name) or fit(job, *rest))

    def run(*names):
        scored = ConfigDict({"seed": 0, "data": data, "eval": settings | {"subgroups": names}})
        made = runner.evaluate_features(encoders, fields, scored, store=prediction_cache.Store(tmp_path))
        subgroups.add(made, scored)
        return made

    first = run()
    assert fitted and "subgroups" not in first.results
    fitted.clear()
    second = run("sex", "view")
    found = second.results.pop("subgroups")
    del first.results["settings"], second.results["settings"]
    assert fitted == [] and second.results == first.results and list(second.predictions) == list(first.predictions)
    for group in found["sex"]["groups"].values():
        assert group["patients"] == 10 and group["left_out"] == {"classes_sex": "one class only"}
        there = {key for key in first.results["encoders"]["random"] if not key.startswith("classes_sex/")}
        assert set(group["encoders"]["random"]) == set(group["less_others"]["discovr"]) == there
        assert all(entry["low"] is not None for entry in group["encoders"]["discovr"].values())
    women = np.array([sex[row // 2 % 20] == "female" for row in range(40)])
    rows = [row for row in second.predictions if row["family"] == "lvef" and row["encoder"] == "discovr"]
    error = np.abs([row["prediction"] - row["target"] for row in rows if row["output"] == ""])
    value = found["sex"]["groups"]["female"]["encoders"]["discovr"]["lvef/mae"]["value"]
    assert value == pytest.approx(error[women].mean())
