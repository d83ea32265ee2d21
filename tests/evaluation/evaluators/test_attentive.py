"""The attentive probe: what it can find, what it reads, what it keeps and when it does not run."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax import trees
from discovr_jax.data import pipeline
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.evaluators import attentive, grid, regression, targets
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import tokens
from discovr_jax.evaluation.metrics import videos as video_metrics
from discovr_jax.models import readouts
from discovr_jax.models.discovr import ClipGrid
from tests import tokens_case

FIT = {"steps": 240, "epochs": 1, "batch": 24, "learning_rates": (3e-3,), "weight_decays": (3.0,), "seeds": 2}
COUNTS = {"train": 240, "val": 50, "test": 60}
OPTIONS = {"fields": ("label", "ef"), "heads_of_query": 32, "head_width": 8, "fit": FIT, "max_gib": 1.0}


def entry(evaluation, encoder, metric):
    return evaluation.results["encoders"][encoder][f"attentive/{metric}"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    sources = {split: tokens_case.Records(split, count) for split, count in COUNTS.items()}
    evaluation, context = tokens_case.make_context(tmp_path_factory.mktemp("features"), sources=sources)
    attentive.run(evaluation, "attentive", context, **OPTIONS)
    return evaluation, context


def test_finds_what_one_token_of_many_tells(done):
    """EF is in a corner pixel: in one token of 33."""
    evaluation, _ = done
    assert entry(evaluation, "discovr", "auroc")["value"] > 0.9 > entry(evaluation, "random", "auroc")["value"]
    assert entry(evaluation, "discovr", "ef_r2")["value"] > 0.7 > entry(evaluation, "random", "ef_r2")["value"]
    assert entry(evaluation, "discovr", "ef_mae")["value"] < 6
    assert evaluation.results["paired"]["discovr-random"]["attentive/ef_mae"]["value"] < 0
    assert evaluation.results["videos"]["attentive_ef"] == COUNTS
    rows = [row for row in evaluation.predictions if row["family"] == "attentive_ef" and row["encoder"] == "discovr"]
    target, found = (np.array([row[name] for row in rows]).reshape(2, 60) for name in ("target", "prediction"))
    each = [video_metrics.mae(*pair, np.ones((1, 60)))[0] for pair in zip(target, found, strict=True)]
    assert entry(evaluation, "discovr", "ef_mae")["value"] == pytest.approx(np.mean(each)) and each[0] != each[1]
    assert evaluation.results["readouts"]["attentive_ef"]["head_seeds"] == 2
    assert 0 < entry(evaluation, "discovr", "macro_f1_threshold")["value"] <= 1
    called = [row for row in evaluation.predictions if row["family"] == "attentive" and row["output"] == ""]
    assert all(0 <= row["prediction"] <= 1 for row in called)


def with_frames(directory, sources, image_weights="image"):
    """The blind encoders, whose image teachers see: `frame_std` holds the EF."""
    eyes = {"discovr": [tokens_case.Blind(0)], "random": [tokens_case.Blind(1)]}
    evaluation, context = tokens_case.make_context(directory, sources=sources, eyes=eyes)
    rng, features, pooled = np.random.default_rng(0), {}, {}
    for name in eyes:
        features[name] = [{}]
        for split, columns in context.fields.items():
            frames = {each: rng.normal(size=(len(columns["ef"]), 16)).astype(np.float32) for each in readouts.FRAMES}
            frames["frame_std"] = 0.1 * frames["frame_std"] + np.nan_to_num(columns["ef"], nan=50)[:, None] / 10
            features[name][0][split] = frames
        pooled[name] = [feature_cache.FeatureEncoder(None, f"{name} {image_weights}")]
    return dataclasses.replace(evaluation, features=features), dataclasses.replace(context, pooled=pooled)


def test_reads_the_image_teachers_features_where_all_have_them(tmp_path, monkeypatch):
    sources = {split: tokens_case.Records(split, count) for split, count in COUNTS.items()}
    options = OPTIONS | {"fields": ("ef",)}
    evaluation, context = with_frames(tmp_path, sources)
    attentive.run(evaluation, "attentive", context, **options)
    chosen = evaluation.results["readouts"]["attentive_ef"]["encoders"]
    assert {each["chosen"] for each in chosen.values()} == {"tokens, frame_mean, frame_std"}
    assert min(entry(evaluation, name, "ef_r2")["value"] for name in ("discovr", "random")) > 0.7
    # The same video encoder with another image teacher is trained anew; the same pair is not.
    monkeypatch.setattr(grid, "fit", None)
    again = with_frames(tmp_path, sources)
    attentive.run(again[0], "attentive", again[1], **options)
    assert again[0].results["encoders"] == evaluation.results["encoders"]
    other = with_frames(tmp_path, sources, "another image")
    with pytest.raises(TypeError, match="not callable"):
        attentive.run(other[0], "attentive", other[1], **options)
    # Where one encoder has none, none of them is read.
    monkeypatch.undo()
    other[0].features["random"][0]["train"].clear()
    attentive.run(other[0], "attentive", other[1], **options)
    chosen = other[0].results["readouts"]["attentive_ef"]["encoders"]
    assert {each["chosen"] for each in chosen.values()} == {"tokens"}
    assert entry(other[0], "discovr", "ef_r2")["value"] < 0.3


def test_the_second_time_nothing_is_encoded_or_trained(done, monkeypatch):
    evaluation, context = done
    eyes = {"discovr": [tokens_case.Seeing()], "random": [tokens_case.Blind(1), tokens_case.Blind(2)]}
    again, fresh = tokens_case.make_context(context.directory, sources=context.sources, eyes=eyes)
    monkeypatch.setattr(grid, "fit", None)
    attentive.run(again, "attentive", fresh, **OPTIONS)
    assert again.results["encoders"] == evaluation.results["encoders"] and eyes["discovr"][0].calls == 0
    fresh.fields["train"]["ef"][0] += 1  # other targets: trained anew
    with pytest.raises(TypeError, match="not callable"):
        attentive.run(again, "attentive", fresh, **OPTIONS)


def test_the_head_by_hand():
    rng = np.random.default_rng(0)
    x, head = rng.normal(size=(3, 5, 6)).astype(np.float16), attentive.AttentiveHead(heads=2, width=3)
    params = head.init(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)

    def normal(z, name):
        z = (z - z.mean()) / np.sqrt(z.var() + 1e-6)
        return z * params[name]["scale"] + params[name]["bias"]

    def dense(z, name):
        return z @ params[name]["kernel"] + params[name].get("bias", 0)

    for tokens_of_video, found in zip(x.astype(np.float32), head.apply({"params": params}, x), strict=True):
        scores = np.exp(dense(tokens_of_video, "query") + params["positions"])
        gathered = (scores / scores.sum(0)).T @ tokens_of_video  # [heads, D]
        passed = [row @ values for row, values in zip(gathered, params["values"], strict=True)]
        z = dense(np.concatenate(passed), "attended")
        hidden = dense(normal(z, "LayerNorm_0"), "up")
        gelu = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
        z = normal(z + dense(gelu, "down"), "LayerNorm_1")
        assert float(found) == pytest.approx(float(dense(z, "out")[0]), rel=1e-4)


def test_sees_motion_that_the_mean_does_not_hold():
    """Patches flicker: in one of them the more, the larger the target. A linear head on the mean finds nothing."""
    rng, tubelets, model_grid = np.random.default_rng(0), 8, ClipGrid(time=8, rows=2, cols=2, tubelet=1)
    values = {split: rng.uniform(20, 70, count) for split, count in (("train", 200), ("val", 80), ("test", 80))}
    arrays, means = [], []
    for target in values.values():
        frames = rng.normal(size=(len(target), tubelets, 4, 3))
        frames -= frames.mean(1, keepdims=True)
        frames[:, :, 2, 0] *= target[:, None] / frames[:, :, 2, 0].std(1, keepdims=True) / 20
        frames += rng.normal(size=(len(target), 1, 4, 3))  # what does not move says nothing
        clip = np.concatenate([np.zeros((len(target), 1, 3)), frames.reshape(len(target), -1, 3)], axis=1)
        tokens_of_clip = readouts.over_time(jnp.asarray(clip), jnp.full(len(target), tubelets), model_grid)
        arrays.append(np.asarray(tokens_of_clip).astype(np.float16))
        means.append(arrays[-1][:, 1:5].reshape(len(target), -1).astype(np.float64))
    target = targets.Target("ef", {split: np.ones(len(each), bool) for split, each in values.items()}, values)
    options = grid.GridOptions(**FIT | {"steps": 300, "learning_rates": (1e-2,), "weight_decays": (0.1,)})
    fitted = grid.fit(attentive.AttentiveHead(8, 4), target, attentive.standardise(4, *arrays), options, seed=0)
    found = [each.test for each in grid.predictions(target, fitted)]
    linear = regression.evaluate(
        *(interface.Split(split, x, values[split]) for split, x in zip(values, means, strict=True))
    )
    ones = np.ones((1, 80))
    assert min(video_metrics.r2(values["test"], each, ones)[0] for each in found) > 0.8
    assert video_metrics.r2(values["test"], linear.test, ones)[0] < 0.1


def test_tokens_are_brought_to_one_scale_per_kind():
    rng = np.random.default_rng(0)
    scales = np.repeat([1.0, 5.0, 0.2, 3.0, 0.1], [1, 3, 3, 1, 1])[:, None] * [1.0, 7.0]  # the last two: of frames
    offset = rng.normal(size=(9, 2)) * 9
    train, other = (scales * rng.normal(size=(count, 9, 2)) + offset for count in (400, 3))
    train[:, :, 1] = np.where(np.arange(9) < 1, train[:, :, 1], 4.0)  # of feature 1 CLS alone changes
    found, also = attentive.standardise(3, train.astype(np.float16), other.astype(np.float16))
    assert found.dtype == np.float16 and np.abs(found.astype(float).mean(0)).max() < 0.02
    for kind in (slice(0, 1), slice(1, 4), slice(4, 7), slice(7, 8), slice(8, 9)):
        np.testing.assert_allclose(found[:, kind, 0].astype(float).std(), 1, rtol=0.01)
    assert (found[:, 1:, 1] == 0).all()
    np.testing.assert_allclose(also[:, :, 0], (other - train.mean(0))[:, :, 0] / scales[:, 0], atol=0.3)


def test_reasons_to_skip(tmp_path):
    evaluation, context = tokens_case.make_context(tmp_path)
    with pytest.raises(
        interface.Skip, match=r"of 3 encoders take 0.0 GiB of memory and disk, eval.evaluators.attentive"
    ):
        attentive.run(evaluation, "attentive", context, **(OPTIONS | {"max_gib": 1e-6}))
    context.fields["val"]["ef"][:] = np.nan
    context.fields["test"]["label"][:] = 1
    attentive.run(evaluation, "attentive", context, **OPTIONS)
    reasons = {skip["evaluator"]: skip["reason"] for skip in evaluation.results["skipped"]}
    assert reasons == {
        "attentive": "one class only: all 12 labelled videos of split test are abnormal",
        "attentive_ef": "no labels: ef unknown for all 10 videos of split val",
    }
    assert evaluation.results["encoders"] == {"discovr": {}, "random": {}}
    with pytest.raises(ValueError, match="no field 'mood' to predict"):
        attentive.run(evaluation, "attentive", context, **(OPTIONS | {"fields": ("mood",)}))


def test_without_fields_it_is_off(tmp_path):
    with pytest.raises(interface.NotSetUp, match="set config.eval.evaluators.attentive.fields"):
        attentive.run(*tokens_case.make_context(tmp_path)[:1], "attentive", None, **(OPTIONS | {"fields": ()}))


def test_tokens_that_are_not_finite_are_refused(tmp_path):
    class Broken(tokens_case.Seeing):
        def of_clip(self, frames, num_valid):
            found = super().of_clip(frames, num_valid)
            found[0, 3, 2] = np.nan
            return found

    evaluation, context = tokens_case.make_context(tmp_path, eyes={"discovr": [Broken()]})
    attentive.run(evaluation, "attentive", context, **(OPTIONS | {"fields": ("ef",)}))
    (skip,) = evaluation.results["skipped"]
    assert skip["evaluator"] == "attentive_ef" and "tokens not finite: " in skip["reason"]


def test_tokens_of_a_video_are_the_mean_over_its_clips_as_float16(tmp_path):
    _, context = tokens_case.make_context(tmp_path)
    found = tokens.of_videos(context, "val")
    assert len(found) == 3 and found[0].shape == (10, 33, 16) and found[0].dtype == np.float16
    sums, counts = np.zeros((10, 33, 16)), np.zeros(10)
    with contextlib.closing(pipeline.eval_batches(context.sources["val"], context.config, batch_size=8)) as batches:
        for batch in batches:
            real = batch["weight"] > 0
            clips = tokens_case.Seeing().of_clip(batch["frames"], batch["num_valid"])[real]
            np.add.at(sums, batch["record"][real], clips)
            np.add.at(counts, batch["record"][real], 1)
    assert counts.tolist() == [2] * 10
    np.testing.assert_allclose(found[0], sums / 2, rtol=1e-3)
    assert len(list(tmp_path.glob("*-val-clips-*.npz"))) == 3
    assert trees.fingerprint(found[0]) == trees.fingerprint(tokens.of_videos(context, "val")[0])
