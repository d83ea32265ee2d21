"""Reports and segmentations, read back by highdicom: numbers, frames, pixels; whose they are; and what has none."""

import dataclasses
import logging
import pathlib
import shutil
import stat
import subprocess
import sys
import warnings

import numpy as np
import pytest

from discovr_jax.data import read, sector
from discovr_jax.data.io.video import at_constant_rate
from discovr_jax.dicom_output import files, report
from discovr_jax.dicom_output.algorithm import Algorithm
from discovr_jax.evaluation import interface
from discovr_jax.predictor import Measurement, Outline, Prediction
from discovr_jax.unsuited_videos import DOPPLER
from tests.test_privacy import NAME, screen, write_dicom

hd = pytest.importorskip("highdicom", reason="an extra: dicom")
pydicom = pytest.importorskip("pydicom")

ALGORITHM = Algorithm("0.1.0", "ab" * 32, {"checkpoint_step": "3"}, "ef < 50", "90 % prediction interval")
LVEF = Measurement("ef", "%", 55.03125, 41.0, 69.5)
HEIGHT, WIDTH, ED, ES = 150, 200, 6, 2
UID = "1.2.3.90210777"  # of every kind in the made-up source


def square(size):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[50 : 50 + size, 60 : 60 + size] = True
    return mask


MASKS = {"ed": square(40), "es": square(20)}
PREDICTION = Prediction(
    {"lvef": LVEF}, 0.25, 0.5, 0.1, 0.2, False, (), 0.5, 1.0, (),
    {"ed": Outline(ED, MASKS["ed"]), "es": Outline(ES, MASKS["es"])},
)  # fmt: skip
NAN = float("nan")
WITHHELD = Prediction(
    {"lvef": Measurement("ef", "%", NAN, NAN, NAN)}, NAN, NAN, NAN, 0.2, True, (DOPPLER,), 2.0, 1.0, (), {}
)


def write(folder, source, prediction=PREDICTION, masks=None, row=0, **video):
    """What `files.write` says of a source, read as `predict` reads it."""
    clip = at_constant_rate(source, read.read_video(source))
    isolated, flags, _ = sector.isolate_at(clip)
    isolated = dataclasses.replace(isolated, **video)
    masks = (MASKS if prediction.outlines else {}) if masks is None else masks
    return files.write(folder, row, source, isolated, flags, masks, prediction, ALGORITHM)


@pytest.fixture
def source(tmp_path):
    write_dicom(tmp_path / "source.dcm", screen(1, "x"))
    return tmp_path / "source.dcm"


