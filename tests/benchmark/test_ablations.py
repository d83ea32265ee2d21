"""The step without its optimisations: another program, the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.benchmark import ablations
from discovr_jax.benchmark.__main__ import main
from discovr_jax.models import attention

IN_HALF = ["exact_teachers", "flash", "packed", "half_heads", "half_kernel"]  # those that a step in float32 has not
ALWAYS = [name for name in ablations.ABLATIONS if name not in IN_HALF]


def lowered(tiny):
    """The step traced anew: jax would find the function that was traced before."""
    return jax.jit(lambda state, batch: tiny.step(state, batch)).lower(tiny.state, tiny.batch)


@pytest.fixture
def half(make_tiny, monkeypatch):
    """The tiny experiment in bfloat16, with jax's own attention in place of cuDNN's and small tiles."""
    by_jax = jax.nn.dot_product_attention
    monkeypatch.setattr(attention, "TILE_TOKENS", 16)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *qkv, implementation, **given: by_jax(*qkv, **given)
    )
    return make_tiny(**{"model.dtype": "bfloat16", "model.attention": "flash"})


@pytest.mark.long  # traces the step for every ablation
def test_each_one_is_another_program(half):
    def traced():
        return str(jax.make_jaxpr(lambda state, batch: half.step(state, batch))(half.state, half.batch))

    whole = traced()
    for name in ablations.ABLATIONS:
        with ablations.taken_away(name):
            assert traced() != whole, name
    assert traced() == whole


@pytest.mark.long  # compiles the whole step twice
def test_in_half_precision_the_loss_is_the_same_but_for_rounding(half):
    losses = []
    for names in ([], IN_HALF):
        with ablations.taken_away(*names):
            _, metrics = lowered(half).compile()(half.state, half.batch)
        losses.append(float(metrics["loss/total"]))
    assert losses == pytest.approx([losses[0]] * 2, rel=2e-3)
    assert len(set(losses)) > 1


def test_all_together_compute_the_same_step(tiny, tiny_step):
    with ablations.taken_away(*ALWAYS):
        state, metrics = lowered(tiny).compile()(tiny.state, tiny.batch)
    wanted_state, wanted = tiny_step(tiny.state, tiny.batch)
    assert metrics["loss/total"] == pytest.approx(float(wanted["loss/total"]), rel=1e-6)
    # Moments and not parameters: Adam's first step is the gradient's sign.
    for found, expected in zip(
        jax.tree.leaves(state.opt_state), jax.tree.leaves(wanted_state.opt_state), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * max(1.0, float(jnp.abs(expected).max())))


@pytest.mark.long  # compiles and runs every ablation
def test_the_command_counts_and_times(capsys, monkeypatch):
    monkeypatch.setattr(ablations.chips, "simulate", lambda topology: None)  # too late in this process
    small = ["--config=phantom", "--config.batch_size=8", "--config.model.depth=1", "--config.loss.scd=0.0"]
    small += ["--config.loss.img=0.0", "--config.data.num_frames=4", "--config.phase.frames=4"]
    assert main(["ablations", *small, "--only=last_block", "--topology=cpu:1"]) == 0
    told = capsys.readouterr().out
    counted = [line.split(" | ") for line in told.splitlines() if line.startswith("| ")]
    assert counted[0][-1] == "bounds added, ms |" and len(counted) == 4
    assert "cpu:1, compiled for simulated CPU devices" in told
    assert float(counted[3][1]) > float(counted[2][1]) > 0  # FLOPs
    assert main(["ablations", *small, "--only=products", "--steps=1", "--warmup=1"]) == 0
    timed = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert timed[2][0] == "| the step as it is" and float(timed[2][-1].strip(" |")) > 0
    assert timed[3][1] == "not in this step"  # no Sinkhorn without SCD
    assert main(["ablations", *small, "--steps=0"]) == 1
    assert "--steps and --warmup must be at least 1" in capsys.readouterr().err
    assert main(["ablations", *small, "--only=last,first"]) == 1
    assert "--only: there is no first, last; there are teacher_once" in capsys.readouterr().err
