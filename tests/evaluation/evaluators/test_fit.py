"""Training of small heads: what is learned, what is chosen, and that padding does not count."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from discovr_jax.evaluation import interface
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.evaluators import heads, targets

OPTIONS = heads.HeadOptions(steps=400, every=200, batch=64, learning_rate=1e-1, weight_decays=(0.0,))


def squared(outputs, wanted):
    return ((outputs[:, 0] - wanted) ** 2).mean()


def problem(rows=64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 5)).astype(np.float32)
    return x, (x @ np.arange(5) + 2 + 0.1 * rng.normal(size=rows)).astype(np.float32)


def test_a_linear_head_finds_what_least_squares_finds():
    x, y = problem()
    head = nn.Dense(1)
    fitted = heads.fit(head, squared, lambda params: -squared(head.apply(params, x), y), x, y, OPTIONS, 0)
    expected = Ridge(alpha=0).fit(x, y)
    np.testing.assert_allclose(fitted.params["params"]["kernel"][:, 0], expected.coef_, atol=2e-3)
    np.testing.assert_allclose(fitted.params["params"]["bias"], expected.intercept_, atol=2e-3)
    again = heads.fit(head, squared, lambda params: -squared(head.apply(params, x), y), x, y, OPTIONS, 0)
    assert again.val_score == fitted.val_score and again.details == {"decay": 0.0, "steps": 400}


def test_decay_and_steps_are_those_validation_liked_best():
    x, y = problem()
    options = heads.HeadOptions(steps=5, every=2, batch=16, learning_rate=1e-2, weight_decays=(0.1, 3.0))
    looked = []

    def score(params):  # the third look (of weight decay 3.0, which is tried first) and, as good, the fourth
        looked.append(params)
        return {1: np.nan, 3: 7.0, 4: 7.0}.get(len(looked), 0.0)

    fitted = heads.fit(nn.Dense(1), squared, score, x, y, options, 0)
    assert len(looked) == 6 and fitted.details == {"decay": 3.0, "steps": 5} and fitted.val_score == 7
    np.testing.assert_array_equal(fitted.params["params"]["kernel"], looked[2]["params"]["kernel"])
    with pytest.raises(interface.Skip, match="never a number"):
        heads.fit(nn.Dense(1), squared, lambda params: np.nan, x, y, options, 0)
    with pytest.raises(ValueError, match="one of weight_decays"):
        heads.HeadOptions(steps=5, every=2, batch=16, learning_rate=1e-2, weight_decays=())


@pytest.mark.parametrize("batch", [1, 3, 7, 50])
def test_outputs_do_not_depend_on_the_batch(batch):
    x, _ = problem(7)
    apply = heads.applied(nn.Dense(2), jnp.sin)
    params = nn.Dense(2).init(jax.random.key(0), x)
    found = heads.outputs(apply, params, x, batch)
    np.testing.assert_allclose(found, np.sin(nn.Dense(2).apply(params, x)), rtol=1e-5)


def test_standardised_on_the_training_split(monkeypatch):
    monkeypatch.setattr(heads, "_BLOCK", 12)  # two rows at a time
    rng = np.random.default_rng(0)
    train = (rng.normal(size=(7, 2, 3)) * [1, 20, 0] + [3, -50, 4]).astype(np.float16)
    other = train[:2] + np.float16(1)
    found, moved = (heads.scaled(array, *heads.scaling(train)) for array in (train, other))
    np.testing.assert_allclose(found.reshape(-1, 3).mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(found.reshape(-1, 3).std(0), [1, 1, 0], atol=2e-3)
    spread = train.reshape(-1, 3).astype(np.float32).std(0)
    further = np.broadcast_to([1 / spread[0], 1 / spread[1], 1], (2, 2, 3))
    np.testing.assert_allclose(moved - found[:2], further, atol=4e-3)
    assert found.dtype == np.float16


@pytest.mark.parametrize("field", ["label", "ef"])
def test_a_head_that_says_nan_scores_nan(field):
    values = {"val": np.array([0.0, 1.0, 0.0, 1.0])}
    rows = results_lib.Rows(np.arange(4), np.arange(4), values["val"], np.ones((1, 4), np.int16))
    target = targets.Target(field, {}, values, rows)
    assert np.isfinite(target.score(np.array([0.1, 0.9, 0.2, 0.8])))
    assert np.isnan(target.score(np.array([0.1, np.nan, 0.2, 0.8])))
