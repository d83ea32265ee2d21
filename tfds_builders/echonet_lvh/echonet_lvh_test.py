"""EchoNet-LVH on files made here, with the oddities that the published files are known to have."""

import csv
import math

import numpy as np
import pytest

from discovr_jax.data import audit, records
from tests.builder_case import BuilderCase, moving_square, notes, read, split_of, write_table, write_video
from tfds_builders.echo_phantom import files as phantom_files
from tfds_builders.echo_phantom import layouts
from tfds_builders.echonet_lvh.echonet_lvh_dataset_builder import Builder
from tfds_builders.tables import SourceError

# The first column has no name.
HEADER = (
    "", "HashedFileName", "Calc", "CalcValue", "Frame", "X1", "X2", "Y1", "Y2",
    "Frames", "FPS", "Width", "Height", "split",
)  # fmt: skip
TRAIN, BATCH2, VAL, TEST = "0X1A2B3C4D5E6F7081", "0X2A2B3C4D5E6F7081", "0X3A2B3C4D5E6F7081", "0X4A2B3C4D5E6F7081"


def row(name, calc="LVIDd", value=4.8, split="train", **changes) -> list:
    """A caliper of 120 pixels (72 across, 96 down) for 4.8 cm: 0.4 mm a pixel."""
    cells = ("0", name, calc, value, 3, 80, 152, 20, 116, 6, 50.0, 320, 240, split)
    return list((dict(zip(HEADER, cells, strict=True)) | changes).values())


class Source:
    """A dataset on disk whose table a test can change before it is written."""

    def __init__(self, directory):
        self.directory = directory
        self.rows = [
            row(TRAIN),
            row(TRAIN, "IVSd", 1.2, X1=80, X2=80, Y1=20, Y2=50, Frame=2),
            row(TRAIN, "LVPWd", 0.9, X1=80, X2=80, Y1=20, Y2=42.5, Frame=2),
            row(TRAIN, "LVIDs", 3.2, X1=0, X2=80, Y1=20, Y2=20, Frame=5),
            row(BATCH2), row(VAL, split="val"), row(TEST, split="test"),
        ]  # fmt: skip
        for seed, (name, batch) in enumerate(((TRAIN, 1), (BATCH2, 2), (VAL, 2), (TEST, 4))):
            self.video(name, batch, moving_square(6, 240, 320, seed))

    def path(self, name, batch):
        return self.directory / f"Batch{batch}" / f"{name}.avi"

    def video(self, name, batch, frames):
        self.path(name, batch).parent.mkdir(parents=True, exist_ok=True)
        write_video(self.path(name, batch), frames)

    def write(self):
        write_table(self.directory / "MeasurementsList.csv", HEADER, self.rows)


class TestEchonetLvh(BuilderCase):
    builder = Builder

    def write_source(self, directory):
        Source(directory).write()

    def break_source(self, directory):
        video = directory / "Batch2" / f"{BATCH2}.avi"
        video.write_bytes(video.read_bytes()[:-3000])
        return {f"{BATCH2}.avi", "MeasurementsList.csv line 6"}


@pytest.fixture
def files(tmp_path):
    return Source(tmp_path / "source")


def build(files, config="112", **kwargs):
    files.write()
    return TestEchonetLvh().prepare(files.directory, files.directory.parent / "records", config=config, **kwargs)


def test_measurements_of_a_video_come_together(files):
    directory = build(files)
    record = read(directory, TRAIN)
    assert [record[name] for name in ("lvidd", "ivsd", "lvpwd")] == pytest.approx([4.8, 1.2, 0.9])
    assert (record["view"], record["dataset"], record["fps"]) == ("PLAX", "echonet_lvh", 50)
    # Diastole is the frame of LVIDd, systole that of LVIDs.
    assert (record["ed_frame"], record["es_frame"]) == (3, 5)
    assert record["patient_id"] == TRAIN and not len(record["masks"]) and math.isnan(record["ef"])
    other = read(directory, BATCH2)
    assert math.isnan(other["ivsd"]) and (other["ed_frame"], other["es_frame"]) == (3, -1)
    assert notes(directory) == {"lvidd_unknown": 0, "ivsd_unknown": 3, "lvpwd_unknown": 3}
    assert split_of(directory) == {TRAIN: "train", BATCH2: "train", VAL: "val", TEST: "test"}