@pytest.fixture
def out(tmp_path):
    files.start(tmp_path / "out", begun=False)
    return tmp_path / "out"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(report, segmentation), as highdicom reads them."""
    folder = tmp_path_factory.mktemp("dicom")
    write_dicom(folder / "source.dcm", screen(1, "x"))
    files.start(folder / "out", begun=False)
    assert write(folder / "out", folder / "source.dcm") == files.BOTH
    names = [folder / "out" / f"000000{suffix}" for suffix in (files.REPORT, files.SEGMENTATION)]
    with warnings.catch_warnings(action="ignore"):  # of a deprecation inside
        return hd.sr.srread(names[0]), hd.seg.segread(names[1])


def comments(dataset):
    return [
        item.TextValue for item in dataset.ContentSequence[-1].ContentSequence[0].ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Comment"
    ]  # fmt: skip


def test_the_report_holds_the_numbers(written):
    sr, _ = written
    (group,) = sr.content.get_image_measurement_groups()
    found = {one.name.value: one for one in group.get_measurements()}
    lvef = found["18043-0"]
    assert (lvef.value, lvef.unit.value, lvef.method.value) == (55.03125, "%", "regression")
    interval = {
        item.name.value: (item.value, item.unit.value) for item in lvef[0].ContentSequence if item.ValueType == "NUM"
    }
    assert interval == {"371886008": (69.5 - 55.03125, "%"), "371885007": (55.03125 - 41.0, "%")}
    scores = {name: one.value for name, one in found.items() if name != "18043-0"}
    assert scores == {"probability": 0.25, "neighbour_vote": 0.5, "anomaly_score": 0.1, "anomaly_limit": 0.2}
    said = {one.name.value: one.value.meaning for one in group.get_qualitative_evaluations()}
    assert said["unlike_training"] == "No"
    assert [image.referenced_sop_instance_uid for image in group.source_images] == [UID]
    assert comments(sr)[0] == "For research use only; not a medical device."
    assert any("41 to 69.5, 90 % prediction interval" in line for line in comments(sr))
    assert any("ef < 50" in line for line in comments(sr))


def test_nobody_has_verified_it_and_it_says_what_it_was_made_by(written):
    for made in written:
        assert made.ContentQualification == "RESEARCH" and "research use" in made.SeriesDescription
        assert (made.Manufacturer, made.SoftwareVersions) == ("discovr_jax", "0.1.0")
        assert any("ab" * 32 in str(element.value) for element in made.iterall() if element.VR in ("UT", "LT", "ST"))
    sr, seg = written
    assert (sr.VerificationFlag, sr.PreliminaryFlag, sr.CompletionFlag) == ("UNVERIFIED", "PRELIMINARY", "COMPLETE")
    assert {segment.SegmentAlgorithmType for segment in seg.SegmentSequence} == {"AUTOMATIC"}


def test_the_masks_lie_on_the_very_frames(written):
    sr, seg = written
    assert (seg.Rows, seg.Columns) == (HEIGHT, WIDTH) and "FrameOfReferenceUID" not in seg
    frames = [ED + 1, ES + 1]
    drawn = seg.get_pixels_by_source_frame(source_sop_instance_uid=UID, source_frame_numbers=frames)
    for row, phase in enumerate(MASKS):
        np.testing.assert_array_equal(drawn[row, :, :, row], MASKS[phase])
        assert not drawn[row, :, :, 1 - row].any()
    groups = sr.content.get_planar_roi_measurement_groups()
    for number, (group, frame) in enumerate(zip(groups, frames, strict=True), 1):
        segment, image = group.referenced_segmentation_frame
        assert segment.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert segment.referenced_frame_numbers == [number]
        assert (image.referenced_sop_instance_uid, image.referenced_frame_numbers) == (UID, [frame])
        assert group.tracking_uid == seg.SegmentSequence[number - 1].TrackingUID


def test_both_belong_to_patient_and_study_of_the_source_and_take_no_more(written):
    for made in written:
        assert (made.PatientName, made.PatientID, made.PatientBirthDate) == (NAME, "MRN90210777", "19380228")
        assert (made.StudyInstanceUID, made.StudyDate, made.PatientSex) == (UID, "19380228", "")
        assert made.SeriesInstanceUID != UID and made.SOPInstanceUID != UID
        for name in ("OtherPatientIDsSequence", "InstitutionName", "ImageComments"):
            assert name not in made
        assert not any(element.tag.is_private for element in made)
        classes = {e.value for e in made.iterall() if e.keyword == "ReferencedSOPClassUID"} - {seg_class(written)}
        assert classes == {pydicom.uid.UltrasoundMultiFrameImageStorage}


def seg_class(written):
    return written[1].SOPClassUID


def test_a_video_unlike_those_of_training_has_no_numbers_but_the_reason(source, out):
    assert write(out, source, WITHHELD) == f"{files.NO_SEGMENTATION}no outline was drawn"
    sr = pydicom.dcmread(out / "000000.sr.dcm")
    assert not [item for item in sr.iterall() if item.keyword == "ValueType" and item.value == "NUM"]
    assert comments(sr)[1:] == [f"Out of distribution: {DOPPLER}.", "Numbers are withheld."]
    assert "Yes" in str(sr.ContentSequence[-1]) and not (out / "000000.seg.dcm").exists()


def test_numbers_that_were_asked_for_all_the_same_come_with_the_reason():
    shown = dataclasses.replace(PREDICTION, out_of_distribution=True, reasons=("odd", "short"))
    assert report.remarks(shown, ALGORITHM)[1:3] == [
        "Out of distribution: odd; short.", "Numbers are shown because that was asked for.",
    ]  # fmt: skip


def test_every_measurement_has_a_code_and_one_without_interval_says_so(source, out):
    assert report.CODES.keys() == interface.MEASUREMENTS.keys()
    measured = {
        field: Measurement(field, unit, 3.5, -np.inf, np.inf) for field, (_, unit, _) in interface.MEASUREMENTS.items()
    }
    everything = dataclasses.replace(PREDICTION, measurements=measured)
    assert write(out, source, everything) == files.BOTH
    sr = pydicom.dcmread(out / "000000.sr.dcm")
    assert all(code[0] in str(sr) for code in report.CODES.values()) and "371886008" not in str(sr)
    assert sum("no prediction interval" in line for line in comments(sr)) == len(measured)


def test_a_second_try_changes_nothing_and_completes_what_was_cut_short(source, out):
    write(out, source)
    content = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(content) == ["000000.seg.dcm", "000000.sr.dcm"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in out.iterdir())
    assert write(out, source) == files.BOTH
    assert {path.name: path.read_bytes() for path in out.iterdir()} == content
    (out / "000000.sr.dcm").unlink()
    (out / ".000000.sr.dcm.tmp").write_bytes(content["000000.sr.dcm"][:500])  # as of a process that was killed
    assert write(out, source) == files.BOTH
    assert (out / "000000.seg.dcm").read_bytes() == content["000000.seg.dcm"]
    assert pydicom.dcmread(out / "000000.seg.dcm").SOPInstanceUID in str(pydicom.dcmread(out / "000000.sr.dcm"))
    assert not (out / ".000000.sr.dcm.tmp").exists()


def test_a_full_disk_is_an_error_and_leaves_no_half_file(source, out, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    with pytest.raises(OSError, match="No space"):
        write(out, source)
    assert not list(out.glob("*.dcm"))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is of Debian's dicom3tools")
def test_the_standards_checker_finds_no_error(tmp_path, source, out):
    write(out, source)
    write(out, source, WITHHELD, row=1)
    for path in sorted(out.iterdir()):
        said = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True)
        lines = (said.stdout + said.stderr).splitlines()
        assert "Segmentation" in lines or "ComprehensiveSR" in lines
        assert not [line for line in lines if line.startswith("Error")]


def test_no_report_without_what_it_names_its_image_by(tmp_path, out):
    for name in ("StudyInstanceUID", "SeriesInstanceUID"):
        write_dicom(tmp_path / "a.dcm", screen(1, "x"), **{name: ""})
        assert write(out, tmp_path / "a.dcm") == f"{files.NO_REPORT}its header lacks {name}"
    write_dicom(tmp_path / "a.dcm", screen(1, "x"), SOPInstanceUID=None)  # the meta information has it
    assert write(out, tmp_path / "a.dcm") == files.BOTH


def test_missing_tags_stay_empty_and_malformed_ones_as_they_are(tmp_path, out):
    tags = {"PatientName": None, "StudyDate": None, "PatientSex": "unknown", "PatientBirthDate": "28.02.38"}
    tags |= {"PatientID": "9" * 80, "StudyInstanceUID": "1.2.03", "NumberOfFrames": "8"}
    with warnings.catch_warnings(action="ignore"):
        write_dicom(tmp_path / "a.dcm", screen(1, "x"), **tags)
        assert write(out, tmp_path / "a.dcm") == files.BOTH
        for path in out.iterdir():
            made = pydicom.dcmread(path)
            assert (made.PatientName, made.StudyDate, made.PatientSex) == ("", "", "unknown")
            assert (made.PatientBirthDate, made.PatientID, made.StudyInstanceUID) == ("28.02.38", "9" * 80, "1.2.03")


@pytest.mark.parametrize(
    "charset,name",
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "Ωμέγα^Άννα"),
        ("GB18030", "王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
)
def test_names_of_any_character_set(tmp_path, out, charset, name):
    write_dicom(tmp_path / "a.dcm", screen(1, "x"), SpecificCharacterSet=charset, PatientName=name)
    assert write(out, tmp_path / "a.dcm") == files.BOTH
    for path in out.iterdir():
        assert str(pydicom.dcmread(path).PatientName) == name


@pytest.mark.parametrize("charset,name", [(b"ISO_IR 999", b"Doe^Jane"), (b"ISO_IR 192", b"M\xfcller^J")])
def test_a_character_set_that_is_unknown_or_wrong_costs_no_report(tmp_path, out, charset, name):
    write_dicom(tmp_path / "a.dcm", screen(1, "x"), SpecificCharacterSet="ISO_IR 192", PatientName="@" * len(name))
    content = (tmp_path / "a.dcm").read_bytes().replace(b"@" * len(name), name).replace(b"ISO_IR 192", charset)
    (tmp_path / "a.dcm").write_bytes(content)
    assert write(out, tmp_path / "a.dcm") == files.BOTH
    made = pydicom.dcmread(out / "000000.sr.dcm")
    assert made.PatientID == "MRN90210777" and str(made.PatientName)[0] == name.decode("latin1")[0]


def test_what_is_without_names_stays_so(tmp_path, out):
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113100", "DCM", "Basic Profile"
    code.PatientID = "MRN90210777"
    tags = {"PatientName": "", "PatientID": "", "PatientBirthDate": "", "PatientIdentityRemoved": "YES"}
    tags |= {"DeidentificationMethodCodeSequence": [code], "ReferringPhysicianName": None, "StudyDate": ""}
    tags |= dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), "2.25.7")
    write_dicom(tmp_path / "a.dcm", screen(1, "x"), **tags)
    assert write(out, tmp_path / "a.dcm") == files.BOTH
    for path in out.iterdir():
        made = pydicom.dcmread(path)
        assert made.PatientIdentityRemoved == "YES"
        assert made.DeidentificationMethodCodeSequence[0].CodeMeaning == "Basic Profile"
        assert b"90210777" not in path.read_bytes() and b"Mabuse" not in path.read_bytes()


def test_frames_that_are_not_the_files_own_are_not_outlined(source, out, tmp_path):
    for number, (words, changes) in enumerate((
        ("turned", {"rotation": 90}),
        ("another size", {"masks": {phase: mask[:-1] for phase, mask in MASKS.items()}}),
        ("another number of frames", {"frames": np.zeros((7, 100, 120), np.uint8), "frame_times": None}),
    )):  # fmt: skip
        assert words in write(out, source, row=number, **changes)
    # Times between frames that differ: frame 6 of the constant rate is an earlier one of the file.
    write_dicom(tmp_path / "a.dcm", screen(1, "x"), FrameTimeVector=["0", "20", "20", "60", "20", "20", "20", "20"])
    assert write(out, tmp_path / "a.dcm", row=5) == files.BOTH
    frames = [
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for groups in pydicom.dcmread(out / "000005.seg.dcm").PerFrameFunctionalGroupsSequence
    ]
    assert frames == [5, 3]


def test_order_and_rate_of_frames_that_no_tag_states_are_those_of_the_file(tmp_path, out):
    write_dicom(tmp_path / "a.dcm", screen(1, "x"), FrameTime=None)
    assert write(out, tmp_path / "a.dcm") == files.BOTH


def test_a_class_that_is_retired_is_referred_to_as_it_is(tmp_path, out):
    retired = "1.2.840.10008.5.1.4.1.1.3"
    write_dicom(tmp_path / "a.dcm", screen(1, "x"), SOPClassUID=retired)
    assert write(out, tmp_path / "a.dcm") == files.BOTH
    assert retired in [e.value for e in pydicom.dcmread(out / "000000.sr.dcm").iterall()]


def test_no_name_is_logged_warned_of_or_said(tmp_path, out, caplog, recwarn, monkeypatch):
    """Also where the program itself fails."""
    caplog.set_level(logging.DEBUG)
    write_dicom(tmp_path / "a.dcm", screen(1, "x"), PatientName="Quillfeather")  # highdicom would warn, with the name
    said = [write(out, tmp_path / "a.dcm")]

    def fails(*_):
        raise KeyError(NAME)

    monkeypatch.setattr(report, "report", fails)
    said += [write(out, tmp_path / "a.dcm", row=1), repr(read.dicom_source(tmp_path / "a.dcm"))]
    assert said[1] == f"{files.NO_REPORT}an error inside the program (KeyError)"
    everything = " ".join((*said, caplog.text, *(str(one.message) for one in recwarn), *map(str, out.iterdir())))
    assert "uillfeather" not in everything and "90210777" not in everything


def test_the_folder_is_the_owners_and_empty_at_the_start(tmp_path, source, out):
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    write(out, source)
    files.start(out, begun=True)
    with pytest.raises(files.DicomError, match="holds DICOM files already"):
        files.start(out, begun=False)


def test_without_highdicom_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(files.DicomError, match=r"pip install 'discovr_jax\[dicom\]'"):
        files.start(pathlib.Path(tmp_path / "x"), begun=False)
    assert not (tmp_path / "x").exists()
