"""The home folder in flags, and folders in which nothing can be renamed."""

import errno
import os
import sys

import pytest

from discovr_jax import prepare, storage
from discovr_jax.command_line import parse_flags
from discovr_jax.runs import workdir
from tests.builder_case import moving_square


def test_the_home_folder_is_expanded_wherever_a_path_can_begin(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = ["--workdir=~/x", "~/a", "--workdirs=a=~/x+~/y,b=~/z", "--config.data.data_dir=~"]
    given += ["--name=a~/b", "--x=~you/x"]
    assert storage.expand_home(given) == [
        "--workdir=/home/me/x", "/home/me/a", "--workdirs=a=/home/me/x+/home/me/y,b=/home/me/z",
        "--config.data.data_dir=/home/me", "--name=a~/b", "--x=~you/x",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_flags_of_main_are_expanded(monkeypatch):
    from absl import flags
    from ml_collections import config_flags

    monkeypatch.setenv("HOME", "/home/me")
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    monkeypatch.setattr(sys, "argv", ["main", "--config=adult", "--workdir=~/x", "--config.data.data_dir=~/data"])
    parse_flags(sys.argv, values)
    assert (values.workdir, values.config.data.data_dir) == ("/home/me/x", "/home/me/data")


def test_prepare_takes_the_home_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepare.main(["echo_folder", "--manual_dir=~/in", "--data_dir=~/out", "--show_paths"]) == 1
    assert f"{tmp_path}/in: no such directory" in capsys.readouterr().err


@pytest.fixture
def flat_bucket(monkeypatch):
    """As gcsfuse with its rename-dir-limit of 0: files can be renamed, folders that hold any cannot."""
    real = os.rename

    def rename(source, target, **options):
        if os.path.isdir(source) and os.listdir(source):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(source))
        return real(source, target, **options)

    monkeypatch.setattr(os, "rename", rename)


def test_a_workdir_in_which_no_folder_can_be_renamed_is_refused_at_the_start(tmp_path, flat_bucket):
    with pytest.raises(workdir.WorkdirError, match="cannot be renamed there .*--rename-dir-limit=100000"):
        with workdir.locked(tmp_path / "run"):
            pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]


def test_records_are_refused_there_before_a_video_is_read(tmp_path, flat_bucket, capsys):
    import numpy as np

    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", moving_square(3))
    command = ["echo_folder", f"--manual_dir={tmp_path / 'in'}", f"--data_dir={tmp_path / 'out'}", "--show_paths"]
    assert prepare.main(command) == 1
    said = capsys.readouterr()
    assert "--rename-dir-limit=100000" in said.err and "videos" not in said.err
    assert [path.name for path in (tmp_path / "out" / "echo_folder" / "112").iterdir()] == [".lock"]


def test_an_ordinary_folder_is_left_as_it_was(tmp_path):
    assert storage.rename_problem(tmp_path) == "" and not list(tmp_path.iterdir())
