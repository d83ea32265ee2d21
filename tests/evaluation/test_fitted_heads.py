"""Heads come back from disk as they were scored; prediction intervals hold what they promise; damage is told."""

import math

import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

from discovr_jax.evaluation import fitted_heads, out_of_distribution, runner
from discovr_jax.evaluation.evaluators import anomaly, knn, probe, regression
from tests import evaluation_case

COUNTS = {"train": 80, "val": 40, "test": 30}
EVALUATORS = {
    "knn": {"k": 5},
    "anomaly": {"k": 3},
    "probe": {},
    "lvef": {"type": "regression", "field": "ef"},
    "labels": {"fractions": (0.5, 1.0), "draws": 1},
}
ABOUT = {
    "weights_sha256": {"video_encoder": "a" * 64},
    "preprocessing": {"num_frames": 4, "stride": 2, "target_fps": None},
}


def make_config():
    return ConfigDict(
        {
            "seed": 0,
            "data": {"dataset": "echonet_dynamic", "mixture": {}, "abnormal_rule": "ef < 50"},
            "eval": {
                "dataset": None, "readouts": ("cls", "mean"), "resamples": 50, "search_rows": 0,
                "evaluators": EVALUATORS,
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluation():
    fields = evaluation_case.make_fields(COUNTS, lambda row: row)
    rng = np.random.default_rng(1)
    splits = {}
    for split, columns in fields.items():
        signal = (columns["ef"][:, None] - 50) / 20
        splits[split] = {
            name: (rng.normal(size=(len(signal), 12)) + signal * (name == "mean")).astype(np.float32)
            for name in out_of_distribution.READOUTS
        }
        columns["num_frames"] = rng.integers(5, 20, len(signal))
    pictures = [{s: {"pixels": rng.normal(size=(n, 8)).astype(np.float32)} for s, n in COUNTS.items()}]
    # The label of one training video is unknown: it is no neighbour that votes.
    fields["train"]["label"][3] = np.nan
    return runner.evaluate_features({"discovr": [splits], "pixels": pictures}, fields, make_config())


@pytest.fixture
def written(evaluation, tmp_path):
    path = tmp_path / "deeper" / fitted_heads.FILE
    return fitted_heads.write(evaluation, path, **ABOUT), path


def test_half_width_is_the_quantile_of_split_conformal():
    errors = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))
    assert fitted_heads.half_width(errors) == 90  # ceil(100 * 0.9)
    assert fitted_heads.half_width(np.arange(9.0)) == 8
    assert fitted_heads.half_width(np.arange(8.0)) == math.inf  # ceil(9 * 0.9) = 9 of 8


def test_intervals_cover_what_they_promise():
    """Of exchangeable errors: 90 % to 90 % + 1 / (N + 1), here as a mean over 4000 draws."""
    errors = np.random.default_rng(0).gamma(2.0, size=(4000, 20))
    held = np.mean([one[0] <= fitted_heads.half_width(one[1:]) for one in errors])
    assert 0.885 < held < 0.965


def test_heads_predict_for_the_test_videos_what_was_scored(evaluation, written):
    _, path = written
    heads = fitted_heads.read(path)
    assert list(heads.about["heads"]) == ["anomaly", "knn", "lvef", "probe"]  # none of shares of the labels
    assert heads.about["notice"] == fitted_heads.RESEARCH_USE
    assert heads.about["weights_sha256"] == ABOUT["weights_sha256"]
    test = evaluation.features["discovr"][0]["test"]

    def scored(part):
        return evaluation.heads[part].predictions

    def features(part):
        return np.asarray(test[heads.about["heads"][part]["readout"]], np.float64)

    found = regression.apply(heads.fitted("lvef"), features("lvef"))
    np.testing.assert_allclose(found, scored("lvef").test, rtol=1e-12)
    found = probe.apply(heads.fitted("probe"), features("probe"))
    np.testing.assert_allclose(found, scored("probe").outputs["probability"], rtol=1e-12)
    for part, module, options in (("knn", knn, {"k": 5, "temperature": 0.07}), ("anomaly", anomaly, {"k": 3})):
        known = heads.arrays[f"{part}/known"]
        assert known.sum() == 79 and not known[3]
        reference = heads.arrays[f"reference/{heads.about['heads'][part]['readout']}"].astype(np.float64)[known]
        found = module.apply(reference, heads.arrays["labels"][known], features(part), **options)
        np.testing.assert_allclose(found, scored(part).test, rtol=1e-9)
        assert heads.about["heads"][part]["options"]["k"] == options["k"]


def test_the_interval_is_that_of_validation_and_its_coverage_that_of_test(evaluation, written):
    entry, path = written
    head, interval = evaluation.heads["lvef"], entry["intervals"]["lvef"]
    errors = np.sort(np.abs(head.predictions.val - head.target["val"]))
    assert interval["half_width"] == errors[36]  # ceil(41 * 0.9) = 37
    held = np.abs(head.predictions.test - head.rows.target) <= errors[36]
    assert interval["test_coverage"]["value"] == pytest.approx(held.mean()) and interval["validation_videos"] == 40
    assert interval["test_coverage"]["low"] < held.mean() < 1.0001
    assert fitted_heads.read(path).about["heads"]["lvef"]["interval"] == interval
    shortest = evaluation.fields["train"]["num_frames"].min()
    assert entry["out_of_distribution"]["fewest_frames"] == min(4, -(-shortest // 2)) == 3


def test_the_same_evaluation_writes_the_same_bytes(evaluation, written):
    _, path = written
    before = path.read_bytes()
    fitted_heads.write(evaluation, path, **ABOUT)
    assert path.read_bytes() == before
    path.unlink()
    fitted_heads.write(evaluation, path, writes=False, **ABOUT)
    assert not path.exists() and list(path.parent.iterdir()) == []


def test_nearest_videos_are_named(evaluation, written):
    heads = fitted_heads.read(written[1])
    train = evaluation.features["discovr"][0]["train"]["mean"]
    readout = next(head["readout"] for head in heads.about["heads"].values() if head["kind"] == "knn")
    assert readout == "mean"
    (found,) = fitted_heads.nearest_videos(heads, "mean", 3 * train[7:8], 2)
    assert found[0] == ("train7", pytest.approx(1)) and found[1][1] < 1


def test_absent_damaged_and_later_files_are_told(written, tmp_path):
    _, path = written
    with pytest.raises(fitted_heads.HeadsError, match="no such file: evaluate again"):
        fitted_heads.read(tmp_path / "absent")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(fitted_heads.HeadsError, match="cannot be read .*evaluate again"):
        fitted_heads.read(path)
    safetensors.numpy.save_file({"a": np.zeros(1)}, path)
    with pytest.raises(fitted_heads.HeadsError, match="cannot be read"):
        fitted_heads.read(path)
    safetensors.numpy.save_file({"a": np.zeros(1)}, path, {"heads": '{"format": 2}'})
    with pytest.raises(fitted_heads.HeadsError, match="is of format 2, this version reads 1"):
        fitted_heads.read(path)


def test_distances_flag_what_is_elsewhere_and_few_of_validation(evaluation, written):
    pictures = evaluation.features["pixels"][0]
    splits = {split: {**each, **pictures[split]} for split, each in evaluation.features["discovr"][0].items()}
    heads = fitted_heads.read(written[1])
    about, arrays = heads.about["out_of_distribution"], heads.arrays
    assert about["readouts"] == [*out_of_distribution.READOUTS, "pixels"] and about["validation_videos"] == 40

    def distance(features):
        return out_of_distribution.distance(about, arrays, features)

    assert distance(splits["val"]).max() == pytest.approx(about["threshold"])  # 99.5 % of 40 are all
    strange = {name: each[:3].copy() for name, each in splits["test"].items()}
    strange["std_of_mean"][0, ::2] += 40  # in one pooled feature only
    strange["cls"][1, 0] = np.nan
    found = distance(strange)
    assert found[0] > 2 * about["threshold"] and np.isnan(found[1]) and found[2] < 1.5 * about["threshold"]
    strange = {name: each[2:3].copy() for name, each in splits["test"].items()}
    strange["pixels"] += 40  # what the encoder does not see
    assert distance(strange)[0] > 2 * about["threshold"]
    older = about | {"readouts": list(out_of_distribution.READOUTS)}
    assert out_of_distribution.distance(older, arrays, strange)[0] < 1.5 * about["threshold"]


def test_features_that_are_not_finite_leave_nothing_in_distribution(evaluation):
    splits = evaluation.features["discovr"][0]
    bad = {name: np.full_like(each, np.nan) for name, each in splits["train"].items()}
    pictures = evaluation.features["pixels"][0]
    about, arrays = out_of_distribution.fit(bad | pictures["train"], splits["val"] | pictures["val"])
    test = splits["test"] | pictures["test"]
    assert np.isnan(out_of_distribution.distance(about, arrays, test)).all()
