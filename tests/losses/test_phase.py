"""The phase term: deviations from the clip's mean, their agreement between views and their spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.losses import jepa, phase


@pytest.fixture
def embeddings():
    """[2 clips, 3 frames, 2 views, 4]; the last frame of the second clip only fills up."""
    return jax.random.normal(jax.random.key(0), (2, 3, 2, 4)), jnp.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])


def test_deviations_by_hand():
    # One clip, three frames of which two are real, one view, one number: the mean of the real ones is 2.
    moved = phase.deviations(jnp.array([1.0, 3.0, 9.0]).reshape(1, 3, 1, 1), jnp.array([[1.0, 1.0, 0.0]]))
    assert moved.ravel().tolist() == [-1.0, 1.0, 0.0]


def test_what_is_constant_over_a_clip_drops_out(embeddings):
    x, valid = embeddings
    constant = jax.random.normal(jax.random.key(1), (2, 1, 2, 4))
    np.testing.assert_allclose(phase.deviations(x + constant, valid), phase.deviations(x, valid), atol=1e-6)


def test_frames_that_only_fill_up_do_not_count(embeddings):
    x, valid = embeddings
    other = x.at[1, 2].set(100.0)
    directions = jepa.draw_directions(jax.random.key(2), 4, 8)
    moved = phase.deviations(x, valid)
    np.testing.assert_array_equal(moved, phase.deviations(other, valid))
    assert float(phase.invariance(moved, valid)) > 0
    # SIGReg of the five real frames alone, over 5 / 2 frames per clip.
    rows = moved.reshape(6, 2, 4)[jnp.array([0, 1, 2, 3, 4])]
    expected = float(jepa.sigreg(rows, directions)) / 2.5
    assert float(phase.sigreg(moved, valid, directions)) == pytest.approx(expected, rel=1e-5)


def test_invariance_by_hand():
    # One frame, two views, two numbers: (0, 0) and (2, 0) lie 1 from their mean in the first number.
    moved = jnp.array([[[[0.0, 0.0], [2.0, 0.0]]]])
    assert float(phase.invariance(moved, jnp.ones((1, 1)))) == pytest.approx(0.5)
    equal = jnp.ones((1, 2, 2, 3))
    assert float(phase.invariance(equal, jnp.ones((1, 2)))) == 0.0


def test_descending_the_spread_term_spreads_deviations(embeddings):
    _, valid = embeddings
    directions = jepa.draw_directions(jax.random.key(3), 4, 32)
    x = 0.01 * jax.random.normal(jax.random.key(4), (2, 3, 2, 4))

    def spread(z):
        return phase.sigreg(phase.deviations(z, valid), valid, directions)

    assert float(spread(x - 0.1 * jax.grad(spread)(x))) < float(spread(x))
