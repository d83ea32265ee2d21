"""The encoder that comes with the package."""

import numpy as np
import pytest

import discovr_jax
from discovr_jax import pretrained
from tfds_builders.echo_phantom.layout_echonet_dynamic import simulate_one


def test_the_phantom_encoder_tells_how_hearts_contract_that_it_has_never_seen():
    """It was trained without labels; its head for EF was fitted on 1000 labelled simulated hearts of seed 0."""
    encoder = discovr_jax.load_encoder("phantom")
    clips = [simulate_one(7, "test", index) for index in range(16)]
    videos = [np.asarray(clip.frames) for clip in clips]
    assert encoder.options["readout"] == "frame_std" and encoder.embed(videos[0]).shape == (96,)
    found = [one.measurements["lvef"].value for one in encoder.predict(videos, show_out_of_distribution=True)]
    assert np.corrcoef(found, [clip.ef for clip in clips])[0, 1] > 0.5


def test_it_is_small():
    files = [path for path in pretrained.FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 5e6


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pretrained.path_of("phantom") == pretrained.FOLDER / "phantom"
    (tmp_path / "phantom").mkdir()
    assert pretrained.path_of("phantom") == "phantom"
    with pytest.raises(Exception, match="checkpoint"):
        discovr_jax.load_encoder("phantom")
