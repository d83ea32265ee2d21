"""Training on videos that the device holds: clips as the loader cuts them, and a row per milestone."""

import argparse
import json

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from discovr_jax.benchmark import learning
from discovr_jax.data import transforms

SIZE, COUNTS = 32, {"val": 8, "test": 8, "train": 16}


def test_clips_are_those_of_the_loader():
    frames = jnp.arange(30 * 4, dtype=jnp.uint8).reshape(30, 4)  # two videos, of 12 and 18 frames of 2 x 2
    first, counts = jnp.array([0, 12]), jnp.array([12, 18])
    data = ConfigDict({"num_frames": 4, "image_size": 2})
    clips = learning.cut(frames, first, counts, jnp.array([1, 0]), jnp.array([3, 0]), jnp.array([2.5, 3.0]), data)
    for row, (video, start, stride) in enumerate(((slice(12, 30), 3, 2.5), (slice(0, 12), 0, 3.0))):
        which, _ = transforms.clip_indices(len(frames[video]), 4, stride, start)
        np.testing.assert_array_equal(clips[row], np.asarray(frames[video])[which].reshape(4, 2, 2))


@pytest.mark.long  # compiles a training of its own
def test_a_row_untrained_at_milestones_and_at_the_end(config, tmp_path):
    rng, total = np.random.default_rng(0), sum(COUNTS.values())
    counts = np.full(total, 24, np.int32)
    np.save(tmp_path / "frames.npy", rng.integers(0, 256, (counts.sum(), SIZE**2), dtype=np.uint8))
    ef = np.where(np.arange(total) % 2, 60.0, 35.0) + rng.normal(size=total)
    np.savez(tmp_path / "table.npz", counts=counts, ef=ef)
    (tmp_path / "complete").touch()
    config.data.stride, config.duration = 4, "4 steps"
    config.loss.jepa, config.views.positive = 1.0, "other_beat"
    flags = argparse.Namespace(
        videos=tmp_path, output=tmp_path, name="tiny", labels=12, milestones=[16], seconds=1e9, steps_per_call=2,
        **COUNTS,
    )
    learning.train(flags, config)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["clips"] for row in rows] == [0, 16, 32]
    assert all(0 <= row["cls"]["probe_auroc"] <= 1 and row["mean"]["rank"] >= 1 for row in rows)
    assert np.isfinite(rows[-1]["loss/jepa"])
    start, end = (np.load(tmp_path / f"tiny-{name}.npz") for name in ("start", "end"))
    assert start["train_cls"].shape == (12, 16) and (start["test_cls"] != end["test_cls"]).any()
