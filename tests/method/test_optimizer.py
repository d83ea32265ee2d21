"""Durations, periodic actions, schedules at points worked out by hand, decay, and the learning rate."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax import trees
from discovr_jax.errors import ConfigError
from discovr_jax.method import optimizer as optimizer_lib
from discovr_jax.method import schedules as schedules_lib


@pytest.mark.parametrize(
    "text,steps",
    [
        ("200 steps", 200),
        ("1 step", 1),
        ("0 steps", 0),
        ("40 epochs", 2333),  # 40 * 7465 / 128 = 2332.8
        ("0.5 epochs", 29),
        ("1e6 examples", 7812),  # 7812.5 rounds to even
        ("128 examples", 1),
        ("10 percent", 100),
        ("2.5percent", 25),
        (" 3 epochs ", 175),
    ],
)
def test_durations(text, steps):
    assert schedules_lib.duration_steps(text, steps_per_epoch=7465 / 128, batch_size=128, total=1000) == steps


@pytest.mark.parametrize("text", ["200", "steps", "ten steps", "-1 steps", "5 hours", "1.2.3 steps", ". steps", ""])
def test_text_that_is_no_duration(text):
    with pytest.raises(ValueError, match=f"{re.escape(repr(text))} is no duration: write a number and one of"):
        schedules_lib.duration_steps(text, steps_per_epoch=10, batch_size=8, total=100)


def test_a_total_cannot_be_percent():
    with pytest.raises(ValueError, match="percent needs a total"):
        schedules_lib.duration_steps("10 percent", steps_per_epoch=10, batch_size=8)


@pytest.mark.parametrize(
    "every,total,steps",
    [
        (1, 4, [1, 2, 3, 4]),
        (2, 5, [2, 4, 5]),
        (5, 5, [5]),
        (7, 5, [5]),
        (0, 3, [3]),
    ],
)
def test_periodic_actions(every, total, steps):
    """Every n-th step and the last one, never step 0; n = 1 is every step."""
    assert [step for step in range(total + 1) if schedules_lib.should_run(step, every, total)] == steps


def schedules(**changes):
    values = dict(
        total=110,
        peak_lr=1.0,
        floor_lr=0.2,
        warmup=10,
        lr_decay="cosine",
        teacher_temperature=(0.04, 0.07),
        teacher_temperature_warmup=30,
        ema=(0.996, 1.0),
        freeze_last=0,
        freeze_prototypes=0,
    )
    return schedules_lib.Schedules(**(values | changes))


@pytest.mark.parametrize(
    "step,lr",
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (35, 0.2 + 0.8 * (1 + 0.5**0.5) / 2), (60, 0.6), (110, 0.2), (500, 0.2)],
)
def test_learning_rate(step, lr):
    found = jax.jit(schedules().lr)(jnp.int32(step))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, lr, rtol=1e-5)


def test_learning_rate_without_warmup_or_decay():
    constant = schedules(warmup=0, lr_decay="constant")
    np.testing.assert_allclose([constant.lr(step) for step in (0, 1, 110)], 1.0)
    np.testing.assert_allclose(schedules(warmup=0).lr(0), 1.0)


@pytest.mark.parametrize("step,tau", [(0, 0.04), (1, 0.041), (15, 0.055), (30, 0.07), (10_000, 0.07)])
def test_teacher_temperature(step, tau):
    np.testing.assert_allclose(jax.jit(schedules().temperature)(jnp.int32(step)), tau, rtol=1e-5)


def test_teacher_temperature_in_stairs():
    """The public code's table of one value per epoch: linspace(0.04, 0.07, 30), then 0.07."""
    stairs = schedules(teacher_temperature_warmup=29 * 4, teacher_temperature_every=4)
    table = np.append(np.linspace(0.04, 0.07, 30), [0.07] * 3)
    found = [float(stairs.temperature(step)) for step in range(4 * 33)]
    np.testing.assert_allclose(found, np.repeat(table, 4), rtol=1e-6)


@pytest.mark.parametrize("step,momentum", [(0, 0.996), (22, 0.996382), (55, 0.998), (110, 1.0), (500, 1.0)])
def test_teacher_momentum(step, momentum):
    np.testing.assert_allclose(jax.jit(schedules().ema_momentum)(jnp.int32(step)), momentum, rtol=1e-6)


