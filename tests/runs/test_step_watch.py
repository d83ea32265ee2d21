"""Spikes of the loss, by hand, and what a step watch leaves in the workdir."""

import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.runs import step_watch
from discovr_jax.runs.step_watch import Spikes, StepWatch


def found(values):
    spikes = Spikes()
    return [index for index, value in enumerate(values) if spikes.look(value) is not None]


def test_a_value_far_above_the_last_ones_is_a_spike():
    # Alternating 1.0 and 1.2: median 1.1, mean distance 0.1, so the line is at 1.1 + 8 * 0.12533 = 2.1026.
    usual = [1.0, 1.2] * 20
    assert found([*usual, 2.10, *usual]) == []
    assert found([*usual, 2.11, *usual]) == [40]
    spikes = Spikes()
    for value in usual:
        spikes.look(value)
    assert spikes.look(3.0) == pytest.approx(1.1)


def test_a_steady_loss_has_a_line_too():
    # No deviation at all: 2 % of the median counts as one, so the line is at 5 * 1.16.
    assert found([5.0] * 20 + [5.79]) == [] and found([5.0] * 20 + [5.81]) == [20]


def test_what_is_no_spike():
    assert found([100.0] * 3 + [1.0] * 3 + [1e6]) == []  # too few before
    assert found(np.linspace(10, 1, 200)) == []  # learning
    assert found([1.0] * 20 + [float("nan"), float("inf")]) == []  # reported elsewhere
    assert found([1.0] * 64 + [9.0] * 40)[-1] < 64 + 33  # a new level becomes usual


class State:
    """As much of a TrainState as a watch reads at the start."""

    def __init__(self, step):
        self.step, self.skipped = step, 0


def watch_of(directory, step):
    return StepWatch(directory, State(step), 3, ["echonet"], None, {}, {})


def metrics(loss):
    values = {"loss/total": loss, "optim/grad_norm": 1.0, "skipped": 0}
    return {name: jnp.asarray(value) for name, value in values.items()}


BATCH = {"dataset": jnp.zeros(2, jnp.int32), "record": jnp.array([7, 9])}


def test_spikes_are_listed_once_and_anew_after_a_resume(tmp_path, caplog):
    watch = watch_of(tmp_path, 0)
    for step in range(40):
        watch.look(step, None, metrics(50.0 if step in (20, 30) else 5.0), BATCH)
    watch.finish(None)
    watch.close()
    path = tmp_path / "spikes.jsonl"
    line = {"what": "loss/total", "value": 50.0, "usual": 5.0, "records": "echonet 7, echonet 9"}
    assert [json.loads(text) for text in path.read_text().splitlines()] == [{"step": 20} | line, {"step": 30} | line]
    words = "step 20: loss/total 50, usually 5; training records echonet 7, echonet 9"
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING][0] == words
    # A kill cut the last line; the run resumes at step 25, so that of step 30 comes again.
    path.write_text(path.read_text() + '{"step": 35, "wh')
    watch_of(tmp_path, 25).close()
    assert [json.loads(text)["step"] for text in path.read_text().splitlines()] == [20]


def test_the_device_is_not_waited_for_until_a_step_is_bad(tmp_path):
    """Each step is read when the next one was dispatched."""
    watch, read = watch_of(tmp_path, 0), []
    watch._spikes["loss/total"].look = lambda value: read.append(value)
    for step in range(3):
        watch.look(step, None, metrics(float(step)), BATCH)
        assert read == [float(number) for number in range(step)]
    watch.look(3, None, metrics(3.0) | {"skipped": jnp.asarray(1)}, BATCH)
    watch.look(4, None, metrics(4.0) | {"skipped": jnp.asarray(2)}, BATCH)
    assert read == [0.0, 1.0, 2.0, 3.0, 4.0]  # after a bad step: at once
    watch.close()
    assert step_watch.WATCHED == ("loss/total", "optim/grad_norm")
