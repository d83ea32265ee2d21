"""Semantic cluster distillation: standardisation, cross-entropy, weights, pairing."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.losses import interface, scd
from discovr_jax.losses import objective as objective_lib


def test_frame_standardisation_is_over_the_patches_of_one_frame():
    tokens = jax.random.normal(jax.random.key(0), (2, 3, 5, 4)) * 7 + 3
    found = np.asarray(scd.standardise(tokens, "frame", jnp.zeros((5, 4))))
    np.testing.assert_allclose(found.mean(2), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(2, ddof=1), 1, rtol=1e-5)
    # Two patches: +-1/sqrt(2) whatever their values (unbiased deviation).
    pair = scd.standardise(jnp.array([[[[4.0], [10.0]]]]), "frame", jnp.zeros((2, 1)))
    np.testing.assert_allclose(np.ravel(pair), [-(0.5**0.5), 0.5**0.5], rtol=1e-6)


def test_equal_patches_standardise_to_zero():
    found = scd.standardise(jnp.full((1, 1, 6, 4), 3.0), "frame", jnp.zeros((6, 4)))
    np.testing.assert_array_equal(found, np.zeros((1, 1, 6, 4)))


def test_position_standardisation_subtracts_the_running_mean():
    mean = jnp.arange(6.0).reshape(3, 2)
    tokens = jnp.broadcast_to(mean, (2, 4, 3, 2)) + 1
    np.testing.assert_allclose(scd.standardise(tokens, "position", mean), np.ones((2, 4, 3, 2)), rtol=1e-6)
    np.testing.assert_array_equal(scd.standardise(tokens, "none", mean), tokens)
    with pytest.raises(ValueError, match="'frame', 'position' or 'none', not 'patch'"):
        scd.standardise(tokens, "patch", mean)


def test_position_mean_is_an_average_over_clips_and_frames():
    tokens = jnp.stack([jnp.zeros((2, 3, 2)), jnp.ones((2, 3, 2))])  # [B, F, P, D]
    batch_mean = scd.mean_of_positions(tokens)
    np.testing.assert_allclose(batch_mean, np.full((3, 2), 0.5), rtol=1e-6)
    found = scd.update_position_mean(jnp.full((3, 2), 10.0), batch_mean, 0.9)
    np.testing.assert_allclose(found, np.full((3, 2), 9.05), rtol=1e-6)


def test_position_mean_starts_as_the_first_batch():
    """All zeros is "not started"; a mean that is zero somewhere has started."""
    batch_mean = jnp.arange(6.0).reshape(3, 2) + 1
    np.testing.assert_array_equal(scd.started_position_mean(jnp.zeros((3, 2)), batch_mean), batch_mean)
    running = jnp.zeros((3, 2)).at[1, 1].set(-4.0)
    np.testing.assert_array_equal(scd.started_position_mean(running, batch_mean), running)


def test_prototype_cross_entropy_by_hand():
    scores = jnp.array([[0.0, np.log(3.0)], [0.0, 0.0]]) / 10
    labels = jnp.array([[0.0, 1.0], [0.5, 0.5]])
    rows = np.array([-np.log(0.75), np.log(2)])
    np.testing.assert_allclose(scd.prototype_cross_entropy(scores, labels, 0.1), rows.mean(), rtol=1e-6)
    weights = jnp.array([3.0, 1.0])
    found = scd.prototype_cross_entropy(scores, labels, 0.1, weights)
    np.testing.assert_allclose(found, (3 * rows[0] + rows[1]) / 4, rtol=1e-6)
    assert float(scd.prototype_cross_entropy(scores, labels, 0.1, jnp.zeros(2))) == 0.0


def test_hard_labels():
    found = scd.hard_labels(jnp.array([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]]))
    np.testing.assert_array_equal(found, [[0, 1, 0], [1, 0, 0]])


def test_signal_weights_leave_out_padding_and_the_black_surround():
    """Clip 0: patch 0 flickers by 20 levels, patch 1 is black, 2 is a constant grey, 3 has texture; all valid.
    Clip 1: the same, but only its first 2 of 4 frames are real and patch 0 flickers after them."""
    rng = np.random.default_rng(0)
    frames = np.zeros((2, 4, 8, 8), np.uint8)
    frames[0, :, :4, :4] = np.array([100, 120, 100, 120])[:, None, None]
    frames[1, :, :4, :4] = np.array([100, 100, 140, 180])[:, None, None]
    frames[:, :, 4:, :4] = 77
    frames[:, :, 4:, 4:] = rng.integers(0, 255, (4, 4))
    found = scd.signal_weights(jnp.asarray(frames), jnp.array([4, 2]), tubelet=2, patch=4, floor=4.0)
    np.testing.assert_array_equal(found[0], [[1, 0, 0, 1], [1, 0, 0, 1]])
    np.testing.assert_array_equal(found[1], [[0, 0, 0, 1], [0, 0, 0, 0]])


@pytest.fixture
def outputs():
    """Student and teacher outputs of 2 clips, 2 tubelets of 2 frames, 3 places, width 4, 5 prototypes."""
    keys = jax.random.split(jax.random.key(1), 3)
    prototypes = jax.random.normal(keys[2], (5, 4))
    student = types.SimpleNamespace(
        decoded=jax.random.normal(keys[0], (2, 6, 4)),
        prototypes=prototypes / jnp.linalg.norm(prototypes, axis=1, keepdims=True),
    )
    return student, types.SimpleNamespace(image_tokens=jax.random.normal(keys[1], (2, 4, 3, 4)))


def options(**changes):
    values = dict(
        scd_temperature=0.1,
        scd_epsilon=0.05,
        scd_iterations=10,
        scd_standardise="none",
        scd_tokens="all",
        scd_ignore_static=False,
        scd_targets="soft",
        scd_pairing="aligned",
        scd_image_gradient=True,
        own={},
    )
    return types.SimpleNamespace(**(values | changes))


def scd_loss(chosen, decoded, outputs, given):
    """The loss with other decoded tokens, jitted: eager operations compile for longer than they run."""
    student, teacher = outputs

    @jax.jit
    def run(decoded):
        changed = types.SimpleNamespace(decoded=decoded, prototypes=student.prototypes)
        return scd.scd_loss(chosen, changed, teacher, MEMORY, given)[0]

    return [float(run(tokens)) for tokens in decoded]


MEMORY = interface.LossState({}, jnp.zeros((3, 4)))


def batch(**changes):
    values = dict(num_valid=jnp.array([4, 4]), num_frames=4, decoder_order=None, pixel_targets=None, signal=None)
    masked = jnp.array([[0, 1, 1, 0, 1, 1], [1, 0, 1, 1, 0, 1]], bool)
    return interface.Batch(masked=masked, **(values | changes))


def test_scores_are_cosines_of_tokens_of_one_place_and_time(outputs):
    student, teacher = outputs
    video, image = scd.scd_scores(options(), student, teacher, MEMORY, batch())
    unit = teacher.image_tokens[1, 2, 0] / jnp.linalg.norm(teacher.image_tokens[1, 2, 0])
    row = 6 + 3  # clip 1, tubelet 1 (frame 2), place 0
    np.testing.assert_allclose(image[row], student.prototypes @ unit, rtol=1e-5)
    unit = student.decoded[1, 3] / jnp.linalg.norm(student.decoded[1, 3])
    np.testing.assert_allclose(video[row], student.prototypes @ unit, rtol=1e-5)


def test_reference_pairing_takes_every_second_token_beside_the_decoders_order(outputs):
    student, teacher = outputs
    order = jnp.array([[0, 3, 1, 2, 4, 5], [1, 4, 0, 2, 3, 5]])
    given = batch(decoder_order=order)
    video, image = scd.scd_scores(options(scd_pairing="reference"), student, teacher, MEMORY, given)
    flat = teacher.image_tokens.reshape(2, 12, 4)
    expected = flat[1, 4] / jnp.linalg.norm(flat[1, 4])  # row 2 of clip 1 is flattened token 4
    np.testing.assert_allclose(image[6 + 2], student.prototypes @ expected, rtol=1e-5)
    expected = student.decoded[1, 0] / jnp.linalg.norm(student.decoded[1, 0])  # and the decoder's third, 0
    np.testing.assert_allclose(video[6 + 2], student.prototypes @ expected, rtol=1e-5)


def test_masked_tokens_are_those_hidden_from_the_student(outputs):
    """Changing a visible token does not change the loss of `scd.tokens` masked; a masked one does."""
    plain = outputs[0].decoded
    changes = plain, plain.at[0, 0].add(5.0), plain.at[0, 1].add(5.0)
    before, visible, masked = scd_loss(options(scd_tokens="masked"), changes, outputs, batch())
    assert visible == pytest.approx(before, rel=1e-6)
    assert abs(masked - before) > 1e-3
    before, visible, _ = scd_loss(options(), changes, outputs, batch())
    assert abs(visible - before) > 1e-3


def test_static_tokens_do_not_count(outputs):
    plain = outputs[0].decoded
    given = batch(signal=jnp.ones((2, 2, 3)).at[0, 0, 0].set(0))
    changes = plain, plain.at[0, 0].add(5.0), plain.at[0, 1].add(5.0)
    before, static, moving = scd_loss(options(scd_ignore_static=True), changes, outputs, given)
    assert static == pytest.approx(before, rel=1e-6)
    assert abs(moving - before) > 1e-3


@pytest.mark.parametrize(
    "change", [{"scd_tokens": "some"}, {"scd_targets": "firm"}, {"scd_pairing": "random"}], ids=str
)
def test_unknown_options_are_named(outputs, change):
    (name, value), = change.items()
    with pytest.raises(ValueError, match=rf"{name.replace('_', '.')} must be .*, not '{value}'"):
        scd.scd_loss(options(**change), *outputs, MEMORY, batch())


def test_the_first_step_takes_the_mean_of_its_own_batch_away(outputs):
    """Both in the loss and in what the next step finds; from then on the mean moves by its momentum."""
    student, teacher = outputs
    student = types.SimpleNamespace(**vars(student), video_logits=None, image_logits=None, pixels=None)
    teacher = types.SimpleNamespace(**vars(teacher), video_logits=None, image_logits=None, cls=None)
    chosen = options(
        scd_standardise="position", weights={"scd": 1.0}, position_momentum=0.75, image_weight="mean"
    )

    @jax.jit
    def step(memory):
        total, (after, _) = objective_lib.objective(chosen, student, teacher, memory, batch(), jnp.float32(0.05))
        return total, after.position_mean

    mean = teacher.image_tokens.mean((0, 1))
    total, found = step(MEMORY)
    np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-6)
    want, _ = step(interface.LossState({}, mean))
    np.testing.assert_allclose(total, want, rtol=1e-5)
    _, found = step(interface.LossState({}, mean + 4))
    np.testing.assert_allclose(found, mean + 3, rtol=1e-5)
