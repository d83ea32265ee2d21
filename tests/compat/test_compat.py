"""What earlier versions wrote is read, or refused with a word on what to do."""

import json
import pathlib
import tarfile

import jax
import numpy as np
import pytest

from discovr_jax import train
from discovr_jax.data import audit, records
from discovr_jax.method import experiment
from discovr_jax.method import step as train_step
from discovr_jax.runs import checkpoint, metrics_log, workdir
from tests import run_case
from tests.compat import make

ARCHIVES = sorted(path.name.removesuffix(".tar.xz") for path in make.HERE.glob("*.tar.xz"))


@pytest.fixture(params=ARCHIVES)
def archive(request, tmp_path):
    """(folder with data/ and run/, what must be read from it)."""
    with tarfile.open(make.HERE / f"{request.param}.tar.xz") as file:
        file.extractall(tmp_path, filter="data")
    return tmp_path, json.loads((make.HERE / f"{request.param}.json").read_text())


def test_there_is_an_archive_of_every_version_that_is_written():
    written = [json.loads((make.HERE / f"{name}.json").read_text())["versions"] for name in ARCHIVES]
    assert make.versions() in written, "a version rose: python -m tests.compat.make NAME, and keep the old archives"


def test_records(archive):
    folder, expected = archive
    assert make.read_records(folder / "data") == expected["records"]


def test_columns_of_records(archive):
    """Version 1 is without classes: unknown."""
    folder, expected = archive
    source = records.open_source(folder / "data", make.DATASET, "112", "test")
    columns = records.record_fields(source, ["id", "ef", "classes"])
    assert sorted(columns["id"].tolist()) == [row[0] for row in expected["records"]["test"]]
    assert set(columns["classes"] == "") == {expected["versions"]["records"] == 1}
    assert not [problem for problem in audit.check(source.path) if "schema" in problem or "classes" in problem]


def test_checkpoint(archive):
    folder, expected = archive
    config = experiment.saved_config(json.loads((folder / "run" / "config.json").read_text()))
    made = experiment.make_experiment(config, 6)
    mesh = run_case.one_device(None)
    abstract = train_step.abstract_state(made.model, made.tx, made.masks, mesh)
    step, state, meta = checkpoint.Checkpoints(folder / "run").restore_latest(abstract)
    assert step == expected["step"] and train.state_sha256(state) == expected["state_sha256"]
    # Keys that are new since are taken at their defaults, so the run could go on.
    now, defaults = experiment.config_dict(config), experiment.default_config()
    assert workdir.differences(meta["config"], now, defaults=defaults) == []
    assert jax.tree.leaves(state)


def test_encoder(archive):
    folder, expected = archive
    np.testing.assert_allclose(make.features(folder / "run"), expected["features"], rtol=1e-3, atol=1e-4)


def test_metrics_and_results(archive):
    folder, expected = archive
    rows = metrics_log.read_metrics(folder / "run")
    assert [row["step"] for row in rows] == [1, 2, 2] and rows[-1]["state_sha256"] == expected["state_sha256"]
    assert rows[0]["schema_version"] == expected["versions"]["metrics"] and rows[0]["loss/total"] > 0
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["schema_version"] == expected["versions"]["results"] and results["step"] == expected["step"]
    assert pathlib.Path(folder / "run" / "eval" / "2" / "predictions.csv").read_text().startswith("id,encoder,")
