"""What is shared of a run: slim's files and a card that says what the figures are of; nothing private."""

import json
import re
import shutil

import numpy as np
import pytest
import yaml

import discovr_jax
from discovr_jax import hub, model_card, pretrained, push, slim
from discovr_jax.runs import checkpoint, metrics_log, workdir
from tests import run_case

PHANTOM = pretrained.FOLDER / "phantom"
PLACES = {
    "data.data_dir": "/home/quillfeather/MRN90210777",
    "init_from": "/home/quillfeather/first",
    "checkpoint.copy_to": "s3://quillfeather/run",
    "checkpoint.local_dir": "/home/quillfeather/local",
    "log.project": "mrn90210777",
}
SECRET = re.compile(rb"quillfeather|90210777|/home/|/tmp/", re.IGNORECASE)
DATA = "Videos of nobody, under no licence."


@pytest.fixture(scope="module")
def results():
    """Of the encoder that comes with the package."""
    return json.loads((PHANTOM / "eval" / "8000" / "results.json").read_bytes())


@pytest.fixture(scope="module")
def config():
    return json.loads((PHANTOM / "config.json").read_bytes())


@pytest.fixture(scope="module")
def run(make_tiny, results, tmp_path_factory):
    """A run on a private archive, its config and its evaluation full of names."""
    folder = run_case.saved(make_tiny(**PLACES), tmp_path_factory.mktemp("push") / "run", step=8000)
    skipped = {"evaluator": "transfer", "encoder": "all", "reason": "No prepared records at /home/quillfeather"}
    place = folder / "eval" / "8000"
    place.mkdir(parents=True)
    (place / "results.json").write_text(json.dumps(results | {"skipped": [skipped]}))
    shutil.copy(PHANTOM / "eval" / "8000" / "heads.safetensors", place)
    return folder


@pytest.fixture(scope="module")
def shared(run, tmp_path_factory):
    """What would be sent of it."""
    output = tmp_path_factory.mktemp("push") / "shared"
    assert push.main([*command(run), f"--dry_run={output}"]) == 0
    return output


def command(run, **given):
    """Arguments, of which some may be given otherwise, or as None to be left out."""
    usual = {"workdir": run, "repo": "lab/adult", "licence": "other", "data": DATA} | given
    return [f"--{name}={value}" for name, value in usual.items() if value is not None]


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_sent_is_slims_folder_and_a_card(run, shared, tmp_path):
    small = slim.write(run, tmp_path / "slim", heads=False)
    assert names(shared) == names(small) | {"README.md"}
    assert names(small) == {"checkpoints/step_8000/weights.safetensors", "config.json", "eval/8000/results.json"}
    assert all((shared / name).read_bytes() == (small / name).read_bytes() for name in names(small))
    assert all(hub._is_needed(name) for name in names(small) - {"config.json"})


def test_heads_come_along_only_if_that_is_said(run, shared, tmp_path):
    with_heads = push.write(run, tmp_path / "with", "lab/adult", licence="other", data=DATA, heads=True)
    assert names(with_heads) - names(shared) == {"eval/8000/heads.safetensors"}
    assert "hold the features and ids of all training videos" in (with_heads / "README.md").read_text()
    assert "heads are not part of this repository" in (shared / "README.md").read_text()


def test_nothing_private_is_in_it(run, shared):
    inside = [path for path in run.rglob("*") if path.is_file() and SECRET.search(path.read_bytes())]
    assert {path.name for path in inside} >= {"metadata", "results.json"}, "otherwise this test could not fail"
    for path in shared.rglob("*"):
        assert path.is_dir() or not SECRET.search(path.read_bytes()), path
    config = json.loads((shared / "config.json").read_bytes())
    assert [workdir.flatten(config)[name] for name in PLACES] == [slim.WITHHELD] * len(PLACES)
    assert {*PLACES} >= {*metrics_log.PRIVATE}, "otherwise one is not tried"
    assert slim.without_places({"init_from": "", "data": {"stride": 3}}) == {"init_from": "", "data": {"stride": 3}}


def test_the_copy_gives_the_same_features(run, shared):
    video = np.random.default_rng(0).integers(0, 256, (20, 40, 40)).astype(np.uint8)
    one, other = (discovr_jax.load_encoder(folder, readout="cls", clips=1, batch_size=1) for folder in (run, shared))
    np.testing.assert_array_equal(one.embed(video), other.embed(video))
    assert one.options == other.options


