"""Baselines by `extract`: initial weights and pixels of the clips that a trained encoder sees; several readouts."""

import json

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

import discovr_jax
from discovr_jax import extract
from discovr_jax.evaluation.features import feature_table, pixels
from discovr_jax.method import experiment
from discovr_jax.method import step as train_step
from discovr_jax.pixel_encoder import PixelEncoder
from tests import run_case
from tests.builder_case import moving_square, write_video


@pytest.fixture(scope="module")
def workdir(tiny, tmp_path_factory):
    return run_case.saved(tiny, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for length in (20, 30):
        write_video(folder / f"{length}.avi", moving_square(length))
    return folder


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (40, 30, 50), dtype=np.uint8)


def test_untrained_weights_are_those_that_a_run_begins_with(workdir, tiny, frames):
    encoder = discovr_jax.load_encoder(workdir, untrained=3)
    e = tiny.experiment
    state = jax.jit(lambda key: train_step.init_state(e.model, e.tx, e.masks, key))(experiment.initial_key(3))
    found = encoder.params["video_encoder"]
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(state.teacher["video_encoder"]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    trained, other, config = (
        discovr_jax.load_encoder(workdir),
        discovr_jax.load_encoder(workdir, untrained=4),
        discovr_jax.load_encoder(tiny.config, untrained=3),
    )
    assert len({each.weights_sha256 for each in (trained, encoder, other)}) == 3
    assert config.weights_sha256 == encoder.weights_sha256 and config.options == encoder.options
    np.testing.assert_array_equal(config.embed(frames), encoder.embed(frames))
    with pytest.raises(ValueError, match="a config has no weights"):
        discovr_jax.load_encoder(tiny.config)


def test_readouts_stand_side_by_side(workdir, frames):
    both = discovr_jax.load_encoder(workdir, readout="mean,cls")
    each = [discovr_jax.load_encoder(workdir, readout=name).embed(frames) for name in ("mean", "cls")]
    np.testing.assert_allclose(both.embed(frames), np.concatenate(each), atol=1e-6)
    assert both.parts == {"mean": 16, "cls": 16} and both.width == 32
    for wrong in ("mean,all", "mean,best", "mean,nothing"):
        with pytest.raises(ValueError, match="readout must be one of"):
            discovr_jax.load_encoder(workdir, readout=wrong)


def test_pixels_see_the_clips_of_the_encoder(workdir, frames):
    """One clip of four frames at stride 3, squeezed: by hand."""
    encoder = discovr_jax.load_encoder(workdir, clips=1, fit="squeeze", image_size=32)
    found = PixelEncoder(encoder, "motion_energy_3,std_frame,mean_frame")
    assert found.parts == {"motion_energy_3": 9, "std_frame": 784, "mean_frame": 784}
    small = np.random.default_rng(1).integers(0, 256, (12, 32, 32), dtype=np.uint8)
    expected = pixels.readouts(small[::3], 4)
    found = found.embed(small)
    np.testing.assert_array_equal(found[:9], expected["motion_energy_3"])
    np.testing.assert_array_equal(found[9:], np.concatenate([expected["pixels"][784:], expected["pixels"][:784]]))
    # The mean over clips, of any size and rate.
    three = PixelEncoder(discovr_jax.load_encoder(workdir, clips=3), "motion_energy_6")
    assert three.embed([frames, frames[:5]], fps=[50, 25]).shape == (2, 36)
    with pytest.raises(ValueError, match="the readout of pixels must be one of .*not 'cls'"):
        PixelEncoder(encoder, "cls")


def test_the_command_gives_baselines(workdir, videos, tmp_path, capsys):
    def made(name, *arguments):
        out = tmp_path / f"{name}.parquet"
        assert extract.main([*arguments, f"--input={videos}", f"--output={out}"]) == 0, capsys.readouterr().err
        table = pq.read_table(out)
        return np.array(table["features"].to_pylist()), table, json.loads(out.with_suffix(".card.json").read_text())

    run = f"--checkpoint={workdir}"
    trained, _, _ = made("trained", run)
    untrained, table, card = made("untrained", run, "--encoder=untrained:0", "--readout=cls,mean")
    assert untrained.shape == (2, 32) and not np.allclose(untrained[:, :16], trained, atol=1e-3)
    assert json.loads(table.schema.metadata[feature_table.READOUTS.encode()]) == {"cls": 16, "mean": 16}
    assert card["preprocessing"]["untrained"] == 0
    energy, table, card = made("pixels", run, "--encoder=pixels", "--readout=motion_energy_6,motion_energy_3")
    assert energy.shape == (2, 45) and (energy > 0).any() and card["encoder"] == "pixels"
    assert table["id"].to_pylist() == ["20.avi", "30.avi"] and "weights_sha256" not in card


def test_the_command_refuses_what_does_not_fit(workdir, videos, tmp_path, capsys):
    for arguments, words in (
        (["--encoder=untrained:0"], "give --checkpoint, or"),
        (["--encoder=untrained", "--config=phantom"], "it is checkpoint, untrained:SEED"),
        (["--config=phantom"], "--config names no weights"),
        ([f"--checkpoint={workdir}", "--config.seed=1"], "unknown arguments: --config.seed=1"),
        (["--encoder=untrained:0", "--config=phantom", "--config.nonsense=1"], "nonsense"),
    ):
        assert extract.main([*arguments, f"--input={videos}", f"--output={tmp_path / 'f.parquet'}"]) == 1
        assert words in capsys.readouterr().err
