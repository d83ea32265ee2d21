"""Runs from start to end: equal when repeated, cut short anywhere and resumed, killed or damaged."""

import contextlib
import functools
import gc
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from discovr_jax import replay, train
from discovr_jax.data import feed
from discovr_jax.evaluation import dry_run, evaluate
from discovr_jax.method import experiment
from discovr_jax.method import step as train_step
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.parallel import processes
from discovr_jax.runs import checkpoint, step_watch, workdir
from tests import run_case

NOTHING_REMEMBERED = (
    (experiment, "jit_train_step", experiment.jit_train_step),
    (train_step, "abstract_state", train_step.abstract_state),
    (train, "init_state", train.init_state),
)
SCHEDULE = {"eval.every": "4 steps"}  # beside a log line every 2, a checkpoint every 3, and 9 steps in all


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return run_case.simulated(run_case.session_folder(tmp_path_factory))


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return run_case.command_environment(run_case.session_folder(tmp_path_factory))


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    """Runs take the first of the eight devices and compile once; no evaluators are rehearsed, for none will run."""
    with pytest.MonkeyPatch.context() as patch, run_case.compiled_programs(run_case.session_folder(tmp_path_factory)):
        patch.setattr(mesh_lib, "make_mesh", run_case.one_device)
        patch.setattr(dry_run, "check_evaluators", lambda *_: None)
        run_case.traced_once(patch)
        yield


@pytest.fixture(scope="module")
def run(data_dir):
    """`run(workdir, overrides)`: train to the end; returns the Summary."""

    def start(directory, overrides=()):
        config = run_case.make_config(data_dir, SCHEDULE | dict(overrides))
        return train.train_and_evaluate(config, str(directory), run_case.weight_metrics)

    return start


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    """Workdir of a run that nothing disturbed."""
    directory = tmp_path_factory.mktemp("finished")
    assert run(directory).finished
    return directory


@pytest.fixture
def copy(finished, tmp_path):
    return pathlib.Path(shutil.copytree(finished, tmp_path / "copy"))


def assert_same_end(directory, finished):
    """Same lines of metrics, none missing or twice, and the same state bit for bit."""
    assert run_case.rows(directory) == run_case.rows(finished)


def test_metrics_have_one_line_a_step_and_end_with_the_state(finished):
    rows = run_case.rows(finished)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 9, 9]
    assert rows[-1].keys() == {"step", "state_sha256"} and len(rows[-1]["state_sha256"]) == 64
    for row in rows[:-1]:
        assert np.isfinite(row["loss/total"]) and row["skipped"] == 0
        assert ("eval/weights/sum" in row) == (row["step"] in (4, 8, 9))
    assert all({"perf/clips_per_second", "perf/goodput"} <= json.loads(line).keys() for line in _lines(finished)[:-1])
    assert checkpoint.Checkpoints(finished).steps() == [3, 6, 9]


def test_two_runs_are_equal_bit_for_bit(run, finished, tmp_path, monkeypatch):
    for module, name, function in NOTHING_REMEMBERED:
        monkeypatch.setattr(module, name, function)
    run(tmp_path)
    assert_same_end(tmp_path, finished)


def test_a_run_that_fails_in_the_middle_resumes_and_ends_as_one(run, finished, tmp_path, monkeypatch):
    def fail():
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(feed, "device_batches", run_case.cut_short(5, fail))
        with pytest.raises(OSError, match="the disk is gone"):
            run(tmp_path)
    # The newest checkpoint is of step 3, a line is of step 4: it is written anew, whatever it says.
    lines = _lines(tmp_path)
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    (tmp_path / "metrics.jsonl").write_text(f'{lines[0]}\n{{"step": 4, "loss/total": 7.0}}\n{{"step": 5, "lo')
    assert run(tmp_path).finished
    assert_same_end(tmp_path, finished)


