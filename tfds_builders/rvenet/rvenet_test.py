"""RVENet on files made here: DICOM clips of several kinds, and the codebook's oddities."""

import csv
import math

import numpy as np
import pydicom
import pytest
from pydicom import uid

from discovr_jax.data import audit, class_labels, records
from discovr_jax.data.read import read_video
from tests.builder_case import BuilderCase, notes, read, split_of, write_table
from tfds_builders.echo_phantom import files as phantom_files
from tfds_builders.echo_phantom import layouts
from tfds_builders.rvenet.rvenet_dataset_builder import Builder
from tfds_builders.splits import hashed_split
from tfds_builders.tables import SourceError

HEADER = (
    "FileName", "PatientHash", "PatientGroup", "Age", "Sex", "HR", "UltrasoundSystem", "FPS", "NumFrames",
    "VideoViewType", "VideoOrientation", "VideoQuality", "RVEDV", "RVESV", "RVEF", "Split",
)  # fmt: skip
FIRST, SECOND, VAL, TEST = "A1B2_C3D4_01", "A1B2_C3D4_02", "B1B2_C3D4_01", "C1B2_C3D4_01"
FRAMES = 5


def patient(split: str) -> str:
    """A name that falls into the split, of those that the codebook calls validation."""
    names = (f"patient{number}" for number in range(100))
    return next(name for name in names if hashed_split(name, 0, {"val": 1, "test": 1}) == split)


def screen(seed: int, bright_side: str = "left") -> np.ndarray:
    """Grey uint8 [T, 120, 160]: a sector of 100 x 100 pixels, brighter on one side, and text beside it."""
    frames = np.zeros((FRAMES, 120, 160), np.uint8)
    picture = np.random.default_rng(seed).integers(30, 90, (FRAMES, 100, 100), np.uint8)
    half = slice(0, 50) if bright_side == "left" else slice(50, 100)
    picture[:, :, half] += 120
    frames[:, 10:110, 30:130] = picture
    frames[:, 4:7, 2:20] = 255
    return frames


def write_dicom(path, frames, kind="MONOCHROME2") -> None:
    """A multi-frame object, uncompressed; the colour kinds hold the same grey."""
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = uid.UltrasoundMultiFrameImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.PatientName, ds.PatientID = "Doe^Jane", "secret-4711"
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames.shape
    ds.SamplesPerPixel = 1 if kind == "MONOCHROME2" else 3
    ds.PhotometricInterpretation = kind
    if kind != "MONOCHROME2":
        ds.PlanarConfiguration = 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.FrameTime = "25"
    pairs = frames.reshape(-1, 2)
    neutral = np.full_like(pairs, 128)
    ds.PixelData = {
        "MONOCHROME2": frames,
        "RGB": np.repeat(frames[..., None], 3, -1),
        "YBR_FULL_422": np.concatenate([pairs, neutral], 1),  # Y0 Y1 Cb Cr for every two pixels
    }[kind].tobytes()
    ds.save_as(path, enforce_file_format=True)


def row(name, patient_hash="pA", split="train", **changes) -> list:
    cells = (
        name, patient_hash, "HTX", 47, "M", "", "GE Vivid E95", "52.0", FRAMES,
        "RV-focused", "Mayo", 4, 96.1, 49.0, 49.0, split,
    )  # fmt: skip
    return list((dict(zip(HEADER, cells, strict=True)) | changes).values())


