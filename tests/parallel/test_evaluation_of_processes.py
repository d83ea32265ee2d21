"""Two processes with the real evaluators: their metrics are those of one, and what one cannot read, both do without.

As a program it is one process of such a run. `python -m tests.parallel.test_evaluation_of_processes faulty --config=..`
can read neither the newest checkpoint nor some features that are kept.
"""

import json
import runpy
import sys

import pytest

from discovr_jax import train
from discovr_jax.evaluation import evaluate
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.parallel import processes as distributed
from discovr_jax.runs import checkpoint
from tests import run_case
from tests.parallel import test_processes as test_distributed

STEPS = {
    "duration": "2 steps", "checkpoint.every": "1 steps", "log.every": "1 steps", "mesh.data": 4, "mesh.fsdp": 2,
    "optim.warmup": "1 steps", "loss.img": 0.0, "eval.readouts": ("cls", "mean"), "eval.resamples": 10,
    "eval.evaluators.attentive.max_gib": 1e-9,  # left out: segmentation reads tokens likewise
    "eval.evaluators.robustness.perturbations": ("speckle",),  # noise that must not depend on the process
}  # fmt: skip


def results(directory):
    """results.json without what says when it was made."""
    found = json.loads((directory / "results.json").read_text())
    return {name: value for name, value in found.items() if name not in ("commit", "seconds")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(codes, words and results of the first and of the second start of two, results of one, workdir of two)."""
    base = run_case.session_folder(tmp_path_factory)
    data_dir, environment = run_case.simulated(base), run_case.command_environment(base)
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    flags, starts = run_case.command_flags(data_dir, STEPS), []
    for second in ("-1", "faulty"):
        module = "tests.parallel.test_evaluation_of_processes"
        processes = test_distributed.start(environment, flags, two, second, module)
        try:
            ends = [process.communicate(timeout=900)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        starts.append(([process.returncode for process in processes], ends, results(two)))
    with run_case.compiled_programs(base):
        train.train_and_evaluate(run_case.make_config(data_dir, STEPS), str(one), evaluate.evaluate_state)
    return *starts, results(one), two


def assert_same(found, expected, where=""):
    """Numbers within 1 %, all else equal."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            assert_same(found[name], expected[name], f"{where}/{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{where}/{number}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=0.01, abs=0.01), where
    else:
        assert found == expected, where


@pytest.mark.long
def test_two_processes_give_the_metrics_of_one(runs):
    (codes, ends, found), _, expected, _ = runs
    assert codes == [0, 0], ends
    assert found["encoders"]["discovr"] and found["encoders"]["random"] and found["encoders"]["pixels"]
    assert_same(found["encoders"], expected["encoders"])


@pytest.mark.long
def test_what_one_cannot_read_both_do_without(runs):
    (_, _, before), (codes, ends, after), _, directory = runs
    assert codes == [0, 0], ends
    assert "step_2 cannot be read and is set aside (process 1: the disk of process 1)" in ends[0]
    assert "resumed from step 1 of" in ends[0]
    steps = {path.name.rpartition("step_")[2] for path in (directory / "checkpoints").iterdir() if "step_" in path.name}
    assert steps == {"1", "2"} and len(list((directory / "checkpoints").glob("damaged_*_step_2"))) == 1
    assert_same(after["encoders"], before["encoders"])


def main() -> None:
    fault, *sys.argv[1:] = sys.argv[1:]
    distributed.HEARTBEAT_SECONDS = 10
    if fault == "faulty":
        restore, read = checkpoint._read, feature_cache._read

        def restored(folder, **items):
            if folder.name == "step_2" and "state" in items:
                raise OSError("the disk of process 1")
            return restore(folder, **items)

        checkpoint._read = restored
        feature_cache._read = lambda path: None if "-random-0-test" in path.name else read(path)
    runpy.run_module("discovr_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
