"""The functions of a block whose gradients are written out, against automatic differentiation and by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax.models import transformer


def test_gelu_is_exact_with_its_gradient():
    x = jnp.linspace(-6, 6, 49)
    value, slope = jax.vmap(jax.value_and_grad(transformer.gelu))(x)
    expected, expected_slope = jax.vmap(jax.value_and_grad(lambda x: jax.nn.gelu(x, approximate=False)))(x)
    np.testing.assert_allclose(value, expected, atol=1e-6)
    np.testing.assert_allclose(slope, expected_slope, atol=1e-6)
    # Phi(1) = 0.841345, phi(1) = 0.241971
    at_one = jax.value_and_grad(transformer.gelu)(jnp.float32(1))
    np.testing.assert_allclose(at_one, (0.841345, 0.841345 + 0.241971), rtol=1e-5)


def test_layer_norm_by_hand():
    # Mean 2, deviation 2: (-1, 1) times the scale plus the bias.
    found = transformer.normalise(jnp.array([[0.0, 4.0]]), jnp.array([3.0, 5.0]), jnp.array([10.0, 20.0]), 0.0)
    np.testing.assert_allclose(found, [[7.0, 25.0]], rtol=1e-6)


def test_layer_norm_has_the_gradient_of_its_formula():
    x, scale, bias, weights = jax.random.normal(jax.random.key(0), (4, 2, 3, 8)) * 2 + 1
    scale, bias, eps = scale[0, 0], bias[0, 0], 0.1

    def formula(x, scale, bias):
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + eps) * scale + bias

    def gradients(function):
        return jax.jit(jax.grad(lambda *args: (function(*args) * weights).sum(), argnums=(0, 1, 2)))(x, scale, bias)

    ours = gradients(lambda *args: transformer.normalise(*args, eps))
    for found, expected in zip(ours, gradients(formula), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_half_precision_goes_through_float32():
    """Only the result is rounded."""
    x = jax.random.normal(jax.random.key(0), (2, 64)).astype(jnp.bfloat16)
    ones, zeros = jnp.ones(64), jnp.zeros(64)
    for function in (transformer.gelu, lambda x: transformer.normalise(x, ones, zeros, 1e-6)):
        found = function(x)
        assert found.dtype == jnp.bfloat16
        np.testing.assert_array_equal(found, function(x.astype(jnp.float32)).astype(jnp.bfloat16))
