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
    np.testing.assert_array_equal(positions.sincos_1d((3, 4, 5)), np.arange(60))
    np.testing.assert_array_equal(positions.sincos_1d((3, 4, 5), (3, 4, 5)), np.arange(60))


def test_positions_counted_in_another_grid():
    # 2 rows of 2 in a grid of 4 x 4: centres at 0.5 and 2.5 cells along each axis.
    found = positions.sincos_1d((2, 2), (4, 4))
    np.testing.assert_allclose(found, [0.5 * 4 + 0.5, 0.5 * 4 + 2.5, 2.5 * 4 + 0.5, 2.5 * 4 + 2.5])
    # Half the tubelets of 4: the frame's places are untouched, time is centred between two trained tubelets.
    found = positions.sincos_1d((2, 3, 3), (4, 3, 3)).reshape(2, 9)
    np.testing.assert_allclose(found[0], 0.5 * 9 + np.arange(9))
    np.testing.assert_allclose(found[1], 2.5 * 9 + np.arange(9))


def test_axes_by_hand():
    # Width 8 and 3 axes: a sine and a cosine each, two channels left over.
    where = positions.sincos_factorised((2, 1, 3))
    np.testing.assert_array_equal(where, [[t, 0, w] for t in range(2) for w in range(3)])
    table = positions.encoder_positions(6, 8, where)
    expected = [[math.sin(t), math.cos(t), 0, 1, math.sin(w), math.cos(w), 0, 0] for t, _, w in where]
    np.testing.assert_allclose(table, expected, atol=1e-7)
    ahead = positions.decoder_positions(6, 8, where)
    np.testing.assert_array_equal(ahead, positions.encoder_positions(6, 8, where + 1))


def test_axes_use_their_own_longest_wave():
    # 12 channels, 2 axes: 3 waves each, 100 ** (0, 1/3, 2/3).
    table = positions.encoder_positions(1, 12, np.array([[5.0, 7.0]]))[0]
    np.testing.assert_allclose(table[0:6:2], np.sin(5 / 100 ** (np.arange(3) / 3)), atol=1e-6)
    np.testing.assert_allclose(table[7::2], np.cos(7 / 100 ** (np.arange(3) / 3)), atol=1e-6)


def test_axes_need_a_wave_each():
    with pytest.raises(ValueError, match="5 channels .* 3 axes: take 6"):
        positions.encoder_positions(6, 5, positions.sincos_factorised((2, 1, 3)))


def test_axes_counted_in_another_grid():
    found = positions.sincos_factorised((2, 2), (4, 4))
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]])


def test_ranks_must_agree():
    with pytest.raises(ValueError, match="other rank"):
        positions.sincos_1d((2, 3), (4, 3, 3))
