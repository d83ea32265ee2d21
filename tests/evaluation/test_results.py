"""From predictions to entries: further outputs, seeds, patients with several videos, encoders that could not run."""

import dataclasses
import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from discovr_jax.evaluation import interface, results_io, runner
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.metrics import bootstrap
from discovr_jax.evaluation.metrics import videos as video_metrics

CONFIG = ConfigDict(
    {
        "seed": 3,
        "data": {"abnormal_rule": "ef < 50", "dataset": "echonet_dynamic"},
        "eval": {"dataset": None, "resamples": 80},
    }
)
PATIENTS = np.array(["b", "a", "b", "c", "a", "d"])
LABEL = np.array([0.0, 1, 0, 1, 0, 0])  # the videos of patient a disagree
FIELDS = {"test": {"id": np.array(list("uvwxyz")), "patient_id": PATIENTS}}
SCORES = {"auroc": video_metrics.auroc, "mae": video_metrics.mae} | video_metrics.means("dice")


def _evaluation(names=("discovr", "random", "pixels")):
    return results_lib.start({name: [{}] * (2 if name == "random" else 1) for name in names}, FIELDS, CONFIG)


def _made(seed, **outputs):
    return interface.Predictions(None, np.random.default_rng(seed).random(6), outputs=outputs, report={"seed": seed})


def _add(evaluation, made, target=LABEL, field="label", scores=SCORES):
    rows = results_lib.make_rows(FIELDS["test"]["id"], PATIENTS, target, CONFIG)
    readouts = dict.fromkeys(made, "tokens")
    results_lib.add(evaluation, "head", rows, scores, made, kind="probe", field=field, readouts=readouts, chosen_by="-")
    return rows


def test_figures_pairs_and_seeds_by_hand():
    evaluation = _evaluation()
    dice = np.array([0.5, np.nan, 0.7, 0.9, np.nan, 0.1])
    made = {"discovr": [_made(0, dice=dice)], "random": [_made(1, dice=dice / 2), _made(2, dice=dice / 4)]}
    rows = _add(evaluation, made)
    found = evaluation.results["encoders"]
    assert found["discovr"]["head/dice"]["value"] == pytest.approx(np.nanmean(dice))
    assert found["random"]["head/dice"]["value"] == pytest.approx(np.nanmean(dice) * 0.375)
    assert found["pixels"] == {} and evaluation.results["paired"]["discovr-pixels"] == {}
    each = [bootstrap.distribution(video_metrics.auroc, LABEL, one.test, rows.weights) for one in made["random"]]
    assert found["random"]["head/auroc"] == bootstrap.interval(np.mean(each, 0), 4)
    own = bootstrap.distribution(video_metrics.auroc, LABEL, made["discovr"][0].test, rows.weights)
    pair = evaluation.results["paired"]["discovr-random"]["head/auroc"]
    assert pair == bootstrap.interval(own - np.mean(each, 0), 4)
    entry = evaluation.results["readouts"]["head"]
    assert entry["encoders"]["random"]["report"] == {"seed": 1} and entry["type"] == "probe"