@pytest.mark.parametrize("step", [4, 5, 9], ids=["to evaluate", "not to log", "the last"])
def test_sigterm_saves_and_the_next_start_ends_as_one(step, run, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        send = functools.partial(run_case.send, "SIGTERM")
        patch.setattr(feed, "device_batches", run_case.cut_short(step - 1, send))
        assert not run(tmp_path).finished  # of step 9 the evaluation is missing
    assert "state_sha256" not in run_case.rows(tmp_path)[-1]
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.steps()[-1] == step
    seconds = checkpoints.meta(step)["clock"]["perf/step_seconds"]  # beyond the last line of the log
    assert run(tmp_path).finished
    assert_same_end(tmp_path, finished)
    rows = [json.loads(line) for line in _lines(tmp_path)[:-1]]
    assert all(row["perf/step_seconds"] <= seconds for row in rows if row["step"] <= step)
    assert all(row["perf/step_seconds"] >= seconds for row in rows if row["step"] > step)


@pytest.mark.long  # processes that trace and compile anew
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 0), ("SIGKILL", -9)])
def test_a_signalled_process_resumes_and_ends_as_one(name, code, run, finished, data_dir, environment, tmp_path):
    """A process of its own gets the signal before its fifth batch. (The ordinary tests send it to this process,
    and fail in the middle, which leaves the same files as SIGKILL.)"""
    command = [sys.executable, "-m", "tests.run_case", name, "4", f"--workdir={tmp_path}"]
    command += run_case.command_flags(data_dir, SCHEDULE)
    done = subprocess.run(command, env=environment, cwd=run_case.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    if name == "SIGTERM":
        assert checkpoint.Checkpoints(tmp_path).steps()[-1] == 5
        assert "the same command resumes" in done.stderr
    assert run(tmp_path).finished
    assert_same_end(tmp_path, finished)


def test_a_finished_run_trains_nothing_and_keeps_its_metrics(run, copy, monkeypatch):
    before = _lines(copy)

    def nothing(*_):
        return lambda *_: pytest.fail("a step was made")

    monkeypatch.setattr(experiment, "jit_train_step", nothing)
    assert run(copy).finished
    assert _lines(copy) == before


def _largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def _truncate(folder):
    largest = _largest(folder)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def _flip(folder):
    largest = _largest(folder)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)


def _empty_state(folder):
    shutil.rmtree(folder / "state")


def _lose_meta(folder):
    shutil.rmtree(folder / "meta")


def _half_written(folder):
    # What a kill in the middle of a save leaves.
    folder.rename(folder.with_name(folder.name + ".orbax-checkpoint-tmp-0"))


@pytest.fixture
def leftovers():
    """A read that fails leaves coroutines of Orbax behind, which Python reports when it collects them: here."""
    yield
    gc.collect()


tolerant = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@tolerant
@pytest.mark.parametrize("damage", [_truncate, _flip, _empty_state, _lose_meta, _half_written])
def test_a_damaged_checkpoint_is_passed_over(damage, leftovers, run, copy, finished):
    damage(copy / "checkpoints" / "step_9")
    assert run(copy).finished
    assert_same_end(copy, finished)
    assert checkpoint.Checkpoints(copy).steps()[-1] == 9


@tolerant
def test_if_every_checkpoint_is_damaged_the_run_says_so(leftovers, run, copy):
    for folder in (copy / "checkpoints").glob("step_*"):
        _truncate(folder)
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint can be read.*another --workdir"):
        run(copy)
    assert _lines(copy), "metrics of a run that cannot go on are kept"


def test_other_records_are_refused(run, copy, data_dir, tmp_path, monkeypatch):
    before = _lines(copy)
    with pytest.raises(workdir.WorkdirError, match="trained on other data.*Restore the records"):
        with monkeypatch.context() as patch:
            patch.setattr("discovr_jax.data.pipeline.training_records", lambda *_: {"echonet_dynamic": list(range(9))})
            run(copy)
    assert _lines(copy) == before


