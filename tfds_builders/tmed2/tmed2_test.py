"""TMED-2 on stills made here: splits, views, severities, and what a download may have wrong."""

import json
import math

import numpy as np
import PIL.Image
import pytest

from discovr_jax.data import audit, records
from tests.builder_case import BuilderCase, moving_square, notes, read, split_of, write_table
from tfds_builders.echo_phantom import files, layouts
from tfds_builders.tables import SourceError
from tfds_builders.tmed2.tmed2_dataset_builder import Builder

HEADER = (
    "query_key", "view_label", "diagnosis_label", "view_classifier_split", "diagnosis_classifier_split", "SourceFolder",
)  # fmt: skip
FOLDER = "view_and_diagnosis_labeled_set/labeled"


class Source:
    """A dataset on disk whose rows a test can change before they are written."""

    def __init__(self, directory):
        self.root = directory / "approved_users_only"
        (self.root / FOLDER).mkdir(parents=True)
        self.rows = [
            self.row("4860s1_0", "PLAX", "severe_AS", "train"), self.row("4860s2_0", "A4C", "severe_AS", "train"),
            self.row("12s1_3", "A4CorA2CorOther", "no_AS", "val"), self.row("7s1_1", "PSAX", "mildtomod_AS", "test"),
        ]  # fmt: skip

    def row(self, name, view, severity, split):
        self.still(name, seed=len(name) + sum(name.encode()))
        return [f"{name}.png", view, severity, split, split, f"/{FOLDER}/"]

    def path(self, name):
        return self.root / FOLDER / f"{name}.png"

    def still(self, name, seed, size=112):
        PIL.Image.fromarray(moving_square(1, size, size, seed)[0]).save(self.path(name))

    def write(self, fold=0):
        (self.root / "DEV479").mkdir(exist_ok=True)
        write_table(self.root / "DEV479" / f"TMED2_fold{fold}_labeledpart.csv", HEADER, self.rows)


class TestTmed2(BuilderCase):
    builder = Builder

    def write_source(self, directory):
        Source(directory).write()

    def break_source(self, directory):
        path = directory / "approved_users_only" / FOLDER / "4860s2_0.png"
        path.write_bytes(path.read_bytes()[:-200])
        return {"4860s2_0.png", "TMED2_fold0_labeledpart.csv line 3"}


@pytest.fixture
def source(tmp_path):
    return Source(tmp_path / "source")


def build(source, fold=0, **kwargs):
    source.write(fold)
    return TestTmed2().prepare(source.root.parent, source.root.parents[1] / "records", fold=fold, **kwargs)


def test_a_still_is_a_record_of_one_frame_with_its_labels(source):
    directory = build(source)
    record = read(directory, "4860s1_0")
    stored = records.decode_frames(record["frames"], 112, 112)
    assert np.array_equal(stored, moving_square(1, seed=8 + sum(b"4860s1_0"))) and record["flags"] == ["still"]
    assert (record["patient_id"], record["study_id"], record["view"]) == ("4860", "4860s1", "PLAX")
    assert record["source_label"] == 1 and math.isnan(record["fps"]) and math.isnan(record["ef"])
    assert json.loads(record["classes"]) == {"view": "PLAX", "as": {"grade": 4, "name": "severe"}}
    other = read(directory, "12s1_3")
    assert (other["view"], other["source_label"]) == ("Other", 0) and '"name":"no"' in other["classes"]
    assert split_of(directory) == {"4860s1_0": "train", "4860s2_0": "train", "12s1_3": "val", "7s1_1": "test"}
    assert notes(directory) == {"diagnosis unknown": 0} and audit.check(directory) == []


def test_stills_of_another_size_are_resized(source):
    source.still("7s1_1", seed=1, size=64)
    assert read(build(source), "7s1_1")["flags"] == ["resized", "still"]


def test_rows_without_a_diagnosis_or_a_split_of_it(source):
    source.rows.append(source.row("4860s1_1", "A2C", "Not_Provided", "train"))
    source.rows.append(source.row("9s1_0", "A2C", "Not_Provided", "not_used"))
    directory = build(source)
    record = read(directory, "4860s1_1")
    assert record["source_label"] == -1 and json.loads(record["classes"]) == {"view": "A2C"}
    assert "9s1_0" not in split_of(directory)
    assert notes(directory) == {"diagnosis unknown": 1, "without a split for the diagnosis": 1}


def test_absent_and_doubled_stills_are_counted_and_listed(source):
    source.rows += [source.row("4860s1_7", "PLAX", "severe_AS", "train"), source.rows[0]]
    source.path("4860s1_7").unlink()
    with pytest.raises(SourceError, match=r"2 unusable(.|\n)*line 7: again, first at (.|\n)*--max_bad=2"):
        build(source)
    directory = build(source, max_bad=2)
    listed = (directory / "quarantine.csv").read_text()
    assert "4860s1_7.png" in listed and "no such file" in listed and len(split_of(directory)) == 4


@pytest.mark.parametrize(
    "column,value,reason",
    [
        (0, "4860s1.png", "query_key is '4860s1.png', expected a name as 4860s1_0.png"),
        (1, "A3C", "view_label is 'A3C', expected PLAX"),
        (2, "AS", "diagnosis_label is 'AS', expected no_AS"),
    ],
)
def test_values_that_tmed2_has_not(source, column, value, reason):
    source.rows[2][column] = value
    with pytest.raises(SourceError, match=f"TMED2_fold0_labeledpart.csv line 4: {reason}"):
        build(source)


def test_another_fold_is_another_table(source):
    source.rows[0][4] = source.rows[1][4] = "test"
    source.rows[3][4] = "train"
    assert split_of(build(source, fold=2))["4860s1_0"] == "test"
    with pytest.raises(SourceError, match="no DEV479/TMED2_fold1_labeledpart.csv"):
        TestTmed2().prepare(source.root.parent, source.root.parents[1] / "other", fold=1)


def test_the_phantom_in_this_layout(tmp_path):
    native = layouts.write("tmed2", tmp_path / "native", {"train": 2}, 3, workers=1)
    directory = TestTmed2().prepare(native, tmp_path / "records")
    assert len(split_of(directory)) == 2 * 8 and audit.check(directory) == []
    record, truth = read(directory, "1001s1_7"), files.read_truth(native, "1001s1_6")
    picture = records.decode_frames(record["frames"], 112, 112)[0]
    assert record["view"] == "Other" and truth["masks"].shape == (2, 112, 112)
    assert picture[truth["masks"][1] == 2].mean() > picture[truth["masks"][1] == 1].mean() + 10  # muscle and cavity
