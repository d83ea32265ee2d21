"""Two processes as one run: same losses, one is killed and the other stops, both resume, one process reads the result.

As a program it is one process of such a run: python -m tests.parallel.test_processes BATCH --config=... [...] kills
itself before that batch (-1: never).
"""

import os
import runpy
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from discovr_jax import train
from discovr_jax.data import feed
from discovr_jax.evaluation import evaluate
from discovr_jax.parallel import processes as distributed
from discovr_jax.runs import checkpoint
from tests import run_case

# Found out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "on_tpu_vm", "flags", "expected"),
    [
        ({}, False, (), None),
        ({}, True, (), {}),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, False, (), {}),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False, (), None),
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NODELIST": "n[1-2]"}, False, (), {}),
        ({"SLURM_NTASKS": "8"}, False, (), None),  # inside sbatch, before srun
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n1"}, False, (), None),
        (
            {"SLURM_NTASKS": "8", "SLURM_STEP_NODELIST": "n[1-2]"},
            False,
            ("host:1234", 2, 0),
            {"coordinator_address": "host:1234", "num_processes": 2, "process_id": 0},
        ),
    ],
)
def test_how_processes_are_found(environ, on_tpu_vm, flags, expected):
    assert distributed.settings(environ, on_tpu_vm, *flags) == expected


def test_flags_that_belong_together():
    with pytest.raises(distributed.DistributedError, match="missing: coordinator, process_id"):
        distributed.settings({}, False, None, 2, None)


# Agreed --------------------------------------------------------------------------------------------------------


def test_a_run_of_one_agrees_with_itself():
    assert distributed.gathered({"step": 3}) == [{"step": 3}]
    assert distributed.on_any([True, False]) == [True, False]


def test_a_checkpoint_that_another_process_cannot_read_is_not_used(tmp_path, monkeypatch, caplog):
    """Process 1, made up here, fails at the first one that is tried, and its directory lacks the newest."""
    state = {"w": jax.numpy.arange(8.0)}
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state, {}, {})
    checkpoints.wait()
    others = [[1], "its disk is gone", None]

    def gathered(mine):
        return [mine, others.pop(0)]

    monkeypatch.setattr(distributed, "gathered", gathered)
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    step, *_ = checkpoints.restore_latest(target)
    assert step == 1 and others == []
    assert "step_2 cannot be read and is set aside (process 1: its disk is gone)" in caplog.text
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert sum(name.startswith("damaged_") and name.endswith("_step_2") for name in names) == 1
    checkpoints.close()


# Two of them ---------------------------------------------------------------------------------------------------

BRANCHES = {"loss.img": 0.0, "checkpoint.every": "2 steps", "mesh.data": 4, "mesh.fsdp": 2}


def start(environment, flags, directory, second, module="tests.parallel.test_processes"):
    """Both processes of a run, four devices each: `module` as a program with "-1", or for the second one `second`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = [f"--workdir={directory}", f"--coordinator=localhost:{port}", "--num_processes=2", *flags]
    devices = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, second if i else "-1", f"--process_id={i}", *flags],
            env=environment | {"XLA_FLAGS": devices},
            cwd=run_case.ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """(what the survivor said, its code; codes and words of the second start; workdirs of two and one; its state)."""
    base = run_case.session_folder(tmp_path_factory)
    data_dir, environment = run_case.simulated(base), run_case.command_environment(base)
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    flags = run_case.command_flags(data_dir, BRANCHES)
    processes = start(environment, flags, two, "5")
    try:
        (_, said), killed = processes[0].communicate(timeout=300), processes[1].wait(60)
        assert killed == -9
        processes += start(environment, flags, two, "-1")
        with run_case.compiled_programs(base):
            summary = train.train_and_evaluate(run_case.make_config(data_dir, BRANCHES), str(one))
        ends = [process.communicate(timeout=300)[1] for process in processes[2:]]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return said, processes[0].returncode, [each.returncode for each in processes[2:]], ends, two, one, summary.state


@pytest.mark.long
def test_when_one_is_killed_the_other_says_so_and_stops(story):
    """By what it was waiting for, which fails, by jax's heartbeat, or by gloo's check, whichever comes first."""
    said, code, *_ = story
    if code == -signal.SIGABRT:
        # Gloo carries what CPUs send: half of a message of the killed one ends the process inside C++.
        assert "most likely indicates that another task died" in said or "gloo::EnforceNotMet" in said
    else:
        assert code == 1, said
        assert said.strip().splitlines()[-1].startswith("error: process 0 of 2 stops, and so will the others: most")
        assert "the same command: they resume" in said


@pytest.mark.long
def test_both_resume_and_end_as_one_process(story):
    _, _, codes, ends, two, one, _ = story
    assert codes == [0, 0], ends
    assert "resumed from step" in ends[0]
    mine, alone = run_case.rows(two), run_case.rows(one)
    assert [row["step"] for row in mine] == [row["step"] for row in alone] == [2, 4, 6, 8, 9, 9]
    for row, expected in zip(mine[:-1], alone[:-1], strict=True):
        assert row.keys() - {"eval/weights/sum"} == expected.keys()
        for name in expected:
            assert row[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), (row["step"], name)
        assert row["loss/total"] == pytest.approx(expected["loss/total"], rel=1e-5)


@pytest.mark.long
def test_only_the_first_process_writes(story):
    *_, ends, two, _, _ = story
    assert "step 9/9" in ends[0] and "step 9/9" not in ends[1]
    assert len(list(two.glob("events.*"))) == 2  # one a start


@pytest.mark.long
def test_one_process_reads_what_two_wrote(story):
    *_, two, _, state = story
    arrays, _ = checkpoint.read_arrays(two / "checkpoints" / "step_9", lambda name: name.startswith("params"))
    found = {name.removeprefix("params/"): array for name, array in arrays.items()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = "/".join(key.key for key in path)
        # A constant drops out of the phase loss (tests/losses/test_phase.py): its gradient is rounding, grown by Adam.
        if name == "frame_projector/last/bias":
            assert np.abs(found.pop(name) - leaf).max() < 1e-4
            continue
        np.testing.assert_allclose(found.pop(name), leaf, rtol=1e-3, atol=1e-5, err_msg=name)
    assert not found


def main() -> None:
    batch, *sys.argv[1:] = sys.argv[1:]
    distributed.HEARTBEAT_SECONDS = 10
    evaluate.evaluate_state = run_case.weight_metrics
    if int(batch) >= 0:
        feed.device_batches = run_case.cut_short(int(batch), lambda: run_case.send("SIGKILL"))
    runpy.run_module("discovr_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()


def test_sigterm_while_records_are_made_leaves_at_once(tmp_path, monkeypatch):
    def make(config):
        run_case.send("SIGTERM")
        time.sleep(60)  # never to its end

    monkeypatch.setattr(train, "ensure_records", make)
    with pytest.raises(SystemExit) as left:
        train.train_and_evaluate(run_case.make_config(tmp_path), str(tmp_path / "run"))
    assert left.value.code == 0
