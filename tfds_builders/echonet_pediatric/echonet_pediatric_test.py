"""EchoNet-Pediatric on files made here, with the oddities that the published files are known to have."""

import csv
import math

import numpy as np
import pytest

from discovr_jax.data import audit, records
from tests.builder_case import (
    BuilderCase,
    moving_square,
    notes,
    phantom_dice,
    read,
    split_of,
    write_table,
    write_video,
)  # fmt: skip
from tfds_builders.echo_phantom import layouts
from tfds_builders.echonet_pediatric.echonet_pediatric_dataset_builder import Builder
from tfds_builders.tables import SourceError

HEADER = ("FileName", "EF", "Sex", "Age", "Weight", "Height", "Split")
TRACING_HEADER = ("FileName", "X", "Y", "Frame")
# Patient - study - number; the first two clips and the short axis are of one study.
FIRST, SAME_STUDY = "CR0a1b2c3-CR0a1b2d4-000017", "CR0a1b2c3-CR0a1b2d4-000021"
VAL, TEST, SHORT_AXIS = "CR1a1b2c3-CR1a1b2d4-000001", "CR2a1b2c3-CR2a1b2d4-000001", "CR0a1b2c3-CR0a1b2d4-000030"


def contour(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """A rectangle as the dataset traces it: corners one after the other."""
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def row(name: str, fold, ef=62.41) -> list:
    return [f"{name}.avi", ef, "F", "7", "nan", 121.0, fold]


class Source:
    """A dataset on disk whose tables a test can change before they are written."""

    def __init__(self, directory):
        self.directory = directory
        # The published archive unpacks into a doubled folder.
        self.root = directory / "pediatric_echo_avi" / "pediatric_echo_avi"
        self.rows = {
            "A4C": [row(FIRST, 3), row(SAME_STUDY, "3.0"), row(VAL, 8), row(TEST, 9)],
            "PSAX": [row(SHORT_AXIS, 3)],
        }
        self.tracings = {"A4C": [], "PSAX": []}
        self.trace((1, contour(44, 40, 56, 60)), (4, contour(40, 30, 60, 70)))
        for view, rows in self.rows.items():
            (self.root / view / "Videos").mkdir(parents=True)
            for index, (name, *_) in enumerate(rows):
                write_video(self.root / view / "Videos" / name, moving_square(seed=index + 10 * len(rows)))

    def trace(self, *frames, extra=()):
        """Replaces the tracings of the first clip; `extra` are rows as they stand in the file."""
        points = [[f"{FIRST}.avi", *point, frame] for frame, traced in frames for point in traced]
        self.tracings["A4C"] = points + list(extra)

    def write(self):
        for view in self.rows:
            write_table(self.root / view / "FileList.csv", HEADER, self.rows[view])
            write_table(self.root / view / "VolumeTracings.csv", TRACING_HEADER, self.tracings[view])


class TestEchonetPediatric(BuilderCase):
    builder = Builder

    def write_source(self, directory):
        Source(directory).write()

    def break_source(self, directory):
        video = next(directory.rglob(f"{SAME_STUDY}.avi"))
        video.write_bytes(video.read_bytes()[:-3000])
        return {f"{SAME_STUDY}.avi", "A4C/FileList.csv line 3"}


@pytest.fixture
def files(tmp_path):
    return Source(tmp_path / "source")


def build(files, config="112", **kwargs):
    files.write()
    target = files.directory.parent / "records"
    return TestEchonetPediatric().prepare(files.directory, target, config=config, **kwargs)


def test_fields_and_masks(files):
    directory = build(files)
    record = read(directory, FIRST)
    assert record["ef"] == pytest.approx(62.41) and math.isnan(record["edv"])
    assert (record["fps"], record["num_frames"], record["view"]) == (50, 6, "A4C")
    assert (record["patient_id"], record["study_id"]) == ("CR0a1b2c3", "CR0a1b2d4")
    assert record["dataset"] == "echonet_pediatric" and record["flags"] == []
    assert record["classes"] == '{"age_group":{"grade":1,"name":"2-11"},"sex":"female"}'
    assert (record["ed_frame"], record["es_frame"]) == (4, 1)
    assert record["mask_frames"].tolist() == [1, 4] and record["mask_is_expert"].all()
    assert record["masks"].sum((1, 2)).tolist() == [13 * 21, 21 * 41]
    assert record["masks"][1, 30:71, 40:61].all()
    # All clips of one study share the patient and the EF.
    for name in (SAME_STUDY, SHORT_AXIS):
        other = read(directory, name)
        assert other["ef"] == record["ef"] and other["study_id"] == record["study_id"] and not len(other["masks"])
    assert read(directory, SHORT_AXIS)["view"] == "PSAX"


def test_the_phantom_s_masks_and_labels_are_the_truth(tmp_path):
    native = layouts.write("echonet_pediatric", tmp_path / "native", {"train": 2}, 3, workers=1)
    directory = TestEchonetPediatric().prepare(native, tmp_path / "records")
    dice = phantom_dice(native, directory)
    # Two frames of each of six clips, but for one clip without systole.
    assert len(dice[1]) == 11 and np.mean(dice[1]) >= 0.98 and min(dice[1]) > 0.97
    with (native / "attributes.csv").open(newline="") as table:
        drawn = {row["FileName"]: row for row in csv.DictReader(table)}
    assert len(drawn) == 6
    for name, row in drawn.items():
        record = read(directory, name)
        assert record["ef"] == pytest.approx(float(row["EF"])) and record["view"] == row["View"]
        assert record["ed_frame"] == int(row["EDFrame"]) and record["es_frame"] in (int(row["ESFrame"]), -1)


def test_configs_choose_views(files):
    assert set(split_of(build(files))) == {FIRST, SAME_STUDY, VAL, TEST, SHORT_AXIS}
    assert set(split_of(build(files, config="a4c_112"))) == {FIRST, SAME_STUDY, VAL, TEST}
    directory = build(files, config="psax_224")
    assert set(split_of(directory)) == {SHORT_AXIS} and directory.parent.name == "psax_224"
    frames = records.decode_frames(read(directory, SHORT_AXIS)["frames"], 224, 224)
    assert frames.shape == (6, 224, 224)


def test_a_view_alone_needs_only_its_folder(files):
    files.write()
    (files.root / "PSAX").rename(files.directory / "elsewhere")
    prepare = TestEchonetPediatric().prepare
    assert len(split_of(prepare(files.root.parent, files.directory.parent / "records", config="a4c_112"))) == 4
    with pytest.raises(SourceError, match=r"no PSAX/FileList\.csv here or up to two levels below.*Download"):
        prepare(files.directory, files.directory.parent / "records")


def test_folds_choose_the_splits(files):
    split = split_of(build(files))
    assert [split[name] for name in (FIRST, SAME_STUDY, VAL, TEST)] == ["train", "train", "val", "test"]
    directory = TestEchonetPediatric().prepare(
        files.directory, files.directory.parent / "other", test_fold=3, val_fold=9
    )
    split = split_of(directory)
    assert [split[name] for name in (FIRST, SHORT_AXIS, VAL, TEST)] == ["test", "test", "train", "val"]
    assert audit.metadata(directory)["options"] == {"test_fold": 3, "val_fold": 9}
    for folds in ({"test_fold": 8}, {"test_fold": 10}, {"val_fold": -1}):
        with pytest.raises(ValueError, match="two of the folds 0 to 9"):
            TestEchonetPediatric().prepare(files.directory, files.directory.parent / "wrong", **folds)


@pytest.mark.parametrize(
    "text, flag, ed, es",
    [("No Systolic", "systole_not_traced", 4, -1), ("No Diastolic", "diastole_not_traced", -1, 4)],
)
def test_a_phase_without_tracing(files, text, flag, ed, es):
    files.trace((4, contour(40, 30, 60, 70)), extra=[[f"{FIRST}.avi", "", "", text]])
    record = read(build(files), FIRST)
    assert record["flags"] == [flag] and record["mask_frames"].tolist() == [4]
    assert (record["ed_frame"], record["es_frame"]) == (ed, es)


def test_no_phase_traced(files):
    files.trace(extra=[[FIRST, "", "", "No Systolic"], [FIRST, "", "", "no diastolic"]])
    directory = build(files)
    record = read(directory, FIRST)
    assert record["flags"] == ["diastole_not_traced", "systole_not_traced"] and not len(record["masks"])
    assert notes(directory)["videos_without_tracing"] == 5


def test_frame_one_past_the_end_is_clamped(files):
    files.trace((0, contour(44, 40, 56, 60)), (6, contour(40, 30, 60, 70)))
    record = read(build(files), FIRST)
    assert record["flags"] == ["clamped_frame"]
    assert record["mask_frames"].tolist() == [0, 5] and (record["ed_frame"], record["es_frame"]) == (5, 0)


def test_coordinates_outside_are_cut_off(files):
    files.trace((1, contour(-5, 40, 20, 60)), (4, contour(80, 30, 130, 70)))
    record = read(build(files), FIRST)
    assert record["flags"] == ["clipped_tracing"]
    assert record["masks"].sum((1, 2)).tolist() == [21 * 21, 32 * 41]


def test_the_larger_area_is_diastole_whatever_the_order(files):
    files.trace((4, contour(40, 30, 60, 70)), (1, contour(44, 40, 56, 60)))
    record = read(build(files), FIRST)
    assert (record["ed_frame"], record["es_frame"], record["flags"]) == (4, 1, ["systole_larger"])


def test_other_sizes_carry_the_contour_along(files):
    write_video(files.root / "A4C" / "Videos" / f"{FIRST}.avi", moving_square(6, 112, 224))
    record = read(build(files), FIRST)
    assert record["flags"] == ["resized"]
    # Half the size, and 28 rows of black above.
    rows, columns = np.nonzero(record["masks"][1])
    assert (rows.min(), rows.max()) == (28 + 15, 28 + 35) and (columns.min(), columns.max()) == (20, 30)


def test_unknown_ef_and_studies_that_disagree_are_counted(files):
    files.rows["A4C"][2] = row(VAL, 8, "nan")
    files.rows["PSAX"][0] = row(SHORT_AXIS, 3, 50)
    directory = build(files)
    assert math.isnan(read(directory, VAL)["ef"])
    assert notes(directory)["ef_unknown"] == 1 and notes(directory)["studies_with_several_ef"] == 1


def test_tracings_without_row_are_counted_and_names_match_without_extension(files):
    files.tracings["A4C"] = [[line[0].removesuffix(".avi"), *line[1:]] for line in files.tracings["A4C"]]
    files.tracings["PSAX"] = [["CR9-CR9-000001.avi", 1, 1, 0]]
    directory = build(files)
    assert len(read(directory, FIRST)["masks"]) == 2 and notes(directory)["tracings_without_row"] == 1


def test_sex_and_age_may_be_absent(files):
    """The column, or the cell: what a table does not say is unknown, and counted."""
    files.rows["PSAX"][0][2:4] = ["", "nan"]
    files.write()
    table = files.root / "A4C" / "FileList.csv"
    write_table(table, ("FileName", "EF", "Split"), [(name, ef, fold) for name, ef, *_, fold in files.rows["A4C"]])
    directory = TestEchonetPediatric().prepare(files.directory, files.directory.parent / "records")
    assert {read(directory, name)["classes"] for name in split_of(directory)} == {""}
    assert notes(directory)["sex_unknown"] == notes(directory)["age_group_unknown"] == 5


def test_tables_with_byte_order_mark_and_crlf(files):
    files.write()
    for name in ("FileList.csv", "VolumeTracings.csv"):
        table = files.root / "A4C" / name
        table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    directory = TestEchonetPediatric().prepare(files.directory, files.directory.parent / "records")
    assert b"\r\n" in table.read_bytes() and len(read(directory, FIRST)["masks"]) == 2


def absent_video(files):
    files.rows["PSAX"].append(row("CR5-CR5-000001", 1))


def unlisted_video(files):
    files.rows["A4C"].pop()


def name_twice(files):
    files.rows["A4C"].append(row(FIRST, 3))


def named_split(files):
    files.rows["A4C"][0] = row(FIRST, "TRAIN")


def fold_ten(files):
    files.rows["A4C"][0] = row(FIRST, 10)


def patient_in_two_folds(files):
    files.rows["PSAX"][0] = row(SHORT_AXIS, 9)


def other_name(files):
    files.rows["A4C"][0] = row("clip1", 3)
    (files.root / "A4C" / "Videos" / f"{FIRST}.avi").rename(files.root / "A4C" / "Videos" / "clip1.avi")


def other_phase(files):
    files.tracings["A4C"].append([FIRST, "", "", "No Atrium"])


def point_without_coordinate(files):
    files.tracings["A4C"].append([FIRST, 3, "", 2])


@pytest.mark.parametrize(
    "change, message",
    [
        (absent_video, "CR5-CR5-000001: PSAX/FileList.csv line 3: no such file"),
        (unlisted_video, f"{TEST}.avi: no row in A4C/FileList.csv"),
        (name_twice, f"A4C/FileList.csv line 6: '{FIRST}' again, first at A4C/FileList.csv line 2"),
        (named_split, "A4C/FileList.csv line 2: column Split holds 'TRAIN', not a number"),
        (fold_ten, "A4C/FileList.csv line 2: Split is '10', expected a fold, 0 to 9"),
        (patient_in_two_folds, "PSAX/FileList.csv line 2: patient CR0a1b2c3 is in split test"),
        (other_name, "A4C/FileList.csv line 2: FileName is 'clip1.avi', expected PATIENT-STUDY-NUMBER.avi"),
        (other_phase, "A4C/VolumeTracings.csv line 10: column Frame holds 'No Atrium'"),
        (point_without_coordinate, "A4C/VolumeTracings.csv line 10: coordinates must be numbers"),
    ],
)
def test_faults_of_the_tables_are_named(files, change, message):
    change(files)
    with pytest.raises(SourceError) as error:
        build(files)
    assert message in str(error.value)