def test_non_finite_steps_are_not_applied_and_stop_the_run(run, tmp_path, monkeypatch, caplog):
    def poison(number, batch):
        # Clips without a single real frame have no mean. One such batch passes; three in a row are too many.
        return batch | {"num_valid": 0 * batch["num_valid"]} if number in (1, 4, 5, 6) else batch

    monkeypatch.setattr(feed, "device_batches", run_case.intercepted(poison))
    with pytest.raises(step_watch.NonFiniteError) as error:
        run(tmp_path, {"log.every": "1 steps", "checkpoint.every": "1 steps", "checkpoint.keep": 20})
    assert "3 steps in a row were not finite, the last one step 6; last good checkpoint: step " in str(error.value)
    assert str(tmp_path / "checkpoints") in str(error.value) and "optim.lr" in str(error.value)
    # The batch was poisoned on its way, so the records do not hold it.
    dump = tmp_path / "nonfinite" / "checkpoints" / "step_6"
    assert f"python -m discovr_jax.replay {dump} ." in str(error.value)
    with pytest.raises(checkpoint.CheckpointError, match=r"batch of step 6 is not what the run saw \(num_valid differ"):
        replay.replay(dump)
    assert "step 1: loss or gradient not finite, not applied; training records echonet_dynamic " in caplog.text

    states = {step: _arrays(tmp_path, step) for step in (1, 2, 3, 4, 6)}
    for same, different in (((1, 2), (2, 3)), ((4, 6), (3, 4))):
        assert _equal(*(states[step] for step in same))
        assert not _equal(*(states[step] for step in different))
    skipped = {row["step"]: row["skipped"] for row in run_case.rows(tmp_path)}
    assert [skipped[step] for step in range(1, 7)] == [0, 1, 0, 0, 1, 2]


def _with_bad_teacher(source, target, step):
    """A workdir whose only checkpoint is that of `source` with one weight of the teacher not a number."""
    before = checkpoint.Checkpoints(source, read_only=True)
    shapes = jax.tree.map(lambda leaf: leaf, before._manager.item_metadata(step)["state"].tree)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes)
    state, meta = before.restore(step, abstract)
    token = state["teacher"]["video_encoder"]["cls_token"]
    state["teacher"]["video_encoder"]["cls_token"] = token.at[0].set(np.nan)
    after = checkpoint.Checkpoints(target)
    after.save(step, state, meta["data"], meta["config"])
    after.wait()
    after.close()


def test_a_run_that_stops_leaves_what_repeats_its_last_step(run, finished, tmp_path, capsys):
    _with_bad_teacher(finished, tmp_path, 3)
    with pytest.raises(step_watch.NonFiniteError, match="3 steps in a row were not finite, the last one step 5"):
        run(tmp_path)
    dump = tmp_path / "nonfinite" / "checkpoints" / "step_5"
    assert replay.main([str(dump)]) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert lines["loss/vid"].endswith("nan   <- not finite") and lines["gradient/video_head"].endswith("<- not finite")
    # The image branch has its own teacher.
    assert "not finite" not in lines["loss/phase"] + lines["gradient/frame_projector"]
    assert "The step is not finite again." in said
    # The same command stops again, and leaves the dump as it is.
    before = {path: path.read_bytes() for path in dump.rglob("*") if path.is_file()}
    with pytest.raises(step_watch.NonFiniteError):
        run(tmp_path)
    assert before == {path: path.read_bytes() for path in dump.rglob("*") if path.is_file()}
    assert replay.main([str(tmp_path)]) == 1
    assert "is no dump: give WORKDIR/nonfinite/checkpoints/step_N" in capsys.readouterr().err


@pytest.mark.parametrize("step", [4, 9], ids=["in the middle", "at the end"])
def test_sigterm_interrupts_an_evaluation_which_is_done_at_the_next_start(step, run, finished, tmp_path, monkeypatch):
    def evaluate(config, directory, state, at, *others):
        if at == step:
            with contextlib.suppress(BaseException):  # as Python does where the signal hits a callback of its own
                run_case.send("SIGTERM")
            handler = signal.signal(signal.SIGALRM, lambda *_: None)  # nor does the next one get through
            time.sleep(0.3)
            signal.signal(signal.SIGALRM, handler)
            time.sleep(60)  # ended by one after that
        return weight_metrics(config, directory, state, at, *others)

    weight_metrics = run_case.weight_metrics
    with monkeypatch.context() as patch:
        patch.setattr(processes, "ASK_AGAIN", 0.1)
        patch.setattr(run_case, "weight_metrics", evaluate)
        assert not run(tmp_path).finished
    assert checkpoint.Checkpoints(tmp_path).steps()[-1] == step
    assert not any("eval/weights/sum" in row for row in run_case.rows(tmp_path) if row["step"] == step)
    assert run(tmp_path).finished
    assert_same_end(tmp_path, finished)


