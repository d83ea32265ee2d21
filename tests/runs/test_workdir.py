"""The folder of a run: one process, one config, one line per step."""

import fcntl
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import pytest

from discovr_jax.runs import workdir
from discovr_jax.runs.workdir import WorkdirError

HOST = socket.gethostname()
CONFIG = {"seed": 0, "batch_size": 16, "mesh": {"data": -1}, "data": {"workers": 2, "stride": 3}, "eval": {"k": 10}}


# The lock ----------------------------------------------------------------------------------------------------

HOLD = """
import sys
from discovr_jax.runs import workdir
with workdir.locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the workdir until it is killed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_and_told_the_first(holder, tmp_path):
    with pytest.raises(WorkdirError, match=f"in use by process {holder.pid} on {HOST}: wait for it"):
        with workdir.locked(tmp_path):
            pass


def test_the_kernel_releases_the_lock_of_a_killed_process(holder, tmp_path):
    holder.kill()
    holder.wait()
    with workdir.locked(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()} on {HOST}\n"


def test_the_lock_is_released_and_taken_again(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), workdir.locked(tmp_path / "new" / "folder"):
            raise KeyError


def test_children_do_not_inherit_the_lock(tmp_path):
    """A loader worker that outlives its parent must not keep the workdir."""
    script = "import os, sys; sys.exit(any('/lock' in os.readlink(f'/proc/self/fd/{f}') for f in (3, 4, 5, 6, 7) "
    script += "if os.path.exists(f'/proc/self/fd/{f}')))"
    with workdir.locked(tmp_path):
        assert subprocess.run([sys.executable, "-c", script], close_fds=False).returncode == 0


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="cannot be written .*: choose another"):
        with workdir.locked(tmp_path / "file" / "run"):
            pass


@pytest.fixture
def unprivileged():
    """Root may write everywhere, so it becomes nobody for the test."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


@pytest.mark.parametrize("used", [False, True], ids=["new", "of an earlier run"])
def test_a_read_only_workdir_is_refused_and_left_alone(used, request):
    with tempfile.TemporaryDirectory() as folder:  # in a place that everybody may enter
        path = pathlib.Path(folder)
        if used:
            (path / "lock").write_text("1 on a host\n")
        path.chmod(0o555)
        request.getfixturevalue("unprivileged")
        with pytest.raises(WorkdirError, match=r"cannot be written \(Permission denied\): choose another"):
            with workdir.locked(path):
                pass
        os.seteuid(os.getuid())
        assert os.listdir(path) == (["lock"] if used else [])


def test_the_lock_is_advisory_for_this_process_only_once(tmp_path):
    """flock belongs to the open file: a second handle of the same process is refused too."""
    with workdir.locked(tmp_path):
        with open(tmp_path / "lock") as second, pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


# The config --------------------------------------------------------------------------------------------------


def changed(**changes):
    return json.loads(json.dumps(CONFIG)) | changes


def test_the_first_start_writes_the_config(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG
    workdir.claim(tmp_path, CONFIG)
    assert os.listdir(tmp_path) == ["config.json"]


def test_another_config_is_refused_and_the_keys_named(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    other = changed(seed=1, data={"workers": 2, "stride": 2, "new": 5})
    words = r"data.new: was None, is 5; data.stride: was 3, is 2; seed: was 0, is 1\).*or another --workdir"
    with pytest.raises(WorkdirError, match=words):
        workdir.claim(tmp_path, other)
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG


def test_keys_that_change_no_number_may_change(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    other = changed(mesh={"data": 4}, data={"workers": 0, "stride": 3}, eval={"k": 20})
    workdir.claim(tmp_path, other)
    assert json.loads((tmp_path / "config.json").read_text()) == other


def test_a_key_newer_than_the_workdir_is_taken_at_its_default(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    defaults = {"loss": {"new": 0.0}, "gone": 1}
    workdir.claim(tmp_path, changed(loss={"new": 0.0}), defaults)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(WorkdirError, match=r"another config \(loss.new: was 0.0, is 1.0\)"):
        workdir.claim(tmp_path, changed(loss={"new": 1.0}), defaults)
    with pytest.raises(WorkdirError, match=r"loss.new: was None, is 0.0"):
        workdir.claim(tmp_path, changed(loss={"new": 0.0}))


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(WorkdirError, match="config.json is damaged"):
        workdir.claim(tmp_path, CONFIG)


def test_flatten():
    assert workdir.flatten({"a": {"b": 1, "c": {"d": 2}}, "e": [3]}) == {"a.b": 1, "a.c.d": 2, "e": [3]}


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    """A crash while writing leaves the old file."""
    path = tmp_path / "config.json"
    workdir.write_atomically(path, "old")

    def crash(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        workdir.write_atomically(path, "new")
    assert path.read_text() == "old"


def test_a_part_of_the_config_can_be_compared(tmp_path):
    """Evaluation may take other data, but no other model."""
    workdir.claim(tmp_path, {"model": {"patch": 8, "dtype": "bfloat16"}, "data": {"dataset": "a"}})
    other = {"model": {"patch": 8, "dtype": "float32"}, "data": {"dataset": "b"}}
    workdir.require_same_config(tmp_path, other, only="model.", free=("model.dtype",))
    with pytest.raises(workdir.WorkdirError, match="model.patch: was 8, is 16"):
        workdir.require_same_config(tmp_path, {"model": {"patch": 16}}, only="model.", free=("model.dtype",))
