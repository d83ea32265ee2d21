"""The short form: a run is broken three times, each at a fixed place. The long form, at random ones: `make chaos`."""

import json

import pytest

from tests import run_case
from tests.chaos import faults, laboratory

SHORT = {
    "duration": "4 steps",
    "eval.every": "0 steps",
    "eval.readouts": "('cls',)",
    "eval.evaluators.knn.k": 5,
    # One branch, and its teacher and head. All of them: the long form, and test_train.py.
    "loss.phase": 0.0,
    "loss.scd": 0.0,
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    # The records and compiled programs of the session are there, or are made here for the others.
    made = laboratory.Laboratory(tmp_path_factory.getbasetemp(), SHORT, "tests/chaos/short.py", heads={})
    made.make_reference()
    return made


@pytest.mark.long
def test_a_run_that_is_broken_again_and_again_ends_as_one_that_is_not(lab, tmp_path):
    workdir = tmp_path / "run"
    # Killed where a checkpoint is all written, but not yet under its name.
    start = lab.start(workdir, hold=("os.rename", "orbax-checkpoint-tmp"))
    assert start.until(start.held), start.said()
    assert start.saving()
    start.send("SIGKILL")
    assert start.wait() == -9
    # No space for the next one.
    assert faults.disk_full(lab, workdir, None) == "size limit"
    # SIGTERM where the evaluation writes its first file.
    start = lab.start(workdir, hold=("open", str(workdir / "eval")))
    assert start.until(start.held), start.said()
    start.send("SIGTERM")
    start.send("SIGCONT")
    assert start.wait() == 0 and "on SIGTERM; the same command resumes" in start.said(), start.said()
    start = lab.start(workdir)
    assert start.wait() == 0, start.said()
    assert "resumed from step 4" in start.said()
    assert laboratory.differences(lab.reference, workdir) == []
    # The comparison finds what it is for.
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    (workdir / "metrics.jsonl").write_text("\n".join(lines[:2] + lines[3:]) + "\n")
    results = next((workdir / "eval").rglob("results.json"))
    results.write_text(json.dumps(json.loads(results.read_text()) | {"step": 7}))
    found = laboratory.differences(lab.reference, workdir)
    assert found[0].startswith("metrics.jsonl has the steps [1, 2, 4, 4],") and found[-1] == "eval/4/results.json"
    assert len(run_case.rows(lab.reference)) == 5
