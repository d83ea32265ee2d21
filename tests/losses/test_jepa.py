"""LeJEPA's terms against hand-computed values and the Gaussian that SIGReg asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.losses import jepa


def test_invariance_of_two_views():
    embeddings = jnp.array([[[1.0, 0.0], [3.0, 0.0]], [[0.0, 2.0], [0.0, 2.0]]])
    # The views of the first clip lie 1 from their mean in one of two numbers; those of the second are equal.
    assert float(jepa.invariance(embeddings)) == pytest.approx((1 + 1) / 8)


def test_sigreg_of_a_point_is_that_of_the_formula():
    directions = jepa.draw_directions(jax.random.key(0), 3, 8)
    found = float(jepa.sigreg(jnp.zeros((4, 2, 3)), directions))
    # All projections are 0, so the characteristic function is 1 everywhere.
    t = np.linspace(-5, 5, 17)
    gauss = np.exp(-(t**2) / 2)
    assert found == pytest.approx(4 * np.trapezoid((1 - gauss) ** 2 * gauss, t), rel=1e-5)


def test_sigreg_prefers_a_standard_gaussian():
    rng = np.random.default_rng(0)
    directions = jepa.draw_directions(jax.random.key(1), 8, 64)
    gauss = rng.normal(size=(512, 1, 8))
    flat = gauss * np.array([1.0] * 4 + [0.0] * 4)  # half of the dimensions collapsed
    values = {
        name: float(jepa.sigreg(jnp.asarray(x, jnp.float32), directions))
        for name, x in {"gauss": gauss, "narrow": 0.3 * gauss, "flat": flat, "shifted": gauss + 1}.items()
    }
    assert values["gauss"] < 1.5  # its expectation for a Gaussian is about 0.66, whatever the number of clips
    assert min(values["narrow"], values["flat"], values["shifted"]) > 10 * values["gauss"]


def test_directions_are_unit_vectors():
    drawn = jepa.draw_directions(jax.random.key(2), 5, 7)
    assert drawn.shape == (5, 7)
    np.testing.assert_allclose(jnp.linalg.norm(drawn, axis=0), 1, rtol=1e-6)


def test_gradient_spreads_collapsed_embeddings():
    directions = jepa.draw_directions(jax.random.key(3), 4, 32)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(64, 1, 4)) * 0.1, jnp.float32)
    step = x - 0.1 * jax.grad(lambda z: jepa.sigreg(z, directions))(x)
    assert float(step.std()) > float(x.std())
