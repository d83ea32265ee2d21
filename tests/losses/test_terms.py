"""The table of loss terms: what it must hold, and a new term that touches nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.configs import base
from discovr_jax.losses import terms
from discovr_jax.losses.interface import Result
from discovr_jax.models.discovr import OUTPUTS


def test_every_term_has_a_weight_and_reads_what_the_model_gives():
    assert set(base.get_config().loss) == set(terms.TERMS)
    for name, term in terms.TERMS.items():
        assert term.name == name and term.label and term.needs <= set(OUTPUTS)


def test_outputs_are_those_of_all_terms():
    assert terms.outputs(()) == frozenset()
    assert terms.outputs(("vid", "pix")) == {"video_logits", "decoded", "pixels"}


def spread(inputs, margin):
    """Mean squared logit above a margin."""
    return Result(jnp.square(jnp.maximum(inputs.student.video_logits - margin, 0)).mean(), inputs.memory, {"m": margin})


@pytest.fixture
def new_term(monkeypatch, make_tiny):
    """`new_term(weight)`: a tiny experiment with the video term and a new one."""
    needs = frozenset({"video_logits"})
    monkeypatch.setitem(terms.TERMS, "spread", terms.Term("spread", spread, needs, "spread", section="spread"))

    def make(weight):
        tiny = make_tiny(**{"loss.img": 0.0, "loss.scd": 0.0})
        tiny.config.loss.spread, tiny.config.spread = weight, {"margin": -1.0}
        return tiny

    return make


def test_a_new_term_is_a_function_and_a_line_in_the_table(new_term):
    tiny = new_term(0.5)
    state, metrics = jax.jit(tiny.step)(tiny.state, tiny.batch)
    video, value = float(metrics["loss/vid"]), float(metrics["loss/spread"])
    assert value > 0 and float(metrics["m"]) == -1.0
    np.testing.assert_allclose(metrics["loss/total"], video + 0.5 * value, rtol=1e-6)
    assert tiny.experiment.model.outputs == {"video_logits"} and np.isfinite(float(metrics["optim/grad_norm"]))


def test_a_term_of_weight_zero_is_left_out(new_term):
    tiny = new_term(0.0)
    metrics = jax.eval_shape(tiny.step, tiny.state, tiny.batch)[1]
    assert "loss/vid" in metrics and not {"loss/spread", "m"} & metrics.keys()


def test_an_output_that_the_model_has_not_is_named(new_term, monkeypatch):
    monkeypatch.setitem(terms.TERMS, "spread", terms.Term("spread", spread, frozenset({"video_logit"}), "spread"))
    with pytest.raises(ValueError, match="no outputs .'video_logit'., only"):
        new_term(1.0).abstract  # noqa: B018
