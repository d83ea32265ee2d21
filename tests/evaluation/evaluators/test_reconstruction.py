"""Autoencoders as anomaly detectors: the memory by hand, padding never counted, noise among hearts is found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.data import records
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.evaluators import reconstruction
from tests import tokens_case

OPTIONS = {"steps": 20, "batch": 4, "learning_rate": 3e-3, "memory": 16}


def test_memory_puts_a_code_together_from_the_items_nearest_to_it():
    params = {"params": {"items": jnp.array([[3.0, 0.0], [0.0, 2.0]])}}
    memory = reconstruction.MemoryModule(2)
    near, entropy = memory.apply(params, jnp.array([[5.0, 0.0]]))  # weights 1 and e^-10, which is cut to 0
    np.testing.assert_allclose(near, [[3.0, 0.0]], atol=1e-6)
    assert float(entropy) == pytest.approx(0.0, abs=1e-6)
    blank = memory.apply(params, jnp.array([[1.0, 1.0]]))[0]  # 1/2 each, no more than a fair share: nothing is left
    np.testing.assert_allclose(blank, [[0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("memory", [0, 8])
def test_errors_count_real_frames_only(memory):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 5, 12, 12), np.uint8)  # no multiples of the strides
    num_valid = np.array([3, 5], np.int32)
    clips, real = reconstruction.standardise(frames, num_valid)
    kept = np.asarray(clips[0, :3])
    assert kept.mean() == pytest.approx(0, abs=1e-5) and kept.std() == pytest.approx(1, abs=1e-5)
    assert real[:, :, 0, 0].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    model = reconstruction.Autoencoder(memory)
    wanted = reconstruction.windows(clips)
    np.testing.assert_array_equal(wanted[1, :, :, 2], clips[1, 2])
    np.testing.assert_array_equal(wanted[:, :, :, 5:], 0)
    params = model.init(jax.random.key(0), wanted)
    made, _ = model.apply(params, wanted)
    assert made.shape == wanted.shape
    found, _ = reconstruction.errors(model, params, frames, num_valid)
    np.testing.assert_allclose(found[0], ((made[0, :, :, :3] - np.moveaxis(kept, 0, -1)) ** 2).mean(), rtol=1e-5)
    other = frames.copy()
    other[0, 3:] = 0
    np.testing.assert_array_equal(reconstruction.errors(model, params, other, num_valid)[0], found)


def make_context(directory):
    """Videos of an EF below 50 are abnormal; here they are noise."""
    sources = {split: tokens_case.Records(split) for split in tokens_case.COUNTS}
    rng = np.random.default_rng(0)
    for source in sources.values():
        for record in source:
            if record["ef"] < 50:
                noise = rng.integers(0, 256, (tokens_case.LENGTH, tokens_case.SIZE, tokens_case.SIZE), np.uint8)
                record["frames"] = records.encode_frames(noise)
    return tokens_case.make_context(directory, sources=sources)


@pytest.mark.long  # trains two autoencoders
def test_what_normal_clips_never_showed_scores_higher(tmp_path, monkeypatch):
    evaluation, context = make_context(tmp_path)
    reconstruction.run(evaluation, "reconstruction", context, **OPTIONS)
    for name in ("autoencoder", "memory_autoencoder"):
        metrics = evaluation.results["encoders"][name]
        assert metrics["anomaly/auroc"]["value"] == 1.0 and metrics["anomaly/sensitivity_at_90"]["value"] == 1.0
    assert evaluation.results["videos"]["reconstruction"] == tokens_case.COUNTS
    monkeypatch.setattr(reconstruction, "_train", None)
    again, context = make_context(tmp_path)
    reconstruction.run(again, "reconstruction", context, **OPTIONS)
    assert again.results["encoders"] == evaluation.results["encoders"]


def test_off_unless_asked_for(tmp_path):
    evaluation, context = make_context(tmp_path)
    with pytest.raises(interface.NotSetUp, match="set config.eval.evaluators.reconstruction.steps=500"):
        reconstruction.run(evaluation, "reconstruction", context, **OPTIONS | {"steps": 0})
