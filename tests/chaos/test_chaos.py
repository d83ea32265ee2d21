"""The short form: three ways to break a run, one after the other. The long form: `make chaos`."""

import json

import numpy as np
import pytest

from tests import run_case
from tests.chaos import faults, laboratory

SHORT = {"duration": "8 steps", "eval.every": "0 steps", "eval.evaluators.knn.k": 5}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    # The records and compiled programs of the session are there, or are made here for the others.
    made = laboratory.Laboratory(tmp_path_factory.getbasetemp(), SHORT)
    made.make_reference()
    return made


@pytest.mark.long
def test_a_run_that_is_broken_again_and_again_ends_as_one_that_is_not(lab, tmp_path):
    workdir, rng = tmp_path / "run", np.random.default_rng(0)
    for fault in (faults.killed_saving, faults.disk_full, faults.terminated_evaluating):
        assert fault(lab, workdir, rng), fault.__name__
    start = lab.start(workdir)
    assert start.wait() == 0, start.said()
    assert laboratory.differences(lab.reference, workdir) == []
    # The comparison finds what it is for.
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    (workdir / "metrics.jsonl").write_text("\n".join(lines[:3] + lines[4:]) + "\n")
    results = next((workdir / "eval").rglob("results.json"))
    results.write_text(json.dumps(json.loads(results.read_text()) | {"step": 7}))
    found = laboratory.differences(lab.reference, workdir)
    assert found[0].startswith("metrics.jsonl has the steps [1, 2, 3, 5,") and found[-1] == "eval/8/results.json"
    assert len(run_case.rows(lab.reference)) == 9
