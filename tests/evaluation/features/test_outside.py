"""Features of other encoders from files: what does not fit the records is refused or said, never lost."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ml_collections import ConfigDict

from discovr_jax.evaluation import runner
from discovr_jax.evaluation.features import feature_files, feature_table, outside
from discovr_jax.evaluation.report import overview, scores, table
from tests import evaluation_case

COUNTS = {"train": 20, "val": 12, "test": 14}


@pytest.fixture(scope="module")
def fields():
    """Two videos per patient; each has a length of its own."""
    result = evaluation_case.make_fields(COUNTS, lambda row: row // 2)
    start = 30
    for columns in result.values():
        columns["num_frames"] = np.arange(start, start + len(columns["id"]), dtype=np.int32)
        start += len(columns["id"])
    return result


@pytest.fixture
def content(fields):
    """Columns of a file that fits: rows in another order than the records, features that know the EF."""
    ids, patients, frames, ef = (
        np.concatenate([columns[name] for columns in fields.values()])
        for name in ("id", "patient_id", "num_frames", "ef")
    )
    rng = np.random.default_rng(0)
    order = rng.permutation(len(ids))
    return {
        "id": ids[order],
        "patient": patients[order],
        "split": np.repeat([*COUNTS], [*COUNTS.values()])[order],
        "num_frames": frames[order],
        "features": (ef[:, None] + rng.normal(size=(len(ids), 3)))[order],
    }


def write(path, columns, metadata=None):
    content = {name: [*column] for name, column in columns.items()}
    pq.write_table(pa.table(content).replace_schema_metadata(metadata), path)
    return [str(path)]


def read(path, fields, columns, **options):
    return outside.read({"hog": write(path, columns, **options)}, fields)["hog"]


def test_rows_are_joined_by_id(tmp_path, fields, content):
    found = read(tmp_path / "hog.parquet", fields, content)
    for split, columns in fields.items():
        rows = [content["id"].tolist().index(one) for one in columns["id"]]
        np.testing.assert_array_equal(found.seeds[0][split]["features"], content["features"][rows])
    assert found.about["notes"] == [] and found.about["files"][0]["file"] == "hog.parquet"
    assert len(found.about["files"][0]["sha256"]) == 64


def test_files_that_do_not_fit_are_refused(tmp_path, fields, content):
    """Each is an error that a pipeline of features has been seen to make."""
    first = content["id"] == "test3"
    swapped = content["id"].copy()
    here, there = np.flatnonzero(content["split"] == "train")[:2]
    swapped[[here, there]] = swapped[[there, here]]
    rolled = {"id": np.roll(content["id"], 1)}
    nan = content["features"].copy()
    nan[first, 1] = np.nan
    cases = {
        "lacks features of test3 (0 of 20 of train, 0 of 12 of val, 1 of 14 of test)": lambda c: {
            name: column[~first] for name, column in c.items()
        },
        "stand there more than once": lambda c: c | {"id": np.where(first, "test4", c["id"])},
        "features of test3 are NaN or infinite": lambda c: c | {"features": nan},
        "equally many in every row": lambda c: c | {"features": [[1.0], *c["features"][1:]]},
        "the split of test3 is another in the records": lambda c: c | {"split": np.where(first, "train", c["split"])},
        "num_frames of": lambda c: c | {"id": swapped},
        "the ids belong to other videos": lambda c: c | rolled | {"split": np.roll(c["split"], 1)},
        "the patient of test3 contradicts": lambda c: c | {"patient": np.where(first, "test-p0", c["patient"])},
        "features is the same for all 20 training videos": lambda c: c | {"features": np.ones((46, 2))},
    }
    for number, (words, change) in enumerate(cases.items()):
        with pytest.raises(feature_files.TableError) as error:
            read(tmp_path / f"{number}.parquet", fields, change(content))
        assert words in str(error.value)


def test_patients_of_a_private_archive_have_other_names(tmp_path, fields, content):
    salted = {name: f"{number:08x}" for number, name in enumerate(sorted(set(content["patient"])))}
    renamed = content | {"patient": [salted[one] for one in content["patient"]]}
    assert read(tmp_path / "a.parquet", fields, renamed).about["notes"] == []
    wrong = content | {"patient": np.roll(renamed["patient"], 1)}
    with pytest.raises(feature_files.TableError, match="the patient of .* contradicts the records"):
        read(tmp_path / "b.parquet", fields, wrong)
    unknown = content | {"patient": [None] * len(content["id"])}
    assert read(tmp_path / "c.parquet", fields, unknown).about["notes"] == []


def test_what_stops_nothing_is_said(tmp_path, fields, content):
    features = np.concatenate([content["features"], np.ones((len(content["id"]), 2))], axis=1)
    rows = [content["id"].tolist().index(one) for one in ("train0", "test0")]
    features[rows[0]] = features[rows[1]]
    more = {name: [*column, column[0]] for name, column in (content | {"features": features}).items()}
    more["id"][-1] = "doe_jane.avi"
    notes = read(tmp_path / "a.parquet", fields, more, metadata={feature_table.READOUTS: '{"cls": 5}'}).about["notes"]
    assert len(notes) == 3 and "doe" not in str(notes)
    assert "a.parquet: 1 ids are not in the records, and left out (rows 46, from 0)" in notes
    assert "a.parquet: 2 of 5 numbers of cls never change in training" in notes
    assert any("1 times videos of different groups have exactly the same features" in note for note in notes)
    file = {"hog": write(tmp_path / "b.parquet", content, {feature_table.READOUTS: json.dumps({"cls": 1, "mean": 2})})}
    assert outside.read(file, fields, ("cls",))["hog"].about["notes"] == [
        "b.parquet: its readouts mean are not among eval.readouts, and not scored"
    ]


def test_seeds_are_files_of_one_encoder(tmp_path, fields, content):
    files = [*write(tmp_path / "a.parquet", content), *write(tmp_path / "b.parquet", content)]
    assert len(outside.read({"hog": files}, fields)["hog"].seeds) == 2
    other = write(tmp_path / "c.parquet", content | {"features": content["features"][:, :2]})
    with pytest.raises(feature_files.TableError, match="seeds of hog hold other readouts or widths"):
        outside.read({"hog": [files[0], *other]}, fields)


def test_names():
    assert outside.parse(["HOG_9=a.parquet+b.parquet"]) == {"HOG_9": ["a.parquet", "b.parquet"]}
    for item, words in (("random=a", "an encoder of this name"), ("a-b=a", "letters, digits"), ("a/b=c", "letters")):
        with pytest.raises(feature_files.TableError, match=words):
            outside.parse([item])


@pytest.fixture(scope="module")
def results(tmp_path_factory, fields):
    """An evaluation with one outside encoder, which knows the EF; ours knows nothing."""
    rng = np.random.default_rng(1)
    ours = {split: {name: rng.normal(size=(n, 4)) for name in ("cls", "mean")} for split, n in COUNTS.items()}
    ids = np.concatenate([columns["id"] for columns in fields.values()])
    ef = np.concatenate([columns["ef"] for columns in fields.values()])
    path = tmp_path_factory.mktemp("outside") / "hog.parquet"
    files = {"hog": write(path, {"id": ids, "features": ef[:, None] + rng.normal(size=(len(ids), 2))})}
    read_in = outside.read(files, fields)
    evaluators = {"probe": {}, "lvef": {"type": "regression", "field": "ef"}}
    evaluators["transfer"] = {"source_dataset": "rvenet", "field": "ef"}
    settings = {"dataset": None, "readouts": ("cls",), "resamples": 100, "search_rows": 0, "evaluators": evaluators}
    config = ConfigDict({"seed": 0, "data": {"abnormal_rule": None, "dataset": "echonet_dynamic"}, "eval": settings})
    encoders = {"discovr": [ours], "hog": list(read_in["hog"].seeds)}
    found = runner.evaluate_features(encoders, fields, config, transfer={"rvenet": ({"discovr": [ours]}, fields)})
    return found.results | {"step": 3, "outside": {"hog": dict(read_in["hog"].about)}}


def test_it_stands_beside_the_run_with_paired_intervals(results):
    assert results["readouts"]["probe"]["encoders"]["hog"]["chosen"] == "features"
    assert results["encoders"]["hog"]["probe/auroc"]["value"] > 0.95
    assert results["paired"]["discovr-hog"]["lvef/mae"]["low"] > 0
    skipped = [one for one in results["skipped"] if one["encoder"] == "hog"]
    assert {one["evaluator"] for one in skipped} == {"transfer_knn", "transfer_probe", "transfer_ef"}
    assert all(one["reason"] == "its file has no features of the other dataset" for one in skipped)


def test_it_is_shown(results):
    told = table.metrics_table(results)
    assert max(map(len, told.splitlines())) <= table.WIDTH
    (head,) = [line for line in told.splitlines() if "discovr - hog" in line]
    assert head.split() == ["discovr", "hog", "discovr", "-", "hog"]
    assert "hog: features of hog.parquet." in told
    page = scores.results_section(results)
    assert "discovr - hog" in page and "hog: features of hog.parquet." in page
    value = results["encoders"]["hog"]["probe/auroc"]["value"]
    assert f"<b>hog {value:.3f}</b>" in overview.section(3, results, [], {}, [], [], [])
