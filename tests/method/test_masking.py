"""Masks: counts, order, geometry, randomness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.method import masking
from discovr_jax.method import step as train_step
from discovr_jax.models.discovr import ClipGrid

KEY = jax.random.key(0)
# Jitted: operation by operation they compile for longer than they run.
random_places = jax.jit(masking.random_positions, static_argnums=(1, 2, 3))
region_places = jax.jit(masking.region_positions, static_argnums=(1, 2, 3))


def test_the_papers_counts():
    """int(0.9 * 49) = 44 of 49 patches hidden; the same 5 in each of 32 tubelets are 160 of 1568 tokens."""
    assert masking.num_visible(49, 0.9) == 5
    places = random_places(KEY, 3, (7, 7), 5)
    tokens = masking.tube(places, 32, 49)
    assert tokens.shape == (3, 160)
    assert int(masking.masked(tokens, 1568).sum()) == 3 * 44 * 32


@pytest.mark.parametrize("ratio,visible", [(0.0, 49), (0.5, 25), (0.75, 13), (0.9, 5), (0.99, 1)])
def test_counts_round_as_the_public_code_does(ratio, visible):
    assert masking.num_visible(49, ratio) == visible


@pytest.mark.parametrize("ratio", [1.0, -0.5])
def test_impossible_ratios_are_refused(ratio):
    with pytest.raises(ValueError, match=f"mask ratio {ratio} leaves"):
        masking.num_visible(49, ratio)


@pytest.mark.parametrize("draw", [random_places, region_places], ids=["random", "region"])
def test_places_are_distinct_ascending_and_differ_between_rows(draw):
    found = np.asarray(draw(KEY, 64, (6, 8), 12))
    assert found.shape == (64, 12) and found.dtype == np.int32
    assert (np.diff(found, axis=1) > 0).all()
    assert found.min() >= 0 and found.max() < 48
    assert len(np.unique(found, axis=0)) > 16


def test_every_place_is_drawn_equally_often():
    found = np.asarray(random_places(KEY, 4000, (4, 4), 4))
    share = np.bincount(found.reshape(-1), minlength=16) / 4000
    np.testing.assert_allclose(share, 0.25, atol=0.035)  # five standard deviations


def test_tubes_repeat_in_time():
    places = random_places(KEY, 2, (3, 3), 4)
    tokens = masking.tube(places, 5, 9).reshape(2, 5, 4)
    np.testing.assert_array_equal(tokens // 9, np.broadcast_to(np.arange(5)[:, None], (2, 5, 4)))
    np.testing.assert_array_equal(tokens % 9, np.broadcast_to(places[:, None], (2, 5, 4)))


@pytest.mark.parametrize("grid,visible", [((7, 7), 20), ((7, 7), 12), ((4, 4), 4), ((2, 8), 10), ((4, 4), 16)])
def test_a_region_is_a_rectangle(grid, visible):
    for places in np.asarray(region_places(KEY, 100, grid, visible)):
        y, x = np.divmod(places, grid[1])
        assert (np.ptp(y) + 1) * (np.ptp(x) + 1) == visible


@pytest.mark.parametrize("grid,visible", [((7, 7), 19), ((8, 8), 26), ((5, 5), 23)])
def test_a_region_of_another_count_lacks_the_end_of_its_last_row(grid, visible):
    for places in np.asarray(region_places(KEY, 100, grid, visible)):
        y, x = np.divmod(places, grid[1])
        width = np.ptp(x) + 1
        full = (y - y.min()) * width + x - x.min()
        np.testing.assert_array_equal(full, np.arange(visible))


def test_regions_reach_every_place_in_several_shapes():
    found = np.asarray(region_places(KEY, 400, (7, 7), 20))
    assert len(np.unique(found)) == 49
    assert {tuple(np.ptp(np.divmod(row, 7), axis=1) + 1) for row in found} == {(4, 5), (5, 4)}


def test_views_of_each_kind():
    def counts(kind):
        views = masking.visible_positions(KEY, 4, 3, (7, 7), kind, 0.9, 0.4)
        return [view.shape for view in views], views

    shapes, tubes = counts("tube")
    assert shapes == [(3, 5)] * 4
    assert len({np.asarray(view).tobytes() for view in tubes}) == 4
    assert counts("region")[0] == [(3, 20)] * 4
    assert counts("mixed")[0] == [(3, 5), (3, 20), (3, 5), (3, 20)]
    with pytest.raises(ValueError, match="not 'block'"):
        counts("block")


def test_visible_then_hidden():
    found = masking.visible_then_masked(jnp.array([[1, 4], [0, 5]], jnp.int32), 6)
    np.testing.assert_array_equal(found, [[1, 4, 0, 2, 3, 5], [0, 5, 1, 2, 3, 4]])


class Grid:
    grid = ClipGrid(time=2, rows=4, cols=4, tubelet=2)


OPTIONS = train_step.MaskOptions("tube", 0.75, 2, "tube", 0.75, 2, 0.4)


def test_frames_have_masks_of_their_own_and_tubes_do_not():
    drawn = train_step.draw_masks(KEY, Grid, OPTIONS, 3)
    assert drawn.decoder_view.shape == (3, 8)
    assert [view.shape for view in drawn.local_views] == [(3, 8)] * 2
    assert [view.shape for view in drawn.image_views] == [(12, 4)] * 2
    assert len(np.unique(np.concatenate(drawn.image_views), axis=0)) > 20
    views = [np.asarray(view) for view in (drawn.decoder_view, *drawn.local_views)]
    assert not any((a == b).all() for i, a in enumerate(views) for b in views[:i])


def test_masks_are_a_function_of_the_key():
    draw = jax.jit(lambda key: train_step.draw_masks(key, Grid, OPTIONS, 3))
    again, other = draw(jax.random.key(0)), draw(jax.random.key(1))
    for a, b, c in zip(*map(jax.tree.leaves, (draw(KEY), again, other)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert (np.asarray(a) != np.asarray(c)).any()
