"""Sinusoid positions against the formula, and positions counted in another grid."""

import math

import numpy as np
import pytest

from discovr_jax.models import positions


def test_table_against_the_formula():
    width = 6
    table = positions.encoder_positions(5, width)
    assert table.dtype == np.float32
    for position in range(5):
        for channel in range(width):
            angle = position / 10000 ** (2 * (channel // 2) / width)
            expected = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
            assert table[position, channel] == pytest.approx(expected, abs=1e-7)


def test_the_decoders_table_is_one_row_ahead():
    np.testing.assert_array_equal(positions.decoder_positions(7, 8), positions.encoder_positions(8, 8)[1:])
    flat = np.arange(7.0)
    np.testing.assert_array_equal(positions.decoder_positions(7, 8, flat), positions.decoder_positions(7, 8))


def test_a_grid_counted_in_itself_is_plain_counting():
    np.testing.assert_array_equal(positions.flat_positions((3, 4, 5)), np.arange(60))
    np.testing.assert_array_equal(positions.flat_positions((3, 4, 5), (3, 4, 5)), np.arange(60))


def test_positions_counted_in_another_grid():
    # 2 rows of 2 in a grid of 4 x 4: centres at 0.5 and 2.5 cells along each axis.
    found = positions.flat_positions((2, 2), (4, 4))
    np.testing.assert_allclose(found, [0.5 * 4 + 0.5, 0.5 * 4 + 2.5, 2.5 * 4 + 0.5, 2.5 * 4 + 2.5])
    # Half the tubelets of 4: the frame's places are untouched, time is centred between two trained tubelets.
    found = positions.flat_positions((2, 3, 3), (4, 3, 3)).reshape(2, 9)
    np.testing.assert_allclose(found[0], 0.5 * 9 + np.arange(9))
    np.testing.assert_allclose(found[1], 2.5 * 9 + np.arange(9))


def test_ranks_must_agree():
    with pytest.raises(ValueError, match="other rank"):
        positions.flat_positions((2, 3), (4, 3, 3))
