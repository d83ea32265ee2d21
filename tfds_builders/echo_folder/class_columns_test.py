"""Columns of classes in the CSV: what records hold of them, and what is refused without a word of what a cell says."""

import json

import pytest

from discovr_jax import prepare as prepare_command
from discovr_jax.data import audit, class_labels, records
from tests.builder_case import notes, split_of, write_table
from tfds_builders.echo_folder import class_columns
from tfds_builders.echo_folder.echo_folder_test import HEADER, ROWS, fields, id_map
from tfds_builders.echo_folder.echo_folder_test import TestEchoFolder as Archive  # under this name it is not collected
from tfds_builders.tables import SourceError

MORE = (
    ("COVID-19", "moderate", "2", "effusion|thrombus"),
    ("regular", "none", "0.0", "|"),
    ("", "", "", ""),
    ("regular", "Severe", "4", "thrombus"),
)
OPTIONS = {
    "class_columns": "diagnosis",
    "grade_columns": "MR=none/mild/moderate/severe,as",
    "multilabel_columns": "Findings",
}


def write(source, more=MORE):
    header = (*HEADER, "Diagnosis", "MR", "AS", "findings")
    write_table(source / "list.csv", header, [(*row, *cells) for row, cells in zip(ROWS, more, strict=True)])


@pytest.fixture
def source(tmp_path):
    directory = tmp_path / "source"
    directory.mkdir()
    Archive().write_source(directory)
    return directory


def test_records_hold_what_the_columns_say(source, tmp_path):
    write(source)
    directory = Archive().prepare(source, tmp_path / "records", **OPTIONS)
    assert audit.check(directory) == []
    ids, found = id_map(source.parent / "private"), fields(directory, "classes", "view")
    first, second, third, last = (
        class_labels.parse(found[ids[name]][0]) for name in ("clip03.avi", "clip04.MKV", "scan", "series.nii.gz")
    )
    assert first == {
        "diagnosis": "COVID-19", "mr": {"grade": 2, "name": "moderate"}, "as": {"grade": 2, "name": "2"},
        "findings": ["effusion", "thrombus"],
    }  # fmt: skip
    assert second["mr"] == {"grade": 0, "name": "none"} and second["as"]["grade"] == 0 and second["findings"] == []
    assert third == {} and last["mr"] == {"grade": 3, "name": "severe"}
    assert found[ids["clip03.avi"]][1] == "A4C"  # other columns are read as ever
    unknown = {name: count for name, count in notes(directory).items() if name.endswith(" unknown")}
    assert unknown == {"diagnosis unknown": 1, "mr unknown": 1, "as unknown": 1, "findings unknown": 1}
    summary = audit.summarise(directory)
    assert summary["splits"]["train"]["classes"]["diagnosis"] == {"COVID-19": 1, "regular": 1, "": 0}
    said = audit.format_summary(summary)
    assert "mr: none 1, moderate 1" in said and "findings: effusion 1, thrombus 1" in said
    assert audit.metadata(directory)["options"]["grade_columns"] == OPTIONS["grade_columns"]


