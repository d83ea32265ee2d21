"""CAMUS on files made here: orientation, spacing, both kinds of masks, and the release's oddities."""

import csv
import math
import pathlib

import nibabel
import numpy as np
import pytest

from discovr_jax.data import audit, class_labels, records
from discovr_jax.data.io.nifti import read_nifti
from tests.builder_case import BuilderCase, notes, phantom_dice, read, split_of
from tfds_builders.camus.camus_dataset_builder import Builder
from tfds_builders.echo_phantom import layouts
from tfds_builders.tables import SourceError

# Rows of 0.3 mm and columns of 0.6 mm: 60 x 40 pixels are 18 x 24 mm, so columns fill the square.
SPACING, SHAPE, FRAMES = (0.3, 0.6), (60, 40), 5
PATIENTS = {"patient0002": "training", "patient0420": "validation", "patient0001": "testing"}
INFO = {"NbFrame": 5, "Sex": "F", "Age": 56, "ImageQuality": "Good", "EF": 54, "FrameRate": 48.4}


def write_nifti(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes [T, H, W] or [H, W] as NIfTI stores it: across, down, time."""
    image = nibabel.Nifti1Image(array.T, np.eye(4))
    image.header.set_zooms((*SPACING[::-1], 1)[: array.ndim])
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def pictures(seed: int) -> np.ndarray:
    """uint8 [T, H, W]: dark noise, and a bright marker in the top right corner."""
    frames = np.random.default_rng(seed).integers(0, 60, (FRAMES, *SHAPE), np.uint8)
    frames[:, :15, 30:] = 255
    return frames


def mask(half_height: int) -> np.ndarray:
    """uint8 [H, W]: the cavity in a ring of muscle, the atrium below."""
    classes = np.zeros(SHAPE, np.uint8)
    classes[27 - half_height : 33 + half_height, 11:29] = 2
    classes[30 - half_height : 30 + half_height, 14:26] = 1
    classes[50:58, 14:26] = 3
    return classes


class Source:
    """A dataset on disk; a test changes what `write` wrote, or what it is to write."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.root = directory / "CAMUS_public"
        self.nifti = self.root / "database_nifti"
        (self.root / "database_split").mkdir(parents=True)
        for group in ("training", "validation", "testing"):
            names = [name for name, member in PATIENTS.items() if member == group]
            (self.root / "database_split" / f"subgroup_{group}.txt").write_text("\n".join(names) + "\n")
        for seed, name in enumerate(PATIENTS):
            (self.nifti / name).mkdir(parents=True)
            self.view(name, "2CH", seed, 1, 5)
            self.view(name, "4CH", seed + 10, 1, 5)

    def path(self, name: str, chamber: str, what: str) -> pathlib.Path:
        return self.nifti / name / f"{name}_{chamber}_{what}.nii.gz"

    def info(self, name: str, chamber: str, **changes) -> None:
        lines = [f"{key}: {value}" for key, value in (INFO | changes).items()]
        (self.nifti / name / f"Info_{chamber}.cfg").write_text("\n".join(lines))

    def view(self, name: str, chamber: str, seed: int, ed: int, es: int, singleton: bool = False) -> None:
        """One view whose ED and ES are counted from 1; propagated masks differ from the expert's."""
        frames = pictures(seed)
        self.info(name, chamber, ED=ed, ES=es)
        write_nifti(self.path(name, chamber, "half_sequence"), frames)
        write_nifti(self.path(name, chamber, "half_sequence_gt"), np.stack([mask(12)] * FRAMES))
        for phase, frame, classes in (("ED", ed, mask(16)), ("ES", es, mask(8))):
            still, truth = frames[frame - 1], classes
            write_nifti(self.path(name, chamber, phase), still[None] if singleton else still)
            write_nifti(self.path(name, chamber, f"{phase}_gt"), truth[None] if singleton else truth)


class TestCamus(BuilderCase):
    builder = Builder

    def write_source(self, directory):
        Source(directory)

    def break_source(self, directory):
        path = next(directory.rglob("patient0002_4CH_half_sequence.nii.gz"))
        path.write_bytes(path.read_bytes()[:-3000])
        return {path.name, "patient0002/Info_4CH.cfg"}


@pytest.fixture
def files(tmp_path):
    return Source(tmp_path / "source")


def build(files, config="112", **kwargs):
    return TestCamus().prepare(files.directory, files.directory.parent / "records", config=config, **kwargs)


CLIP = "patient0002_2CH"


def test_fields(files):
    directory = build(files)
    record = read(directory, CLIP)
    assert (record["ef"], record["fps"], record["num_frames"]) == (54, pytest.approx(48.4), FRAMES)
    assert (record["patient_id"], record["view"], record["dataset"]) == ("patient0002", "A2C", "camus")
    assert (record["ed_frame"], record["es_frame"]) == (0, 4)  # 1 and 5 in the file, which counts from 1
    assert record["flags"] == ["quality_good", "resized"] and math.isnan(record["edv"])
    assert class_labels.parse(record["classes"]) == {
        "sex": "female",
        "age_group": {"grade": 4, "name": "41-65"},
        "image_quality": {"grade": 2, "name": "good"},
    }
    assert read(directory, "patient0002_4CH")["view"] == "A4C"
    assert set(notes(directory)) == {f"{name}_unknown" for name in ("ef", "fps", "sex", "age_group", "image_quality")}
    assert not any(notes(directory).values())


def test_pictures_are_upright_and_not_stretched(files):
    record = read(build(files), CLIP)
    frame = records.decode_frames(record["frames"], 112, 112, [0])[0]
    # 24 mm of columns fill the 112 pixels; 18 mm of rows are 84 of them, with 14 black rows above and below.
    assert (frame[:14] == 0).all() and (frame[98:] == 0).all() and (frame[14:98].max(1) > 0).all()
    # The marker fills the top right quarter of both sides, and nothing else is bright.
    assert (frame[14 : 14 + 20, 86:] > 230).all()
    assert (frame > 100).sum() == pytest.approx(21 * 28, rel=0.06)
    assert record["pixel_spacing"] == pytest.approx([24 / 112] * 2)


def test_expert_masks_replace_the_propagated_ones(files):
    record = read(build(files), CLIP)
    assert record["mask_frames"].tolist() == [0, 1, 2, 3, 4]
    assert record["mask_is_expert"].tolist() == [True, False, False, False, True]
    # The cavity is 12 of 40 columns wide, and 32, 24 and 16 of 60 rows high.
    for frame, rows in ((0, 32), (1, 24), (4, 16)):
        assert (record["masks"][frame] == 1).sum() == pytest.approx(12 / 40 * 112 * rows / 60 * 84, rel=0.04)
    assert set(np.unique(record["masks"])) == {0, 1, 2, 3}
    # The atrium, and so the bottom, is where the rows say.
    assert np.argwhere(record["masks"][0] == 3).mean(0) == pytest.approx([14 + 54 / 60 * 84 - 0.5, 55.5], abs=0.7)


def test_the_phantom_s_masks_and_labels_are_the_truth(tmp_path):
    native = layouts.write("camus", tmp_path / "native", {"train": 2}, 3, workers=1)
    directory = TestCamus().prepare(native, tmp_path / "records")

    def sequence(name):
        return read_nifti(native / "database_nifti" / name.split("_")[0] / f"{name}_half_sequence.nii.gz")

    dice = phantom_dice(native, directory, spacing=lambda name: sequence(name)[1])
    assert set(dice) == {1, 2, 3}
    for overlaps in dice.values():  # ED and ES of two views of two patients
        assert len(overlaps) == 8 and min(overlaps) >= 0.98
    with (native / "attributes.csv").open(newline="") as table:
        drawn = list(csv.DictReader(table))
    assert [row["View"] for row in drawn] == ["A2C", "A4C"] * 2
    for row in drawn:
        record = read(directory, row["FileName"])
        assert (record["ef"], record["view"]) == (float(row["EF"]), row["View"])
        assert (record["ed_frame"], record["es_frame"]) == (int(row["EDFrame"]), int(row["ESFrame"]))
        assert record["num_frames"] == len(sequence(row["FileName"])[0]) == len(record["masks"])
        # The half cycle of the second patient is recorded backwards.
        assert ("es_before_ed" in record["flags"]) == (record["patient_id"] == "patient0002")
        assert not {"still_differs", "ed_smaller_than_es"} & set(record["flags"])
        assert record["pixel_spacing"][0] == pytest.approx(record["pixel_spacing"][1], rel=0.02)


def test_config_224(files):
    record = read(build(files, config="224"), CLIP)
    assert record["masks"].shape == (5, 224, 224) and record["pixel_spacing"] == pytest.approx([24 / 224] * 2)


def test_systole_may_come_first_and_stills_may_have_three_dimensions(files):
    files.view("patient0002", "2CH", 3, ed=5, es=1, singleton=True)
    record = read(build(files), CLIP)
    assert (record["ed_frame"], record["es_frame"]) == (4, 0)
    assert record["flags"] == ["es_before_ed", "quality_good", "resized"]
    assert record["mask_is_expert"].tolist() == [True, False, False, False, True]
    assert (record["masks"][4] == 1).sum() > 1.8 * (record["masks"][0] == 1).sum()
    # Time is not turned round: the frames are in the order of the file.
    frames = records.decode_frames(record["frames"], 112, 112)
    first = pictures(3)[0, 15:, :30].astype(float).mean()
    assert frames[0, 36:98, :82].mean() == pytest.approx(first, abs=0.3)


def test_a_still_of_another_frame_is_flagged(files):
    write_nifti(files.path("patient0002", "2CH", "ED"), pictures(0)[1])
    assert "still_differs" in read(build(files), CLIP)["flags"]


def test_phases_that_contradict_the_areas_are_flagged(files):
    write_nifti(files.path("patient0002", "2CH", "ED_gt"), mask(4))
    record = read(build(files), CLIP)
    assert "ed_smaller_than_es" in record["flags"] and (record["ed_frame"], record["es_frame"]) == (0, 4)


def test_without_propagated_masks_the_experts_remain(files):
    files.path("patient0002", "2CH", "half_sequence_gt").unlink()
    record = read(build(files), CLIP)
    assert "no_propagated_masks" in record["flags"]
    assert record["mask_frames"].tolist() == [0, 4] and record["mask_is_expert"].all()


def test_info_of_the_older_kind_with_byte_order_mark_and_crlf(files):
    text = "ED: 1\r\nES: 5\r\nNBFRAME: 6\r\nLVedv: 94.6\r\nLVesv: 43.5\r\nLVef: 54.0\r\n\r\n"
    (files.nifti / "patient0002" / "Info_2CH.cfg").write_bytes(b"\xef\xbb\xbf" + text.encode())
    directory = build(files)
    record = read(directory, CLIP)
    assert [record[name] for name in ("ef", "edv", "esv")] == pytest.approx([54, 94.6, 43.5])
    assert math.isnan(record["fps"]) and record["flags"] == ["frame_count_differs", "resized"]
    # Of one of six clips.
    unknown = dict.fromkeys(("fps_unknown", "sex_unknown", "age_group_unknown", "image_quality_unknown"), 1)
    assert notes(directory) == {"ef_unknown": 0, **unknown} and record["classes"] == ""


def test_the_official_split_is_that_of_the_files(files):
    expected = {"patient0002": "train", "patient0420": "val", "patient0001": "test"}
    split = split_of(build(files))
    assert split == {f"{name}_{chamber}": expected[name] for name in PATIENTS for chamber in ("2CH", "4CH")}


def test_split_files_may_hold_numbers_carriage_returns_and_lie_beside_the_patients(files):
    for group in ("training", "validation", "testing"):
        path = files.root / "database_split" / f"subgroup_{group}.txt"
        text = path.read_text().replace("patient", "").replace("\n", "\r\n")
        (files.nifti / path.name).write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
        path.unlink()
    assert split_of(build(files))["patient0001_2CH"] == "test"


def test_without_split_files_only_the_named_other_split_is_made(files):
    for path in (files.root / "database_split").iterdir():
        path.unlink()
    with pytest.raises(SourceError, match=r"No subgroup_testing\.txt.*--split=id_range"):
        build(files)
    directory = build(files, split="id_range")
    assert split_of(directory)["patient0001_2CH"] == "train" and split_of(directory)["patient0420_4CH"] == "val"
    assert audit.metadata(directory)["options"] == {"split": "id_range"}
    with pytest.raises(ValueError, match="split must be official or id_range, got fold5"):
        TestCamus().prepare(files.directory, files.directory.parent / "other", split="fold5")


def missing_sequence(files):
    files.path("patient0002", "2CH", "half_sequence").unlink()


def missing_info(files):
    (files.nifti / "patient0002" / "Info_2CH.cfg").unlink()


def missing_expert_mask(files):
    files.path("patient0002", "2CH", "ES_gt").unlink()


def no_phase(files):
    files.info("patient0002", "2CH", ES=5)


def phase_outside(files):
    files.info("patient0002", "2CH", ED=1, ES=6)


def phase_zero(files):
    files.info("patient0002", "2CH", ED=0, ES=5)


def transposed_mask(files):
    write_nifti(files.path("patient0002", "2CH", "ED_gt"), mask(9).T)


def other_classes(files):
    write_nifti(files.path("patient0002", "2CH", "ED_gt"), 4 * mask(9))


def one_frame(files):
    write_nifti(files.path("patient0002", "2CH", "half_sequence"), pictures(0)[:1])


def not_grey_levels(files):
    write_nifti(files.path("patient0002", "2CH", "half_sequence"), pictures(0).astype(np.int16) * 9)


def unlisted_patient(files):
    (files.root / "database_split" / "subgroup_testing.txt").write_text("\n")


def absent_patient(files):
    path = files.root / "database_split" / "subgroup_training.txt"
    path.write_text(path.read_text() + "patient0003\n")


def patient_twice(files):
    (files.root / "database_split" / "subgroup_testing.txt").write_text("patient0001\npatient0002\n")


def no_patient(files):
    (files.root / "database_split" / "subgroup_testing.txt").write_text("patient0001,good\n")


def no_list(files):
    (files.root / "database_split" / "subgroup_training.txt").unlink()


def no_colon(files):
    (files.nifti / "patient0002" / "Info_2CH.cfg").write_text("ED: 1\nES 5\n")


def older_release(files):
    (files.nifti / "patient0002" / "patient0002_2CH_sequence.mhd").touch()


@pytest.mark.parametrize(
    "change, message",
    [
        (missing_sequence, "patient0002_2CH_half_sequence.nii.gz: no such file"),
        (missing_info, "patient0002/Info_2CH.cfg: no such file"),
        (missing_expert_mask, "patient0002_2CH_ES_gt.nii.gz: no such file"),
        (no_phase, "patient0002/Info_2CH.cfg: ED is '', expected a frame number"),
        (phase_outside, "patient0002/Info_2CH.cfg says ES is frame 6 of 5"),
        (phase_zero, "patient0002/Info_2CH.cfg says ED is frame 0 of 5"),
        (transposed_mask, "patient0002_2CH_ED_gt.nii.gz: masks are (1, 40, 60), the pictures (1, 60, 40)"),
        (other_classes, "patient0002_2CH_ED_gt.nii.gz: masks hold [ 0  4  8 12], expected classes [0, 1, 2, 3]"),
        (one_frame, "patient0002_2CH_half_sequence.nii.gz: 1 frame; a video needs at least 2"),
        (not_grey_levels, "values from 0 to 2295, expected 0 to 255"),
        (unlisted_patient, "patient0001: in none of the split files"),
        (absent_patient, "patient0003: listed in the split files, but there is no folder"),
        (patient_twice, "subgroup_testing.txt line 2: patient0002 again, first in train"),
        (no_patient, "subgroup_testing.txt line 1: 'patient0001,good' is not a patient"),
        (no_list, "subgroup_training.txt: no such file"),
        (no_colon, "patient0002/Info_2CH.cfg line 2: 'ES 5' is not of the form 'Key: value'"),
        (older_release, "holds .mhd files"),
    ],
)
def test_faults_of_the_files_are_named(files, change, message):
    change(files)
    with pytest.raises(SourceError) as error:
        build(files)
    assert message in str(error.value)
