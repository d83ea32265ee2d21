"""Pixel reconstruction of masked tubelets."""

import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax.losses import pixel


def test_targets_are_standardised_per_tubelet():
    patches = jax.random.uniform(jax.random.key(0), (2, 3, 8)) * 200 + 20
    found = np.asarray(pixel.pixel_targets(patches))
    np.testing.assert_allclose(found.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(-1, ddof=1), 1, rtol=1e-5)


def test_a_black_tubelet_has_finite_targets():
    np.testing.assert_array_equal(pixel.pixel_targets(jnp.zeros((1, 2, 8))), np.zeros((1, 2, 8)))


def test_loss_by_hand_over_hidden_tokens_only():
    targets = jnp.zeros((1, 3, 2))
    predicted = jnp.array([[[1.0, 3.0], [100.0, 100.0], [2.0, 0.0]]])
    masked = jnp.array([[True, False, True]])
    assert float(pixel.pixel_loss(predicted, targets, masked)) == (5.0 + 2.0) / 2


def test_nothing_hidden_is_no_loss():
    assert float(pixel.pixel_loss(jnp.ones((1, 2, 2)), jnp.zeros((1, 2, 2)), jnp.zeros((1, 2), bool))) == 0.0


def test_half_precision_predictions_are_compared_in_float32():
    predicted = jnp.full((1, 1, 2), 256.0, jnp.bfloat16)
    found = pixel.pixel_loss(predicted, jnp.full((1, 1, 2), 1.0), jnp.ones((1, 1), bool))
    assert found.dtype == jnp.float32 and float(found) == 255.0**2
