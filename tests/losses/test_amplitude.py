"""The amplitude term: its value where that is known, and what it trains."""

import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax.losses import amplitude

TERMS = {f"loss.{name}": 0.0 for name in ("vid", "img", "scd")}


def test_the_value_is_the_squared_error_relative_to_the_squares():
    target = jnp.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])  # squares: 23
    np.testing.assert_allclose(amplitude.error(target, target), 0, atol=1e-7)
    np.testing.assert_allclose(amplitude.error(target.at[0, 1].set(3.0), target), 4 / 23, rtol=1e-6)
    np.testing.assert_allclose(amplitude.error(2 * target, target), amplitude.error(8 * target, 4 * target), rtol=1e-6)
    assert np.isfinite(amplitude.error(jnp.zeros((3, 2)), jnp.zeros((3, 2))))


def test_the_teacher_gives_frame_std_of_real_frames(make_tiny):
    tiny = make_tiny(**TERMS, **{"loss.amplitude": 1.0, "data.num_frames": 8})
    model, params = tiny.experiment.model, {"params": jax.tree.map(jnp.asarray, tiny.state.teacher)}
    frames = jnp.asarray(tiny.batch["frames"])
    num_valid = jnp.full(len(frames), 8).at[-1].set(5)  # frames 0, 2 and 4 of tubelets of two frames
    found = model.apply(params, frames, num_valid, method="teacher").frame_amplitudes
    cls = model.apply(params, frames, num_valid, 2, method="encode_frames")[:, 0].reshape(len(frames), 4, model.width)
    np.testing.assert_allclose(found[-1], np.std(cls[-1, :3], 0), atol=1e-5)
    np.testing.assert_allclose(found[0], np.std(cls[0], 0), atol=1e-5)


def test_two_frames_of_one_tubelet_have_an_amplitude(make_tiny):
    """ED and ES alone, as of `configs/camus.py:small`: half their distance, not the nothing of one frame."""
    tiny = make_tiny(**TERMS | {"loss.amplitude": 1.0, "loss.scd": 1.0, "data.num_frames": 2})
    model, params = tiny.experiment.model, {"params": jax.tree.map(jnp.asarray, tiny.state.teacher)}
    frames, num_valid = jnp.asarray(tiny.batch["frames"]), jnp.full(len(tiny.batch["frames"]), 2)
    assert model.grid.time == 1
    found = model.apply(params, frames, num_valid, method="teacher").frame_amplitudes
    cls = model.apply(params, frames, num_valid, method="encode_frames")[:, 0].reshape(-1, 2, model.width)
    np.testing.assert_allclose(found, np.abs(cls[:, 0] - cls[:, 1]) / 2, atol=1e-5)
    _, metrics = jax.jit(tiny.step)(tiny.state, tiny.batch)
    assert float(metrics["loss/amplitude"]) < 1e4  # millions where the amplitude was that of one frame


def test_it_trains_the_video_branch_alone_and_costs_nothing_at_weight_zero(make_tiny):
    tiny = make_tiny(**TERMS, **{"loss.amplitude": 1.0})
    assert tiny.experiment.model.outputs == {"frame_amplitudes"}
    assert set(tiny.state.params) == {"video_encoder", "amplitude_predictor"}
    state, metrics = jax.jit(tiny.step)(tiny.state, tiny.batch)
    assert float(metrics["loss/amplitude"]) > 0 and float(metrics["amplitude/unexplained"]) > 0
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), state.params, tiny.state.params)
    assert moved["video_encoder"]["patch_embed"]["kernel"] and moved["amplitude_predictor"]["last"]["kernel"]
    jax.tree.map(np.testing.assert_array_equal, state.teacher["image_encoder"], tiny.state.teacher["image_encoder"])
    assert "frame_amplitudes" not in make_tiny().experiment.model.outputs
