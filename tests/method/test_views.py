"""Views of a clip: what is drawn, what stays, and that masks alone are still the default."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.errors import ConfigError
from discovr_jax.method import views

KEY = jax.random.key(0)


def clips(batch=3, time=4, size=16):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (batch, time, size, size), dtype=np.uint8))


def test_a_whole_stretch_is_the_identity():
    matrix = views.resize_matrix(jnp.zeros(2), jnp.ones(2), 6)
    np.testing.assert_allclose(matrix, np.broadcast_to(np.eye(6), (2, 6, 6)), atol=1e-6)


def test_half_a_stretch_is_linear_interpolation():
    # The second half of 0, 1, 2, 3 at four points: pixel centres at 2.25, 2.75, 3.25, 3.75, which is values 1.75, ...
    matrix = views.resize_matrix(jnp.array([0.5]), jnp.array([0.5]), 4)
    np.testing.assert_allclose(matrix[0] @ np.arange(4.0), [1.75, 2.25, 2.75, 3.0], atol=1e-6)
    np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-6)


def test_no_option_leaves_the_batch():
    batch = {"frames": clips(), "num_valid": np.array([4, 4, 2], np.int32)}
    found = views.add_views(KEY, batch, views.MASKS_ALONE, 2)
    assert set(found) == {"frames", "num_valid"} and found["frames"] is batch["frames"]
    assert set(views.input_shapes(views.MASKS_ALONE, 2, 4, 16)) == {"frames", "num_valid"}


def test_views_come_from_the_other_clip_and_the_same_by_turns():
    options = views.ViewOptions(positive="other_beat")
    shapes = views.input_shapes(options, 3, 4, 16)
    batch = {
        "frames": clips(), "num_valid": np.array([4, 4, 2], np.int32),
        "other_frames": 255 - clips(), "other_valid": np.array([4, 3, 4], np.int32),
    }  # fmt: skip
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        name: (x.shape, x.dtype) for name, x in shapes.items()
    }
    found = views.add_views(KEY, batch, options, 3)
    for number, (frames, valid) in enumerate((("other_frames", "other_valid"), ("frames", "num_valid")) * 2):
        if number < 3:
            np.testing.assert_allclose(found["views"][:, number], batch[frames], atol=1e-3)
            np.testing.assert_array_equal(found["views_valid"][:, number], batch[valid])


@pytest.mark.parametrize("change", [{"crop": 0.5}, {"gamma": 0.3}, {"gain": 0.2}, {"attenuation": 0.4}, {"noise": 0.1}])
def test_each_option_changes_the_picture_within_its_range(change):
    options = views.ViewOptions(**change)
    frames = clips()
    found, frames = np.asarray(views.augment(KEY, frames, options)), frames.astype(np.float32)
    assert found.shape == frames.shape and found.min() >= 0 and found.max() <= 255
    assert np.abs(found - frames).mean() > 1
    np.testing.assert_array_equal(found, views.augment(KEY, clips(), options))
    other = np.asarray(views.augment(jax.random.key(1), clips(), options))
    assert np.abs(found - other).mean() > 1


def test_a_view_is_the_same_in_all_frames():
    """But for the noise: a still stays a still, so that no view moves by itself."""
    still = jnp.repeat(clips(time=1), 4, axis=1)
    options = views.ViewOptions(crop=0.6, gamma=0.3, gain=0.2, attenuation=0.4)
    found = np.asarray(views.augment(KEY, still, options))
    np.testing.assert_allclose(found, found[:, :1].repeat(4, 1), atol=1e-4)


@pytest.mark.parametrize(
    "change", [{"positive": "another"}, {"crop": 0.0}, {"crop": 1.2}, {"noise": -0.1}, {"gain": -1.0}]
)
def test_options_that_cannot_be_are_named(change):
    with pytest.raises(ConfigError, match=f"views.{next(iter(change))}"):
        dataclasses.replace(views.MASKS_ALONE, **change)