def test_a_last_evaluation_that_fails_costs_no_training(run, finished, tmp_path, monkeypatch):
    made = run_case.weight_metrics
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(run_case, "weight_metrics", lambda *a: made(*a) if a[3] < 9 else 1 / 0)
        run(tmp_path)
    assert checkpoint.Checkpoints(tmp_path).steps() == [3, 6, 9]
    monkeypatch.setattr(feed, "device_batches", run_case.cut_short(0, lambda: pytest.fail("trained again")))
    assert run(tmp_path).finished
    assert_same_end(tmp_path, finished)


def test_an_evaluation_beside_a_training_sees_a_whole_checkpoint_and_disturbs_nothing(
    run, data_dir, finished, tmp_path, monkeypatch
):
    weight_metrics, seen = run_case.weight_metrics, {}

    def beside(config, directory, state, at, *others):
        # The newest checkpoint may be on its way to disk now; at step 4 it is the only one.
        with monkeypatch.context() as patch, contextlib.suppress(checkpoint.CheckpointError):
            patch.setattr(evaluate, "evaluate_state", lambda *arguments, **_: seen.update({at: arguments[3]}))
            evaluate.evaluate_workdir(run_case.make_config(data_dir, SCHEDULE), directory)
        return weight_metrics(config, directory, state, at, *others)

    monkeypatch.setattr(run_case, "weight_metrics", beside)
    assert run(tmp_path, {"checkpoint.keep": 1}).finished
    assert seen.pop(4, 3) == 3 and seen.pop(8) in (3, 6) and seen == {9: 9}
    assert_same_end(tmp_path, finished)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_9"]


def test_a_checkpoint_of_another_config_is_refused_where_config_json_is_lost(run, copy):
    (copy / "config.json").unlink()
    with pytest.raises(workdir.WorkdirError, match=r"step 9 of .*another config \(max_bad_steps: was 3, is 4\)"):
        run(copy, {"max_bad_steps": 4})


def test_nothing_depends_on_the_clock_of_the_machine(run, finished, tmp_path, monkeypatch):
    """It goes back an hour at every look."""
    now = [time.time()]

    def backwards():
        now[0] -= 3600
        return now[0]

    with monkeypatch.context() as patch:
        patch.setattr(feed, "device_batches", run_case.cut_short(4, functools.partial(run_case.send, "SIGTERM")))
        assert not run(tmp_path).finished
    monkeypatch.setattr(time, "time", backwards)
    assert run(tmp_path).finished
    assert_same_end(tmp_path, finished)


@pytest.mark.long  # numbers on meshes are those of parallel/test_mesh.py
def test_eight_devices_agree_with_one_which_can_go_on_from_them(run, tmp_path, monkeypatch):
    video = {"loss.scd": 0.0, "loss.phase": 0.0, "duration": "3 steps"}  # the other losses are in parallel/test_mesh.py

    def first_step(directory, overrides=()):
        send = functools.partial(run_case.send, "SIGTERM")
        with monkeypatch.context() as patch:
            patch.setattr(feed, "device_batches", run_case.cut_short(0, send))
            return run(directory, video | dict(overrides))

    one = first_step(tmp_path / "one")
    with monkeypatch.context() as patch:
        patch.setattr(mesh_lib, "make_mesh", run_case.make_mesh)
        eight = first_step(tmp_path / "eight", {"mesh.data": 4, "mesh.fsdp": 2})
    assert len(eight.state.step.sharding.device_set) == 8 and len(one.state.step.sharding.device_set) == 1
    assert float(eight.metrics["loss/total"]) == pytest.approx(float(one.metrics["loss/total"]), rel=1e-5)
    for directory in ("one", "eight"):
        assert run(tmp_path / directory, video).finished
    one, eight = (run_case.rows(tmp_path / directory) for directory in ("one", "eight"))
    assert [row["step"] for row in eight] == [row["step"] for row in one] == [2, 3, 3]
    for mine, theirs in zip(eight[:-1], one[:-1], strict=True):
        assert mine["loss/total"] == pytest.approx(theirs["loss/total"], rel=1e-3)


def _lines(directory):
    return (directory / "metrics.jsonl").read_text().splitlines()


def _arrays(directory, step):
    """Parameters, teachers and memory of a checkpoint, but not its counters."""
    names = ("params", "teacher", "memory")
    return checkpoint.read_arrays(directory / "checkpoints" / f"step_{step}", lambda name: name.startswith(names))[0]


def _equal(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