def test_the_card_tells_the_figures_with_intervals_beside_baselines(config, results):
    card = model_card.text("lab/small", config, results, licence="cc-by-4.0", data=DATA, heads=False)
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["license"] == "cc-by-4.0" and metadata["library_name"] == "discovr_jax"
    assert "simulated-data" in metadata["tags"]
    assert 'load_encoder("hf:lab/small")' in card and "For research use only" in card and DATA in card
    (row,) = [line for line in card.splitlines() if line.startswith("| probe AUROC")]
    assert "0.866 (0.850 to 0.884)" in row and "pixels 0.825 (0.804 to 0.846)" in row
    assert "to pixels +0.041 (+0.019 to +0.065), better" in row
    (row,) = [line for line in card.splitlines() if line.startswith("| kNN AUROC")]
    assert "to pixels +0.003 (-0.027 to +0.036), unclear" in row
    (row,) = [line for line in card.splitlines() if line.startswith("| anomaly AUROC")]
    assert row.rstrip(" |").endswith("worse"), "what is worse is said too"
    assert "Not scored beside it" not in card and "95 % percentile bootstrap over patients" in card
    # The layout's name alone would say that these were videos of that dataset.
    assert card.count(model_card.SIMULATED) == 2 and "simulated in the layout of `echonet_dynamic`" in card


def test_the_card_of_real_data_and_of_weights_that_were_not_evaluated(config, results):
    real = config | {"data": config["data"] | {"simulate": {"train": 0, "val": 0, "test": 0, "seed": 0}}}
    card = model_card.text("lab/small", real | {"init_from": "x"}, results, licence="other", data=DATA, heads=False)
    assert "imulated" not in card and "test videos of 2000 patients from `echonet_dynamic`" in card
    assert "started from other weights" in card
    alone = results | {"encoders": {"discovr": results["encoders"]["discovr"]}}
    card = model_card.text("lab/small", real, alone, licence="other", data=DATA, heads=False)
    assert "Not scored beside it: untrained" in card
    card = model_card.text("lab/small", real, None, licence="other", data=DATA, heads=False)
    assert "These weights were not evaluated." in card and "AUROC" not in card
    assert "None" not in card


@pytest.mark.parametrize(
    "name,value,words",
    [
        ("repo", "adult", "--repo=adult: give OWNER/NAME"),
        ("licence", "My own", "--licence=My own: give the Hub's identifier"),
        ("data", "  ", "--data is empty: say what the encoder was trained on"),
        ("workdir", "/nowhere", "/nowhere: no checkpoint here"),
        ("dry_run", "/", "exists and is not empty"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(run, tmp_path, capsys, name, value, words):
    assert push.main(command(run, **{"dry_run": tmp_path / "out", name: value})) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["licence", "data"])
def test_licence_and_data_are_asked_for_and_not_guessed(run, capsys, missing):
    with pytest.raises(SystemExit):
        push.main(command(run, **{missing: None}))
    assert f"arguments are required: --{missing}" in capsys.readouterr().err


def test_a_damaged_or_foreign_weights_file_is_an_error_of_one_line(shared, tmp_path):
    from safetensors.numpy import save_file

    folder = tmp_path / "copy" / "checkpoints" / "step_8000"
    file = folder / "weights.safetensors"
    folder.mkdir(parents=True)
    content = (shared / "checkpoints" / "step_8000" / file.name).read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    kinds = {flipped: "1 arrays differ from what was saved", content[:-9]: "cannot be read", b"": "cannot be read"}
    for damaged, words in kinds.items():
        file.write_bytes(damaged)
        with pytest.raises(checkpoint.CheckpointError, match=words):
            checkpoint.read_arrays(tmp_path / "copy", lambda name: True)
    save_file({"weight": np.zeros(3, np.float32)}, file)
    with pytest.raises(checkpoint.CheckpointError, match="cannot be read .*meta"):
        checkpoint.read_arrays(tmp_path / "copy", lambda name: True)
    file.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="holds none of the arrays"):
        checkpoint.read_arrays(tmp_path / "copy", lambda name: False)
    arrays, meta = checkpoint.read_arrays(folder, lambda name: name.endswith("video_encoder/cls_token"))
    assert [*arrays] == ["teacher/video_encoder/cls_token"] and meta["config"]["init_from"] == slim.WITHHELD
