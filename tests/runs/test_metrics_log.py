"""metrics.jsonl and the writers: lines of a resume, damage, numbers that are not finite; servers as fakes."""

import json
import math
import os
import sys
import types

import pytest
from tensorboardX.proto import event_pb2

from discovr_jax.errors import ConfigError
from discovr_jax.runs import metrics_log
from discovr_jax.runs.workdir import WorkdirError
from tests import run_case

VERSION = {"schema_version": metrics_log.METRICS_VERSION}  # in the first line only


def rows(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def logged(tmp_path):
    log = metrics_log.MetricsLog(tmp_path, 0)
    for step in (10, 20, 30):
        log.write(step, {"loss/total": step / 10})
    log.close()
    return tmp_path


def test_a_line_a_step(logged):
    assert rows(logged) == [VERSION | {"step": step, "loss/total": step / 10} for step in (10,)] + [
        {"step": step, "loss/total": step / 10} for step in (20, 30)
    ]
    assert metrics_log.read_metrics(logged) == rows(logged)
    assert any(name.startswith("events.") for name in os.listdir(logged))


def test_tensorboard_gets_every_number_and_no_start_overwrites_another(logged):
    for _ in range(2):  # within a second
        log = metrics_log.MetricsLog(logged, 20)
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
    log = metrics_log.MetricsLog(tmp_path, 0)
    with run_case.largest_file(2048), pytest.raises(OSError, match="File too large"):
        for step in range(1, 100):
            log.write(step, {f"loss/{name}": 1.0 for name in range(10)})
    log.close()
    assert [row["step"] for row in metrics_log.read_metrics(tmp_path)] == list(range(1, step + 1))


def test_lines_after_the_step_of_a_resume_are_written_anew(logged):
    log = metrics_log.MetricsLog(logged, 20)
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
    log = metrics_log.MetricsLog(logged, 20)
    assert log.has(20, "loss/") and not log.has(20, "eval/")
    log.write(20, {"loss/total": 999.0, "eval/knn/f1": 0.5})
    log.close()
    assert rows(logged)[1:] == [{"step": 20, "loss/total": 2.0, "eval/knn/f1": 0.5}]


def test_the_last_line_of_a_finished_run_is_its_hash(logged):
    log = metrics_log.MetricsLog(logged, 30)
    log.write(30, {"state_sha256": "abc"})
    log.close()
    assert rows(logged)[-1] == {"step": 30, "state_sha256": "abc"}
    metrics_log.MetricsLog(logged, 30).close()  # starting again takes the hash away until the run ends again
    assert rows(logged)[-1] == {"step": 30, "loss/total": 3.0}


def test_a_last_line_cut_short_by_a_kill_is_dropped(logged):
    path = logged / "metrics.jsonl"
    path.write_text(path.read_text()[:-15])
    assert [row["step"] for row in metrics_log.read_metrics(logged)] == [10, 20]
    metrics_log.MetricsLog(logged, 30).close()
    assert [row["step"] for row in rows(logged)] == [10, 20]


def test_damage_in_the_middle_is_an_error(logged):
    path = logged / "metrics.jsonl"
    path.write_text(path.read_text().replace('{"step": 20', '{"step": '))
    with pytest.raises(WorkdirError, match="metrics.jsonl, line 2 is damaged"):
        metrics_log.read_metrics(logged)


def test_other_than_text_in_the_middle_is_an_error(logged):
    path = logged / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], b"\xff\xfe" + lines[1], lines[2]]))
    with pytest.raises(WorkdirError, match="metrics.jsonl, line 2 is damaged"):
        metrics_log.read_metrics(logged)


def test_numbers_that_are_not_finite_are_null_on_disk_and_come_back_as_nan(tmp_path):
    log = metrics_log.MetricsLog(tmp_path, 0)
    log.write(10, {"loss/total": float("inf"), "optim/grad_norm": float("nan"), "skipped": 1.0})
    log.close()
    assert rows(tmp_path) == [VERSION | {"step": 10, "loss/total": None, "optim/grad_norm": None, "skipped": 1.0}]
    (row,) = metrics_log.read_metrics(tmp_path)
    assert math.isnan(row["loss/total"]) and math.isnan(row["optim/grad_norm"]) and row["skipped"] == 1.0
    metrics_log.MetricsLog(tmp_path, 10).close()  # written anew, still strict JSON
    assert rows(tmp_path)[0]["loss/total"] is None


