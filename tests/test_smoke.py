"""End to end on the shrunk demo: data made on first use, training, metrics and report; and evaluating again."""

import csv
import hashlib
import json
import logging
import re
import shutil

import jax
import numpy as np
import pytest
from matplotlib import pyplot

import discovr_jax
from discovr_jax import train
from discovr_jax.data import records
from discovr_jax.evaluation import evaluate, results_io, runner
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.report import report
from discovr_jax.models.readouts import KNOWN
from discovr_jax.parallel import mesh as mesh_lib
from tests import run_case

FAMILIES = {
    "knn": {"macro_f1", "balanced_accuracy", "auroc"},
    "probe": {"auroc"},
    "lvef": {"mae", "r2"},
    "anomaly": {"auroc", "sensitivity_at_90"},
    "labels": {"auroc_1", "mae_10", "auroc_100"},
    "retrieval": {"precision_at_10", "difference"},
    "mlp": {"auroc", "macro_f1_threshold", "ef_mae"},
}
# Of tokens, which pixels have not; the mean training mask is scored as a segmentation only.
TOKEN_FAMILIES = {"segmentation": {"dice", "dice_ed", "iou_es"}, "attentive": {"auroc", "ef_mae"}}
FAMILIES_OF = {
    "pixels": FAMILIES,
    "mean_mask": {"segmentation": TOKEN_FAMILIES["segmentation"]},
    "discovr": FAMILIES | TOKEN_FAMILIES,
    "random": FAMILIES | TOKEN_FAMILIES,
}
TOP_LEVEL = {"step", "commit", "n_test", "encoders", "paired", "trained_on"}


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    """Runs take the first of the eight devices and compile once."""
    folder = run_case.session_folder(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patch, run_case.compiled_programs(folder):
        patch.setattr(mesh_lib, "make_mesh", run_case.one_device)
        run_case.traced_once(patch)
        yield


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes longer than the rest of a tiny evaluation."""
    monkeypatch.setattr(evaluate.samples, "of_clips", lambda *_: {"clips": []})
    monkeypatch.setattr(report, "write_report", lambda *_, **__: "no report")


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """Simulated clips in EchoNet-Dynamic's layout, before records are made of them."""
    return run_case.simulated(run_case.session_folder(tmp_path_factory)) / "native" / "echonet_dynamic"


@pytest.fixture(scope="module")
def smoke(native, tmp_path_factory):
    """(config, workdir, Summary) of a run that made its own records."""
    folder = tmp_path_factory.mktemp("smoke")
    shutil.copytree(native, folder / "data" / "native" / "echonet_dynamic")
    config = run_case.make_config(folder / "data")
    return config, folder / "run", train.train_and_evaluate(config, str(folder / "run"), evaluate.evaluate_state)


def test_the_run_leaves_what_it_should(smoke):
    config, directory, summary = smoke
    assert summary.finished
    assert len(records.open_source(config.data.data_dir, "echonet_dynamic", "112", "train")) == 10
    assert sorted(path.name for path in directory.glob("checkpoints/step_*")) == ["step_3", "step_6", "step_9"]
    found = {path.name for path in directory.iterdir()}
    assert found >= {"config.json", "metrics.jsonl", "results.json", "report.html", "eval"}
    assert list(directory.glob("events.out.tfevents.*"))
    row = run_case.rows(directory)[-2]
    metrics = summary.results["encoders"]["discovr"]
    assert row["step"] == 9 and all(row[f"eval/{name}"] == entry["value"] for name, entry in metrics.items())


def test_results_follow_the_schema(smoke):
    config, directory, summary = smoke
    results = json.loads((directory / "results.json").read_text())
    assert results == json.loads((directory / "eval" / "9" / "results.json").read_text())
    assert results == json.loads(json.dumps(results_io.plain(summary.results)))
    assert results.keys() >= TOP_LEVEL
    assert results["trained_on"] == {"test_videos": 5, "trained_on": 0, "patients_trained_on": 0}
    # Ten videos have no 512 components; no other dataset is named; nothing was asked to train the encoder, nor to spoil
    # clips.
    skipped = [skip["evaluator"] for skip in results["skipped"]]
    assert skipped == ["pca", "transfer", "finetune", "reconstruction", "robustness"]
    assert results["step"] == 9 and results["n_test"] == 5 and re.fullmatch("[0-9a-f]{40}|unknown", results["commit"])
    manifest = records.records_dir(config.data.data_dir, "echonet_dynamic", "112") / "manifest.csv"
    assert results["manifest_sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert results["encoders"].keys() == FAMILIES_OF.keys()
    assert results["paired"].keys() == {"discovr-random", "discovr-pixels", "discovr-mean_mask"}
    for encoder, metrics in (*results["encoders"].items(), *results["paired"].items()):
        names, expected = [name.split("/") for name in metrics], FAMILIES_OF[encoder.removeprefix("discovr-")]
        assert {family for family, _ in names} == expected.keys()
        for family, needed in expected.items():
            assert needed <= {metric for name, metric in names if name == family}
        for name, entry in metrics.items():
            if "hausdorff95" in name:
                continue  # there is none to an empty mask
            # With five test videos some resamples hold one class only; then the others are counted.
            assert entry.keys() - {"resamples_used"} == {"value", "low", "high"} and np.isfinite(entry["value"])
    with (directory / "eval" / "9" / "predictions.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert {row["encoder"] for row in rows} == FAMILIES_OF.keys()
    assert len([row for row in rows if row["encoder"] == "discovr" and row["family"] == "lvef"]) == 5


def test_load_encoder_gives_the_features_that_were_scored(smoke):
    """Every readout of the evaluation, of its records' frames, against what it kept; the default is what it chose."""
    config, directory, summary = smoke
    source = records.open_source(config.data.data_dir, "echonet_dynamic", "112", "test")
    taken = [source[index] for index in range(len(source))]
    frames = [records.decode_frames(record["frames"], 112, 112) for record in taken]
    cached = {}
    for split in ("train", "test"):
        (file,) = (directory / "eval" / "features").glob(f"echonet_dynamic-discovr-0-{split}-{'?' * 20}.npz")
        with np.load(file) as archive:
            cached[split] = {name: archive[name] for name in archive.files}
    cached = feature_cache.add_all(cached)["test"]
    assert set(cached) == set(config.eval.readouts) == set(KNOWN)
    chosen = {
        part: entry["encoders"]["discovr"]["chosen"]
        for part, entry in summary.results["readouts"].items()
        if "discovr" in entry["encoders"]
    }
    # "all" is all of them, side by side.
    for asked, name in (("all", "all"), (None, chosen["knn"]), ("best:lvef", chosen["lvef"])):
        encoder = discovr_jax.load_encoder(directory, readout=asked)
        assert (encoder.options["readout"], encoder.width) == (name, cached[name].shape[1])
        np.testing.assert_allclose(encoder.embed(frames), cached[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_report_is_one_file_that_needs_no_network(smoke):
    page = (smoke[1] / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>") and "</html>" in page
    assert "<svg" in page or "data:image/png;base64," in page
    loaded = re.findall(r"""(?:\bsrc|\bhref|\bdata|@import|url\()\s*=?\s*["'(]?\s*([^"'\s>)]+)""", page)
    assert [address for address in loaded if re.match(r"(https?:)?//", address)] == []
    assert "<script src" not in page and "<link" not in page
    for words in ("Total loss", "Prototypes", "kNN", "Ejection fraction", "simulated hearts, in the layout of echonet"):
        assert words in page


def test_evaluating_the_checkpoint_gives_the_same_metrics_and_then_reads_the_cache(
    smoke, no_report, monkeypatch, caplog
):
    config, directory, summary = smoke
    shutil.rmtree(directory / "eval")
    with caplog.at_level(logging.INFO, logger="discovr_jax"):
        again = evaluate.evaluate_workdir(config, directory)
    assert again["encoders"] == summary.results["encoders"] and again["paired"] == summary.results["paired"]
    assert "discovr - random " in caplog.text and "9 training steps; 5 test videos" in caplog.text

    monkeypatch.setattr(feature_cache, "extract_features", lambda *_: pytest.fail("features were computed again"))
    monkeypatch.setattr(runner, "_run_readout", lambda *_: pytest.fail("heads were fitted again"))
    cached = evaluate.evaluate_workdir(config, directory)
    assert {**cached, "commit": ""} == {**again, "commit": ""}
    assert "other clips" not in caplog.text


def test_other_clips_than_those_trained_on_are_scored_with_a_warning(smoke, monkeypatch, caplog):
    config, directory, _ = smoke
    config = config.copy_and_resolve_references()
    config.data.stride += 1
    monkeypatch.setattr(evaluate, "evaluate_state", lambda *_, **__: "scored")
    assert evaluate.evaluate_workdir(config, directory) == "scored"
    was = config.data.stride - 1
    assert f"other clips than it is scored on: data.stride: was {was}, is {was + 1}" in caplog.text


def test_some_evaluators_wait_for_the_end(smoke, tmp_path, monkeypatch):
    config, _, summary = smoke
    asked = []

    def run(config, sources, encoders, workdir, share, everything, outside):
        asked.append(everything)
        raise InterruptedError

    monkeypatch.setattr(runner, "run_evaluators", run)
    experiment, mesh = train.experiment_lib.make_experiment(config, 10), run_case.one_device(None)
    monkeypatch.setattr(evaluate, "untrained_weights", lambda *_: [])
    for step in (3, 9):
        with pytest.raises(InterruptedError):
            evaluate.evaluate_state(config, tmp_path, summary.state, step, experiment, mesh)
    assert asked == [False, True]
    assert set(runner.chosen(config, False)) == {"knn", "anomaly", "probe", "classes", "lvef"}


@pytest.mark.long  # a whole run of its own
def test_evaluators_say_that_there_are_no_labels(native, tmp_path, no_report, caplog):
    shutil.copytree(native, tmp_path / "data" / "native" / "echonet_dynamic")
    table = tmp_path / "data" / "native" / "echonet_dynamic" / "FileList.csv"
    with table.open() as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        row |= {"EF": "", "ESV": "", "EDV": ""}
    with table.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    config = run_case.make_config(tmp_path / "data")
    with caplog.at_level(logging.INFO, logger="discovr_jax"):
        summary = train.train_and_evaluate(config, str(tmp_path / "run"), evaluate.evaluate_state)
    skipped = {entry["evaluator"]: entry["reason"] for entry in summary.results["skipped"]}
    assert "no other dataset" in skipped.pop("transfer") and "set config" in skipped.pop("finetune")
    assert "10 training videos" in skipped.pop("pca") and "set config" in skipped.pop("reconstruction")
    assert "name some in" in skipped.pop("robustness")
    assert {name.partition("_")[0] for name in skipped} == {*FAMILIES, "attentive"}
    assert all(reason.startswith("no labels: ") for reason in skipped.values())
    found = {name.partition("/")[0] for metrics in summary.results["encoders"].values() for name in metrics}
    assert found == {"segmentation"}
    assert "no labels: ef unknown for all" in caplog.text


def test_the_quickstart_runs(smoke, no_report, tmp_path):
    """The cells of docs/quickstart.ipynb, on the run that is finished: it evaluates again, from its cache."""
    config, directory, summary = smoke
    shutil.copytree(directory, tmp_path / "run")
    cells = json.loads((run_case.ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            names |= {"config": config, "workdir": str(tmp_path / "run")}
    pyplot.close("all")
    assert {split: len(source) for split, source in names["splits"].items()} == {"train": 10, "val": 5, "test": 5}
    assert names["summary"].results["encoders"] == summary.results["encoders"]
    assert list(names["table"].columns) == ["discovr", "random", "pixels"] and names["nearest"].shape == (5, 3)
    assert names["encoder"].options["readout"] == summary.results["readouts"]["knn"]["encoders"]["discovr"]["chosen"]
    assert 0 < names["by_neighbours"] < 60 and 0 < names["by_chance"] < 60


def test_features_are_the_same_on_one_device_and_on_eight(smoke):
    config, _, summary = smoke
    model = train.experiment_lib.make_model(config)
    rng = np.random.default_rng(0)
    frames, num_valid = rng.integers(0, 256, (8, 8, 32, 32), np.uint8), np.array([8] * 7 + [3], np.int32)
    weights = jax.device_get(evaluate.scored(summary.state, config.eval.readouts))
    meshes = run_case.one_device(None), run_case.make_mesh({"data": 4, "fsdp": 2, "model": 1, "slices": 1})
    one, eight = (evaluate.make_embed(model, mesh, 4)(weights, frames, num_valid) for mesh in meshes)
    assert one.keys() == eight.keys() == set(config.eval.readouts) - {"all"}
    for name in one:
        np.testing.assert_allclose(one[name], eight[name], rtol=1e-5, atol=1e-5)


def test_readouts_of_the_decoder_are_of_all_its_tokens_on_the_teachers(smoke):
    config, _, summary = smoke
    model = train.experiment_lib.make_model(config)
    frames = np.random.default_rng(1).integers(0, 256, (8, 8, 32, 32), np.uint8)
    num_valid = np.full(8, 8, np.int32)
    params = {"video_encoder": summary.state.teacher["video_encoder"], "decoder": summary.state.params["decoder"]}

    def decode(module, frames, num_valid):
        # In another order than raster: the decoder puts tokens where their places say.
        tokens = module.encode_video(frames, num_valid)
        order = np.random.default_rng(2).permutation(model.grid.tokens)
        shuffled = tokens[:, 1 + order], np.tile(order.astype(np.int32), (8, 1))
        return module.decoder(*shuffled, module.clip_positions)

    apply = jax.jit(lambda *clips: model.apply({"params": params}, *clips, method=decode))
    by_time = np.asarray(apply(frames, num_valid)).reshape(8, model.grid.time, -1)
    embed = evaluate.make_embed(model, run_case.one_device(None), model.grid.rows)  # a cell a place
    found = embed(evaluate.scored(summary.state, ["decoder_std_map"]), frames, num_valid)
    np.testing.assert_allclose(found["decoder_mean_map"], by_time.mean(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["decoder_std_map"], by_time.std(1), rtol=1e-3, atol=1e-5)
    alone = embed(evaluate.scored(summary.state, ["std_map", "all"]), frames, num_valid)
    assert found.keys() - alone.keys() == {"decoder_mean_map", "decoder_std_map"}
    np.testing.assert_array_equal(found["std_map"], alone["std_map"])


def test_without_a_trained_decoder_its_readouts_are_left_out_and_named(smoke, caplog):
    config, _, summary = smoke
    state = summary.state.replace(params={"video_encoder": summary.state.params["video_encoder"]})
    assert evaluate.scored(state, config.eval.readouts).keys() == {"video_encoder", "image_encoder"}
    assert "readouts decoder_mean_map, decoder_std_map are left out: no decoder was trained" in caplog.text
