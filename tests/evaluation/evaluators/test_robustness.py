"""Robustness: drops are those of the heads that were scored, on clips that were spoilt, in the same resamples."""

import dataclasses

import numpy as np
import pytest
from scipy.special import expit

from discovr_jax.configs import base
from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import dry_run, interface, runner
from discovr_jax.evaluation.evaluators import robustness
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract, perturbations, tokens
from discovr_jax.evaluation.metrics import bootstrap
from discovr_jax.evaluation.metrics import videos as video_metrics
from tests import tokens_case

EVALUATORS = {"knn": {"k": 3}, "probe": {"Cs": (0.1, 1.0)}, "lvef": {"type": "regression", "field": "ef"}}


def brightness(frames, num_valid):
    """The corner that holds EF, and the mean of the rest; padding may be anything."""
    corner, whole = frames[:, :, 0, :2].mean((1, 2)), frames.mean((1, 2, 3))
    return {"cls": np.stack([corner, whole], 1) / 50, "mean": np.stack([whole, whole**2 / 100], 1) / 50}


class Blind:
    """Noise that follows from nothing but the row: the same in each pass."""

    def __call__(self, frames, num_valid):
        rng = np.random.default_rng(len(frames))
        return {name: rng.normal(size=(len(frames), 3)) for name in ("cls", "mean")}


def make_case(directory, outside=False):
    """An evaluation of `EVALUATORS`, with heads, and the context that the robustness evaluator gets."""
    config = tokens_case.make_config(num_frames=8, stride=1)
    config.eval.update({"readouts": ("cls", "mean", "all"), "search_rows": 0, "resamples": 40})
    config.eval.evaluators = EVALUATORS
    sources = {split: tokens_case.Records(split) for split in extract.SPLITS}
    fields = extract.read_fields(sources, config, "echonet_dynamic")
    pooled = {
        "discovr": [feature_cache.FeatureEncoder(brightness, "brightness")],
        "random": [feature_cache.FeatureEncoder(Blind(), f"blind {seed}") for seed in range(2)],
    }
    features = extract.extract_splits(config, "echonet_dynamic", sources, fields, pooled, directory)
    if outside:
        features["hog"] = features["discovr"]
    evaluation = runner.evaluate_features(features, fields, config)
    context = tokens.TokenContext(
        config, sources, fields, {}, directory, feature_cache.ALONE, None, pooled
    )
    return evaluation, context


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_case(tmp_path_factory.mktemp("features"), outside=True)


def test_clips_that_are_not_changed_give_exactly_what_was_scored(case, monkeypatch):
    evaluation, context = case
    same = perturbations.Perturbation((1, 2, 3), "{:g}", lambda clip, strength, rng: clip)
    monkeypatch.setitem(perturbations.KNOWN, "none", same)
    robustness.run(evaluation, "robustness", context, perturbations=("none",))
    heads = evaluation.results["robustness"]["heads"]
    assert heads.keys() == {"knn", "probe", "lvef"}
    for part, metric in (("knn", "auroc"), ("probe", "auroc"), ("lvef", "mae")):
        assert heads[part]["metric"] == metric and heads[part]["clean"].keys() == {"discovr", "random"}
        for encoder, entry in heads[part]["clean"].items():
            assert entry == evaluation.results["encoders"][encoder][f"{part}/{metric}"]
            assert heads[part]["spoilt"][encoder]["none"] == [entry] * 3
            assert heads[part]["drop"][encoder]["none"] == [{"value": 0.0, "low": 0.0, "high": 0.0}] * 3
        assert heads[part]["paired"] == {"discovr-random": {"none": [{"value": 0.0, "low": 0.0, "high": 0.0}] * 3}}
    skips = [skip for skip in evaluation.results["skipped"] if skip["evaluator"] == "robustness"]
    assert [(skip["encoder"], skip["reason"]) for skip in skips] == [
        ("hog", "its file has no features of spoilt clips")
    ]  # fmt: skip


