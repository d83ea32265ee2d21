"""The step without its optimisations: another program, the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.benchmark import ablations
from discovr_jax.benchmark.__main__ import main

ALWAYS = [name for name, each in ablations.ABLATIONS.items() if each.when == "always"]


def lowered(tiny):
    """The step traced anew: jax would find the function that was traced before."""
    return jax.jit(lambda state, batch: tiny.step(state, batch)).lower(tiny.state, tiny.batch)


@pytest.mark.parametrize("name", ALWAYS)
def test_each_one_is_another_program(name, tiny, tiny_lowered):
    with ablations.taken_away(name):
        other = lowered(tiny).as_text()
    assert other != tiny_lowered.as_text()


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


def test_nothing_stays_taken_away(tiny):
    before = lowered(tiny).as_text()
    with ablations.taken_away(*ablations.ABLATIONS):
        assert lowered(tiny).as_text() != before
    assert lowered(tiny).as_text() == before


def test_what_the_step_has_depends_on_the_config(config):
    config.model.dtype = "float32"
    assert ablations.applicable(config, None) == ALWAYS
    config.model.dtype = "bfloat16"
    assert ablations.applicable(config, "cpu:1") == [*ALWAYS[:-1], "half_heads", "half_kernel", "products"]
    config.model.attention = "cudnn"
    assert ablations.applicable(config, None) == list(ablations.ABLATIONS)


def test_the_command_counts_and_times(capsys, monkeypatch):
    monkeypatch.setattr(ablations.chips, "simulate", lambda topology: None)  # too late in this process
    small = ["--config=phantom", "--config.batch_size=8", "--config.model.depth=1", "--config.loss.scd=0.0"]
    small += ["--config.loss.img=0.0"]
    assert main(["ablations", *small, "--only=last_block", "--topology=cpu:1"]) == 0
    counted = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert counted[0][-1] == "bounds added, ms |" and len(counted) == 4
    assert float(counted[3][1]) > float(counted[2][1]) > 0  # FLOPs
    assert main(["ablations", *small, "--only=last_block", "--steps=1", "--warmup=1"]) == 0
    timed = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert timed[2][0] == "| the step as it is" and timed[2][-1] == timed[3][-1]  # losses
    assert main(["ablations", *small, "--only=last,first"]) == 1
    assert "--only: there is no first, last; there are teacher_once" in capsys.readouterr().err
