"""Sinkhorn-Knopp: numbers by hand, numerics, weights, and sharded rows."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from discovr_jax.losses.sinkhorn import sinkhorn as eager_sinkhorn

sinkhorn = jax.jit(eager_sinkhorn, static_argnums=(1, 2), static_argnames=("bound", "dtype"))


def by_division(scores, epsilon, iterations, weights=None):
    """The textbook form in float64: exponentiate, then normalise columns and rows in turn."""
    q = np.exp(np.asarray(scores, np.float64) / epsilon)
    mass = np.ones(len(q)) if weights is None else np.asarray(weights, np.float64)
    mass = mass / mass.sum()
    q *= mass[:, None]
    for _ in range(iterations):
        q /= q.sum(0) * q.shape[1]
        q *= (mass / q.sum(1))[:, None]
    return q / q.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def scores():
    return np.random.default_rng(0).uniform(-1, 1, (64, 8)).astype(np.float32)


def test_one_iteration_by_hand():
    # exp(scores): [[1, 3], [1, 1]]. Columns over twice their sums: [[1/4, 3/8], [1/4, 1/8]]; rows over sums.
    found = sinkhorn(jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0]])), 1.0, 1)
    np.testing.assert_allclose(found, [[0.4, 0.6], [2 / 3, 1 / 3]], rtol=1e-6)


def test_symmetric_scores_split_evenly_and_opposite_ones_separate():
    np.testing.assert_allclose(sinkhorn(jnp.zeros((6, 3)), 0.05, 3), np.full((6, 3), 1 / 3), rtol=1e-6)
    np.testing.assert_allclose(sinkhorn(jnp.eye(4), 0.02, 10), np.eye(4), atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_equals_the_textbook_form(scores, iterations):
    found = sinkhorn(jnp.asarray(scores), 0.1, iterations)
    np.testing.assert_allclose(found, by_division(scores, 0.1, iterations), atol=2e-6)


def test_exponentials_in_bfloat16_change_the_assignments_little():
    """Rounded by up to 0.4 % each, averaged over the rows. Columns off by so much would move assignments by 8e-4."""
    rng = np.random.default_rng(2)
    tokens, prototypes = (rng.normal(size=(rows, 96)) + rng.normal(size=96) for rows in (2048, 128))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (tokens, prototypes)]
    scores = jnp.asarray(unit[0] @ unit[1].T, jnp.float32)
    kept = map(jnp.dtype, ("float32", "bfloat16"))
    exact, rounded = (sinkhorn(scores, 0.05, 10, bound=1.0, dtype=dtype) for dtype in kept)
    np.testing.assert_allclose(rounded, exact, atol=5e-5)
    assert (rounded != exact).any() and rounded.dtype == jnp.float32


@pytest.mark.parametrize("weighted", [False, True])
def test_products_with_the_exponentiated_scores_are_the_same(weighted):
    """Cosines at the recipe's epsilon, the worst of them on the bound, and a row without mass."""
    scores = np.random.default_rng(1).uniform(-1, 1, (64, 8)).astype(np.float32)
    scores[:8], scores[:8, 0] = -1, 1
    weights = jnp.arange(64.0) if weighted else None
    found = sinkhorn(jnp.asarray(scores), 0.05, 10, weights, bound=1.0)
    np.testing.assert_allclose(found, sinkhorn(jnp.asarray(scores), 0.05, 10, weights), atol=2e-6)
    rows = slice(1 if weighted else 0, None)  # dividing, a row without mass is nothing by nothing
    expected = by_division(scores[rows], 0.05, 10, None if weights is None else weights[rows])
    np.testing.assert_allclose(found[rows], expected, atol=2e-6)


def test_a_bound_too_large_for_float32_leaves_the_logarithms():
    scores = jnp.array([[4.0, -4.0], [4.0, -4.0], [4.0, 4.0]])
    found = sinkhorn(scores, 0.05, 10, bound=4.0)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, sinkhorn(scores, 0.05, 10))