def test_drops_are_those_of_the_fitted_heads_on_spoilt_clips(case):
    """EF is in the brightness of a corner, so that gain raises what is predicted."""
    evaluation, context = case
    robustness.run(evaluation, "robustness", context, perturbations=("gain", "crop"))
    found = evaluation.results["robustness"]
    assert found["strengths"]["gain"] == ["+5 dB", "+10 dB", "+20 dB"]
    batches = list(extract._batches(context.config, context.sources["test"], feature_cache.ALONE))
    frames, rows, real = (np.concatenate([b[name] for b in batches]) for name in ("frames", "record", "weight"))
    for level, strength in enumerate((5.0, 10.0, 20.0)):
        rows_of = brightness(perturbations.perturb(frames[real > 0], "gain", strength), None)
        for part in ("probe", "lvef"):
            head = evaluation.heads[part]
            readout = head.encoders["discovr"][0]
            if readout == "all":
                train = evaluation.features["discovr"][0]["train"]
                rows_of["all"] = feature_cache.join(rows_of, feature_cache.mean_lengths(train))
            clips = rows_of[readout]
            means = np.stack([clips[rows[real > 0] == row].mean(0) for row in range(12)]).astype(np.float32)
            weights = head.predictions.fitted
            linear = (means - weights["mean"]) / weights["scale"] @ weights["weights"] + weights["intercept"]
            metric, predicted, sign = (video_metrics.mae, linear, -1)
            if part == "probe":
                metric, predicted, sign = (video_metrics.auroc, expit(linear), 1)
            target, resamples = head.rows.target, head.rows.weights
            clean = bootstrap.distribution(metric, target, head.predictions.test, resamples)
            spoilt = bootstrap.distribution(metric, target, predicted, resamples)
            expected = bootstrap.interval(sign * (clean - spoilt), head.rows.num_patients)
            assert found["heads"][part]["drop"]["discovr"]["gain"][level] == pytest.approx(expected, abs=1e-4)
    ef = found["heads"]["lvef"]
    assert ef["drop"]["discovr"]["gain"][2]["low"] > 5 and ef["clean"]["discovr"]["value"] < 3
    assert ef["drop"]["random"]["gain"] == [{"value": 0.0, "low": 0.0, "high": 0.0}] * 3  # it sees nothing
    assert ef["spoilt"]["discovr"]["crop"][2]["value"] == pytest.approx(
        ef["clean"]["discovr"]["value"] + ef["drop"]["discovr"]["crop"][2]["value"]
    )


def test_drops_of_two_encoders_are_compared_in_the_same_resamples(case):
    """Of an encoder against itself the difference is 0 in every resample, however wide its own interval is."""
    evaluation, context = case
    pooled, features, heads = dict(context.pooled), dict(evaluation.features), dict(evaluation.heads)
    pooled["twin"], features["twin"] = pooled["discovr"], features["discovr"]
    for part, head in heads.items():
        heads[part] = dataclasses.replace(head, encoders={**head.encoders, "twin": head.encoders["discovr"]})
    evaluation = dataclasses.replace(evaluation, features=features, heads=heads)
    robustness.run(evaluation, "robustness", dataclasses.replace(context, pooled=pooled), perturbations=("gain",))
    for head in evaluation.results["robustness"]["heads"].values():
        assert head["paired"].keys() == {"discovr-random", "discovr-twin"}
        assert head["paired"]["discovr-twin"]["gain"] == [{"value": 0.0, "low": 0.0, "high": 0.0}] * 3
        # Noise loses nothing: what discovr loses more than it is all that discovr loses.
        assert head["paired"]["discovr-random"] == head["drop"]["discovr"]
    wide = evaluation.results["robustness"]["heads"]["lvef"]["drop"]["twin"]["gain"][2]
    assert wide["high"] - wide["low"] > 0.1


def test_the_second_time_nothing_is_encoded(case, monkeypatch):
    evaluation, context = case
    robustness.run(evaluation, "robustness", context, perturbations=("crop",))
    before = evaluation.results["robustness"]
    monkeypatch.setattr(feature_cache, "extract_features", None)
    robustness.run(evaluation, "robustness", context, perturbations=("crop",))
    assert evaluation.results["robustness"] == before
    monkeypatch.setattr(perturbations, "VERSION", 0)  # another definition: made anew
    with pytest.raises(TypeError, match="not callable"):
        robustness.run(evaluation, "robustness", context, perturbations=("crop",))


def test_reasons_to_skip(tmp_path):
    evaluation, context = make_case(tmp_path)
    with pytest.raises(interface.NotSetUp, match="eval.evaluators.robustness"):
        robustness.run(evaluation, "robustness", context, perturbations=())
    nowhere = perturbations.KNOWN | {"blank": perturbations.Perturbation((1, 2, 3), "{:g}", lambda clip, *_: clip * 0)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perturbations, "KNOWN", nowhere)
        context.pooled["discovr"][0] = feature_cache.FeatureEncoder(
            lambda frames, n: {name: 1 / values for name, values in brightness(frames, n).items()}, "divides"
        )
        with np.errstate(divide="ignore"), pytest.raises(interface.Skip, match="of spoilt clips are not finite"):
            robustness.run(evaluation, "robustness", context, perturbations=("blank",))
    evaluation.heads.clear()
    with pytest.raises(interface.Skip, match="none of knn, probe, regression was fitted"):
        robustness.run(evaluation, "robustness", context, perturbations=("gain",))


def test_unknown_perturbations_are_refused_before_training():
    config = base.get_config()
    dry_run.check_evaluators(config, depth=12)
    config.eval.evaluators.robustness.perturbations = ("gain", "blur")
    with pytest.raises(ConfigError, match=r"robustness.perturbations: unknown \['blur'\]; there are .*'crop'"):
        dry_run.check_evaluators(config, depth=12)
