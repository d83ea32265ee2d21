"""What heads said is read back as it was, and made again where anything that it depends on has changed."""

import numpy as np
from ml_collections import ConfigDict

from discovr_jax.evaluation import interface, prediction_cache, results_io, runner
from tests import evaluation_case


def _table():
    found = interface.Predictions(
        np.array([0.25, np.nan]),
        None,
        {"C": np.float64(0.1), "sweep": (1, 2)},
        {"probability": np.array([1.0, 0.0, 1 / 3])},
        {"bins": [{"from": 0.5}]},
        head_seed=2,
    )
    return {"cls": [found, found], "mean": interface.Skip("features not finite: 3 of 4")}


def test_predictions_come_back_as_they_were(tmp_path):
    store, calls = prediction_cache.Store(tmp_path, "here"), []

    def make():
        calls.append(1)
        return _table()

    for _ in range(2):
        found = store.table("discovr-probe", {"k": 3}, [np.arange(3)], make)
        assert list(found) == ["cls", "mean"] and len(found["cls"]) == 2 and str(found["mean"]).endswith("3 of 4")
        one = found["cls"][1]
        np.testing.assert_array_equal(one.val, [0.25, np.nan])
        np.testing.assert_array_equal(one.outputs["probability"], [1.0, 0.0, 1 / 3])
        assert one.test is None and one.head_seed == 2 and one.report == {"bins": [{"from": 0.5}]}
        assert results_io.plain(one.details) == {"C": 0.1, "sweep": [1, 2]}
    assert calls == [1]
    store.table("discovr-probe", {"k": 4}, [np.arange(3)], make)
    store.table("discovr-probe", {"k": 4}, [np.arange(4)], make)
    assert calls == [1, 1, 1] and len(list(tmp_path.iterdir())) == 1  # the old files are gone


def test_other_code_is_asked_again(tmp_path, monkeypatch):
    store, calls = prediction_cache.Store(tmp_path), []
    for code in ("one", "one", "two"):
        monkeypatch.setattr(prediction_cache, "code", lambda code=code: code)
        store.table("probe", "head", [], lambda: calls.append(1) or _table())
    assert len(calls) == 2


def test_a_second_evaluation_fits_only_what_has_changed(tmp_path, monkeypatch):
    fields = evaluation_case.make_fields({"train": 40, "val": 20, "test": 20}, lambda row: row, 0)
    rng = np.random.default_rng(0)

    def splits():
        sizes = {split: len(columns["id"]) for split, columns in fields.items()}
        return {split: {name: rng.normal(size=(size, 3)) for name in ("cls", "mean")} for split, size in sizes.items()}

    encoders = {"discovr": [splits()], "random": [splits(), splits()]}
    lvef = {"type": "regression", "field": "ef"}
    evaluators = {"probe": {}, "lvef": lvef, "labels": {"fractions": (0.5, 1.0), "draws": 2}}
    data = {"abnormal_rule": None, "dataset": "echonet_dynamic"}
    settings = {"dataset": None, "readouts": ("cls", "mean", "all"), "resamples": 20, "search_rows": 0}
    settings["evaluators"] = evaluators
    config = ConfigDict({"seed": 0, "data": data, "eval": settings})
    fitted, fit = [], runner._run_readout

    def counted(job, encoder, group, readout, remembered):
        fitted.append((job.part.name, encoder, readout))
        return fit(job, encoder, group, readout, remembered)

    monkeypatch.setattr(runner, "_run_readout", counted)

    def run():
        fitted.clear()
        return runner.evaluate_features(encoders, fields, config, store=prediction_cache.Store(tmp_path))

    first = run()
    # Each on three readouts of two encoders; the probe and lvef are what label efficiency has fitted on all labels.
    names = ["labels_label_100", "labels_ef_100", "labels_label_50", "labels_ef_50"]
    assert sorted(fitted) == sorted((name, e, r) for name in names for e in encoders for r in ("cls", "mean", "all"))
    again = run()
    assert fitted == [] and results_io.plain(again.results) == results_io.plain(first.results)
    assert again.predictions == first.predictions
    alone = runner.evaluate_features(encoders, fields, config)  # nothing kept
    assert results_io.plain(alone.results) == results_io.plain(first.results)
    config.eval.evaluators.lvef.alphas = (1.0,)
    run()
    assert {name for name, _, _ in fitted} == {"lvef"}
    encoders["random"][1]["val"]["cls"] = encoders["random"][1]["val"]["cls"] + 1e-9
    run()
    assert {encoder for _, encoder, _ in fitted} == {"random"} and {name for name, _, _ in fitted} >= set(names)
    fields["test"]["ef"] = fields["test"]["ef"] + 1
    run()
    assert "lvef" in {name for name, _, _ in fitted}
