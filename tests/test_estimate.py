"""The estimate: its arithmetic by hand, and the extension over blocks against all of them traced."""

import dataclasses
import math
import re

import jax
import pytest

from discovr_jax import estimate
from discovr_jax.planning import chips, flops


def test_the_arithmetic_of_a_row():
    """Four v5e chips. Of 0.9 * 16 GiB = 15.461 GB the state takes 4 and the gradient of 0.25e9 parameters 1: 10 clips
    of 1 GB. Each of them takes 0.4 * 197e12 FLOPs, a second; the sum of gradients sends 2 * 3/4 of 1 GB at half of
    200 GB/s, 15 ms.
    """
    required = estimate.Requirements(250_000_000, 4 * 10**9, 10**9, 0.4 * 197e12)
    row = estimate.row(required, chips.parse_topology("v5e:2x2"))
    assert row["largest_clips"] == row["clips"] == 10
    assert row["compute_seconds"] == pytest.approx(10) and row["sent_seconds"] == pytest.approx(15e-3)
    assert row["efficiency"] == pytest.approx(10 / 10.015)
    assert row["clips_per_second"] == pytest.approx(40 / 10.015)
    cut = estimate.row(required, chips.parse_topology("v5e:2x2"), fsdp=True)
    assert cut["largest_clips"] == 14  # 15.461 - 5 / 4
    assert cut["sent_seconds"] == pytest.approx(1.5 * 15e-3)
    alone = estimate.row(required, chips.parse_topology("cpu:1"), clips=2)
    assert alone["sent_seconds"] == 0 and alone["efficiency"] == 1 and alone["clips"] == 2


def test_blocks_left_out_are_extended(make_tiny):
    """The bytes kept for a clip grow by the same for every block, so that two depths tell a third."""
    tiny = make_tiny(**{"model.depth": 3, "loss.img": 0.0, "loss.scd": 0.0})
    required, e = estimate.requirements(tiny.config), tiny.experiment
    assert required.clip_bytes == estimate._residuals(e, 2) - estimate._residuals(e, 1) > 0
    state = tiny.abstract
    assert required.parameters == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert required.state_bytes == sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert required.clip_flops == sum(flops.step_flops(e.model, e.masks).values())


def test_a_batch_in_parts_keeps_the_activations_of_one(make_tiny):
    """Of the students; the objective meets the whole batch. All blocks traced, against two depths extended."""
    tiny = make_tiny(**{"model.depth": 3})
    config, e = tiny.config, tiny.experiment

    def of_a_clip(function):
        return function(e, 2) - function(e, 1)

    students, objective = of_a_clip(estimate._student_residuals), of_a_clip(estimate._objective_residuals)
    outputs, whole = of_a_clip(estimate._outputs), of_a_clip(estimate._residuals)
    assert students < whole < students + objective + outputs
    config.gradient_accumulation_steps = 4
    found = estimate.requirements(config)
    assert found.clip_bytes == max(objective, outputs + math.ceil(students / 4)) < whole
    assert found.parts == 4 and found.fixed_bytes == found.state_bytes + 8 * found.parameters


def test_its_table(capsys, tmp_path, monkeypatch):
    """A state of 10 GB leaves room for clips on v5e; on simulated devices of 8 GiB it must be cut."""
    monkeypatch.setattr(estimate, "requirements", lambda config: estimate.Requirements(10**6, 10**10, 10**8, 1e12))
    estimate.main(["--variants=ti,s", "--topologies=v5e:4x4,cpu:8", f"--output={tmp_path / 'rows.jsonl'}"])
    assert len(capsys.readouterr().out.splitlines()) == 2 + 4
    assert re.findall(r'"mesh": "(\w+)"', (tmp_path / "rows.jsonl").read_text()) == ["data", "fsdp"] * 2


def test_whether_a_batch_fits_one_gpu(capsys, tmp_path, monkeypatch):
    """jax takes 6 of 8 GB. State and gradient are 1.8 GB; of a clip's 1 GB traced 0.55 are counted: 7 clips fit."""
    required = estimate.Requirements(200_000_000, 10**9, 10**9, 1e12)
    fits = estimate.one_gpu(required, 7, 8)
    assert (fits["used_bytes"], fits["usable_bytes"]) == (pytest.approx(1.8e9 + 7 * 0.55e9), 6e9)
    assert fits["fits"] and fits["largest_clips"] == 7
    assert not estimate.one_gpu(required, 8, 8)["fits"]
    assert estimate.one_gpu(required, 1, 2)["largest_clips"] == 0
    # In parts the sum of their gradients takes 0.8 GB more: 6.2 clips fit, so two parts of three, or one of four.
    for parts, largest in ((2, 6), (4, 4)):
        found = estimate.one_gpu(dataclasses.replace(required, parts=parts), 7, 8)
        assert found["used_bytes"] == pytest.approx(2.6e9 + 7 * 0.55e9) and found["largest_clips"] == largest
    monkeypatch.setattr(
        estimate, "requirements", lambda c: dataclasses.replace(required, parts=c.gradient_accumulation_steps)
    )
    estimate.main(["--config=archive:gigabytes=8", "--memory_gb=8", f"--output={tmp_path / 'rows.jsonl'}"])
    estimate.main(["--config=adult", "--variants=ti", "--clips=7", "--memory_gb=8"])
    estimate.main(["--config=archive:gigabytes=8", "--config.gradient_accumulation_steps=2", "--memory_gb=8"])
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == (
        "gigabytes=8: 8 clips per step take 6.2 GB; of 8 GB jax may use 6.0: DOES NOT FIT (at most 7 clips)"
    )
    assert second.startswith("variant=ti: 7 clips per step") and second.endswith(": fits (at most 7 clips)")
    assert third.startswith("gigabytes=8: 8 clips per step, in 2 parts, take ")
    with pytest.raises(SystemExit):
        estimate.main(["--config=adult", "--gigabytes=8"])
    assert "Unknown command line flag 'gigabytes'" in capsys.readouterr().err
    assert '"fits": false' in (tmp_path / "rows.jsonl").read_text()
