"""The attentive probe: what it can find, whom it ignores, what it keeps and when it does not run."""

import jax
import numpy as np
import pytest

from discovr_jax import trees
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.evaluators import attentive, heads
from discovr_jax.evaluation.metrics import videos as video_metrics
from tests import tokens_case

FIT = {"steps": 600, "every": 200, "batch": 24, "learning_rate": 3e-2, "weight_decays": (1e-2,)}
OPTIONS = {"fields": ("label", "ef"), "heads_of_query": 2, "fit": FIT, "max_gib": 1.0}


def entry(evaluation, encoder, metric):
    return evaluation.results["encoders"][encoder][f"attentive/{metric}"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    evaluation, context = tokens_case.make_context(tmp_path_factory.mktemp("features"))
    attentive.run(evaluation, "attentive", context, **OPTIONS)
    return evaluation, context


def test_finds_what_one_token_of_many_tells(done):
    """EF is in a corner pixel: in one token of each tubelet, of 33."""
    evaluation, _ = done
    assert entry(evaluation, "discovr", "auroc")["value"] > 0.9 > entry(evaluation, "random", "auroc")["value"]
    assert entry(evaluation, "discovr", "ef_r2")["value"] > 0.7 > entry(evaluation, "random", "ef_r2")["value"]
    assert entry(evaluation, "discovr", "ef_mae")["value"] < 6
    assert evaluation.results["paired"]["discovr-random"]["attentive/ef_mae"]["value"] < 0
    assert evaluation.results["videos"]["attentive_ef"] == tokens_case.COUNTS
    rows = [row for row in evaluation.predictions if row["family"] == "attentive_ef" and row["encoder"] == "discovr"]
    target, found = (np.array([row[name] for row in rows]) for name in ("target", "prediction"))
    expected = video_metrics.mae(target, found, np.ones((1, 12)))[0]
    assert entry(evaluation, "discovr", "ef_mae")["value"] == pytest.approx(expected)
    assert all(0 <= row["prediction"] <= 1 for row in evaluation.predictions if row["family"] == "attentive")


def test_the_second_time_nothing_is_encoded_or_trained(done, monkeypatch):
    evaluation, context = done
    eyes = {"discovr": [tokens_case.Seeing()], "random": [tokens_case.Blind(1), tokens_case.Blind(2)]}
    again, fresh = tokens_case.make_context(context.directory, eyes=eyes)
    monkeypatch.setattr(heads, "fit", None)
    attentive.run(again, "attentive", fresh, **OPTIONS)
    assert again.results["encoders"] == evaluation.results["encoders"] and eyes["discovr"][0].calls == 0
    fresh.fields["train"]["ef"][0] += 1  # other targets: trained anew
    with pytest.raises(TypeError, match="not callable"):
        attentive.run(again, "attentive", fresh, **OPTIONS)


def test_tokens_of_padded_frames_get_no_attention():
    grid = tokens_case.GRID
    valid = attentive.valid_tokens(np.array([4, 3, 2, 1]), grid)
    assert valid.sum(1).tolist() == [33, 33, 17, 17] and valid[:, :17].all()
    rng = np.random.default_rng(0)
    x, head = rng.normal(size=(4, 33, 16)).astype(np.float16), attentive.AttentiveHead(2)
    params = head.init(jax.random.key(0), {"tokens": x, "valid": valid})
    params["params"]["out"]["kernel"] = rng.normal(size=(32, 1)).astype(np.float32)
    before = head.apply(params, {"tokens": x, "valid": valid})
    changed = np.where(valid[:, :, None], x, np.float16(77))
    np.testing.assert_array_equal(head.apply(params, {"tokens": changed, "valid": valid}), before)
    query = np.asarray(params["params"]["query"]["kernel"])
    scores = np.exp(x[2, :17].astype(np.float32) @ query)
    gathered = ((scores / scores.sum(0)).T @ x[2, :17]).reshape(-1)
    assert float(before[2]) == pytest.approx(float(gathered @ params["params"]["out"]["kernel"][:, 0]), rel=1e-4)


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


def test_clips_are_kept_as_float16_with_their_real_frames(tmp_path):
    from discovr_jax.evaluation.features import tokens

    _, context = tokens_case.make_context(tmp_path)
    found = tokens.of_clips(context, "val")
    assert len(found) == 3 and found[0]["tokens"].shape == (10, 33, 16) and found[0]["tokens"].dtype == np.float16
    assert found[0]["num_valid"].tolist() == [4] * 10
    assert len(list(tmp_path.glob("*-val-clips-*.npz"))) == 3
    assert trees.fingerprint(found[0]) == trees.fingerprint(tokens.of_clips(context, "val")[0])
