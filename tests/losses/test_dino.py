"""Self-distillation: targets, cross-entropy, centre, with numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.losses import dino
from discovr_jax.losses.sinkhorn import sinkhorn

# Two rows and two outputs; ln 3 makes the softmax a quarter and three quarters.
LOGITS = jnp.array([[0.0, np.log(3.0)], [np.log(3.0), 0.0]])
NONE = jnp.zeros(2)


def test_targets_are_the_centred_sharpened_softmax():
    np.testing.assert_allclose(
        dino.teacher_targets(LOGITS, NONE, 1.0, "mean"), [[0.25, 0.75], [0.75, 0.25]], rtol=1e-6
    )
    # At temperature 1/2 the odds are squared: 1 to 9.
    np.testing.assert_allclose(dino.teacher_targets(LOGITS, NONE, 0.5, "mean")[0], [0.1, 0.9], rtol=1e-6)
    # A centre equal to the logits leaves the uniform distribution.
    np.testing.assert_allclose(dino.teacher_targets(LOGITS, LOGITS[0], 0.5, "mean")[0], [0.5, 0.5], rtol=1e-6)


def test_sinkhorn_centering_is_the_one_sinkhorn_without_the_centre():
    logits = jax.random.normal(jax.random.key(0), (6, 4))
    weights = jnp.array([1.0, 1, 1, 1, 0, 0])
    found = dino.teacher_targets(logits, jnp.full(4, 100.0), 0.07, "sinkhorn", weights)
    np.testing.assert_array_equal(found, sinkhorn(logits, 0.07, 3, weights))


def test_unknown_options_say_what_is_allowed():
    with pytest.raises(ValueError, match="'mean' or 'sinkhorn', not 'whiten'"):
        dino.teacher_targets(LOGITS, NONE, 1.0, "whiten")
    with pytest.raises(ValueError, match="'logits' or 'softmax', not 'both'"):
        dino.update_center(NONE, LOGITS, LOGITS, 0.9, "both")


def test_cross_entropy_by_hand():
    targets = jnp.array([[0.25, 0.75], [1.0, 0.0]])
    logits = jnp.stack([LOGITS, LOGITS[::-1]], axis=1)  # [rows, views, outputs]
    found = dino.cross_entropy(targets, logits, 1.0)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    crossed = -(0.25 * np.log(0.75) + 0.75 * np.log(0.25))
    np.testing.assert_allclose(found, [[entropy, crossed], [-np.log(0.75), -np.log(0.25)]], rtol=1e-6)
    np.testing.assert_allclose(dino.cross_entropy(targets, logits / 10, 0.1), found, rtol=1e-5)


def test_cross_entropy_of_large_logits_is_finite():
    found = dino.cross_entropy(jnp.array([[1.0, 0.0]]), jnp.array([[[-1e4, 1e4]]]), 0.1)
    np.testing.assert_allclose(found, [[2e5]], rtol=1e-6)


def test_weighted_mean_ignores_padding():
    values = jnp.array([[1.0, 3.0], [5.0, 7.0], [np.float32(1e6), 0.0]])
    assert float(dino.weighted_mean(values, jnp.array([1.0, 1.0, 0.0]))) == 4.0
    assert float(dino.weighted_mean(values, jnp.array([1.0, 3.0, 0.0]))) == 5.0
    assert float(dino.weighted_mean(values[:2])) == 4.0


def test_centre_moves_from_the_first_batch():
    center = jnp.array([1.0, 1.0])
    targets = jnp.array([[1.0, 0.0], [0.5, 0.5]])
    mean = np.log(3) / 2
    np.testing.assert_allclose(
        dino.update_center(center, LOGITS, targets, 0.9, "logits"), [0.9 + 0.1 * mean] * 2, rtol=1e-6
    )
    np.testing.assert_allclose(
        dino.update_center(center, LOGITS, targets, 0.8, "softmax"), [0.8 + 0.15, 0.8 + 0.05], rtol=1e-6
    )
    first_only = dino.update_center(center, LOGITS, targets, 0.0, "logits", jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(first_only, LOGITS[0], rtol=1e-6)


def test_no_gradient_reaches_the_teacher():
    def loss(teacher_logits):
        targets = dino.teacher_targets(teacher_logits, NONE, 0.07, "mean")
        center = dino.update_center(NONE, teacher_logits, targets, 0.9, "logits")
        return dino.cross_entropy(targets, LOGITS[:, None], 0.1).sum() + center.sum()

    assert not np.any(jax.jit(jax.grad(loss))(LOGITS))


def test_the_first_centre_is_the_mean_of_the_first_batch():
    logits = jnp.array([[1.0, 3.0], [3.0, 5.0]])
    np.testing.assert_array_equal(dino.started_center(jnp.zeros(2), logits), [2.0, 4.0])
    np.testing.assert_array_equal(dino.started_center(jnp.zeros(2), logits, jnp.array([0.0, 1.0])), [3.0, 5.0])
    np.testing.assert_array_equal(dino.started_center(jnp.array([0.0, 1.0]), logits), [0.0, 1.0])