def test_metrics_of_a_later_version_are_refused_and_left_alone(logged):
    path = logged / "metrics.jsonl"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    before = path.read_bytes()
    with pytest.raises(WorkdirError, match="metrics.jsonl has schema version 2, this code reads up to 1"):
        metrics_log.MetricsLog(logged, 10)
    assert path.read_bytes() == before


# Servers -----------------------------------------------------------------------------------------------------


class Fake(types.ModuleType):
    """Stands for `wandb` and `mlflow`: notes what it is given."""

    def __init__(self, name):
        super().__init__(name)
        self.started, self.logged, self.params, self.ended, self.id, self.down = [], [], {}, 0, "abc", False
        self.info = types.SimpleNamespace(run_id="abc")

    def init(self, **given):
        self.started.append(given)
        return self

    def start_run(self, **given):
        return self.init(**given)

    def set_experiment(self, name):
        self.experiment = name

    def Settings(self, **given):
        return given

    def log_params(self, params):
        self.params = params

    def log(self, row, step):
        if self.down:
            raise ConnectionError("no route to host")
        self.logged.append((step, row))

    log_metrics = log

    def finish(self):
        self.ended += 1

    end_run = finish


@pytest.fixture(params=["wandb", "mlflow"])
def server(request, monkeypatch):
    fake = Fake(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    return fake


CONFIG = {"seed": 3, "init_from": "/hospital/run", "data": {"data_dir": "/hospital/records", "stride": 3}}


def open_log(path, step, server):
    return metrics_log.MetricsLog(path, step, writers=(server.__name__,), project="echo", config=CONFIG)


def test_servers_get_numbers_and_the_config_without_folders(tmp_path, server):
    log = open_log(tmp_path, 0, server)
    log.write(10, {"loss/total": 1.5})
    log.write(10, {"state_sha256": "abc"})
    log.close()
    assert server.logged == [(10, {"loss/total": 1.5})] and server.ended == 1
    (given,) = server.started
    assert (given.get("config") or server.params) == {"seed": 3, "data.stride": 3}
    assert "hospital" not in repr((given, server.params))
    assert given.get("project", getattr(server, "experiment", "")) == "echo"
    if server.__name__ == "wandb":  # neither code nor terminal nor machine
        assert given["settings"]["disable_code"] and given["settings"]["console"] == "off"


def test_a_run_that_resumes_goes_on_as_the_same_run(tmp_path, server):
    for step in (0, 10):
        log = open_log(tmp_path, step, server)
        log.write(step + 10, {"loss/total": 1.5})
        log.close()
    names = ("id", "run_id")
    assert [next(given[n] for n in names if n in given) for given in server.started] == [None, "abc"]
    assert [step for step, _ in server.logged] == [10, 20]


def test_a_server_that_fails_ends_no_training(tmp_path, server, caplog):
    log = open_log(tmp_path, 0, server)
    server.down = True
    for step in (10, 20):
        log.write(step, {"loss/total": 1.5})
    log.close()
    assert [row["step"] for row in metrics_log.read_metrics(tmp_path)] == [10, 20]
    assert caplog.text.count("takes no more metrics (no route to host)") == 1


def test_nothing_is_sent_unless_asked(tmp_path, server):
    metrics_log.MetricsLog(tmp_path, 0, config=CONFIG).close()
    assert not server.started


def test_unknown_and_missing_writers_are_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="log.writers must be of .*, not 'csv'"):
        metrics_log.MetricsLog(tmp_path, 0, writers=("csv",))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'discovr_jax\[wandb\]'"):
        metrics_log.MetricsLog(tmp_path, 0, writers=("wandb",))
