"""What a user gets wrong: one clear error that names the file or key and the remedy, and nothing half-written."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from discovr_jax import prepare, train
from discovr_jax.data import records
from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import evaluate
from discovr_jax.method import experiment
from discovr_jax.runs import checkpoint, metrics_log, workdir
from tests import run_case
from tests.test_prepare import write_native

COMMANDS = {
    "no config": ([], "--config is missing: a config file or the name of a shipped one"),
    "unknown config": (
        ["--config=adlut"],
        "no config 'adlut' here, and none of that name among the shipped ones (ablations, adult, ",
    ),
    "unknown argument": (["--config=adult:variants=s"], "unknown config argument 'variants'; known: variant (str)"),
    "wrong argument": (["--config=adult:frames=many"], "config argument frames='many' is no int"),
    "unknown key": (
        ["--config=adult", "--config.nonsense=1", "--config.data.sride=2"],
        "the config has no key nonsense, data.sride. Did you mean data.stride",
    ),
    "wrong value": (["--config=adult", "--config.batch_size=big"], "--config.batch_size=big: invalid literal for int"),
    "wrong setting": (
        ["--config=adult", "--mode=plan", "--topology=cpu:8", "--config.model.patch=15"],
        "data.image_size = 112 must be a multiple of model.patch = 15, and data.num_frames = 64 of model.tubelet = 2",
    ),
    "wrong variant, and no records": (
        ["--config=adult:variant=q", "--config.data.data_dir=absent"],
        "model.variant",
    ),
    "wrong rule, and no records": (
        ["--config=adult", "--config.data.data_dir=absent", "--config.data.abnormal_rule=ef less 50"],
        "Unknown rule 'ef less 50'",
    ),
    "no records": (
        ["--config", "adult", "--config.data.data_dir=absent"],
        "No prepared records at absent/echonet_dynamic/112/1.0.0 (dataset_info.json is missing). Make the records "
        "with: python -m discovr_jax.prepare echonet_dynamic --manual_dir=DOWNLOADED_FILES --data_dir=absent",
    ),
    "one run to compare": (
        ["--mode=compare", "--workdirs=absent"],
        "--workdirs needs two or more runs, separated by commas, got 1",
    ),
    "no checkpoints": (
        ["--config=adult", "--mode=eval", "--workdir=absent"],
        "--workdir=absent holds no checkpoints: train first, or name another workdir",
    ),
}


# Imports, which take longest, once; then each command in a process of its own, its words in a file.
START = """
import json, os, runpy, sys
import jax, discovr_jax.evaluation.evaluate, discovr_jax.planning.plan, discovr_jax.train
for name, arguments in json.loads(sys.argv[1]).items():
    child = os.fork()
    if not child:
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = ["main.py", *arguments]
        runpy.run_module("discovr_jax.main", run_name="__main__")
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """{case: (exit code, stderr)} of every command."""
    folder = tmp_path_factory.mktemp("commands")
    environment = run_case.command_environment(run_case.session_folder(tmp_path_factory))
    arguments = json.dumps({case: arguments for case, (arguments, _) in COMMANDS.items()})
    command = [sys.executable, "-W", "ignore", "-c", START, arguments]
    done = subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    codes = map(int, done.stdout.split())
    return {case: (code, (folder / case).read_text()) for case, code in zip(COMMANDS, codes, strict=True)}


@pytest.mark.parametrize("case", COMMANDS)
def test_the_command_line_says_what_is_wrong_in_one_line(said, case):
    code, words = said[case]
    assert code == 1
    lines = [line for line in words.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]  # without the log
    assert len(lines) == 1 and lines[0].startswith("error: ") and COMMANDS[case][1] in lines[0], words


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return run_case.simulated(run_case.session_folder(tmp_path_factory))


def start(data_dir, directory, overrides=()):
    return train.train_and_evaluate(run_case.make_config(data_dir, overrides), str(directory))


def claim(data_dir, directory, overrides=()):
    directory.mkdir(exist_ok=True)
    workdir.claim(directory, experiment.config_dict(run_case.make_config(data_dir, overrides)))


def test_a_workdir_of_another_config_names_the_keys_that_differ(data_dir, tmp_path):
    claim(data_dir, tmp_path)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(workdir.WorkdirError) as error:
        start(data_dir, tmp_path, {"optim.lr": 0.5, "seed": 3, "data.workers": 1})
    for words in (str(tmp_path), "optim.lr: was 0.001, is 0.5; seed: was 0, is 3", "another --workdir"):
        assert words in str(error.value)
    assert "workers" not in str(error.value), "what may change between starts is no other config"
    assert (tmp_path / "config.json").read_text() == before
    assert not (tmp_path / "checkpoints").exists()


def test_a_damaged_config_or_metrics_file_is_named(data_dir, tmp_path):
    claim(data_dir, tmp_path)
    whole = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(whole[:100])
    with pytest.raises(workdir.WorkdirError, match=r"config\.json is damaged .*restore it or choose another"):
        start(data_dir, tmp_path)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(workdir.WorkdirError, match=r"metrics\.jsonl, line 2 is damaged"):
        metrics_log.read_metrics(tmp_path)
    metrics.write_text('{"step": 1}\n{"step": 2, "loss/t')  # as a kill leaves it
    assert metrics_log.read_metrics(tmp_path) == [{"step": 1}]


