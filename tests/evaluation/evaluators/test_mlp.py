"""The MLP probe: what only it can find, what it reads, and what is refused."""

import jax
import numpy as np
import pytest

from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.evaluators import mlp, mlp_probe, mlp_regression, probe, regression
from discovr_jax.evaluation.metrics import videos as video_metrics

FIT = {"steps": 300, "epochs": 0, "batch": 64, "learning_rates": (1e-2,), "weight_decays": (1e-2,), "seeds": 2}
OPTIONS = {"widths": (16,), "components": 4, "fit": FIT}


def splits(measured):
    """The product of two features of six says the EF; the label is its sign. The other four vary less."""
    rng, result = np.random.default_rng(0), []
    for name, count in (("train", 400), ("val", 100), ("test", 200)):
        hidden = rng.normal(size=(count, 4))
        product = hidden[:, 0] * hidden[:, 1]
        turned = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0][:4]
        features = 3 + hidden * [2.0, 2.0, 0.3, 0.3] @ turned
        result.append(interface.Split(name, features, 50 + 10 * product if measured else (product > 0).astype(float)))
    return result


def test_a_product_is_found_and_no_linear_head_finds_it():
    train, val, test = splits(measured=True)
    found, ones = mlp_regression.evaluate(train, val, test, **OPTIONS), np.ones((1, 200))
    assert len(found) == 2 and [each.head_seed for each in found] == [0, 1]
    assert min(video_metrics.r2(test.target, each.test, ones)[0] for each in found) > 0.8
    assert video_metrics.r2(test.target, regression.evaluate(train, val, test).test, ones)[0] < 0.1
    assert found[0].details["width"] == 16 and found[0].details["components"] == 4
    train, val, test = splits(measured=False)
    found = mlp_probe.evaluate(train, val, test, **OPTIONS)
    assert min(video_metrics.auroc(test.target, each.test, ones)[0] for each in found) > 0.9
    assert video_metrics.auroc(test.target, probe.evaluate(train, val, test).test, ones)[0] < 0.65
    assert found[0].outputs.keys() == {"at_threshold"}


def test_is_the_same_again_and_reads_no_test_target():
    train, val, test = splits(measured=True)
    few = OPTIONS | {"fit": FIT | {"steps": 20}}
    one = mlp_regression.evaluate(train, val, test, **few)
    flipped = interface.Split("test", test.features, -test.target)
    for first, second in zip(one, mlp_regression.evaluate(train, val, flipped, **few), strict=True):
        np.testing.assert_array_equal(first.test, second.test)
        np.testing.assert_array_equal(first.val, second.val)


def test_components_beyond_those_that_there_are_say_nothing():
    """Three training videos span two directions; scale and place of the features do not matter."""
    train, val, test = (interface.Split(s.name, s.features[:9], s.target[:9]) for s in splits(measured=True))
    train = interface.Split("train", train.features[:3], train.target[:3])
    few = OPTIONS | {"fit": FIT | {"steps": 10}, "components": 8}
    found = mlp_regression.evaluate(train, val, test, **few)
    assert found[0].details["components"] == 2
    moved = [interface.Split(s.name, 1e3 * s.features - 77, s.target) for s in (train, val, test)]
    np.testing.assert_allclose(mlp_regression.evaluate(*moved, **few)[0].test, found[0].test, rtol=1e-3)


def test_the_best_width_is_taken():
    train, val, test = splits(measured=True)
    found = mlp_regression.evaluate(train, val, test, **(OPTIONS | {"widths": (64, 1)}))
    assert found[0].details["width"] == 64  # a single unit makes no product


def test_the_head_by_hand():
    rng = np.random.default_rng(0)
    x, head = rng.normal(size=(3, 5)).astype(np.float32), mlp.MlpHead(4)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), head.init(jax.random.key(0), x))
    p = params["params"]
    z = x @ p["hidden"]["kernel"] + p["hidden"]["bias"]
    gelu = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    expected = (gelu @ p["out"]["kernel"] + p["out"]["bias"])[:, 0]
    np.testing.assert_allclose(head.apply(params, x), expected, rtol=1e-4)


def test_parts_and_refusals():
    parts = mlp.parts("mlp", fields=("label", "ef"), **OPTIONS)
    assert [(part.name, part.kind, part.field) for part in parts] == [
        ("mlp", "mlp_probe", "label"), ("mlp_ef", "mlp_regression", "ef")
    ]  # fmt: skip
    assert parts[1].scores["ef_mae"] == "mae" and parts[0].scores["auroc"] == "auroc"
    assert {part.family for part in parts} == {"mlp"}
    with pytest.raises(interface.NotSetUp, match="set config.eval.evaluators.mlp.fields"):
        mlp.parts("mlp", fields=(), **OPTIONS)
    for wrong, said in (
        ({"components": 0}, "components >= 1"),
        ({"widths": (0,)}, "components >= 1"),
        ({"fit": {}}, "missing"),
        ({"fit": FIT | {"seeds": 0}}, "seeds >= 1"),
        ({"fields": ("mood",)}, "no field 'mood'"),
    ):
        with pytest.raises(ConfigError, match=f"eval.evaluators.mlp.*{said}"):
            mlp.check("mlp", OPTIONS | wrong)
