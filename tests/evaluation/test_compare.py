"""Runs compared: metrics and paired intervals as of the evaluation itself, refusals, and the files."""

import csv
import functools
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from discovr_jax.evaluation import compare, runner
from discovr_jax.evaluation.metrics import bootstrap
from discovr_jax.evaluation.metrics import videos as video_metrics
from discovr_jax.runs.workdir import WorkdirError
from tests import evaluation_case

ROOT = pathlib.Path(__file__).parents[2]
COUNTS = {"train": 40, "val": 30, "test": 50}
FIT = {"steps": 5, "epochs": 0, "batch": 20, "learning_rates": (1e-2,), "weight_decays": (0.1,), "seeds": 3}
EVALUATORS = {
    "knn": {"k": 5},
    "anomaly": {"k": 5},
    "probe": {},
    "lvef": {"type": "regression", "field": "ef"},
    "retrieval": {"field": "ef"},
    "labels": {"fractions": (0.2, 1.0), "draws": 2, "field": "ef"},
    "mlp": {"fields": ("label", "ef"), "widths": (4,), "components": 4, "fit": FIT},
}
FEW = {name: EVALUATORS[name] for name in ("knn", "lvef")}


def _config(dataset="echonet_dynamic", rule=None, evaluators=EVALUATORS):
    settings = {"dataset": None, "readouts": ("cls",), "resamples": 1000, "search_rows": 0, "evaluators": evaluators}
    return ConfigDict({"seed": 0, "data": {"abnormal_rule": rule, "dataset": dataset}, "eval": settings})


