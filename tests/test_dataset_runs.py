"""Every shipped config, shrunk, on a phantom in its dataset's layout: records, training, evaluation; and a mixture."""

import json

import numpy as np
import pytest

from discovr_jax import prepare, train
from discovr_jax.data import feed
from discovr_jax.evaluation import evaluate
from discovr_jax.evaluation.report import report
from discovr_jax.parallel import mesh as mesh_lib
from tests import run_case

PHANTOM = {"data.simulate.train": 2, "data.simulate.val": 1, "data.simulate.test": 1}  # patients
RUN = dict.fromkeys(PHANTOM, 0) | {
    "duration": "3 steps",
    "log.every": "1 steps",
    "checkpoint.every": "2 steps",
    "data.train_filter": "all",  # of so few simulated hearts perhaps none is normal
    "eval.readouts": ("cls",),
}
# config: (dataset, evaluators that measure, rule)
MEASURED = {
    "adult": ("echonet_dynamic", {"lvef"}, "ef < 50"),
    "pediatric": ("echonet_pediatric", {"lvef"}, "ef < 50"),
    "lvh": ("echonet_lvh", {"ivsd", "lvidd", "lvpwd"}, "wall_cm >= 1.3"),
    "rvenet": ("rvenet", {"rvef"}, "rvef <= 45"),
    "camus": ("camus", {"lvef"}, "ef < 50"),
    "fetal": ("echo_folder", {"lvef"}, "source_label"),
}
# What the files of a dataset say of the patient and the picture.
DESCRIBED = {
    "camus": ("sex", "age_group", "image_quality"),
    "rvenet": ("sex", "age_group", "image_quality"),
    "pediatric": ("sex", "age_group"),
}


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    """Runs take the first of the eight devices and compile once; nothing is drawn."""
    folder = run_case.session_folder(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patch, run_case.compiled_programs(folder):
        patch.setattr(mesh_lib, "make_mesh", run_case.one_device)
        patch.setattr(evaluate.samples, "of_clips", lambda *_: {"clips": []})
        patch.setattr(report, "write_report", lambda *_, **__: "no report")
        run_case.traced_once(patch)
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Records of EchoNet-Dynamic's phantom, which other tests use too; the other datasets join them."""
    return run_case.simulated(run_case.session_folder(tmp_path_factory))


# CAMUS has masks; the mixture below has two more. The others differ less, and a run of each takes half a minute.
@pytest.mark.long  # a minute per dataset
@pytest.mark.parametrize("name", MEASURED)
def test_records_training_and_evaluation(name, data_dir, tmp_path):
    dataset, measurements, rule = MEASURED[name]
    if name != "adult":
        prepare.ensure_records(run_case.shrunk(name, data_dir, PHANTOM))
    config = run_case.shrunk(name, data_dir, RUN | {"eval.subgroups": DESCRIBED.get(name, ())})
    summary = train.train_and_evaluate(config, str(tmp_path), evaluate.evaluate_state)
    rows = run_case.rows(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 3]
    assert all(np.isfinite(row["loss/total"]) and row["skipped"] == 0 for row in rows[:-1])
    results = summary.results
    assert (results["dataset"], results["label_rule"]) == (dataset, rule)
    assert results["readouts"].keys() >= measurements and results["n_test"] >= 1
    for family in measurements:
        wanted = {f"{family}/mae", f"{family}/rmse"}
        assert all(np.isfinite(results["encoders"]["discovr"][metric]["value"]) for metric in wanted)
    for skip in results["skipped"]:
        family = skip["evaluator"].partition("_")[0]
        off = ("finetune", "reconstruction", "robustness", "pca")
        assert family in ("knn", "probe", "anomaly", "labels", "retrieval", "transfer", "attentive", "mlp", *off), skip
        reasons = ("one class only: ", "no normal training videos: ", "one value only: ", "no other dataset ", "off ")
        assert skip["reason"].startswith(reasons), skip
    groups = {each: list(found["groups"].values()) for each, found in results.get("subgroups", {}).items()}
    assert tuple(groups) == DESCRIBED.get(name, ())
    for found in groups.values():
        assert sum(each["videos"] for each in found) == results["n_test"]
        assert all(each["left_out"].keys() >= measurements and not each["encoders"] for each in found)  # of one patient
    assert {part for part in results["readouts"] if part.startswith("classes_")} <= {"classes_view"}
    folder = tmp_path / "eval" / "3" / (dataset if config.eval.dataset else "")
    assert json.loads((folder / "results.json").read_text())["dataset"] == dataset
    assert json.loads((tmp_path / "config.json").read_text())["data"]["abnormal_rule"] == rule


@pytest.fixture(scope="module")
def mixed(data_dir):
    """`mixed(**overrides)`: the config of three datasets, shrunk, on the records of the tests above."""

    def make(**overrides):
        changes = {key.replace("__", "."): value for key, value in overrides.items()}
        return run_case.shrunk("multi", data_dir, RUN | changes)

    for name in ("pediatric", "rvenet"):
        prepare.ensure_records(run_case.shrunk(name, data_dir, PHANTOM))
    return make


@pytest.mark.long  # a mixture cut short, below, trains too
def test_a_mixture_trains_and_any_dataset_is_scored(mixed, tmp_path):
    config = mixed()
    summary = train.train_and_evaluate(config, str(tmp_path), evaluate.evaluate_state)
    assert summary.results["dataset"] == "echonet_dynamic" and "lvef/mae" in summary.results["encoders"]["discovr"]
    absent = {"eval__dataset": "rvenet", "eval__evaluators__transfer__source_dataset": "camus/absent"}
    other = evaluate.evaluate_workdir(mixed(**absent), tmp_path)
    assert other["dataset"] == "rvenet" and "rvef/mae" in other["encoders"]["discovr"]
    reasons = {skip["evaluator"]: skip["reason"] for skip in other["skipped"]}
    assert reasons["lvef"].startswith("no labels: ef unknown for all ")
    assert "prepare camus" in reasons["transfer_probe"]
    found = [json.loads((tmp_path / path / "results.json").read_text())["dataset"] for path in (
        "eval/3/echonet_dynamic", "eval/3/rvenet", ""
    )]  # fmt: skip
    assert found == ["echonet_dynamic", "rvenet", "rvenet"]
    transfer = {"eval__dataset": "echonet_pediatric", "eval__evaluators__transfer__source_dataset": "echonet_dynamic"}
    view = evaluate.evaluate_workdir(mixed(**transfer), tmp_path)
    assert view["dataset"] == "echonet_pediatric" and view["encoders"].keys() == {*other["encoders"], "mean_mask"}
    assert "transfer/ef_mae" in view["encoders"]["discovr"] and view["videos"]["transfer_ef"]["train"] == 10


def test_a_mixture_cut_short_resumes_and_ends_as_one(mixed, tmp_path, monkeypatch):
    def fail():
        raise OSError("the disk is gone")

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train.train_and_evaluate(mixed(), str(whole)).finished
    with monkeypatch.context() as patch:
        patch.setattr(feed, "device_batches", run_case.cut_short(2, fail))
        with pytest.raises(OSError, match="the disk is gone"):
            train.train_and_evaluate(mixed(), str(cut))
    assert train.train_and_evaluate(mixed(), str(cut)).finished
    assert run_case.rows(cut) == run_case.rows(whole)


def test_a_mixture_names_the_dataset_to_score_before_it_trains(mixed, tmp_path):
    with pytest.raises(ValueError, match="name the dataset to score in eval.dataset"):
        train.train_and_evaluate(mixed(eval__dataset=None), str(tmp_path))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_missing_records_are_named_with_their_command(mixed, tmp_path):
    config = mixed(data__data_dir=str(tmp_path / "nowhere"))
    with pytest.raises(prepare.records.RecordsError, match="prepare echonet_dynamic "):
        train.train_and_evaluate(config, str(tmp_path / "run"))