def test_calipers_give_the_pixel_spacing(files):
    record = read(build(files), TRAIN)
    # 0.4 mm a pixel of 320; all four calipers say so; nothing is cut off the gradient that fills the picture.
    assert record["pixel_spacing"] == pytest.approx([0.4 * 320 / 112] * 2)
    assert {"spacing_from_calipers", "resized"} <= set(record["flags"])
    assert "calipers_disagree" not in record["flags"]


def test_the_phantom_s_measurements_and_sectors_are_the_truth(tmp_path):
    native = layouts.write("echonet_lvh", tmp_path / "native", {"train": 3}, 3, workers=1)
    directory = TestEchonetLvh().prepare(native, tmp_path / "records")
    with (native / "attributes.csv").open(newline="") as table:
        drawn = list(csv.DictReader(table))
    assert len(drawn) == 3
    for row in drawn:
        record = read(directory, row["FileName"])
        for field, calc in (("ivsd", "IVSd"), ("lvidd", "LVIDd"), ("lvpwd", "LVPWd")):
            assert record[field] == pytest.approx(float(row[calc]))
        assert (record["ed_frame"], record["es_frame"]) == (int(row["EDFrame"]), int(row["ESFrame"]))
        assert {"sector_isolated", "spacing_from_calipers"} <= set(record["flags"])
        # The record's 112 pixels are the longer side of the sector; the phantom's own 112 fill the screen but 16 rows.
        sector = phantom_files.read_truth(native, row["FileName"])["sector"]
        side = max(np.ptp(np.flatnonzero(sector.any(axis))) + 1 for axis in (0, 1))
        spacing = float(row["MillimetresPerPixel"]) * 112 / (len(sector) - 16)
        assert record["pixel_spacing"] == pytest.approx([spacing * side / 112] * 2, rel=0.08)


def test_calipers_that_disagree_give_no_spacing(files):
    files.rows[1] = row(TRAIN, "IVSd", 1.2, X1=80, X2=80, Y1=20, Y2=60)
    record = read(build(files), TRAIN)
    assert np.isnan(record["pixel_spacing"]).all() and "calipers_disagree" in record["flags"]
    assert record["ivsd"] == pytest.approx(1.2)


def test_calipers_without_ends_or_length_give_no_spacing(files):
    files.rows[4] = row(BATCH2, X1="", Frame="")
    files.rows[5] = row(VAL, split="val", X1=80, X2=80, Y1=20, Y2=20)
    directory = build(files)
    for name, frame in ((BATCH2, -1), (VAL, 3)):
        record = read(directory, name)
        assert np.isnan(record["pixel_spacing"]).all() and record["ed_frame"] == frame
        assert "spacing_from_calipers" not in record["flags"] and record["lvidd"] == pytest.approx(4.8)


def test_text_around_the_sector_is_cut_off_and_the_spacing_holds(files):
    rng = np.random.default_rng(0)
    screen = np.zeros((6, 240, 320), np.uint8)
    screen[:, 40:200, 80:240] = rng.integers(60, 220, (6, 160, 160), np.uint8)
    screen[:, 10:20, 10:60] = 255  # text, off the picture
    files.video(TRAIN, 1, screen)
    record = read(build(files), TRAIN)
    frames = records.decode_frames(record["frames"], 112, 112)
    assert "sector_isolated" in record["flags"]
    # The sector of 160 pixels fills the record.
    assert (frames.mean((0, 1)) > 40).all() and (frames.mean((0, 2)) > 40).all()
    assert record["pixel_spacing"] == pytest.approx([0.4 * 160 / 112] * 2, rel=0.03)