def test_a_workdir_in_use_names_the_process_and_is_free_when_that_is_killed(data_dir, tmp_path):
    hold = "import sys, time; from discovr_jax.runs import workdir\n"
    hold += "with workdir.locked(sys.argv[1]): print('held', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", hold, str(tmp_path)]
    environment = run_case.command_environment(tmp_path)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(workdir.WorkdirError) as error:
                start(data_dir, tmp_path)
        finally:
            holder.kill()
    for words in (str(tmp_path), f"is in use by process {holder.pid}", "choose another workdir"):
        assert words in str(error.value)
    with workdir.locked(tmp_path), pytest.raises(workdir.WorkdirError, match=f"in use by process {os.getpid()}"):
        with workdir.locked(tmp_path):
            pass


def test_a_workdir_that_cannot_be_written_is_named(data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(workdir.WorkdirError, match="--workdir=.*file/run cannot be written .*choose another"):
        start(data_dir, tmp_path / "file" / "run")


def test_a_folder_of_checkpoints_without_one_is_named(data_dir, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(checkpoint.CheckpointError, match="checkpoints holds no checkpoint: train first"):
        evaluate.evaluate_workdir(run_case.make_config(data_dir), tmp_path)


def test_records_of_another_schema_version_name_the_command(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "READABLE", (3,))
    real = {f"data.simulate.{split}": 0 for split in records.SPLITS}  # these are not to be made anew
    with pytest.raises(records.RecordsError) as error:
        start(data_dir, tmp_path, real)
    versions = "have schema version 2 and fields of version 2, this code reads 3"
    for words in (str(data_dir), versions, "python -m discovr_jax.prepare"):
        assert words in str(error.value)


def test_other_simulated_clips_are_not_mixed_in(data_dir, tmp_path):
    with pytest.raises(records.RecordsError, match="asks for other clips than data.data_dir = .* holds"):
        start(data_dir, tmp_path, {"data.simulate.train": 11})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"batch_size": 12}, "batch_size = 12 must be a multiple of the 8 devices"),
        ({"eval.batch_size": 12}, "eval.batch_size = 12 must be a multiple of the 8 devices"),
        ({"eval.map_side": 0}, "eval.map_side = 0 must be at least 1"),
        ({"eval.readouts": ("cls", "decoder_cls")}, r"eval.readouts: unknown \['decoder_cls'\]; there are \['cls'"),
        ({"eval.evaluators.finetune.fit.steps": 5}, "fine-tuning of the last 3 blocks: the encoder has"),
        ({"mesh.data": 3}, "needs 3 devices and there are 8: change config.mesh"),
        ({"data.image_size": 33}, r"data.image_size = 33 must be a multiple of model.patch = 8"),
        ({"model.variant": "xl"}, "model.variant must be one of .*'custom'.*, not 'xl'"),
        ({"duration": "40 minutes"}, "'40 minutes' is no duration"),
        (
            {f"loss.{name}": 0.0 for name in ("vid", "img", "scd", "phase", "amplitude")},
            "every weight in config.loss is 0",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named_before_anything_is_written(overrides, message, data_dir, tmp_path):
    with pytest.raises(ConfigError, match=message):
        config = run_case.make_config(data_dir, overrides)
        train.train_and_evaluate(config, str(tmp_path), evaluate.evaluate_state)
    assert not (tmp_path / "metrics.jsonl").exists()
    assert not list(tmp_path.glob("checkpoints/*"))


def rename_column(native):
    table = native / "FileList.csv"
    table.write_text(table.read_text().replace("EF,", "EjectionFraction,", 1))


def damage_video(native):
    (native / "Videos" / "0XB.avi").write_bytes(b"not a video")


def cut_video(native):
    video = native / "Videos" / "0XB.avi"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda native: shutil.rmtree(native), ("native: no such directory", "https://echonet.github.io/dynamic")),
        (lambda native: shutil.rmtree(native / "Videos"), ("native/Videos",)),
        (lambda native: (native / "FileList.csv").unlink(), ("FileList.csv", "--manual_dir")),
        (rename_column, ("FileList.csv: missing column(s) EF",)),
        (damage_video, ("0XB.avi", "--max_bad")),
        (cut_video, ("0XB.avi", "--max_bad")),
        (lambda native: (native / "Videos" / "0XB.avi").unlink(), ("0XB", "FileList.csv line 3", "--max_bad")),
        (
            lambda native: shutil.copy(native / "Videos" / "0XB.avi", native / "Videos" / "0XE.avi"),
            ("0XE.avi: no row in FileList.csv", "--max_bad"),
        ),
    ],
    ids=["directory", "videos", "table", "column", "unreadable", "cut", "row without video", "video without row"],
)
def test_preparing_names_the_file_and_leaves_no_records(change, words, tmp_path, capsys):
    native = write_native(tmp_path / "native")
    change(native)
    code = prepare.main(["echonet_dynamic", f"--manual_dir={native}", f"--data_dir={tmp_path / 'data'}"])
    said = capsys.readouterr().err
    assert code == 1 and "Traceback" not in said
    error = said[said.index("error: ") :]
    assert all(word in error for word in words), error
    assert not list((tmp_path / "data").rglob("*.array_record*"))
    assert not list((tmp_path / "data").rglob("dataset_info.json"))
    with pytest.raises(records.RecordsError, match="No prepared records"):
        records.open_source(tmp_path / "data", "echonet_dynamic", "112", "train")
