"""The folder of a run: one process, one config, one line a step."""

import fcntl
import json
import math
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import pytest
from tensorboardX.proto import event_pb2

from discovr_jax.runs import workdir
from discovr_jax.runs.workdir import WorkdirError
from tests import run_case

HOST = socket.gethostname()
CONFIG = {"seed": 0, "batch_size": 16, "mesh": {"data": -1}, "data": {"workers": 2, "stride": 3}, "eval": {"k": 10}}


# The lock ----------------------------------------------------------------------------------------------------

HOLD = """
import sys
from discovr_jax import workdir
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


# Metrics -----------------------------------------------------------------------------------------------------


VERSION = {"schema_version": workdir.METRICS_VERSION}  # in the first line only


def rows(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def logged(tmp_path):
    log = workdir.MetricsLog(tmp_path, 0)
    for step in (10, 20, 30):
        log.write(step, {"loss/total": step / 10})
    log.close()
    return tmp_path


def test_a_line_a_step(logged):
    assert rows(logged) == [VERSION | {"step": step, "loss/total": step / 10} for step in (10,)] + [
        {"step": step, "loss/total": step / 10} for step in (20, 30)
    ]
    assert workdir.read_metrics(logged) == rows(logged)
    assert any(name.startswith("events.") for name in os.listdir(logged))


def test_tensorboard_gets_every_number_and_no_start_overwrites_another(logged):
    for _ in range(2):  # within a second
        log = workdir.MetricsLog(logged, 20)
        log.write(30, {"loss/total": 3.5, "skipped": 0})
        log.close()
    files = sorted(logged.glob("events.out.tfevents.*"), key=lambda path: int(path.suffix[1:]))
    assert len(files) == 3
    assert [(name, step, pytest.approx(value)) for name, step, value in scalars(files[0])] == [
        ("loss/total", 10, 1.0), ("loss/total", 20, 2.0), ("loss/total", 30, 3.0)
    ]  # fmt: skip
    assert scalars(files[2]) == [("loss/total", 30, 3.5), ("skipped", 30, 0.0)]


def scalars(path):
    """(name, step, value) of an events file, whose records are: length, its checksum, content, its checksum."""
    found, data = [], path.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    return found


def test_a_full_disk_is_an_error_and_no_endless_wait(tmp_path):
    """Also for the tenth number after the first that could not be written."""
    log = workdir.MetricsLog(tmp_path, 0)
    with run_case.largest_file(2048), pytest.raises(OSError, match="File too large"):
        for step in range(1, 100):
            log.write(step, {f"loss/{name}": 1.0 for name in range(10)})
    log.close()
    assert [row["step"] for row in workdir.read_metrics(tmp_path)] == list(range(1, step + 1))


def test_lines_after_the_step_of_a_resume_are_written_anew(logged):
    log = workdir.MetricsLog(logged, 20)
    assert [row["step"] for row in rows(logged)] == [10, 20]
    log.write(20, {"loss/total": 999.0})
    log.write(30, {"loss/total": 3.5})
    log.close()
    assert rows(logged) == [
        VERSION | {"step": 10, "loss/total": 1.0},
        {"step": 20, "loss/total": 2.0},
        {"step": 30, "loss/total": 3.5},
    ]


def test_a_line_from_before_a_resume_gets_what_it_lacks(logged):
    """Training logged step 20, then the run was killed before its evaluation."""
    log = workdir.MetricsLog(logged, 20)
    assert log.has(20, "loss/") and not log.has(20, "eval/")
    log.write(20, {"loss/total": 999.0, "eval/knn/f1": 0.5})
    log.close()
    assert rows(logged)[1:] == [{"step": 20, "loss/total": 2.0, "eval/knn/f1": 0.5}]


def test_the_last_line_of_a_finished_run_is_its_hash(logged):
    log = workdir.MetricsLog(logged, 30)
    log.write(30, {"state_sha256": "abc"})
    log.close()
    assert rows(logged)[-1] == {"step": 30, "state_sha256": "abc"}
    workdir.MetricsLog(logged, 30).close()  # starting again takes the hash away until the run ends again
    assert rows(logged)[-1] == {"step": 30, "loss/total": 3.0}


def test_a_last_line_cut_short_by_a_kill_is_dropped(logged):
    path = logged / "metrics.jsonl"
    path.write_text(path.read_text()[:-15])
    assert [row["step"] for row in workdir.read_metrics(logged)] == [10, 20]
    workdir.MetricsLog(logged, 30).close()
    assert [row["step"] for row in rows(logged)] == [10, 20]


def test_damage_in_the_middle_is_an_error(logged):
    path = logged / "metrics.jsonl"
    path.write_text(path.read_text().replace('{"step": 20', '{"step": '))
    with pytest.raises(WorkdirError, match="metrics.jsonl, line 2 is damaged"):
        workdir.read_metrics(logged)


def test_other_than_text_in_the_middle_is_an_error(logged):
    path = logged / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], b"\xff\xfe" + lines[1], lines[2]]))
    with pytest.raises(WorkdirError, match="metrics.jsonl, line 2 is damaged"):
        workdir.read_metrics(logged)


def test_numbers_that_are_not_finite_are_null_on_disk_and_come_back_as_nan(tmp_path):
    log = workdir.MetricsLog(tmp_path, 0)
    log.write(10, {"loss/total": float("inf"), "optim/grad_norm": float("nan"), "skipped": 1.0})
    log.close()
    assert rows(tmp_path) == [VERSION | {"step": 10, "loss/total": None, "optim/grad_norm": None, "skipped": 1.0}]
    (row,) = workdir.read_metrics(tmp_path)
    assert math.isnan(row["loss/total"]) and math.isnan(row["optim/grad_norm"]) and row["skipped"] == 1.0
    workdir.MetricsLog(tmp_path, 10).close()  # written anew, still strict JSON
    assert rows(tmp_path)[0]["loss/total"] is None


def test_metrics_of_a_later_version_are_refused_and_left_alone(logged):
    path = logged / "metrics.jsonl"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    before = path.read_bytes()
    with pytest.raises(WorkdirError, match="metrics.jsonl has schema version 2, this code reads up to 1"):
        workdir.MetricsLog(logged, 10)
    assert path.read_bytes() == before


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
    workdir.compare(tmp_path, other, only="model.", free=("model.dtype",))
    with pytest.raises(workdir.WorkdirError, match="model.patch: was 8, is 16"):
        workdir.compare(tmp_path, {"model": {"patch": 16}}, only="model.", free=("model.dtype",))
