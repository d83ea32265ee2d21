"""The runner: results.json, choice of readouts, seeds, pairs, skips; and the whole path from records."""

import csv
import json
import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from discovr_jax.data import records
from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import dry_run, interface, results_io, runner
from discovr_jax.evaluation.evaluators import regression
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.metrics import bootstrap
from discovr_jax.evaluation.metrics import videos as video_metrics
from discovr_jax.evaluation.report import table
from tests import evaluation_case

COUNTS = {"train": 60, "val": 30, "test": 40}
LVEF = {"type": "regression", "field": "ef"}
READOUTS = ("cls", "mean", "all")


def _config(**evaluators):
    settings = {"dataset": None, "readouts": READOUTS, "resamples": 60, "search_rows": 0}
    settings["evaluators"] = evaluators or {"knn": {"k": 5}, "anomaly": {"k": 5}, "probe": {}, "lvef": LVEF}
    settings["cross_validation"] = {"folds": 0, "inner_folds": 3, "repeats": 1, "splits": ("test",)}
    return ConfigDict({"seed": 0, "data": {"abnormal_rule": None, "dataset": "echonet_dynamic"}, "eval": settings})


def _fields(seed=0):
    return evaluation_case.make_fields(COUNTS, lambda row: row // 2, seed)


def _features(fields, good, noise=1.0, seed=0):
    """Readouts of which only `good` knows the EF."""
    rng = np.random.default_rng(seed)
    found = {}
    for split, columns in fields.items():
        found[split] = {name: rng.normal(size=(len(columns["id"]), 6)) for name in ("cls", "mean")}
        if good:
            signal = (columns["ef"] - 50) / 10
            found[split][good] = signal[:, None] * np.linspace(0.5, 1, 6) + noise * rng.normal(size=(len(signal), 6))
    return found


def _encoders(fields):
    pixels = {split: {"pixels": f["mean"]} for split, f in _features(fields, None, seed=9).items()}
    return {
        "discovr": [_features(fields, "mean", noise=0.3)],
        "random": [_features(fields, "cls", noise=n, seed=s) for s, n in ((1, 2.0), (2, 3.0), (3, 4.0))],
        "pixels": [pixels],
    }


@pytest.fixture(scope="module")
def evaluation():
    fields = _fields()
    return runner.evaluate_features(_encoders(fields), fields, _config())


def test_approximate_neighbours_are_said():
    fields, config = _fields(), _config(knn={"k": 5}, anomaly={"k": 5})
    config.eval.search_rows = 30  # of 60 training videos
    results = runner.evaluate_features({"discovr": _encoders(fields)["discovr"]}, fields, config).results
    for name, note in zip(("anomaly", "knn"), results["notes"], strict=True):
        details = results["readouts"][name]["encoders"]["discovr"]["details"][0]
        assert details["search_rows"] == 30 and 0.3 < details["neighbour_recall"] < 1
        assert note["evaluator"] == name and f"hold {details['neighbour_recall']:.1%} of the true ones" in note["note"]


def test_results_have_the_documented_form(evaluation, tmp_path):
    written = runner.write(evaluation, tmp_path, 120, clips_seen=960)
    results = json.loads(text := (tmp_path / "eval" / "120" / "results.json").read_text())
    assert (tmp_path / "results.json").read_text() == text
    assert results == json.loads(json.dumps(written))
    assert results["step"] == 120 and results["n_test"] == 40 and results["clips_seen"] == 960
    assert len(results["commit"]) in (7, 40) and results["n_test_patients"] == 20
    assert set(results["encoders"]) == {"discovr", "random", "pixels"}
    assert set(results["paired"]) == {"discovr-random", "discovr-pixels"}
    wanted = {"knn/macro_f1", "knn/balanced_accuracy", "knn/auroc", "probe/auroc", "probe/average_precision"}
    wanted |= {"lvef/mae", "lvef/rmse", "lvef/r2", "lvef/bias", "anomaly/auroc", "anomaly/auprc"}
    for metrics in (*results["encoders"].values(), *results["paired"].values()):
        assert wanted <= set(metrics)
        for entry in metrics.values():
            assert entry["low"] <= entry["value"] <= entry["high"]
    assert results["skipped"] == [] and results["label_rule"] == "ef < 50"
    assert results["dataset"] == "echonet_dynamic" and results["readouts"]["lvef"]["field"] == "ef"
    assert not list(tmp_path.rglob("*.tmp"))


def test_readout_is_chosen_on_validation_for_each_encoder(evaluation):
    entry = evaluation.results["readouts"]["lvef"]["encoders"]
    assert entry["pixels"]["chosen"] == "pixels"
    assert entry["discovr"]["chosen"] in ("mean", "all") and entry["random"]["chosen"] in ("cls", "all")
    for one in entry.values():  # the smallest validation error, whatever the test split says
        best = min(one["table"], key=lambda name: one["table"][name]["val"])
        assert one["chosen"] == best
    assert set(entry["discovr"]["table"]) == set(READOUTS)
    knn = evaluation.results["readouts"]["knn"]["encoders"]["discovr"]
    assert knn["chosen"] == max(knn["table"], key=lambda name: knn["table"][name]["val"])
    chosen = knn["table"][knn["chosen"]]["test"]["auroc"]
    assert chosen == evaluation.results["encoders"]["discovr"]["knn/auroc"]


def test_no_copies_no_table_of_weights_and_small_blocks_change_nothing(evaluation, monkeypatch):
    for module, name, limit in ((runner, "_LARGE", 0), (bootstrap, "_TABLE", 0), (interface, "_ROWS", 16)):
        monkeypatch.setattr(module, name, limit)
    found = runner.evaluate_features(_encoders(evaluation.fields), evaluation.fields, _config()).results
    for name, metrics in evaluation.results["encoders"].items():
        assert all(found["encoders"][name][n] == pytest.approx(each, abs=1e-9) for n, each in metrics.items()), name


def test_seeds_are_averaged_inside_each_resample(evaluation):
    rows = [r for r in evaluation.predictions if r["encoder"] == "random" and r["family"] == "lvef"]
    patients = evaluation.fields["test"]["patient_id"]
    weights = bootstrap.patient_weights(patients, 60, seed=0)
    each = []
    for seed in range(3):
        target, made = (np.array([r[k] for r in rows if r["seed"] == seed]) for k in ("target", "prediction"))
        each.append(bootstrap.distribution(video_metrics.mae, target, made, weights))
    expected = bootstrap.interval(np.mean(each, 0), 20)
    assert evaluation.results["encoders"]["random"]["lvef/mae"] == pytest.approx(expected)


def test_pairs_share_their_resamples_and_show_the_same_readout(evaluation):
    results = evaluation.results
    pair = results["paired"]["discovr-random"]
    for key in ("lvef/mae", "knn/auroc"):
        first, second = (results["encoders"][name][key]["value"] for name in ("discovr", "random"))
        difference = first - second
        assert pair[key]["value"] == pytest.approx(difference)
    assert pair["lvef/mae"]["high"] < 0  # the good encoder errs less
    same = results["readouts"]["lvef"]["paired_same_readout"]
    assert set(same["discovr-random"]) == set(READOUTS) and same["discovr-pixels"] == {}
    fields = _fields()
    encoders = _encoders(fields)
    encoders["random"] = encoders["discovr"]
    twins = runner.evaluate_features(encoders, fields, _config(lvef=LVEF)).results["paired"]["discovr-random"]
    assert all(entry["low"] == entry["value"] == entry["high"] == 0 for entry in twins.values())


def test_predictions_file(evaluation, tmp_path):
    runner.write(evaluation, tmp_path, 1)
    with open(tmp_path / "eval" / "1" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # Evaluators with their further outputs (of anomaly, kNN and probe), encoders with seeds, videos.
    assert len(rows) == (4 + 2 + 2 + 2) * (1 + 3 + 1) * 40
    assert tuple(rows[0]) == results_io.PREDICTION_COLUMNS
    assert {row["id"] for row in rows} == set(evaluation.fields["test"]["id"])


def test_missing_labels_skip_one_evaluator_and_leave_the_others(tmp_path):
    fields = _fields()
    encoders = _encoders(fields)
    for split in fields:
        fields[split]["ef"] = np.full(COUNTS[split], np.nan, np.float32)
    fields["train"]["label"][:] = 1
    found = runner.evaluate_features(encoders, fields, _config())
    reasons = {skip["evaluator"]: skip["reason"] for skip in found.results["skipped"]}
    assert reasons["lvef"] == "no labels: ef unknown for all 60 videos of split train"
    assert "no normal training videos" in reasons["anomaly"] and "one class only" in reasons["knn"]
    assert found.results["encoders"] == {"discovr": {}, "random": {}, "pixels": {}}
    text = table.metrics_table(runner.write(found, tmp_path, 3))
    assert "skipped lvef/all: no labels: ef unknown" in text
    fields = _fields()
    fields["train"]["ef"][:] = np.nan
    found = runner.evaluate_features(encoders, fields, _config(lvef=LVEF, knn={}))
    assert "knn/auroc" in found.results["encoders"]["discovr"]
    assert [(skip["evaluator"], skip["set_up"]) for skip in found.results["skipped"]] == [("lvef", True)]


def test_videos_without_a_target_are_left_out():
    fields = _fields()
    encoders = _encoders(fields)
    fields["test"]["ef"][:10] = np.nan
    found = runner.evaluate_features(encoders, fields, _config(lvef=LVEF))
    assert found.results["videos"]["lvef"] == {"train": 60, "val": 30, "test": 30}
    assert {r["id"] for r in found.predictions} == set(fields["test"]["id"][10:])


def test_features_that_are_not_finite_drop_that_readout_only():
    fields = _fields()
    encoders = _encoders(fields)
    encoders["discovr"][0]["test"]["cls"][4, 2] = np.nan
    for seed in encoders["random"]:
        for readout in seed["train"].values():
            readout[0] = np.inf
    found = runner.evaluate_features(encoders, fields, _config(knn={"k": 3})).results
    dropped = {(skip["encoder"], skip["readout"]) for skip in found["skipped"]}
    assert ("discovr", "cls") in dropped and ("discovr", "mean") not in dropped
    assert {("random", name) for name in READOUTS} <= dropped
    assert "1 of 40 videos of split test" in found["skipped"][0]["reason"]
    assert "knn/auroc" in found["encoders"]["discovr"] and found["encoders"]["random"] == {}
    assert found["paired"]["discovr-random"] == {} and "knn/auroc" in found["paired"]["discovr-pixels"]


def test_one_patient_has_no_interval(tmp_path):
    fields = _fields()
    fields["test"]["patient_id"] = np.full(COUNTS["test"], "only")
    found = runner.evaluate_features(_encoders(fields), fields, _config(lvef=LVEF))
    entry = found.results["encoders"]["discovr"]["lvef/mae"]
    assert entry["value"] > 0 and entry["low"] is None and "one patient" in entry["note"]
    assert "(no interval)" in table.metrics_table(runner.write(found, tmp_path, 0))
    fields["test"]["patient_id"] = np.full(COUNTS["test"], "")  # unknown: every video for itself
    found = runner.evaluate_features(_encoders(fields), fields, _config(lvef=LVEF))
    assert found.results["n_test_patients"] == 40


def test_metrics_that_do_not_exist_become_null(tmp_path):
    fields = _fields()
    fields["test"]["ef"] = np.full(COUNTS["test"], 55.0, np.float32)
    found = runner.evaluate_features(_encoders(fields), fields, _config(lvef=LVEF))
    runner.write(found, tmp_path, 0)
    entry = json.loads((tmp_path / "results.json").read_text())["encoders"]["discovr"]["lvef/r2"]
    assert entry["value"] is None and entry["low"] is None


def test_evaluators_by_type_and_wrong_settings():
    fields = _fields()
    encoders = _encoders(fields)
    found = runner.evaluate_features(encoders, fields, _config(knn={"k": 5}, knn20={"type": "knn", "k": 20}))
    assert {"knn/auroc", "knn20/auroc"} <= set(found.results["encoders"]["discovr"])
    details = found.results["readouts"]["knn20"]["encoders"]["discovr"]["table"]["cls"]["details"]
    assert details[0]["k"] == 20 and details[0]["temperature"] == 0.07
    with pytest.raises(ValueError, match="eval.evaluators.knm: unknown type 'knm'"):
        runner.evaluate_features(encoders, fields, _config(knm={}))
    with pytest.raises(ValueError, match="eval.evaluators.labels: .* unexpected keyword argument 'share'"):
        runner.evaluate_features(encoders, fields, _config(labels={"share": 0.1}))
    with pytest.raises(RuntimeError, match="evaluator 'knn' on discovr/cls, seed 0: TypeError"):
        runner.evaluate_features(encoders, fields, _config(knn={"neighbours": 3}))
    encoders["pixels"][0]["val"]["pixels"] = np.zeros((3, 6))
    with pytest.raises(ValueError, match="pixels .* have 3 rows, the split has 30 videos"):
        runner.evaluate_features(encoders, fields, _config())


def _tuning(blocks, steps):
    return {"fields": ("ef",), "blocks": blocks, "fit": {"steps": steps}}


@pytest.mark.parametrize(
    "map_side, evaluators, said",
    [
        (0, {"knn": {"k": 3}}, "eval.map_side = 0 must be at least 1"),
        (3, {"knm": {}}, "eval.evaluators.knm: unknown type 'knm'"),
        (3, {"labels": {"fractions": (0.1, 2.0)}}, "labels needs fractions above 0 and up to 1"),
        (3, {"labels": {"share": 0.1}}, "eval.evaluators.labels: .* unexpected keyword argument 'share'"),
        (3, {"knn": {"k": 0}}, "eval.evaluators.knn: knn needs k >= 1"),
        (3, {"knn": {"neighbour": 3}}, "eval.evaluators.knn: .* unexpected keyword argument 'neighbour'"),
        (3, {"anomaly": {"k": 0}}, "eval.evaluators.anomaly: "),
        (3, {"probe": {"Cs": ()}}, "eval.evaluators.probe: .* must be positive"),
        (3, {"probe": {"Cs": (0.0,)}}, "eval.evaluators.probe: .* must be positive"),
        (3, {"lvef": {"type": "regression", "alphas": (-1.0,)}}, "eval.evaluators.lvef: .* must be positive"),
        (3, {"lvef": {"type": "regression", "field": "lv"}}, "eval.evaluators.lvef: no field 'lv'; there are .*'ef'"),
        (3, {"labels": {"field": "lv"}}, "eval.evaluators.labels: no field 'lv'"),
        (3, {"retrieval": {"field": "lv"}}, "eval.evaluators.retrieval: no field 'lv'"),
        (3, {"transfer": {"source_dataset": "camus", "field": "lv"}}, "eval.evaluators.transfer: no field 'lv'"),
        (3, {"finetune": _tuning((1, 3), 1)}, "last 3 blocks: the encoder has 2"),
        (3, {"ft": {"type": "finetune", "blocks": (1,)}}, "eval.evaluators.ft: finetune needs fields, blocks and fit"),
    ],
)
def test_settings_that_cannot_be_are_refused(map_side, evaluators, said):
    config = _config(**evaluators)
    config.eval.map_side = map_side
    with pytest.raises(ConfigError, match=said):
        dry_run.check_evaluators(config, depth=2)


def test_settings_that_can_be_pass():
    lvef = {"type": "regression", "field": "lvidd"}
    defaults = {name: {} for name in ("attentive", "labels", "anomaly", "retrieval", "probe")}
    config = _config(knn={"k": 300}, transfer={"source_dataset": ""}, lvef=lvef, **defaults)
    config.eval.map_side = 1
    for blocks, steps in (((2, -1), 5), ((3, -1), 0)):  # fine-tuning that is off needs no third block
        config.eval.evaluators.finetune = _tuning(blocks, steps)
        dry_run.check_evaluators(config, depth=2)


def test_encoders_without_any_of_the_readouts_are_listed():
    fields, config = _fields(), _config(knn={"k": 5})
    config.eval.readouts = ("decoder_std_map",)
    results = runner.evaluate_features(_encoders(fields), fields, config).results
    skipped = {(entry["encoder"], entry["reason"]) for entry in results["skipped"]}
    assert skipped == {(name, "has none of eval.readouts = ('decoder_std_map',)") for name in ("discovr", "random")}
    assert results["encoders"]["pixels"].keys() >= {"knn/auroc"}


class _Records(list):
    """A split in memory, as pipeline and records read it."""

    def __init__(self, split, count):
        rng = np.random.default_rng(len(split))
        items = []
        for row, ef in enumerate(rng.uniform(35, 65, count).astype(np.float32)):
            clip = np.full((6, 16, 16), 40 + ef, np.uint8) + rng.integers(0, 9, (6, 16, 16)).astype(np.uint8)
            items.append(records.make_record(clip, id=f"{split}{row}", patient_id=f"{split}-p{row}", ef=ef))
        super().__init__(items)
        self.frame_size, self.path, self.split, self._columns = 16, pathlib.Path("/nowhere"), split, {}


def test_run_from_records_to_files_and_from_the_cache(tmp_path):
    config = _config(knn={"k": 3}, lvef=LVEF)
    sizes = {"frame_size": 16, "image_size": 16, "num_frames": 4, "stride": 2, "target_fps": None}
    loading = {"train_filter": "all", "crop_scales": (1.0,), "stride_jitter": 0.0, "workers": 0, "reads": 2}
    config.data.update(sizes | loading)
    config.eval.update({"clips": 2, "batch_size": 5})
    sources = {split: _Records(split, count) for split, count in (("train", 24), ("val", 12), ("test", 13))}
    calls = []

    def embed(frames, num_valid):
        calls.append(frames.shape)
        brightness = frames[:, :2].mean((1, 2, 3))
        return {"cls": np.stack([brightness, np.ones(len(frames))], 1), "mean": brightness[:, None] ** 2}

    def encoders(key):
        return {
            "discovr": [feature_cache.FeatureEncoder(embed, key)],
            "random": [feature_cache.FeatureEncoder(embed, "r")] * 2,
        }

    found = runner.run_evaluators(config, sources, encoders("step 5"), tmp_path)
    runner.write(found, tmp_path, 5, clips_seen=40)
    assert set(calls) == {(5, 4, 16, 16)} and len(calls) == 3 * (10 + 5 + 6)  # 2 clips per video, 5 a batch
    assert found.results["encoders"]["discovr"]["lvef/r2"]["value"] > 0.9  # brightness tells the EF here
    assert found.results["seeds"] == {"discovr": 1, "random": 2, "pixels": 1}
    assert set(found.results["encoders"]["pixels"]) >= {"knn/auroc", "lvef/mae"}
    before = (tmp_path / "results.json").read_text()
    calls.clear()
    runner.write(runner.run_evaluators(config, sources, encoders("step 5"), tmp_path), tmp_path, 5, clips_seen=40)
    assert calls == [] and (tmp_path / "results.json").read_text() == before
    runner.run_evaluators(config, sources, encoders("step 6"), tmp_path)
    assert len(calls) == 21  # the new weights only
    config.eval.batch_size = 7
    other = runner.run_evaluators(config, sources, encoders("step 6"), tmp_path / "other")
    for readout, array in other.features["discovr"][0]["test"].items():
        np.testing.assert_allclose(array, found.features["discovr"][0]["test"][readout], rtol=1e-6)
    assert other.results["encoders"] == found.results["encoders"]
    del calls[21:]
    config.data.stride = 1
    runner.run_evaluators(config, sources, encoders("step 6"), tmp_path)
    assert len(calls) == 21 + 3 * (7 + 4 + 4)  # seven clips per batch


def test_label_efficiency_uses_the_same_draws_for_every_encoder(monkeypatch):
    fields = _fields()
    encoders = _encoders(fields)
    seen = []
    original = regression.evaluate
    monkeypatch.setattr(
        regression, "evaluate", lambda train, *rest: seen.append(train.columns["id"].tolist()) or original(train, *rest)
    )
    config = _config(labels={"fractions": (0.1, 1.0), "draws": 2, "field": "ef"}, probe={}, lvef=LVEF)
    found = runner.evaluate_features(encoders, fields, config).results
    readouts = 4 * len(READOUTS) + 1
    tenth = seen[: 2 * readouts]
    assert tenth[0::2] == [tenth[0]] * readouts and tenth[1::2] == [tenth[1]] * readouts and tenth[0] != tenth[1]
    numbers = sorted(int(name.removeprefix("train")) for name in tenth[0])
    assert len(numbers) == 6 and numbers[0::2] == [n - 1 for n in numbers[1::2]]  # whole patients, a tenth of 30
    metrics = found["encoders"]["discovr"]
    assert metrics["labels/auroc_100"] == metrics["probe/auroc"] and metrics["labels/mae_100"] == metrics["lvef/mae"]
    assert metrics["labels/mae_10"]["value"] > metrics["labels/mae_100"]["value"]
    assert found["readouts"]["labels_ef_10"]["family"] == "labels"
    assert [found["videos"][f"labels_ef_{percent}"]["train"] for percent in (10, 100)] == [6, 60]


def test_transfer_learns_on_the_source_dataset_and_is_scored_here():
    fields, source = _fields(), _fields(seed=5)
    encoders, source_encoders = _encoders(fields), _encoders(source)
    for splits in (splits for group in encoders.values() for splits in group):
        for array in (*splits["train"].values(), *splits["val"].values()):
            array[:] = 0.0  # what transfer must not look at
    config = _config(transfer={"source_dataset": "rvenet", "field": "ef"}, knn={"k": 5})
    for splits in (source, *(splits for group in source_encoders.values() for splits in group)):
        del splits["test"]
    found = runner.evaluate_features(encoders, fields, config, transfer={"rvenet": (source_encoders, source)}).results
    metrics = found["encoders"]["discovr"]
    assert metrics["transfer/knn_auroc"]["value"] > 0.9 and metrics["transfer/ef_mae"]["value"] < 6
    assert metrics["knn/auroc"]["value"] == 0.5
    assert found["videos"]["transfer_probe"] == {"train": 60, "val": 30, "test": 40}
    assert found["readouts"]["transfer_ef"]["bank"] == "rvenet"
    absent = {"rvenet": interface.Skip("not prepared")}
    gone = runner.evaluate_features(encoders, fields, config, transfer=absent).results
    assert {s["evaluator"]: s["reason"] for s in gone["skipped"]}["transfer_knn"] == "not prepared"
    config = _config(transfer={"source_dataset": "", "field": "ef"})
    without = runner.evaluate_features(encoders, fields, config).results
    assert without["encoders"]["discovr"] == {} and "no other dataset" in without["skipped"][0]["reason"]
    assert without["skipped"][0]["set_up"] is False


def test_some_evaluators_run_only_at_the_end():
    config = _config(knn={"k": 3}, slow={"type": "probe", "at_end": True}, segmentation={"at_end": False})
    assert set(runner.chosen(config)) == {"knn", "slow", "segmentation"}
    assert runner.chosen(config, everything=False) == {
        "knn": {"type": "knn", "k": 3}, "segmentation": {"type": "segmentation"}
    }  # fmt: skip
    fields = _fields()
    found = runner.evaluate_features(_encoders(fields), fields, config, everything=False).results
    assert list(found["videos"]) == ["knn"]  # tokens are not looked at here
