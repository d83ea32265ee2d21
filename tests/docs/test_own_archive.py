"""The commands and the recipe of docs/tutorials/own_archive.md, in order, on a tiny archive."""

import pathlib
import shlex
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest

from discovr_jax import command_line, extract, prepare
from discovr_jax.data import mixture, pipeline
from discovr_jax.method import experiment
from discovr_jax.runs import checkpoint
from tests.builder_case import moving_square, write_video
from tests.test_configs import ROOT

PAGE = (ROOT / "docs" / "tutorials" / "own_archive.md").read_text(encoding="utf-8")
RATES = (30, 50, 30, 50, 30, 50, 30, 50, 30, 50, 30, 50)  # every other file another, as in an archive


def command(start: str) -> list[str]:
    """Arguments of the page's first command that starts so."""
    (line, *_) = [line for line in PAGE.splitlines() if line.startswith(f"python -m discovr_jax.{start}")]
    return shlex.split(line, comments=True)[3:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the reader works, with VIDEOS."""
    folder = tmp_path_factory.mktemp("archive")
    for number, rate in enumerate(RATES):
        path = folder / "VIDEOS" / "2021" / f"{number}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_square(30, seed=number), fps=rate)
    return folder


def test_what_the_recipe_trains_on_is_read_and_extract_takes_what_it_leaves(folder, tiny, monkeypatch):
    """A step of training would take longer than all this: the checkpoint holds the tests' shared network."""
    monkeypatch.chdir(folder)
    assert prepare.main(command("prepare echo_folder")) == 0
    given = dict(each.lstrip("-").split("=", 1) for each in command("main --config=archive"))
    config = command_line.read_config(given["config"], ["--config.data.workers=0"])
    with pipeline.train_batches(mixture.open_training(config.data), config) as batches:
        assert next(batches)["frames"].shape == (config.batch_size, 64, 112, 112)
    network = experiment.config_dict(tiny.config)
    network["data"] |= {"dataset": config.data.dataset, "target_fps": config.data.target_fps}
    checkpoints = checkpoint.Checkpoints(given["workdir"])
    checkpoints.save(1, tiny.state, {}, network)
    checkpoints.close()
    assert extract.main(command("extract")) == 0
    (output,) = [each.split("=")[1] for each in command("extract") if each.startswith("--output")]
    rows = pq.read_table(pathlib.Path(output)).to_pylist()
    assert len(rows) == len(RATES) and all(np.isfinite(row["features"]).all() for row in rows)
    assert {round(row["fps"]) for row in rows} == {30, 50}


def test_git_sees_nothing_of_the_archive():
    """The page's commands are run in a checkout, and `git add .` follows."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    (features,) = [each.split("=")[1] for each in command("extract") if each.startswith("--output")]
    beside = [str(pathlib.Path(features).with_suffix(suffix)) for suffix in (".card.json", ".quarantine.csv")]
    folders = {each.split("=")[1] for each in command("prepare echo_folder") if "_dir=" in each}
    assert folders == {"VIDEOS", "data", "private"} and "--csv=LIST.csv" in PAGE and "data_dir=data2" in PAGE
    made = [f"{folder}/any/file" for folder in sorted({*folders, "data2", "runs"})]
    made += ["LIST.csv", features, *beside]
    done = subprocess.run(["git", "check-ignore", *made], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == made
    tracked = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True).stdout == ""