class Source:
    """A dataset on disk whose codebook a test can change before it is written."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.rows = [
            row(FIRST), row(SECOND, VideoViewType="standard A4C", VideoQuality=""),
            row(VAL, patient("val"), "validation", RVEF=38), row(TEST, patient("test"), "validation"),
        ]  # fmt: skip
        kinds = ("MONOCHROME2", "RGB", "YBR_FULL_422", "MONOCHROME2")
        for seed, (name, kind) in enumerate(zip((FIRST, SECOND, VAL, TEST), kinds, strict=True)):
            write_dicom(directory / f"{name}.dcm", screen(seed), kind)

    def write(self):
        write_table(self.directory / "codebook.csv", HEADER, self.rows)


class TestRvenet(BuilderCase):
    builder = Builder

    def write_source(self, directory):
        Source(directory).write()

    def break_source(self, directory):
        clip = directory / f"{SECOND}.dcm"
        clip.write_bytes(clip.read_bytes()[:-5000])
        return {f"{SECOND}.dcm", "codebook.csv line 3"}


@pytest.fixture
def files(tmp_path):
    return Source(tmp_path / "source")


def build(files, config="112", **kwargs):
    files.write()
    return TestRvenet().prepare(files.directory, files.directory.parent / "records", config=config, **kwargs)


def test_fields(files):
    directory = build(files)
    record = read(directory, FIRST)
    assert record["rvef"] == 49 and math.isnan(record["ef"]) and math.isnan(record["edv"])
    assert (record["patient_id"], record["study_id"], record["view"]) == ("pA", "A1B2_C3D4", "A4C")
    assert (record["dataset"], record["fps"], record["num_frames"]) == ("rvenet", 52, FRAMES)
    assert not len(record["masks"]) and record["ed_frame"] == record["es_frame"] == -1
    assert {"rv_focused", "quality_4", "sector_isolated"} <= set(record["flags"])
    assert class_labels.parse(record["classes"]) == {
        "sex": "male",
        "age_group": {"grade": 4, "name": "41-65"},
        "image_quality": {"grade": 4, "name": "4"},
    }
    # Two clips of one patient share the label and the split.
    other = read(directory, SECOND)
    assert (other["rvef"], other["patient_id"], other["study_id"]) == (49, "pA", "A1B2_C3D4")
    assert not {"rv_focused", "quality_4", "mirrored"} & set(other["flags"])
    assert read(directory, VAL)["rvef"] == 38
    assert notes(directory) == {
        "rvef_unknown": 0, "fps_unknown": 0, "view_type_RV-focused": 3, "view_type_standard A4C": 1,
        "sex_unknown": 0, "age_group_unknown": 0, "image_quality_unknown": 1,
    }  # fmt: skip


def test_the_phantom_s_labels_and_sectors_are_the_truth(tmp_path):
    native = layouts.write("rvenet", tmp_path / "native", {"train": 1}, 3, workers=1)
    directory = TestRvenet().prepare(native, tmp_path / "records")
    with (native / "attributes.csv").open(newline="") as table:
        drawn = list(csv.DictReader(table))
    assert len(drawn) == 2  # of one patient
    for row in drawn:
        record = read(directory, row["FileName"])
        assert record["rvef"] == pytest.approx(float(row["RVEF"])) and "mirrored" in record["flags"]
        # The record's 112 pixels are the longer side of the sector on the scanner's screen.
        spacing = read_video(native / f"{row['FileName']}.dcm").pixel_spacing
        sector = phantom_files.read_truth(native, row["FileName"])["sector"]
        side = max(np.ptp(np.flatnonzero(sector.any(axis))) + 1 for axis in (0, 1))
        assert record["pixel_spacing"] == pytest.approx(np.array(spacing) * side / 112, rel=0.08)


@pytest.mark.parametrize("name, seed", [(FIRST, 0), (SECOND, 1), (VAL, 2)])
def test_every_kind_of_dicom_gives_the_sector(files, name, seed):
    frames = records.decode_frames(read(build(files), name)["frames"], 112, 112)
    halves = screen(seed)[:, 10:110, 30:130].reshape(FRAMES, 100, 2, 50).mean((0, 1, 3))
    # 100 pixels of sector (a few of its corners rounded off) fill the 112 of the record; the text is gone.
    assert frames[:, 20:90, 10:50].mean() == pytest.approx(halves[0], abs=6)
    assert frames[:, 20:90, 62:102].mean() == pytest.approx(halves[1], abs=6)


def test_stanford_clips_are_mirrored(files):
    files.rows[0] = row(FIRST, VideoOrientation="Stanford")
    write_dicom(files.directory / f"{FIRST}.dcm", screen(0, "right"))
    record = read(build(files), FIRST)
    frames = records.decode_frames(record["frames"], 112, 112)
    assert "mirrored" in record["flags"] and frames[:, 20:90, 10:50].mean() > frames[:, 20:90, 62:102].mean() + 90


def test_orientation_may_be_unknown(files):
    files.rows[0] = row(FIRST, VideoOrientation="")
    assert "orientation_unknown" in read(build(files), FIRST)["flags"]


def test_validation_patients_are_divided_by_hash(files):
    directory = build(files)
    assert split_of(directory) == {FIRST: "train", SECOND: "train", VAL: "val", TEST: "test"}
    assert audit.metadata(directory)["options"] == {"split_seed": 0}
    # Another seed moves one of the two across; the training patients stay.
    seed = next(s for s in range(1, 99) if hashed_split(patient("val"), s, {"val": 1, "test": 1}) == "test")
    other = TestRvenet().prepare(files.directory, files.directory.parent / "other", split_seed=seed)
    assert split_of(other)[VAL] == "test" and split_of(other)[FIRST] == "train"


def test_unknown_values_and_other_counts(files):
    files.rows[0] = row(FIRST, RVEF="nan", FPS="", NumFrames=FRAMES + 2)
    directory = build(files)
    record = read(directory, FIRST)
    assert math.isnan(record["rvef"]) and record["fps"] == 40 and "frame_count_differs" in record["flags"]
    assert notes(directory)["rvef_unknown"] == 1 and notes(directory)["fps_unknown"] == 1


def test_table_with_byte_order_mark_crlf_and_suffixes_and_clips_in_a_folder(files):
    files.rows = [[f"{cells[0]}.dcm", *cells[1:]] for cells in files.rows]
    files.write()
    table = files.directory / "codebook.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"validation", b"Validation"))
    (files.directory / "dicom").mkdir()
    for path in list(files.directory.glob("*.dcm")):
        path.rename(files.directory / "dicom" / path.name)
    directory = TestRvenet().prepare(files.directory.parent, files.directory.parent / "records")
    assert b"\r\n" in table.read_bytes() and len(split_of(directory)) == 4


def test_records_name_no_patient(files):
    directory = build(files)
    for path in directory.iterdir():
        assert b"secret" not in path.read_bytes() and b"Doe" not in path.read_bytes()


def absent_clip(files):
    (files.directory / f"{TEST}.dcm").unlink()


def unlisted_clip(files):
    files.rows.pop()


def name_twice(files):
    files.rows.append(row(FIRST))


def other_split(files):
    files.rows[0] = row(FIRST, split="test")


def patient_in_two_splits(files):
    files.rows[0] = row(FIRST, patient("val"))


def no_patient(files):
    files.rows[1] = row(SECOND, "")


def other_orientation(files):
    files.rows[0] = row(FIRST, VideoOrientation="upside down")


def text_for_number(files):
    files.rows[0] = row(FIRST, RVEF="low")


@pytest.mark.parametrize(
    "change, message",
    [
        (absent_clip, f"{TEST}: codebook.csv line 5: no such file"),
        (unlisted_clip, f"{TEST}.dcm: no row in codebook.csv"),
        (name_twice, f"codebook.csv line 6: '{FIRST}' again, first at codebook.csv line 2"),
        (other_split, "codebook.csv line 2: Split is 'test', expected train or validation"),
        (patient_in_two_splits, "is in split val, but codebook.csv line 2 says train"),
        (no_patient, "codebook.csv line 3: PatientHash is empty"),
        (other_orientation, "codebook.csv line 2: VideoOrientation is 'upside down', expected Mayo or Stanford"),
        (text_for_number, "codebook.csv line 2: column RVEF holds 'low'"),
    ],
)
def test_faults_of_the_codebook_are_named(files, change, message):
    change(files)
    with pytest.raises(SourceError) as error:
        build(files)
    assert message in str(error.value)
