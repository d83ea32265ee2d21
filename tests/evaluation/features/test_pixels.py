"""The pixel baseline against hand-computed values."""

import dataclasses

import numpy as np
import pytest

from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract, pixels


def test_pixel_features():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (6, 56, 56), dtype=np.uint8)
    frames[:, :28] = 7
    features = pixels.pixel_features(frames, 5)
    assert features.shape == (2 * 28 * 28,) and features.dtype == np.float32
    clip = frames[:5].astype(np.float64)
    clip = (clip - clip.mean()) / clip.std()
    blocks = clip.std(axis=0).reshape(28, 2, 28, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(features[784:].reshape(28, 28), blocks, atol=1e-6)
    assert np.all(features[784:].reshape(28, 28)[:14] == 0)
    # Brightness and contrast do not matter.
    np.testing.assert_allclose(pixels.pixel_features(frames // 2 * 2 // 2 + 9, 5), features, atol=0.05)
    assert np.all(pixels.pixel_features(np.full((3, 56, 56), 9, np.uint8), 3) == 0)
    with pytest.raises(ValueError, match="num_valid"):
        pixels.pixel_features(frames, 7)
    with pytest.raises(ValueError, match="shape"):
        pixels.pixel_features(frames[0], 1)


def test_motion_energy_is_the_std_of_cell_means():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (6, 48, 48), dtype=np.uint8)
    frames[:, 24:] = 7
    energy = pixels.motion_energy(frames, 5)
    assert energy.shape == (12, 12) and energy.dtype == np.float32
    clip = frames[:5].astype(np.float64)
    clip = (clip - clip.mean()) / clip.std()
    np.testing.assert_allclose(energy, clip.reshape(5, 12, 4, 12, 4).mean((2, 4)).std(0), atol=1e-6)
    assert np.all(energy[6:] == 0)
    found = pixels.readouts(frames, 5)
    assert tuple(found) == pixels.NAMES
    np.testing.assert_allclose(
        found["motion_energy_3"].reshape(3, 3), energy.reshape(3, 4, 3, 4).mean((1, 3)), atol=1e-6
    )
    assert found["motion_energy_6"].shape == (36,)

    assert np.all(pixels.motion_energy(np.full((3, 48, 48), 9, np.uint8), 3) == 0)


def test_several_processes_keep_the_order_of_poolings():
    """On it depends which of equally good ones is chosen; JAX sorts the names of what it gathers."""
    frames, num_valid = np.zeros((2, 8, 32, 32), np.uint8), np.array([8, 8])
    share = dataclasses.replace(feature_cache.ALONE, gather=lambda rows: dict(sorted(rows.items())))
    alone = extract.pixels().embed(frames, num_valid)
    assert list(extract.pixels(share).embed(frames, num_valid)) == list(alone) == list(pixels.NAMES)
    assert list(alone) != sorted(alone)
