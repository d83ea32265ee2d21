"""Runs of 9 steps that are disturbed on a machine with a local disk, or that is lost, and end as an undisturbed one.

A checkpoint every 3 steps, an evaluation after 5.
"""

import re
import shutil
import time

import fsspec
import pytest

from discovr_jax import train
from discovr_jax.data import feed
from discovr_jax.evaluation import dry_run
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.runs import metrics_log, workdir_copy
from discovr_jax.runs.checkpoint import whole_steps
from tests import run_case

# A read that fails leaves coroutines of Orbax behind, which Python reports when it collects them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """`start(workdir, overrides)`: train to the end; returns the Summary."""
    folder = run_case.session_folder(tmp_path_factory)
    settings = {"eval.every": "5 steps", "eval.at_end": False}

    def train_on(directory, overrides=()):
        config = run_case.make_config(run_case.simulated(folder), settings | dict(overrides))
        return train.train_and_evaluate(config, str(directory), run_case.weight_metrics)

    with pytest.MonkeyPatch.context() as patch, run_case.compiled_programs(folder):
        patch.setattr(mesh_lib, "make_mesh", run_case.one_device)
        patch.setattr(dry_run, "check_evaluators", lambda *_: None)
        run_case.traced_once(patch)
        yield train_on


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """Lines of metrics.jsonl of a run without local checkpoints that nothing disturbed."""
    directory = tmp_path_factory.mktemp("undisturbed")
    assert start(directory).finished
    return run_case.rows(directory)


@pytest.fixture
def run(start, tmp_path):
    """`run()`: train in `tmp_path / "run"`, with a local checkpoint after each step that has none in the workdir."""
    return lambda: start(tmp_path / "run", {"checkpoint.local_dir": str(tmp_path / "local"),
                                            "checkpoint.local_seconds": 0.0})  # fmt: skip


@pytest.fixture
def assert_ends_as_one(run, undisturbed, tmp_path):
    def check():
        assert run().finished
        assert run_case.rows(tmp_path / "run") == undisturbed and "state_sha256" in undisturbed[-1]
        assert whole_steps(tmp_path / "run" / "checkpoints")[-2:] == [6, 9]
        assert not list((tmp_path / "local").iterdir())

    return check


def fail_after(steps, run, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(feed, "device_batches", run_case.cut_short(steps, lambda: 1 / 0))
        run()


def test_a_run_that_fails_between_checkpoints_loses_nothing(run, assert_ends_as_one, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    fail_after(5, run, monkeypatch)
    fail_after(3, run, monkeypatch)
    assert_ends_as_one()
    assert re.findall(rf"resumed from step (\d) of {tmp_path}/local", caplog.text) == ["5", "8"]


@pytest.mark.parametrize(
    ("module", "name"), [(metrics_log, "read_metrics"), (run_case, "weight_metrics")], ids=["starting", "evaluating"]
)
def test_sigterm_before_the_first_step_keeps_the_newest_state(
    module, name, run, assert_ends_as_one, tmp_path, monkeypatch
):
    """The step that a start goes on from may be on the local disk alone."""
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(run_case, "weight_metrics", lambda *_: 1 / 0)  # so its evaluation is done again
        run()
    assert whole_steps(tmp_path / "run" / "checkpoints") == [3]
    called = getattr(module, name)

    def call(*arguments):
        run_case.send("SIGTERM")
        return called(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, call)
        assert not run().finished
    assert whole_steps(tmp_path / "run" / "checkpoints") == [3, 5]
    fail_after(1, run, monkeypatch)
    assert_ends_as_one()


def test_it_is_gone_on_from_where_a_newer_one_of_the_workdir_is_damaged(
    run, assert_ends_as_one, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    fail_after(6, run, monkeypatch)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_6" / "state")
    assert_ends_as_one()
    assert f"resumed from step 5 of {tmp_path}/local" in caplog.text


def test_a_run_goes_on_on_another_machine(start, undisturbed, tmp_path, monkeypatch, caplog):
    """The first one is lost, and what it has not sent; the second gets SIGTERM, and sends what it has."""
    caplog.set_level("INFO")
    monkeypatch.setattr(workdir_copy, "_LOOK_EVERY", 0.01)
    store = fsspec.filesystem("memory")
    settings = {"checkpoint.copy_to": "memory://lost/run"}

    def lost():
        for _ in range(6000):
            index = "/lost/run/copy.json"
            if store.exists(index) and b'"3"' in store.cat_file(index):
                raise ZeroDivisionError
            time.sleep(0.01)

    def stop(copy, *_):
        copy._ending.set()
        copy._thread.join()

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(feed, "device_batches", run_case.cut_short(5, lost))
        patch.setattr(workdir_copy.WorkdirCopy, "__exit__", stop)
        start(tmp_path / "first", settings)
    shutil.rmtree(tmp_path / "first")
    with monkeypatch.context() as patch:
        patch.setattr(feed, "device_batches", run_case.cut_short(0, lambda: run_case.send("SIGTERM")))
        assert not start(tmp_path / "second", settings).finished
    shutil.rmtree(tmp_path / "second")
    assert start(tmp_path / "third", settings).finished
    assert re.findall(r"resumed from step (\d)", caplog.text) == ["3", "4"]
    assert run_case.rows(tmp_path / "third") == undisturbed
    for path in (path for path in (tmp_path / "third").rglob("*") if path.is_file() and path.name != "lock"):
        assert store.cat_file(f"/lost/run/{path.relative_to(tmp_path / 'third')}") == path.read_bytes()
    store.rm("/lost", recursive=True)