def test_trainings_of_a_head_are_resampled_and_those_of_an_encoder_averaged():
    """Two encoder seeds with a head of three trainings each; constant errors, so that only trainings differ."""
    errors = np.array([[1.0, 2.0, 6.0], [10.0, 20.0, 60.0]])
    made = [
        interface.Predictions(None, LABEL + error, head_seed=training)
        for of_seed in errors
        for training, error in enumerate(of_seed)
    ]
    evaluation = _evaluation()
    rows = _add(evaluation, {"discovr": made, "random": made[:3]}, scores={"mae": video_metrics.mae})
    many = dataclasses.replace(rows, weights=np.ones((20_000, 6), int))
    values = results_lib.metrics_of(many, {"mae": video_metrics.mae}, made)["mae"]
    means = errors.mean(0)  # of the encoder's seeds
    assert values[0] == pytest.approx(means.mean())
    assert set(values[1:].round(3)) == {round((a + b) / 2, 3) for a in means for b in means}  # two of three are drawn
    assert values[1:].var() == pytest.approx(means.var(ddof=1) / 3, rel=0.03)
    found = evaluation.results["encoders"]
    assert found["discovr"]["head/mae"]["low"] < found["discovr"]["head/mae"]["value"] == pytest.approx(means.mean())
    assert evaluation.results["readouts"]["head"]["head_seeds"] == 3
    # Both encoders get the same draws: here one has exactly 5.5 times the error of the other in each.
    difference = evaluation.results["paired"]["discovr-random"]["head/mae"]
    assert difference["high"] == pytest.approx(4.5 * found["random"]["head/mae"]["high"])
    assert evaluation.results["by_patient"]["encoders"]["discovr"]["head/mae"]["low"] < means.mean()


def test_a_metric_of_an_output_that_is_not_there_is_left_out():
    evaluation = _evaluation()
    _add(evaluation, {"discovr": [_made(0)]})
    assert evaluation.results["encoders"]["discovr"].keys() == {"head/auroc", "head/mae"}


def test_rows_without_a_value_never_count():
    values = np.array([1.0, np.nan, 3.0])
    weights = np.array([[1, 5, 1], [2, 1, 0], [0, 4, 0]])
    found = video_metrics.mean(None, values, weights)
    assert found[:2].tolist() == [2.0, 1.0] and np.isnan(found[2])


def test_predictions_name_patients_by_number():
    evaluation = _evaluation()
    _add(evaluation, {"discovr": [_made(0, dice=LABEL)]})
    rows = evaluation.predictions
    assert [row["patient"] for row in rows] == 2 * [1, 0, 1, 2, 0, 3]
    assert [row["output"] for row in rows] == 6 * [""] + 6 * ["dice"]
    assert [row["prediction"] for row in rows[6:]] == LABEL.tolist()


def test_by_patient_averages_predictions_and_leaves_out_contrary_labels():
    evaluation = _evaluation()
    made = _made(5)
    rows = _add(evaluation, {"discovr": [made], "random": [_made(6)]})
    found = evaluation.results["by_patient"]
    assert found["patients"] == {"head": 3} and found["labels_disagree"] == {"head": 1}
    mean = np.array([(made.test[0] + made.test[2]) / 2, made.test[3], made.test[5]])  # b, c, d
    own = bootstrap.distribution(video_metrics.auroc, np.array([0.0, 1, 0]), mean, rows.weights[:, [0, 3, 5]])
    assert found["encoders"]["discovr"]["head/auroc"] == bootstrap.interval(own, 3)
    assert found["paired"]["discovr-random"].keys() == {"head/auroc", "head/mae"}
    assert found["encoders"]["pixels"] == {}


def test_by_study_averages_the_clips_of_one_examination(monkeypatch):
    """Patient b has two examinations of the same name as one of a's; intervals stay those over patients."""
    studies = np.array(["s1", "s1", "s2", "s1", "s1", ""])  # patients b a b c a d
    monkeypatch.setitem(FIELDS["test"], "study_id", studies)
    evaluation = _evaluation()
    ef = np.array([50.0, 30, 60, 40, 32, 45])
    made = interface.Predictions(None, ef + [4, 1, -4, 0, 5, 0])
    scores = {"mae": video_metrics.mae}
    rows = _add(evaluation, {"discovr": [made]}, ef, "ef", scores)
    found = evaluation.results["by_study"]
    assert found["studies"] == {"head": 5} and found["labels_disagree"] == {"head": 0}
    error = np.array([4.0, 4, 3, 0, 0])  # b s1, b s2, a, c, d
    own = bootstrap.distribution(video_metrics.mae, np.zeros(5), error, rows.weights[:, [0, 2, 1, 3, 5]])
    assert found["encoders"]["discovr"]["head/mae"] == pytest.approx(bootstrap.interval(own, 4))
    assert evaluation.results["by_patient"]["encoders"]["discovr"]["head/mae"]["value"] == pytest.approx(3 / 4)
    monkeypatch.setitem(FIELDS["test"], "study_id", np.array(list("012345")))
    one_clip_each = _evaluation()
    _add(one_clip_each, {"discovr": [made]}, ef, "ef", scores)
    assert one_clip_each.results["by_study"] == {} and one_clip_each.results["by_patient"]