@functools.cache
def _fields():
    fields = evaluation_case.make_fields(COUNTS, lambda row: row // 2 * 7 % 25)
    for columns in fields.values():
        columns["rvef"] = columns["ef"] + 1
    return fields


def _write(folder: pathlib.Path, noise, seed, fields=None, config=None, simulated=0, **extra):
    """A workdir with an evaluation in it: features that know the EF up to `noise`."""
    fields, rng = fields or _fields(), np.random.default_rng(seed)

    def features():
        return {
            split: {
                name: (columns["ef"][:, None] - 50) / 10 + noise * rng.normal(size=(len(columns["ef"]), 6))
                for name in ("cls", "mean")
            }
            for split, columns in fields.items()
        }

    evaluation = runner.evaluate_features(
        {"discovr": [features()], "random": [features()]}, fields, config or _config()
    )
    extra = {"manifest_sha256": "aa"} | extra
    runner.write(evaluation, folder, 7, **extra)
    data = {"simulate": {"train": simulated, "val": 0, "test": 0, "seed": 0}}
    (folder / "config.json").write_text(json.dumps({"data": data}))
    return evaluation


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: (workdir, Evaluation)}: a good encoder, two poor ones of one recipe."""
    root = tmp_path_factory.mktemp("runs")
    made = (("good", 0.5, 1), ("poor0", 4, 2), ("poor1", 4, 3))
    return {name: (str(root / name), _write(root / name, noise, seed)) for name, noise, seed in made}


def test_metrics_are_those_of_the_evaluations_and_pairs_share_resamples(runs, tmp_path):
    found = compare.compare_runs([runs["good"][0], runs["poor0"][0]], tmp_path)
    for name in ("good", "poor0"):
        assert found["columns"][name] == runs[name][1].results["encoders"]["discovr"]
    assert found["columns"]["good: random"] == runs["good"][1].results["encoders"]["random"]
    pair = found["paired"]["poor0 - good"]
    assert pair["lvef/mae"]["low"] > 0 and pair["knn/auroc"]["high"] < 0
    assert {"labels/auroc_20", "labels/mae_100", "retrieval/difference", "anomaly/sensitivity_at_90"} <= pair.keys()
    weights = bootstrap.patient_weights(_fields()["test"]["patient_id"], 1000, 0)
    values = []
    for name in ("poor0", "good"):
        rows = [r for r in runs[name][1].predictions if (r["encoder"], r["family"]) == ("discovr", "lvef")]
        target, made = (np.array([row[key] for row in rows]) for key in ("target", "prediction"))
        values.append(bootstrap.distribution(video_metrics.mae, target, made, weights))
    assert pair["lvef/mae"] == bootstrap.interval(values[0] - values[1], 25)


def test_seeds_of_a_recipe_are_averaged_in_one_column(runs, tmp_path):
    both = f"poor={runs['poor0'][0]}+{runs['poor1'][0]}"
    found = compare.compare_runs([both, f"good={runs['good'][0]}"], tmp_path)
    each = [runs[name][1].results["encoders"]["discovr"]["lvef/mae"]["value"] for name in ("poor0", "poor1")]
    assert found["columns"]["poor"]["lvef/mae"]["value"] == pytest.approx(np.mean(each))
    assert list(found["paired"]) == ["good - poor"] and found["paired"]["good - poor"]["lvef/mae"]["high"] < 0


def test_another_encoder_of_a_run_is_a_column(runs, tmp_path):
    poor = [runs[name] for name in ("poor0", "poor1")]
    items = ["untrained=" + "+".join(f"{folder}:random" for folder, _ in poor), "poor=" + "+".join(f for f, _ in poor)]
    found = compare.compare_runs(items, tmp_path)
    for key in ("lvef/mae", "probe/auroc", "labels/auroc_20"):
        each = [made.results["encoders"]["random"][key]["value"] for _, made in poor]
        assert found["columns"]["untrained"][key]["value"] == pytest.approx(np.mean(each))
        pairs = [made.results["paired"]["discovr-random"][key]["value"] for _, made in poor]
        assert found["paired"]["poor - untrained"][key]["value"] == pytest.approx(np.mean(pairs))
    assert list(found["columns"]) == ["untrained", "poor"]
    assert "Training steps: poor0 7, poor1 7." in found["notes"]
    with pytest.raises(WorkdirError, match="has no encoder 'rondom'; there are discovr, random"):
        compare.compare_runs([f"{poor[0][0]}:rondom", poor[1][0]], tmp_path)
    folder, _ = runs["good"]
    alone = compare.compare_runs([f"one={folder}:random", f"two={folder}"], tmp_path)
    assert alone["paired"]["two - one"]["lvef/mae"] == runs["good"][1].results["paired"]["discovr-random"]["lvef/mae"]


def test_files_hold_the_table_with_the_paper_beside(runs, tmp_path):
    found = compare.compare_runs([runs["good"][0], runs["poor0"][0]], tmp_path)
    text = (tmp_path / "compare.md").read_text()
    head, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *lines)]
    assert cells[0] == ["metric", "good", "poor0", "good: random", "poor0 - good", "paper"]
    (row,) = [line for line in cells if line[0] == "kNN: macro F1"]
    entry = found["columns"]["good"]["knn/macro_f1"]
    assert row[1] == f"{entry['value']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})" and row[-1] == "0.6145"
    assert "50 test videos of 25 patients" in text and "ef < 50" in text and "not against" in text
    with (tmp_path / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (line,) = [r for r in rows if (r["kind"], r["name"], r["metric"]) == ("difference", "poor0 - good", "lvef/mae")]
    assert float(line["value"]) == found["paired"]["poor0 - good"]["lvef/mae"]["value"]
    assert ["paper", "paper", "lvef/mae", "7.79", "", ""] in [list(row.values()) for row in rows]
    page = (tmp_path / "compare.html").read_text()
    assert page.startswith("<!doctype html>") and "poor0 - good" in page and "http" not in page


def test_simulated_videos_say_so(runs, tmp_path):
    _write(tmp_path / "a", 1, 5, config=_config(evaluators=FEW), simulated=10)
    found = compare.compare_runs([str(tmp_path / "a"), runs["good"][0]], tmp_path)
    assert any("simulated" in note for note in found["notes"])


def test_evaluators_that_only_one_run_has_are_named(runs, tmp_path):
    _write(tmp_path / "few", 1, 5, config=_config(evaluators={"knn": {"k": 5}}))
    found = compare.compare_runs([runs["good"][0], str(tmp_path / "few")], tmp_path)
    assert {name.split("/")[0] for name in found["columns"]["few"]} == {"knn"}
    assert any("anomaly" in note and "lvef" in note for note in found["notes"])


def test_other_settings_are_named(runs, tmp_path):
    evaluators = FEW | {"knn": {"k": 40}}
    _write(tmp_path / "wide", 1, 5, config=_config(evaluators=evaluators))
    found = compare.compare_runs([runs["good"][0], str(tmp_path / "wide")], tmp_path)
    (note,) = [note for note in found["notes"] if note.startswith("Other evaluation settings")]
    assert note == f"Other evaluation settings in {tmp_path / 'wide'}: eval.evaluators.knn.k 40, in the first 5."


def test_metrics_that_have_changed_their_meaning_are_named(runs, tmp_path):
    _write(tmp_path / "old", 1, 5, config=_config(evaluators=FEW))
    found = compare.compare_runs([runs["good"][0], str(tmp_path / "old")], tmp_path)
    assert not any("Score both again" in note for note in found["notes"])
    for path in (tmp_path / "old").rglob("results.json"):
        results = json.loads(path.read_text())
        for entry in results["readouts"].values():
            del entry["head_seeds"]  # as an earlier version wrote it
        path.write_text(json.dumps(results))
    found = compare.compare_runs([runs["good"][0], str(tmp_path / "old")], tmp_path)
    (note,) = [note for note in found["notes"] if "Score both again" in note]
    assert note.startswith("knn: metrics named swept choose among more spaces")


def _other_test(count):
    fields = {split: dict(columns) for split, columns in _fields().items()}
    fields["test"] = {name: column[:count] for name, column in fields["test"].items()}
    return fields


def _other_targets():
    fields = _other_test(50)
    fields["test"]["ef"] = fields["test"]["ef"] + np.float32(0.5)
    return fields


@pytest.mark.parametrize(
    "change,words",
    [
        ({"config": _config(rule="ef < 40", evaluators=FEW)}, r"rule for abnormal videos \(ef < 50 and ef < 40\)"),
        ({"config": _config(dataset="camus", evaluators=FEW)}, r"dataset \(echonet_dynamic and camus\)"),
        ({"manifest_sha256": "bb"}, r"records or splits"),
        ({"fields": _other_test(46)}, r"other test videos \(4 only in the first, 0 only in the second"),
        ({"fields": _other_targets()}, r"lvef have other targets or patients"),
        ({"config": _config(evaluators={"lvef": {"type": "regression", "field": "rvef"}})}, "of rvef"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, tmp_path, change, words):
    _write(tmp_path / "other", 1, 5, **{"config": _config(evaluators=FEW)} | change)
    with pytest.raises(WorkdirError, match=words):
        compare.compare_runs([runs["good"][0], str(tmp_path / "other")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_workdirs_without_an_evaluation_say_what_to_do(runs, tmp_path):
    good = runs["good"][0]
    with pytest.raises(WorkdirError, match="needs two or more runs"):
        compare.compare_runs([good], tmp_path)
    with pytest.raises(WorkdirError, match="twice"):
        compare.compare_runs([f"a={good}", f"a={good}"], tmp_path)
    with pytest.raises(WorkdirError, match="holds no evaluation .*--mode=eval"):
        compare.compare_runs([good, str(tmp_path / "nothing")], tmp_path)
    _write(tmp_path / "other", 1, 5, config=_config(evaluators=FEW))
    results = tmp_path / "other" / "results.json"
    whole = results.read_text()
    damaged = {"{": "damaged", "[]": "damaged", '{"step": 7}': "damaged", '{"schema_version": 9}': "version 9"}
    for text, words in damaged.items():
        results.write_text(text)
        with pytest.raises(WorkdirError, match=words):
            compare.compare_runs([good, str(tmp_path / "other")], tmp_path)
    results.write_text(whole.replace('"step": 7', '"step": 8'))
    with pytest.raises(WorkdirError, match="no folder below"):
        compare.compare_runs([good, str(tmp_path / "other")], tmp_path)
    results.write_text(whole)
    predictions = tmp_path / "other" / "eval" / "7" / "predictions.csv"
    lines = predictions.read_text().splitlines(keepends=True)
    (gone,) = [number for number, line in enumerate(lines) if line.startswith("test9,discovr,knn,,")]
    for text, words in (
        ("id,encoder\nx,y\n", "other columns"),
        ("".join(lines)[:-9], "other columns"),
        ("".join(lines[:gone] + lines[gone + 1 :]), "the same videos for every seed of knn"),
        ("".join(line.rpartition(",")[0] + ",p\n" for line in lines).replace(",p\n", ",patient\n", 1), "is damaged"),
    ):
        predictions.write_text(text)
        with pytest.raises(WorkdirError, match=words):
            compare.compare_runs([good, str(tmp_path / "other")], tmp_path)


def test_the_command_needs_no_config(runs, tmp_path):
    command = [sys.executable, "-m", "discovr_jax.main", "--mode=compare", f"--workdir={tmp_path / 'out'}"]
    workdirs = f"--workdirs={runs['good'][0]},{runs['poor1'][0]}"
    done = subprocess.run([*command, workdirs], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "| Ejection fraction: mean absolute error (points) " in done.stderr
    assert (tmp_path / "out" / "compare.html").exists()
