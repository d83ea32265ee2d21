"""The state and the one step: initialisation, order of EMA and optimizer, bad steps, determinism."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax import trees
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.method import views as views_lib


def named(tree):
    return {trees.path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_equal_trees(a, b):
    """Bit for bit, NaN included."""
    a, b = named(a), named(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes(), name


@pytest.fixture(scope="module")
def two_steps(tiny, tiny_step):
    """[(state after, metrics)] of the first two steps on one batch."""
    first = tiny_step(tiny.state, tiny.batch)
    return [first, tiny_step(first[0], tiny.batch)]


# Initialisation ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(make_tiny):
    """Initial state of a run without the image loss: its image teacher has no student."""
    one = make_tiny(**{"loss.img": 0.0})
    e = one.experiment
    return jax.jit(lambda key: train_step.init_state(e.model, e.tx, e.masks, key))(experiment_lib.initial_key(0))


def test_teachers_start_as_students(fresh):
    for name in ("video_encoder", "video_head"):
        assert_equal_trees(fresh.teacher[name], fresh.params[name])


def test_an_image_teacher_without_a_student_has_weights_of_its_own(fresh):
    assert "image_encoder" not in fresh.params
    image, video = (named(fresh.teacher[name]) for name in ("image_encoder", "video_encoder"))
    assert np.std(image["transformer/block0/attn/qkv"]) > 0.1
    assert (image["transformer/block0/attn/qkv"] != video["transformer/block0/attn/qkv"]).any()


def test_initial_weights(fresh):
    params = named(fresh.params)
    qkv = params["video_encoder/transformer/block0/attn/qkv"]
    bound = (6 / (16 + 3 * 16)) ** 0.5
    assert 0.9 * bound < np.abs(qkv).max() <= bound
    np.testing.assert_allclose(np.linalg.norm(params["prototypes/vectors"], axis=1), 1, rtol=1e-5)
    assert 0.01 < params["video_head/fc0/kernel"].std() < 0.03
    zeros = {name for name, leaf in params.items() if not leaf.any()}
    assert zeros == {name for name in params if name.endswith("bias")}
    for name, leaf in named((fresh.opt_state, fresh.memory, fresh.step, fresh.skipped)).items():
        assert not leaf.any(), name


# The step ----------------------------------------------------------------------------------------------------


def test_teachers_move_after_the_optimizer(tiny, two_steps):
    momentum = 0.9  # the schedule's first value
    state = two_steps[0][0]
    before, after, student = named(tiny.state.teacher), named(state.teacher), named(state.params)
    for name, teacher in after.items():
        expected = momentum * before[name] + (1 - momentum) * student[name]
        np.testing.assert_allclose(teacher, expected, rtol=1e-5, atol=1e-6, err_msg=name)
        assert not np.allclose(student[name], named(tiny.state.params)[name], atol=1e-6), name


def test_schedules_follow_the_step(tiny, two_steps):
    for step, (state, metrics) in enumerate(two_steps):
        schedules = tiny.experiment.schedules
        np.testing.assert_allclose(metrics["optim/lr"], 1e-2 * (step + 1) / 4, rtol=1e-6)
        np.testing.assert_allclose(metrics["teacher/momentum"], schedules.ema_momentum(step), rtol=1e-6)
        np.testing.assert_allclose(metrics["teacher/temperature"], 0.04 + 0.003 * step, rtol=1e-6)
        assert int(state.step) == step + 1
    assert two_steps[0][1]["teacher/momentum"] < two_steps[1][1]["teacher/momentum"]


def test_the_optimizer_sees_unit_prototypes(tiny, two_steps):
    """Prototypes of any length give the step that unit ones give: they are normalised when used."""
    lengths = np.linalg.norm(tiny.state.params["prototypes"]["vectors"], axis=1)
    assert np.abs(lengths - 1).max() > 0.1
    unit = train_step.unit_prototypes(jax.tree.map(jnp.asarray, tiny.state.params))["prototypes"]["vectors"]
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    moved = two_steps[0][0].params["prototypes"]["vectors"] - unit
    lr = 1e-2 / 4  # Adam's first update has size lr in every coordinate
    np.testing.assert_allclose(np.abs(moved), lr, rtol=1e-2)


def test_losses_add_up_and_everything_is_finite(two_steps):
    for _, metrics in two_steps:
        terms = [metrics[f"loss/{name}"] for name in ("vid", "img", "scd")]
        np.testing.assert_allclose(metrics["loss/total"], sum(terms), rtol=1e-6)
        assert all(np.isfinite(value) for value in metrics.values())
        assert all(value.shape == () for value in metrics.values())


def test_batches_too_small_for_a_rank_have_none(make_tiny):
    """Two clips always lie on a line: reported, it would look like a collapse."""
    for batch_size, reported in ((2, False), (4, True)):
        few = make_tiny(**{"batch_size": batch_size, "loss.img": 0.0, "loss.scd": 0.0})
        _, metrics = jax.eval_shape(few.step, few.abstract, few.batch)
        assert ("features/rank" in metrics) == reported


def test_two_runs_are_bit_equal(tiny, tiny_step, two_steps):
    state, _ = tiny_step(tiny.state, tiny.batch)
    state, metrics = tiny_step(state, tiny.batch)
    assert_equal_trees(state, two_steps[1][0])
    assert_equal_trees(metrics, two_steps[1][1])


def test_each_step_draws_masks_of_its_own(tiny, tiny_step):
    """The same weights and batch at two steps of one temperature differ in the loss by the masks alone."""
    runs = [tiny_step(tiny.state.replace(step=np.int32(step)), tiny.batch)[1] for step in (12, 13)]
    assert runs[0]["teacher/temperature"] == runs[1]["teacher/temperature"]
    assert abs(float(runs[0]["loss/img"]) - float(runs[1]["loss/img"])) > 1e-5


def test_a_step_that_is_not_finite_is_not_applied(tiny, tiny_step, two_steps):
    params = jax.tree.map(np.copy, tiny.state.params)
    params["video_head"]["fc0"]["bias"][0] = np.inf
    bad = tiny.state.replace(params=params)
    for number in (1, 2):
        after, metrics = tiny_step(bad, tiny.batch)
        assert not np.isfinite(metrics["loss/total"])
        assert int(after.step) == int(after.skipped) == int(metrics["skipped"]) == number
        counters = {"step": bad.step, "skipped": bad.skipped}
        assert_equal_trees(after.replace(**counters), bad)
        bad = after
    # A good step after bad ones counts anew.
    recovered, _ = tiny_step(after.replace(params=tiny.state.params), tiny.batch)
    assert int(recovered.skipped) == 0 and int(recovered.step) == 3


@pytest.fixture(scope="module")
def frozen_steps(make_tiny):
    """[state, after one step, after two] of a run that freezes parts for one step and moves teachers first."""
    frozen = {"dino.freeze_last": "1 steps", "scd.freeze_prototypes": "1 steps", "optim.weight_decay": 0.0}
    one = make_tiny(**frozen, **{"loss.img": 0.0, "ema.order": "before"})
    step = jax.jit(one.step)
    start = one.state.replace(params=train_step.unit_prototypes(jax.tree.map(jnp.asarray, one.state.params)))
    first, _ = step(start, one.batch)
    return [start, first, step(first, one.batch)[0]]


def test_frozen_parts_stay(frozen_steps):
    """During `freeze_last` and `freeze_prototypes` heads' last layers and prototypes stay, all else moves."""
    before, after, later = (named(state.params) for state in frozen_steps)
    frozen = {"video_head/last", "prototypes/vectors"}
    for name in before:
        moved = np.abs(after[name] - before[name]).max()
        assert moved < 1e-6 if name in frozen else moved > 1e-4, name
        assert np.abs(later[name] - after[name]).max() > 1e-4, name