def test_a_measurement_of_a_patient_is_the_mean_of_his_videos():
    evaluation = _evaluation()
    ef = np.array([50.0, 30, 60, 40, 50, 45])
    made = interface.Predictions(None, ef + [0, 4, 2, 1, 0, 0], outputs={"dice": np.full(6, np.nan)})
    _add(evaluation, {"discovr": [made]}, ef, "ef", {"bias": video_metrics.bias} | video_metrics.means("dice"))
    found = evaluation.results["by_patient"]
    assert found["patients"] == {"head": 4} and found["encoders"]["discovr"]["head/dice"]["value"] is None
    assert found["encoders"]["discovr"]["head/bias"]["value"] == pytest.approx((1 + 2 + 1 + 0) / 4)


def test_one_video_a_patient_needs_no_second_table():
    fields = {"test": {"id": np.array(["u", "v"]), "patient_id": np.array(["", ""])}}
    evaluation = results_lib.start({"discovr": [{}]}, fields, CONFIG)
    rows = results_lib.make_rows(
        fields["test"]["id"], results_lib.patients_of(fields["test"]), np.array([0.0, 1]), CONFIG
    )
    made = {"discovr": [interface.Predictions(None, np.array([0.1, 0.8]))]}
    results_lib.add(
        evaluation, "head", rows, {"auroc": video_metrics.auroc}, made,
        kind="probe", field="label", readouts={"discovr": "cls"}, chosen_by="-",
    )  # fmt: skip
    assert evaluation.results["by_patient"] == {} and evaluation.results["n_test_patients"] == 2


def test_results_are_not_written_without_their_predictions(tmp_path):
    """An error while predictions are saved ends the evaluation: no results stand there that look complete."""
    evaluation = _evaluation()
    _add(evaluation, {"discovr": [_made(0)]})
    (tmp_path / "eval" / "1" / "predictions.csv").mkdir(parents=True)
    with pytest.raises(OSError, match=r"predictions\.csv"):
        runner.write(evaluation, tmp_path, 1)
    assert not [*tmp_path.rglob("results.json")]


def test_an_evaluation_leaves_those_of_other_steps_alone(tmp_path):
    for step in (1, 2):
        evaluation = _evaluation()
        _add(evaluation, {"discovr": [_made(step)]})
        runner.write(evaluation, tmp_path, step)
        if step == 1:
            first = {path: path.read_bytes() for path in (tmp_path / "eval" / "1").iterdir()}
    assert {path.name for path in first} == {"predictions.csv", "results.json"}
    assert all(path.read_bytes() == content for path, content in first.items())
    assert json.loads((tmp_path / "results.json").read_text())["step"] == 2  # the newest stands above


def test_predictions_are_written_row_by_row(tmp_path):
    """Of a million videos they are too many for one text; a file that is not finished leaves nothing behind."""

    def rows(stops):
        for number in range(5000):
            yield dict.fromkeys(results_io.PREDICTION_COLUMNS, number)
        (unfinished,) = tmp_path.iterdir()
        assert unfinished.suffix == ".tmp" and unfinished.stat().st_size > 100_000
        if stops:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results_io.write_csv(tmp_path / "predictions.csv", rows(stops=True))
    assert not [*tmp_path.iterdir()]
    results_io.write_csv(tmp_path / "predictions.csv", rows(stops=False))
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 5001