def test_the_learning_rate_is_absolute_or_per_256_clips():
    assert optimizer_lib.peak_lr(3e-4, None, 16) == 3e-4
    assert optimizer_lib.peak_lr(None, 1.5e-4, 128) == pytest.approx(7.5e-5)
    assert optimizer_lib.peak_lr(3e-4, 1.5e-4, 16) == 3e-4  # the absolute rate wins where it is set
    with pytest.raises(ValueError, match="set optim.lr"):
        optimizer_lib.peak_lr(None, None, 16)


def test_what_decays(tiny):
    """Matrices, and nothing else: no bias, scale, token or prototype."""
    paper = optimizer_lib.decay_mask(tiny.abstract.params, "cls_token|mask_token|prototypes")
    decays = {trees.path_name(path): mask for path, mask in jax.tree_util.tree_leaves_with_path(paper)}
    matrices = {"kernel", "qkv", "last"}
    assert {name for name, yes in decays.items() if yes} == {n for n in decays if n.split("/")[-1] in matrices}
    reference = optimizer_lib.decay_mask(tiny.abstract.params, "mask_token")
    changed = [
        trees.path_name(path)
        for (path, new), old in zip(
            jax.tree_util.tree_leaves_with_path(reference), jax.tree.leaves(paper), strict=True
        )
        if new != old
    ]
    assert changed == ["image_encoder/cls_token", "prototypes/vectors", "video_encoder/cls_token"]


def test_adamw_by_hand():
    """First update: m / (1 - b1) over sqrt(v / (1 - b2)) is the gradient's sign; plus decay on the matrix."""
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
    grads = {"kernel": jnp.full((2, 2), -0.5), "bias": jnp.full(2, 0.25)}
    tx = optimizer_lib.adamw(0.9, 0.95, 0.05, "token", None)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -1 + 0.05 * 3, rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], 1, rtol=1e-5)


def test_the_image_branch_may_learn_slower():
    params = {name: {"bias": jnp.zeros(2)} for name in ("image_encoder", "image_head", "video_encoder")}
    tx = optimizer_lib.adamw(0.9, 0.95, 0.0, "token", None, 0.25)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    sizes = {name: float(tree["bias"][0]) for name, tree in updates.items()}
    assert sizes == pytest.approx({"image_encoder": 0.25, "image_head": 0.25, "video_encoder": 1}, rel=1e-5)


def test_a_negative_image_rate_is_refused():
    with pytest.raises(ConfigError, match="optim.image_lr_scale = -0.1"):
        optimizer_lib.adamw(0.9, 0.95, 0.0, "token", None, -0.1)


def test_each_branch_is_clipped_by_its_own_norm():
    """Video branch (3, 4) of norm 5 becomes (0.6, 0.8); the image branch (0, 0.5) and its projector stay."""
    gradients = {
        "decoder": jnp.array([3.0]),
        "frame_projector": jnp.array([0.0]),
        "image_encoder": jnp.array([0.5]),
        "video_encoder": jnp.array([4.0]),
    }
    params = jax.tree.map(jnp.zeros_like, gradients)
    tx = optimizer_lib.adamw(0.9, 0.95, 0.0, "token", 1.0)
    _, state = tx.update(gradients, tx.init(params), params)
    (adam,) = [part for part in state if hasattr(part, "mu")]
    expected = {"decoder": 0.6, "frame_projector": 0.0, "image_encoder": 0.5, "video_encoder": 0.8}
    assert {name: float(mu[0]) for name, mu in adam.mu.items()} == pytest.approx(
        {name: 0.1 * clipped for name, clipped in expected.items()}, rel=1e-5
    )


@pytest.mark.parametrize("clip", [None, 0.0])
def test_no_clipping(clip):
    params = {"a": jnp.zeros(1)}
    tx = optimizer_lib.adamw(0.9, 0.95, 0.0, "token", clip)
    _, (adam, _) = tx.update({"a": jnp.array([3.0])}, tx.init(params), params)
    np.testing.assert_allclose(adam.mu["a"], 0.3, rtol=1e-6)