def test_records_of_before_there_were_such_columns_are_those_without_any(source, tmp_path):
    """Their metadata does not name the option."""
    data, options = tmp_path / "records", {"private_dir": str(tmp_path / "private"), "csv": "list.csv", "workers": 1}
    prepare_command.build("echo_folder", source, data, **options)
    path = records.records_dir(data, "echo_folder", "112") / "metadata.json"
    about = json.loads(path.read_text())
    for name in OPTIONS:
        del about["options"][name]
    path.write_text(json.dumps(about))
    assert prepare_command.build("echo_folder", source, data, **options)["splits"]["train"]["classes"] == {}
    with pytest.raises(ValueError, match=r"other options \(class_columns: None before, view now\)"):
        prepare_command.build("echo_folder", source, data, class_columns="view", **options)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (("DOE^JANE", "", "", ""), "CSV line 2: diagnosis must be a class of at most 40"),
        (("a" * 41, "", "", ""), "CSV line 2: diagnosis must be a class of at most 40"),
        (("a|b", "", "", ""), "are those of --multilabel_columns"),
        (("", "DOE", "", ""), "CSV line 2: mr must be none, mild, moderate, severe, or empty"),
        (("", "", "DOE", ""), "CSV line 2: as must be a whole number from 0 to 49; words are given with their order"),
        (("", "", "2.5", ""), "CSV line 2: as must be a whole number"),
        (("", "", "50", ""), "CSV line 2: as must be a whole number"),
        (("", "", "", "a|DOE;JANE"), "CSV line 2: findings must be a class"),
        (("", "", "", "||"), "CSV line 2: findings must be labels with | between them, or | alone for none"),
    ],
)
def test_cells_that_are_refused_are_named_by_their_line_alone(source, tmp_path, cells, reason):
    write(source, (cells, *MORE[1:]))
    with pytest.raises(SourceError) as error:
        Archive().prepare(source, tmp_path / "records", **OPTIONS)
    assert reason in str(error.value) and "DOE" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"class_columns": "severity"}, "The CSV has no column severity, which the options name"),
        ({"class_columns": "patient_id"}, "patient_id is named twice, or holds no classes"),
        ({"class_columns": "view,View"}, "view is named twice"),
        ({"class_columns": "view", "grade_columns": "view"}, "view is named twice"),
        ({"grade_columns": "ef=low"}, "NAME=LOWEST/.../HIGHEST"),
        ({"grade_columns": "ef=a/A"}, "NAME=LOWEST/.../HIGHEST, each once"),
        ({"class_columns": "view=a/b"}, "only --grade_columns take an order"),
        ({"csv": None, "class_columns": "view"}, "give --csv"),
    ],
)
def test_options_that_cannot_be(source, tmp_path, options, reason):
    with pytest.raises(SourceError, match=reason):
        Archive().prepare(source, tmp_path / "records", **options)


def test_a_column_of_names_is_refused():
    cells = class_columns.Cells(class_columns.parse("who", None, None))
    for number in range(class_labels.MOST):
        cells.read({"who": f"Doe {number}"}, "")
    cells.check()
    cells.read({"who": "Doe Jane"}, "")
    with pytest.raises(SourceError, match="column who holds 51 classes, at most 50 are taken: names") as error:
        cells.check()
    assert "Doe" not in str(error.value)


def test_a_split_stratified_by_a_column(source, tmp_path):
    header = ("Path", "class", "patient_id", "ef", "diagnosis")
    names = [row[0] for row in ROWS]
    rows = [(name, "Normal", str(number), 40 + number, "ab"[number % 2]) for number, name in enumerate(names)]
    write_table(source / "list.csv", header, rows)
    options = {"split": "stratified:50/0/50", "class_columns": "diagnosis"}
    directory = Archive().prepare(source, tmp_path / "records", **options)
    counts = {split: each["classes"]["diagnosis"] for split, each in audit.summarise(directory)["splits"].items()}
    assert counts == {split: {"a": 1, "b": 1, "": 0} for split in ("train", "test")}
    splits = split_of(Archive().prepare(source, tmp_path / "by_ef", stratify="ef", split="stratified:1/0/1"))
    assert sorted(splits.values()) == ["train"] * 4  # each in a quarter of its own
    for wrong, reason in (
        ({"split": "stratified:50/50"}, "--split must be hashed:80/10/10 or"),
        ({"split": "stratified:0/1/1"}, "nothing to train"),
        ({"split": "stratified:1/1/1", "stratify": "site"}, "--stratify=site: give class, ef, or"),
        ({"split": "stratified:1/1/1", "stratify": "view"}, "--stratify=view: give class, ef, or"),
    ):
        with pytest.raises(SourceError, match=reason):
            Archive().prepare(source, tmp_path / "wrong", **wrong)
    write_table(source / "list.csv", ("Path", "class"), [(name, "") for name in names])
    with pytest.raises(SourceError, match="--stratify=class: nothing is known .* Give a column split"):
        Archive().prepare(source, tmp_path / "wrong", split="stratified:1/1/1")
    write(source)
    with pytest.raises(SourceError, match="The CSV has a column split: leave it out"):
        Archive().prepare(source, tmp_path / "wrong", split="stratified:1/1/1")