def test_reference_order_moves_teachers_towards_the_student_of_before(frozen_steps):
    before, after = (named(state.teacher) for state in frozen_steps[:2])
    student = named(frozen_steps[0].params)
    for name, teacher in after.items():
        expected = 0.9 * before[name] + 0.1 * student[name] if name in student else before[name]
        np.testing.assert_allclose(teacher, expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_half_precision_keeps_the_state_in_float32(make_tiny):
    half = make_tiny(**{"model.dtype": "bfloat16"})
    state, metrics = jax.eval_shape(half.step, half.abstract, half.batch)
    counters = {"step", "skipped", "count"}
    for tree in (state, metrics):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = trees.path_name(path)
            assert leaf.dtype == (jnp.int32 if name.split("/")[-1] in counters else jnp.float32), name


def test_the_step_returns_the_state_it_takes(tiny):
    """Shapes, dtypes and structure, so that it can be donated and restored."""
    state, _ = jax.eval_shape(tiny.step, tiny.abstract, tiny.batch)
    assert jax.tree.structure(state) == jax.tree.structure(tiny.abstract)
    for new, old in zip(jax.tree.leaves(state), jax.tree.leaves(tiny.abstract), strict=True):
        assert (new.shape, new.dtype, new.weak_type) == (old.shape, old.dtype, False)


def test_unknown_ema_order(make_tiny):
    with pytest.raises(ValueError, match="'after' or 'before', not 'never'"):
        _ = make_tiny(**{"ema.order": "never"}).step


# Accumulation ------------------------------------------------------------------------------------------------


def test_accumulated_gradients_are_those_of_the_whole_batch(make_tiny):
    """Loss, gradient, centres and monitors: Sinkhorn, centring and the weighted means see all clips at once.

    The last clip has two real frames, so parts that were averaged alone would weigh them wrongly.
    """
    one = make_tiny(**{"dino.centering": "sinkhorn", "loss.pix": 1.0, "loss.jepa": 1.0, "scd.ignore_static": True})
    e, s = one.experiment, one.state
    arguments = (e.model, e.options, s.params, s.teacher, s.memory, one.batch, one.masks, 0.05, jax.random.key(4))
    (total, (memory, metrics)), grads = jax.jit(
        lambda *given: jax.value_and_grad(train_step.losses, argnums=2, has_aux=True)(*arguments[:2], *given)
    )(*arguments[2:])
    (total4, (memory4, metrics4)), grads4 = jax.jit(
        lambda *given: train_step.accumulated(4, *arguments[:2], *given)
    )(*arguments[2:])
    np.testing.assert_allclose(total4, total, rtol=1e-6)
    for (name, found), expected in zip(named(grads4).items(), named(grads).values(), strict=True):
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected), name
        assert np.linalg.norm(expected) > 0, name
    for (name, found), expected in zip(named(memory4).items(), named(memory).values(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    for name in metrics:
        np.testing.assert_allclose(metrics4[name], metrics[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_batch_that_cannot_be_cut_is_refused(config):
    config.gradient_accumulation_steps = 3
    with pytest.raises(ValueError, match="batch_size = 8 must be a multiple of gradient_accumulation_steps = 3"):
        experiment_lib.make_experiment(config, 80)


# Views of their own, and LeJEPA ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_views(make_tiny):
    """Every option of views: motion channels, views of another beat, LeJEPA and phase beside DISCOVR's terms."""
    return make_tiny(
        **{
            "loss.jepa": 1.0, "views.positive": "other_beat", "views.crop": 0.6, "views.noise": 0.05,
            "model.motion": "deviation", "loss.phase": 1.0, "phase.frames": 2,
        }
    )  # fmt: skip


def _two_clips(tiny):
    return tiny.batch | {"other_frames": 255 - tiny.batch["frames"], "other_valid": tiny.batch["num_valid"]}


def test_a_step_with_views_trains_every_branch(with_views):
    batch = _two_clips(with_views)
    assert set(with_views.experiment.input_shapes(8)) == set(batch)
    state, metrics = jax.jit(with_views.step)(with_views.state, batch)
    assert np.isfinite(float(metrics["loss/jepa"])) and np.isfinite(float(metrics["loss/total"]))
    assert float(metrics["jepa/rank"]) > 1 and float(metrics["phase/rank"]) > 1 and float(metrics["loss/phase"]) > 0
    before, after = named(with_views.state.params), named(state.params)
    modules = ("projector/last", "frame_projector/last", "video_encoder/patch_embed", "decoder/head")
    for name in (*(f"{module}/kernel" for module in modules), "video_head/last"):
        assert name in after, sorted(after)
        assert (before[name] != after[name]).any(), name
    assert after["video_encoder/patch_embed/kernel"].shape[3] == 2


@pytest.fixture(scope="module")
def phase_alone(make_tiny):
    return make_tiny(
        **{f"loss.{name}": 0.0 for name in ("vid", "img", "scd")},
        **{"loss.phase": 1.0, "phase.frames": 2, "views.crop": 0.6},
    )


def test_phase_alone_trains_the_image_branch_and_its_teacher(phase_alone):
    tiny = phase_alone
    assert set(tiny.state.params) == {"frame_projector", "image_encoder", "video_encoder"}
    state, _ = jax.jit(tiny.step)(tiny.state, tiny.batch)
    for tree, before in ((state.params, tiny.state.params), (state.teacher, tiny.state.teacher)):
        after, before = named(tree["image_encoder"]), named(before["image_encoder"])
        assert all((after[name] != before[name]).any() for name in after if name.endswith("kernel"))


def test_accumulated_gradients_of_views_are_those_of_the_whole_batch(phase_alone):
    """The batch's statistics, of which SIGReg is made, and each clip's own."""
    e, s = phase_alone.experiment, phase_alone.state
    clips = jax.tree.map(jnp.asarray, phase_alone.batch)
    batch = views_lib.add_views(jax.random.key(5), clips, e.views, e.masks.video_views)
    assert batch["phase_views"].shape == (8, 2, 2, 32, 32) and batch["phase_valid"].tolist()[-1] == 1
    fixed = (s.params, s.teacher, s.memory, batch, phase_alone.masks, 0.05, jax.random.key(4))
    (_, (_, metrics)), grads = jax.jit(
        lambda *given: jax.value_and_grad(train_step.losses, argnums=2, has_aux=True)(e.model, e.options, *given)
    )(*fixed)
    (_, (_, metrics2)), grads2 = jax.jit(lambda *given: train_step.accumulated(2, e.model, e.options, *given))(*fixed)
    np.testing.assert_allclose(metrics2["loss/phase"], metrics["loss/phase"], rtol=1e-5)
    for module in ("frame_projector", "image_encoder"):
        found, expected = (np.concatenate([x.ravel() for x in named(g[module]).values()]) for g in (grads2, grads))
        assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected) > 0, module


def test_phase_without_views_that_differ_is_refused(config):
    config.loss.phase, config.phase.frames = 1.0, 2
    with pytest.raises(ValueError, match=r"loss\.phase compares views of a frame, which are equal: set views\.crop"):
        experiment_lib.make_experiment(config, 80)


def test_phase_frames_that_do_not_divide_the_clip_are_refused(config):
    config.loss.phase, config.phase.frames, config.views.crop = 1.0, 3, 0.6
    with pytest.raises(ValueError, match=r"phase\.frames = 3 must be at least 2 and divide data\.num_frames = 4"):
        experiment_lib.make_experiment(config, 80)


def test_a_second_clip_that_is_missing_is_not_made_up(with_views):
    with pytest.raises(KeyError, match="other_frames"):
        jax.eval_shape(with_views.step, with_views.state, with_views.batch)


def test_directions_and_views_are_others_at_each_step(with_views):
    batch, step = _two_clips(with_views), jax.jit(with_views.step)
    losses = [
        float(step(with_views.state.replace(step=jnp.int32(number)), batch)[1]["jepa/sigreg"]) for number in (0, 1, 0)
    ]
    assert losses[0] == losses[2] != losses[1]
