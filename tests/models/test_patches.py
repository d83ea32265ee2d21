"""Cutting clips into patches, standardisation, and grey input folded against three channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.errors import ConfigError
from discovr_jax.models import patches


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (2, 4, 8, 12)).astype(np.uint8)


def test_patchify_against_loops(frames):
    tubelet, patch = 2, 4
    found = np.asarray(patches.patchify(jnp.asarray(frames), tubelet, patch))
    rows = []
    for t in range(0, 4, tubelet):
        for y in range(0, 8, patch):
            for x in range(0, 12, patch):
                rows.append(frames[:, t : t + tubelet, y : y + patch, x : x + patch].reshape(2, -1))
    np.testing.assert_array_equal(found, np.stack(rows, axis=1))


def test_patchify_keeps_channels_last():
    colour = np.random.default_rng(1).normal(size=(1, 2, 4, 4, 3)).astype(np.float32)
    found = np.asarray(patches.patchify(jnp.asarray(colour), 2, 2))
    np.testing.assert_array_equal(found[0, 1], colour[0, :, :2, 2:4].reshape(-1))


def test_clips_that_do_not_divide_are_refused(frames):
    with pytest.raises(ValueError, match=r"4 frames of 8 x 12 cannot be cut into patches of 2 x 5 x 5"):
        patches.patchify(jnp.asarray(frames), 2, 5)


def test_gather_tokens():
    tokens = jnp.arange(12.0).reshape(2, 3, 2)
    found = patches.gather_tokens(tokens, jnp.array([[2, 0], [1, 1]]))
    np.testing.assert_array_equal(found, [[[4, 5], [0, 1]], [[8, 9], [8, 9]]])


def test_clips_are_standardised_over_their_real_frames(frames):
    found = np.asarray(patches.clip_standardised(jnp.asarray(frames), jnp.array([4, 3])))
    np.testing.assert_allclose([found[0].mean(), found[1, :3].mean()], 0, atol=1e-5)
    np.testing.assert_allclose([found[0].std(), found[1, :3].std()], 1, rtol=1e-5)
    padded = frames.copy()
    padded[1, 3] = 255
    again = np.asarray(patches.clip_standardised(jnp.asarray(padded), jnp.array([4, 3])))
    np.testing.assert_array_equal(again[1, :3], found[1, :3])


def test_standardisation_takes_gain_and_brightness_out():
    quiet = np.random.default_rng(2).integers(0, 100, (1, 2, 8, 8)).astype(np.uint8)
    num_valid = jnp.array([2])
    found = patches.clip_standardised(jnp.asarray(quiet * 2 + 50), num_valid)
    np.testing.assert_allclose(found, patches.clip_standardised(jnp.asarray(quiet), num_valid), atol=1e-5)


def test_a_black_clip_is_finite():
    found = patches.clip_standardised(jnp.zeros((1, 2, 4, 4), jnp.uint8), jnp.array([2]))
    np.testing.assert_array_equal(found, np.zeros((1, 2, 4, 4)))


def test_unknown_intensity(frames):
    with pytest.raises(ValueError, match="'imagenet' or 'clip', not 'minmax'"):
        patches.model_input(jnp.asarray(frames), jnp.array([4, 4]), "minmax")


@pytest.mark.parametrize("input_normalisation", ["imagenet", "clip"])
def test_grey_folded_equals_three_channels(frames, input_normalisation):
    """Value and gradient of the embedding of grey frames are those of three equal, normalised channels."""
    num_valid = jnp.array([4, 3])
    grey = patches.model_input(jnp.asarray(frames), num_valid, input_normalisation)
    colour = np.repeat(np.asarray(grey)[..., None], 3, axis=-1)
    if input_normalisation == "imagenet":
        colour = (colour / 255 - patches.IMAGENET_MEAN) / patches.IMAGENET_STD
    colour = patches.model_input(jnp.asarray(colour), num_valid, input_normalisation)
    embed = patches.PatchEmbed(2, 4, 5, input_normalisation, jnp.dtype("float32"))
    rng = np.random.default_rng(3)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(2, 4, 4, 3, 5)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=5), jnp.float32),
    }

    @jax.jit
    def both(params, clip):
        def loss(params):
            tokens = embed.apply({"params": params}, patches.patchify(clip, 2, 4))
            return (jnp.sin(tokens) ** 2).sum(), tokens

        return jax.grad(loss, has_aux=True)(params)

    (grads, tokens), (wanted_grads, wanted) = both(params, grey), both(params, colour)
    np.testing.assert_allclose(tokens, wanted, atol=1e-4)
    for name in params:
        scale = np.abs(wanted_grads[name]).max()
        np.testing.assert_allclose(grads[name] / scale, wanted_grads[name] / scale, atol=2e-5, err_msg=name)


def test_shapes_are_checked_in_tests(frames):
    """The import hook of conftest.py is on: a clip axis too few is a type error here."""
    with pytest.raises(TypeError, match="clip_standardised"):
        patches.clip_standardised(jnp.asarray(frames[0]), jnp.array([4]))


def test_motion_channels_by_hand():
    """Two cells; one flickers between 0 and 2, the other is still. The padded frame counts nowhere."""
    frames = np.zeros((1, 3, 2, 4), np.float32)
    frames[0, 0, :, :2], frames[0, 1:, :, 2:] = 2.0, 0.0
    frames[0, :, :, 2:] = 1.0
    found = np.asarray(patches.motion_channels(jnp.asarray(frames), jnp.array([2]), "deviation", cell=2))
    assert found.shape == (1, 3, 2, 4, 2)
    valid = frames[0, :2]
    scale = valid.std()
    np.testing.assert_allclose(found[0, :2, :, :2, 0], 2 * (valid[:, :, :2] - 1) / scale, atol=1e-4)
    np.testing.assert_allclose(found[0, :2, :, 2:, 0], 0, atol=1e-4)
    np.testing.assert_allclose(found[0, :, :, :2, 1], 3 * (1 / scale) - 1, atol=1e-3)
    np.testing.assert_allclose(found[0, :, :, 2:, 1], -1, atol=0.01)
    energy = np.asarray(patches.motion_channels(jnp.asarray(frames), jnp.array([2]), "energy", cell=2))
    np.testing.assert_array_equal(energy[..., 1], found[..., 1])
    np.testing.assert_allclose(energy[0, :2, :, :, 0], (valid - valid.mean()) / scale, atol=1e-4)
    with pytest.raises(ConfigError, match="model.motion"):
        patches.motion_channels(jnp.asarray(frames), jnp.array([2]), "none", cell=2)
