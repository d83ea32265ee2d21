"""MIMIC-IV-ECHO on files made here: hashed names, what is no clip, ejection fractions, and what is missing."""

import csv
import gzip
import math

import numpy as np
import pytest

from discovr_jax.data import audit
from tests.builder_case import BuilderCase, moving_square, notes, read, split_of, write_table
from tfds_builders.echo_phantom import files, layout_mimic_iv_echo, layouts
from tfds_builders.echo_phantom.dicom_files import write_dicom
from tfds_builders.mimic_iv_echo.mimic_iv_echo_dataset_builder import Builder
from tfds_builders.tables import SourceError

# Subjects of train, train, val and test.
SUBJECTS = [layout_mimic_iv_echo.subject(*place) for place in (("train", 0), ("train", 1), ("val", 0), ("test", 0))]
STUDIES = [94100000 + number for number in range(4)]
LVEF = "Left ventricular ejection fraction"


def dicom(path, frames, colour=False):
    pixels = np.repeat(frames[..., None], 3, -1)
    if colour:  # a patch as of colour Doppler
        pixels[:, 40:60, 40:60] = 200, 80, 80
    write_dicom(path, pixels, "RGB", 50, 60, 0.4, (0, 0, 112, 112))


class Source:
    """A dataset on disk: a clip of each of four studies, and in the first a still and colour Doppler."""

    def __init__(self, directory):
        self.directory, self.rows = directory, []
        for number in range(4):
            self.file(number, 1, moving_square(seed=number))
        self.file(0, 2, moving_square(1, seed=9))
        speckle = np.random.default_rng(8).integers(0, 120, (6, 112, 112), np.uint8)
        self.file(0, 3, speckle, colour=True)
        self.measured = [
            (101, "lvef", 55), (101, "la_size", "normal"), (101, "lvef", 54), (102, "lvef", "40-45"),
            (103, "LVEF", 31.5),
        ]  # fmt: skip
        self.linked = [101, 102, 103, ""]

    def path(self, number, file):
        subject, study = SUBJECTS[number], STUDIES[number]
        return f"files/p{str(subject)[:2]}/p{subject}/s{study}/{study}_{file:04d}.dcm"

    def file(self, number, file, frames, colour=False):
        path = self.directory / self.path(number, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        dicom(path, frames, colour)
        self.row(number, file)

    def row(self, number, file):
        self.rows.append([SUBJECTS[number], STUDIES[number], "2180-01-01 12:00:00", self.path(number, file)])

    def write(self, measurements="structured-measurement.csv.gz"):
        write_table(self.directory / "echo-record-list.csv", layout_mimic_iv_echo.RECORDS, self.rows)
        studies = [(STUDIES[n], each) for n, each in enumerate(self.linked)]
        write_table(self.directory / "echo-study-list.csv", ("study_id", "measurement_id"), studies)
        plain = self.directory / "plain.csv"
        header = ("measurement_id", "measurement", "measurement_description", "result", "unit")
        write_table(plain, header, [(n, name, LVEF, value, "%") for n, name, value in self.measured])
        data = plain.read_bytes()
        plain.unlink()
        (self.directory / measurements).write_bytes(gzip.compress(data) if measurements.endswith(".gz") else data)


class TestMimicIvEcho(BuilderCase):
    builder = Builder

    def prepare(self, directory, data_dir, config="112", **kwargs):
        return super().prepare(directory, data_dir, config, private_dir=directory.parent / "private", **kwargs)

    def write_source(self, directory):
        Source(directory).write()

    def break_source(self, directory):
        path = next(directory.rglob(f"{STUDIES[1]}_0001.dcm"))
        path.write_bytes(path.read_bytes()[:-9000])
        return {"echo-record-list.csv line 3"}


@pytest.fixture
def source(tmp_path):
    return Source(tmp_path / "source")


def build(source, **kwargs):
    if not (source.directory / "echo-record-list.csv").exists():
        source.write()
    return TestMimicIvEcho().prepare(source.directory, source.directory.parent / "records", **kwargs)


def ids(source):
    """{path: id} of the private folder."""
    with (source.directory.parent / "private" / "id_map.csv").open(newline="") as file:
        return {row["path"]: row["id"] for row in csv.DictReader(file)}


def test_clips_become_records_and_the_rest_of_a_study_is_skipped(source):
    directory = build(source)
    splits, named = split_of(directory), ids(source)
    assert [splits[named[source.path(number, 1)]] for number in range(4)] == ["train", "train", "val", "test"]
    assert len(splits) == 4 and audit.check(directory) == []
    skipped = (directory / "skipped.csv").read_text()
    assert "a still" in skipped and "colour Doppler" in skipped and len(skipped.splitlines()) == 3
    record = read(directory, named[source.path(0, 1)])
    assert (record["ef"], record["fps"], record["dataset"]) == (55, 50, "mimic_iv_echo")
    assert record["pixel_spacing"] == pytest.approx([0.4, 0.4])


def test_an_ef_is_the_study_s_first_that_is_a_number(source):
    directory = build(source)
    fractions = [read(directory, ids(source)[source.path(number, 1)])["ef"] for number in range(4)]
    assert fractions[0] == 55 and math.isnan(fractions[1]) and fractions[2] == 31.5 and math.isnan(fractions[3])
    counted = notes(directory)
    assert counted["lvef that is no number"] == counted["second lvef of a study, not taken"] == 1
    assert counted["ef unknown"] == 2


def test_the_other_spelling_of_the_measurements_and_none(source):
    source.write("structured_measurement.csv")
    assert notes(build(source))["ef unknown"] == 2
    (source.directory / "structured_measurement.csv").unlink()
    assert notes(TestMimicIvEcho().prepare(source.directory, source.directory.parent / "other"))["ef unknown"] == 6


def test_a_damaged_table_of_measurements_is_named(source):
    source.write()
    path = source.directory / "structured-measurement.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match="structured-measurement.csv.gz cannot be read"):
        build(source)


def test_nothing_names_a_patient_a_study_or_a_file(source, capfd):
    source.row(0, 7)  # listed, and not there
    source.rows.append(source.rows[1])
    source.rows.append([SUBJECTS[2], STUDIES[2], "", source.path(3, 1)])
    broken = source.directory / source.path(1, 1)
    broken.write_bytes(broken.read_bytes()[:-9000])
    with pytest.raises(SourceError) as error:
        build(source)
    directory = build(source, max_bad=4)
    reasons = (directory / "quarantine.csv").read_text()
    for words in ("no such file, though others", "the same file again", "not of its subject_id and study_id", "line 3"):
        assert words in reasons
    said = str(error.value) + "".join(capfd.readouterr())
    written = [path.read_bytes() for path in source.directory.parent.glob("records/**/*") if path.is_file()]
    for name in map(str, (*SUBJECTS, *STUDIES)):
        assert name not in said and not any(name.encode() in content for content in written), name
    private = source.directory.parent / "private"
    assert f",{SUBJECTS[0]}\n" in (private / "patient_map.csv").read_text()
    assert private.joinpath("id_map.csv").stat().st_mode & 0o77 == 0


def test_studies_that_were_not_downloaded_are_counted(source):
    folder = f"files/p10/p{SUBJECTS[0]}/s95000000"
    source.rows += [[SUBJECTS[0], 95000000, "", f"{folder}/95000000_000{n}.dcm"] for n in (1, 2)]
    counted = notes(build(source))
    assert (counted["studies not downloaded"], counted["files of studies not downloaded"]) == (1, 2)


def test_the_names_need_a_folder_apart_from_the_records(source):
    source.write()
    with pytest.raises(SourceError, match="Give --private_dir"):
        BuilderCase.prepare(TestMimicIvEcho(), source.directory, source.directory.parent / "records")
    with pytest.raises(SourceError, match="lies in --data_dir"):
        BuilderCase.prepare(TestMimicIvEcho(), source.directory, source.directory.parent, private_dir=source.directory)


def test_the_phantom_in_this_layout(tmp_path):
    native = layouts.write("mimic_iv_echo", tmp_path / "native", {"test": 1}, 3, workers=1)
    directory = TestMimicIvEcho().prepare(native, tmp_path / "records")
    assert list(split_of(directory).values()) == ["test", "test"]
    assert audit.metadata(directory)["skipped"] == 1 and notes(directory)["ef unknown"] == 0
    with (tmp_path / "private" / "id_map.csv").open(newline="") as file:
        named = {row["path"].rpartition("/")[2]: row["id"] for row in csv.DictReader(file)}
    job = layout_mimic_iv_echo.jobs({"test": 1}, 3)[0]
    record, truth = read(directory, named[f"{job.name}.dcm"]), files.read_truth(native, job.name)
    sector = truth["sector"]
    assert "sector_isolated" in record["flags"] and sector.mean() < 0.6 and record["ef"] > 10