def test_columns_are_used_equally_at_convergence(scores):
    found = np.asarray(sinkhorn(jnp.asarray(scores), 0.2, 200))
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.mean(0), 1 / 8, rtol=1e-4)


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extreme_scores_stay_finite(scores, size):
    """exp(score / 0.05) overflows float32 from scores of 4.4 on; here one column dominates, too."""
    extreme = np.sign(scores) * size
    extreme[:, 0] = size
    found = np.asarray(sinkhorn(jnp.asarray(extreme), 0.05, 10))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_bfloat16_scores_are_computed_in_float32(scores):
    rounded = jnp.asarray(scores).astype(jnp.bfloat16)
    found = sinkhorn(rounded, 0.05, 10)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, sinkhorn(rounded.astype(jnp.float32), 0.05, 10))


def test_a_row_of_weight_zero_changes_nothing_for_the_others(scores):
    weights = np.ones(64, np.float32)
    weights[40:] = 0
    other = scores.copy()
    other[40:] = 7.0
    alone = sinkhorn(jnp.asarray(scores[:40]), 0.1, 5)
    for rows in (scores, other):
        found = sinkhorn(jnp.asarray(rows), 0.1, 5, jnp.asarray(weights))
        np.testing.assert_allclose(found[:40], alone, atol=1e-6)
        np.testing.assert_allclose(np.sum(found, axis=1), 1, rtol=1e-5)


def test_weights_are_multiplicities(scores):
    weights = np.random.default_rng(1).integers(1, 4, 64)
    repeated = sinkhorn(jnp.asarray(np.repeat(scores, weights, axis=0)), 0.1, 5)
    first = np.cumsum(weights) - weights
    found = sinkhorn(jnp.asarray(scores), 0.1, 5, jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(found, np.asarray(repeated)[first], atol=2e-6)
    np.testing.assert_allclose(found, by_division(scores, 0.1, 5, weights), atol=2e-6)


def test_weighted_columns_share_the_mass(scores):
    weights = np.linspace(0.1, 2, 64, dtype=np.float32)
    found = np.asarray(sinkhorn(jnp.asarray(scores), 0.2, 200, jnp.asarray(weights)))
    np.testing.assert_allclose(weights @ found / weights.sum(), 1 / 8, rtol=1e-4)


def test_sharded_rows_give_the_same_result(scores, mesh8):
    rows = NamedSharding(mesh8, PartitionSpec("data"))
    found = sinkhorn(jax.device_put(scores, rows), 0.05, 10)
    np.testing.assert_allclose(found, sinkhorn(jnp.asarray(scores), 0.05, 10), atol=2e-6)


def test_balancing_each_shard_alone_is_another_result(scores):
    """What forgetting the collective would give, with no error raised."""
    together = np.asarray(sinkhorn(jnp.asarray(scores), 0.05, 10))
    alone = np.concatenate([sinkhorn(jnp.asarray(part), 0.05, 10) for part in np.split(scores, 8)])
    assert np.abs(together - alone).max() > 0.1


@pytest.mark.parametrize("num_rows", [64, 512])
def test_devices_exchange_vectors_of_prototype_size(mesh8, num_rows):
    """Whatever the batch, no collective moves more than one number for each prototype."""
    rows = NamedSharding(mesh8, PartitionSpec("data"))
    abstract = jax.ShapeDtypeStruct((num_rows, 24), jnp.float32, sharding=rows)
    lowered = jax.jit(lambda s: eager_sinkhorn(s, 0.05, 10), out_shardings=rows).lower(abstract)
    text = lowered.compile().as_text()
    shapes = re.findall(r"= \(?((?:f32\[[\d,]*\]\S*(?:, )?)+)\)? (?:all-|reduce-scatter|collective)", text)
    sizes = {
        int(np.prod([int(n) for n in dims.split(",") if n], dtype=int))
        for group in shapes
        for dims in re.findall(r"f32\[([\d,]*)\]", group)
    }
    assert sizes, "no collective found: is the batch sharded at all?"
    assert max(sizes) <= 24, sizes
