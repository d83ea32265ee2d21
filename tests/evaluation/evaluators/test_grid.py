"""Heads trained on a grid: as one by one, what is chosen on validation, and what the trainings of a head predict."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from discovr_jax.evaluation import interface
from discovr_jax.evaluation.evaluators import grid, targets
from discovr_jax.evaluation.metrics import videos as video_metrics

COUNTS = {"train": 40, "val": 30, "test": 20}


class Head(nn.Module):
    """A layer with a kernel, a bias, and another matrix that decays too."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x @ self.param("turn", nn.initializers.orthogonal(), (3, 3)))[:, 0]


def options(**changes):
    given = {"steps": 23, "epochs": 0, "batch": 16, "learning_rates": (0.01, 0.1), "weight_decays": (0.0, 2.0)}
    return grid.GridOptions(**given | {"seeds": 2} | changes)


def problem(field="ef", noise=0.5):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(count, 3)).astype(np.float32) for count in COUNTS.values()]
    values = {}
    for split, x in zip(COUNTS, arrays, strict=True):
        ef = 50 + 8 * (x @ [1.0, -2.0, 0.5]) + noise * rng.normal(size=len(x))
        values[split] = ef if field == "ef" else (ef < 50).astype(float)
    return targets.Target(field, {split: np.ones(count, bool) for split, count in COUNTS.items()}, values), arrays


def one_by_one(target, arrays, given, decay, rate, seed):
    """Validation and test outputs after each tenth of a plain training by optax.adamw."""
    head, key, total = Head(), jax.random.key(seed), given.steps_of(len(arrays[0]))
    params = head.init(jax.random.fold_in(key, 2**31 - 1), jnp.asarray(arrays[0][:1]))
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, int(0.1 * total) + 1, total + 1)
    decayed = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(lambda step: schedule(step + 1), b1=0.9, b2=0.99, weight_decay=decay, mask=decayed),
    )
    state, wanted = optimizer.init(params), target.weighted()
    for step in range(total):
        rows = jax.random.permutation(jax.random.fold_in(key, step), len(arrays[0]))[: given.batch]
        grads = jax.grad(lambda p, r=rows: target.loss()(head.apply(p, arrays[0][r]), wanted[r]))(params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if (step + 1) % (total // 10) == 0 or step + 1 == total:
            yield step + 1, *(np.asarray(head.apply(params, x)) for x in arrays[1:])


@pytest.mark.parametrize("field", ["ef", "label"])
def test_the_grid_is_trained_as_each_of_its_points_alone(field):
    target, arrays = problem(field)
    fitted = grid.fit(Head(), target, arrays, options(), seed=5)
    best = {}
    for decay, rate in options().points:
        for seed in (5, 6):
            looks = one_by_one(target, arrays, options(), decay, rate, seed)
            scored = [(target.score(target.predicted(val)), -step, val, test) for step, val, test in looks]
            best.setdefault((decay, rate), []).append(max(scored, key=lambda look: look[:2]))
    chosen = max(best, key=lambda point: np.mean([look[0] for look in best[point]]))
    assert (fitted["weight_decay"], fitted["learning_rate"]) == chosen
    assert fitted["score"] == pytest.approx(np.mean([look[0] for look in best[chosen]]), rel=1e-4)
    assert fitted["steps"].tolist() == [-look[1] for look in best[chosen]]
    np.testing.assert_allclose(fitted["val"], [look[2] for look in best[chosen]], rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(fitted["test"], [look[3] for look in best[chosen]], rtol=2e-3, atol=2e-4)
    again = grid.fit(Head(), target, arrays, options(), seed=5)
    assert all((again[name] == fitted[name]).all() for name in fitted)


def test_predictions_are_one_per_training_in_the_target_s_unit():
    target, arrays = problem(noise=0.0)
    fitted = grid.fit(Head(), target, arrays, options(steps=200, learning_rates=(0.03,)), seed=0)
    found = grid.predictions(target, fitted, width=3)
    assert [each.head_seed for each in found] == [0, 1] and found[0].details["width"] == 3
    assert found[0].details.keys() == {"width", "weight_decay", "learning_rate", "steps"} and not found[0].outputs
    assert found[0].details["weight_decay"] == 0.0
    for each in found:
        assert np.abs(each.test - target.values["test"]).max() < 1
    assert (found[0].test != found[1].test).any()
    label, arrays = problem("label")
    found = grid.predictions(label, grid.fit(Head(), label, arrays, options(), seed=0))
    assert all(((0 <= each.val) & (each.val <= 1)).all() for each in found)
    for each in found:
        expected = video_metrics.at_best_f1(label.values["val"], each.val, each.test)
        np.testing.assert_array_equal(each.outputs["at_threshold"], expected)


def test_ties_keep_the_plainer_point_and_the_earlier_step(monkeypatch):
    target, arrays = problem()
    monkeypatch.setattr(targets.Target, "score", lambda *_: 1.0)
    fitted = grid.fit(Head(), target, arrays, options(), seed=0)
    assert (fitted["weight_decay"], fitted["learning_rate"]) == (2.0, 0.01) and fitted["steps"].tolist() == [2, 2]


def test_no_finite_score_is_a_reason_to_skip():
    target, arrays = problem()
    broken = [arrays[0], np.full_like(arrays[1], np.nan), arrays[2]]
    with pytest.raises(interface.Skip, match="never a number"):
        grid.fit(Head(), target, broken, options(), seed=0)


def test_steps_follow_the_rows():
    assert options(steps=5, epochs=3, batch=16).steps_of(40) == 8
    assert options(steps=9, epochs=3, batch=16).steps_of(40) == 9


@pytest.mark.parametrize(
    "changes", [{"seeds": 0}, {"learning_rates": ()}, {"learning_rates": (0.0,)}, {"weight_decays": (-1.0,)}]
)
def test_options_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match="learning_rates > 0"):
        options(**changes)