def test_shifted_columns_leave_the_container_to_speak(files):
    files.rows[4] = row(BATCH2, Frames="abc", FPS=6, Width=50.0, Height=320)
    record = read(build(files), BATCH2)
    assert "shifted_columns" in record["flags"] and record["fps"] == 50
    assert "frame_count_differs" not in record["flags"]


def test_repeated_measurements_are_averaged(files):
    files.rows.append(row(BATCH2, value=5.0))
    files.rows.append(row(BATCH2, value="nan"))
    record = read(build(files), BATCH2)
    assert record["lvidd"] == pytest.approx(4.9) and "repeated_measurement" in record["flags"]


def test_frames_outside_and_other_counts_are_flagged(files):
    files.rows[4] = row(BATCH2, Frame="6.0", Frames="7")
    record = read(build(files), BATCH2)
    assert record["ed_frame"] == 5 and {"clamped_frame", "frame_count_differs"} <= set(record["flags"])


def test_other_measurements_are_counted(files):
    files.rows.append(row(TRAIN, "Aorta", 3.1))
    assert notes(build(files))["calc_Aorta_not_known"] == 1


def test_table_with_byte_order_mark_crlf_other_case_and_extensions(files):
    files.rows = [[*cells[:1], f"{cells[1].lower()}.avi", *cells[2:]] for cells in files.rows]
    files.write()
    table = files.directory / "MeasurementsList.csv"
    text = table.read_bytes().decode().replace("HashedFileName", "hashedfilename").replace("split", "Split")
    table.write_bytes(b"\xef\xbb\xbf" + text.replace("train", "TRAIN").encode())
    directory = TestEchonetLvh().prepare(files.directory, files.directory.parent / "records")
    assert b"\r\n" in table.read_bytes() and len(split_of(directory)) == 4 and audit.check(directory) == []


def test_videos_may_lie_in_one_folder(files):
    (files.directory / "videos").mkdir()
    for path in list(files.directory.glob("Batch*/*.avi")):
        path.rename(files.directory / "videos" / path.name)
    assert len(split_of(build(files))) == 4


def absent_video(files):
    files.path(TEST, 4).unlink()


def unlisted_video(files):
    files.rows.pop()


def file_twice(files):
    files.video(TRAIN, 3, moving_square())


def two_splits(files):
    files.rows[1] = row(TRAIN, "IVSd", split="val")


def unknown_split(files):
    files.rows[4] = row(BATCH2, split="holdout")


def text_for_number(files):
    files.rows[4] = row(BATCH2, value="wide")


@pytest.mark.parametrize(
    "change, message",
    [
        (absent_video, f"{TEST}: MeasurementsList.csv line 8: no such file"),
        (unlisted_video, f"{TEST}.avi: no row in MeasurementsList.csv"),
        (file_twice, f"Batch1/{TRAIN}.avi and Batch3/{TRAIN}.avi share a name"),
        (two_splits, f"MeasurementsList.csv line 2: {TRAIN} has split ['train', 'val']"),
        (unknown_split, f"MeasurementsList.csv line 6: {BATCH2} has split ['holdout'], expected one of train"),
        (text_for_number, "MeasurementsList.csv line 6: column CalcValue holds 'wide'"),
    ],
)
def test_faults_of_the_table_are_named(files, change, message):
    change(files)
    with pytest.raises(SourceError) as error:
        build(files)
    assert message in str(error.value)


def test_the_wrong_archive_is_recognised(files):
    write_table(files.directory / "FileList.csv", ("FileName",), [])
    with pytest.raises(SourceError, match=r"no MeasurementsList\.csv.*FileList\.csv is EchoNet-Dynamic"):
        TestEchonetLvh().prepare(files.directory, files.directory.parent / "records")
