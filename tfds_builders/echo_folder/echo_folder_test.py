"""A folder of a lab's own, made here: every format, a CSV with oddities, and names that must not get out."""

import csv
import hashlib
import math
import pathlib
import re

import numpy as np
import pydicom
import pytest
from pydicom import examples, uid

from discovr_jax import prepare
from discovr_jax.data import audit, private, records
from discovr_jax.data.letterbox import letterbox
from discovr_jax.data.read import read_video
from discovr_jax.data.sector import isolate_video
from tests.builder_case import BuilderCase, moving_square, notes, split_of, write_table, write_video
from tfds_builders.echo_folder import echo_folder_dataset_builder as echo_folder
from tfds_builders.tables import SourceError

REAL = pathlib.Path("/work/shared/real_echo/videos")
HEADER = ("Path", "class", "patient_id", "split", "ef", "fps", "view", "study_id")
ROWS = (
    ("site/case_1/clip03.avi", "Normal", "7", "train", "61.5", "40", "A4C", "March"),
    ("site/case_1/clip04", "Normal", "7.0", "train", "", "", "", "March"),
    ("site/case_2/scan", "Abnormal", "8", "val", "nan", "", "PLAX", ""),
    ("series.nii.gz", "", "9", "test", "35", "", "", ""),
)


def write_dicom(path, frames, **tags):
    """A multi-frame object of grey or RGB frames, with a patient's name."""
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = uid.UltrasoundMultiFrameImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.471147114711"
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Featherstone^Mildred", "MRN47114711", "19470811"
    ds.InstitutionName, ds.StudyInstanceUID = "Saint Elsewhere", "1.2.3.471147114711"
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames.shape[:3]
    ds.SamplesPerPixel = frames.shape[3] if frames.ndim == 4 else 1
    ds.PhotometricInterpretation = "RGB" if frames.ndim == 4 else "MONOCHROME2"
    if frames.ndim == 4:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.FrameTime, ds.PixelData = "20", frames.tobytes()
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.save_as(path, enforce_file_format=True)


def write_nifti(path, frames, spacing=(1.0, 1.0)):
    """spacing: millimetres, row then column."""
    import nibabel

    nibabel.save(nibabel.Nifti1Image(frames.T, np.diag([spacing[1], spacing[0], 1, 1])), path)


def screen(seed=0, colour=False):
    """uint8 [8, 150, 200]: a sector of 100 x 120 pixels that flickers, a name written above it; colour in RGB."""
    import cv2

    frames = np.zeros((8, 150, 200), np.uint8)
    frames[:, 30:130, 40:160] = np.random.default_rng(seed).integers(40, 200, (8, 100, 120))
    for frame in frames:
        cv2.putText(frame, "DOE JANE", (2, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1)
    frames = np.repeat(frames[..., None], 3, axis=3)
    if colour:
        frames[:, 60:90, 80:110] = 230, 20, 20
    return frames


def written(directory):
    """Every byte of every file, and every name."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    names = [str(path.relative_to(directory)).encode() for path in files]
    return b"\n".join([path.read_bytes() for path in files] + names)


def table(path):
    """Rows of a CSV file, as dicts."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def id_map(private):
    """{name of the file: its id}"""
    with open(private / "id_map.csv", newline="") as file:
        return {pathlib.Path(row["path"]).name: row["id"] for row in csv.DictReader(file)}


def fields(directory, *names):
    """{id: values} over all splits."""
    found = {}
    for source in audit.open_all(directory).values():
        columns = records.record_fields(source, ["id", *names])
        found |= {str(row[0]): row[1:] for row in zip(*(columns[name] for name in ("id", *names)), strict=True)}
    return found


def record(directory, name):
    """The record with an id."""
    for source in audit.open_all(directory).values():
        for index in range(len(source)):
            if source[index]["id"] == name:
                return source[index]
    raise AssertionError(name)


class TestEchoFolder(BuilderCase):
    builder = echo_folder.Builder

    def write_source(self, directory):
        for case in ("case_1", "case_2"):
            (directory / "site" / case).mkdir(parents=True)
        write_video(directory / "site/case_1/clip03.avi", moving_square(6, seed=1))
        write_video(directory / "site/case_1/clip04.MKV", moving_square(6, 90, 70, seed=2))
        write_dicom(directory / "site/case_2/scan", screen())
        write_nifti(directory / "series.nii.gz", moving_square(5, 60, 80, seed=3))
        write_table(directory / "list.csv", HEADER, ROWS)

    def break_source(self, directory):
        file = directory / "site/case_1/clip03.avi"
        file.write_bytes(file.read_bytes()[:2000])
        return {"CSV line 2", "decoding failed"}

    def prepare(self, directory, data_dir, config="112", **options):
        private = directory.parent / "private"
        options = {"private_dir": str(private), "csv": "list.csv"} | options
        return super().prepare(directory, data_dir, config, **options)

    def test_what_the_csv_says_is_kept(self, prepared, source):
        ids = id_map(source.parent / "private")
        found = fields(prepared, "ef", "fps", "view", "source_label", "patient_id", "num_frames", "study_id")
        first, second = found[ids["clip03.avi"]], found[ids["clip04.MKV"]]
        assert first[:4] == (61.5, 40, "A4C", 0) and first[5] == 6
        assert math.isnan(second[0]) and second[1] == 50 and second[2] == ""
        assert first[4] == second[4]  # "7" and "7.0" are one patient
        studies = [found[ids[name]][6] for name in ("clip03.avi", "clip04.MKV", "scan", "series.nii.gz")]
        assert studies[0] == studies[1] != studies[2] and studies[3] == ""  # of DICOM files their own, unless named
        salt = private.open_salt(source.parent / "private")
        assert studies[0] == private.salted_id(salt, "study March")
        assert studies[2] == private.salted_id(salt, "study 1.2.3.471147114711")
        assert found[ids["scan"]][1:4] == (50, "PLAX", 1)  # 20 ms per frame
        assert found[ids["series.nii.gz"]][0] == 35 and found[ids["series.nii.gz"]][3] == -1
        splits = split_of(prepared)
        assert [splits[ids[name]] for name in ("clip03.avi", "clip04.MKV", "scan", "series.nii.gz")] == [
            "train", "train", "val", "test",
        ]  # fmt: skip
        assert notes(prepared) == {"videos_without_row": 0, "class_unknown": 1, "patients_unknown": 0}
        assert audit.metadata(prepared)["disjoint_by_patient"].startswith("verified")

    def test_the_sector_alone_is_kept_at_its_proportions(self, prepared, source):
        stored = record(prepared, id_map(source.parent / "private")["scan"])
        frames = records.decode_frames(stored["frames"], 112, 112)
        alone, _ = isolate_video(read_video(source / "site/case_2/scan"))
        np.testing.assert_array_equal(frames, letterbox(alone.frames, 112)[0])
        seen = frames.max(0) > 20
        height, width = (np.ptp(np.flatnonzero(seen.any(axis))) + 1 for axis in (1, 0))
        assert width == 112 and height == pytest.approx(112 * 100 / 120, abs=3)
        assert set(stored["flags"]) == {"sector_isolated", "resized"}

    def test_the_whole_frame_on_request(self, source, tmp_path):
        directory = self.prepare(source, tmp_path / "records", whole_frame=True)
        stored = record(directory, id_map(source.parent / "private")["scan"])
        whole = read_video(source / "site/case_2/scan").frames
        np.testing.assert_array_equal(
            records.decode_frames(stored["frames"], 112, 112), letterbox(whole, 112)[0]
        )
        assert audit.metadata(directory)["options"]["whole_frame"] is True

    def test_spacing_is_carried_to_the_record(self, source, tmp_path):
        """80 columns of 0.5 mm and 60 rows of 1 mm: 60 mm high and 40 wide, so 112 pixels are 60 mm."""
        write_nifti(source / "series.nii.gz", moving_square(5, 60, 80, seed=3), (1.0, 0.5))
        directory = self.prepare(source, tmp_path / "records")
        stored = record(directory, id_map(source.parent / "private")["series.nii.gz"])
        np.testing.assert_allclose(stored["pixel_spacing"], 60 / 112, rtol=0.02)

    def test_without_a_csv_every_file_is_taken_unlabelled(self, source, tmp_path):
        private = source.parent / "private"
        private.mkdir()
        (private / "salt").write_text("00" * 32)  # of which the splits follow
        for number in range(24):
            np.save(source / f"{number}.npy", moving_square(3, seed=number))
        (source / "notes.txt").write_text("no video")
        (source / ".hidden.avi").write_text("no video")
        (source / "DICOMDIR").write_bytes((source / "site/case_2/scan").read_bytes())
        directory = self.prepare(source, tmp_path / "records", csv=None)
        found = fields(directory, "source_label", "patient_id")
        assert len(found) == 28 and {int(label) for label, _ in found.values()} == {-1}
        assert len({patient for _, patient in found.values()}) == 28
        assert set(split_of(directory).values()) == {"train", "val", "test"}
        assert notes(directory) == {"class_unknown": 28, "patients_unknown": 28, "not_read .txt": 1}
        assert audit.metadata(directory)["disjoint_by_patient"].startswith("cannot be verified")

    def test_the_folder_may_name_the_patient(self, source, tmp_path):
        write_table(source / "list.csv", HEADER[:2], [row[:2] for row in ROWS])
        directory = self.prepare(source, tmp_path / "records", patient_from="folder")
        found = fields(directory, "patient_id")
        ids = id_map(source.parent / "private")
        assert found[ids["clip03.avi"]] == found[ids["clip04.MKV"]] != found[ids["scan"]]
        assert notes(directory)["patients_unknown"] == 1  # the file that lies in no folder
        with pytest.raises(SourceError, match="--patient_from"):
            self.prepare(source, tmp_path / "other", patient_from="name")

    def test_the_salt_makes_ids_and_splits_and_is_kept(self, source, prepared, tmp_path):
        private = source.parent / "private"
        again = self.prepare(source, tmp_path / "again")
        assert set(fields(again)) == set(fields(prepared)) == set(id_map(private).values())
        other = self.prepare(source, tmp_path / "other", private_dir=str(tmp_path / "elsewhere"))
        assert not set(fields(other)) & set(fields(prepared))
        assert {path.name for path in private.glob("*.csv")} == {"id_map.csv", "patient_map.csv"}
        assert all(path.stat().st_mode & 0o077 == 0 for path in private.iterdir())
        with open(private / "patient_map.csv", newline="") as file:
            assert sorted(row["patient"] for row in csv.DictReader(file)) == ["7", "8", "9"]

    def test_the_names_are_kept_apart_from_the_records(self, source, tmp_path):
        with pytest.raises(SourceError, match="--private_dir=DIR"):
            self.prepare(source, tmp_path / "records", private_dir=None)
        for place in ("records", "records/private"):
            with pytest.raises(SourceError, match="apart from the records"):
                self.prepare(source, tmp_path / "records", private_dir=str(tmp_path / place))

    def test_paths_are_shown_on_request(self, source, tmp_path):
        self.break_source(source)
        directory = self.prepare(source, tmp_path / "records", show_paths=True, private_dir=None, max_bad=1)
        found = fields(directory, "study_id")
        assert found.keys() == {"site/case_1/clip04.MKV", "site/case_2/scan", "series.nii.gz"}
        assert {study for (study,) in found.values()} == {"March", ""}  # of the CSV, none of a DICOM header
        assert "site/case_1/clip03.avi,CSV line 2: site/case_1/clip03.avi: decoding" in (
            directory / "quarantine.csv"
        ).read_text().replace('"', "")

    def test_paths_are_shown_and_the_raw_contact_sheet_is_kept_apart(self, source, tmp_path):
        for data_dir in ("a/records", "b/records"):  # which share the folder and keep a sheet each
            self.prepare(source, tmp_path / data_dir, show_paths=True, private_dir=str(tmp_path / "apart/from/all"))
        sheets = (tmp_path / "apart/from/all").iterdir()
        assert [re.sub(r"_\w{8}\.", "_HASH.", path.name) for path in sheets] == [
            "contact_sheet_echo_folder_112_HASH.png"
        ] * 2

    @pytest.mark.parametrize("form", ["bom", "crlf", "case", "integers", "quotes", "absolute", "backslash"])
    def test_forms_of_the_same_csv(self, source, prepared, tmp_path, form):
        file = source / "list.csv"
        text = file.read_text()
        if form == "case":
            text = text.replace("Path,class,patient_id", "PATH, CLASS ,Patient_ID")
        elif form == "integers":
            text = text.replace("7.0", "7").replace(",40,", ",40.0,").replace(",35,", ",35.000,")
        elif form == "quotes":
            text = re.sub(r"^([^,]+),", r'"\1",', text, flags=re.M)
        elif form == "absolute":
            text = text.replace("site/case_2/scan", str(source / "site/case_2/scan"))
        elif form == "backslash":
            text = text.replace("site/case_1/clip04", "site\\case_1\\clip04")
        data = text.encode("utf-8-sig" if form == "bom" else "utf-8")
        file.write_bytes(data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") if form == "crlf" else data)
        directory = self.prepare(source, tmp_path / "again")
        assert (directory / "manifest.csv").read_bytes() == (prepared / "manifest.csv").read_bytes()
        before, again = (audit.metadata(path) for path in (prepared, directory))
        # The hash is of the file as it is: bytes that differ are another CSV.
        assert before.pop("csv") != again.pop("csv") or form == "crlf"
        assert before == again

    def test_videos_that_are_no_use_are_listed_with_the_reason(self, source, tmp_path):
        write_video(source / "still.avi", moving_square(1))
        (source / "empty.avi").touch()
        (source / "text.mp4").write_text("no video")
        write_dicom(source / "doppler.dcm", screen(colour=True))
        write_dicom(source / "one.dcm", screen()[:1])
        names = ("still", "empty", "text", "doppler", "one")
        rows = [(name, "Normal", name, "train", "", "", "", "") for name in names]
        write_table(source / "list.csv", HEADER, [*ROWS, *rows])
        directory = self.prepare(source, tmp_path / "records", max_bad=2)
        bad, skipped = (table(directory / name) for name in ("quarantine.csv", "skipped.csv"))
        assert (len(bad), len(skipped)) == (2, 3)
        reasons = {row["file"]: row["reason"] for row in bad + skipped}
        ids = {name.partition(".")[0]: key for name, key in id_map(source.parent / "private").items()}
        for name, line, reason in (
            ("still", 6, "a still"), ("empty", 7, "0 bytes"), ("text", 8, "decoding failed"),
            ("doppler", 9, "colour Doppler"), ("one", 10, "a still"),
        ):  # fmt: skip
            assert re.match(rf"CSV line {line}: {ids[name]}: .*{reason}", reasons[ids[name]]), name
        kept = self.prepare(source, tmp_path / "kept", max_bad=2, keep_doppler=True)
        assert "colour_doppler" in record(kept, ids["doppler"])["flags"]

    def test_odd_sizes(self, source, tmp_path):
        for number, (height, width) in enumerate(((97, 131), (301, 57), (40, 500))):
            np.save(source / f"odd{number}.npy", moving_square(4, height, width, seed=number))
        directory = self.prepare(source, tmp_path / "records", csv=None)
        assert audit.check(directory) == [] and len(fields(directory)) == 7

    def test_nothing_that_names_a_patient_gets_out(self, source, tmp_path, capfd):
        """Names in tags, pixels, paths and cells, in files that are sound and files that are not."""
        folder = source / "FEATHERSTONE^MILDRED_19470811"
        folder.mkdir()
        write_dicom(folder / "Featherstone.Mildred.MRN47114711", screen(1))
        write_dicom(folder / "Featherstone_cut.dcm", screen(2))
        (folder / "Featherstone_cut.dcm").write_bytes((folder / "Featherstone_cut.dcm").read_bytes()[:-50])
        (folder / "Featherstone_text.avi").write_text("MILDRED FEATHERSTONE MRN47114711" * 100)
        (folder / "Featherstone_empty.mkv").touch()
        write_dicom(folder / "Featherstone_doppler.dcm", screen(3, colour=True))
        np.save(folder / "Featherstone_pickle.npy", np.array([{"name": "Featherstone"}], object))
        files = sorted(path.relative_to(source).as_posix() for path in folder.iterdir())
        study = "MILDRED FEATHERSTONE 1947-08-11"
        patient = ("Normal", "MRN47114711", "train", "", "", "", study, "MILDRED FEATHERSTONE", "1947-08-11")
        rows = [(*row, *patient[-2:]) for row in ROWS]
        rows += [(name, *patient) for name in (*files, "FEATHERSTONE^MILDRED_19470811/gone.avi")]
        write_table(source / "list.csv", (*HEADER, "name", "birth date"), rows)
        private, out = tmp_path / "private", tmp_path / "out"
        command = ["echo_folder", f"--manual_dir={source}", f"--data_dir={out}", "--csv=list.csv"]
        command.append(f"--private_dir={private}")
        assert prepare.main(command) == 1
        assert prepare.main([*command, "--max_bad=5"]) == 0
        directory = records.records_dir(out, "echo_folder", "112")
        assert prepare.main(["check", str(directory)]) == 0
        printed = "".join(capfd.readouterr())
        assert "quarantined: 5" in printed and "hold no clip: 1" in printed and "CSV line" in printed
        secrets = re.compile(rb"featherstone|mildred|mrn4711|47114711|19470811|1947-08-11|elsewhere", re.I)
        for content in (written(out), printed.replace(str(source), "").encode()):
            assert secrets.findall(content) == []
        assert b"Featherstone.Mildred.MRN47114711" in written(private) and len(fields(directory)) == 5
        # What the scanner wrote into the picture is black.
        stored = record(directory, id_map(private)["Featherstone.Mildred.MRN47114711"])
        frames = records.decode_frames(stored["frames"], 112, 112)
        alone, _ = isolate_video(read_video(folder / "Featherstone.Mildred.MRN47114711"))
        assert alone.frames.shape[1] < 115 and np.array_equal(frames, letterbox(alone.frames, 112)[0])

    def test_real_dicom(self, source, tmp_path):
        target = source / "scan.dcm"
        target.write_bytes(pathlib.Path(examples.get_path("ybr_color")).read_bytes())
        directory = self.prepare(source, tmp_path / "records", csv=None)
        stored = record(directory, id_map(source.parent / "private")["scan.dcm"])
        assert stored["num_frames"] == 30 and stored["fps"] == pytest.approx(30, abs=0.01)
        frames = records.decode_frames(stored["frames"], 112, 112)
        # Above and below the fan is the letterbox; beside its tip was text.
        assert frames[:, :14].max() == 0 and frames[:, 15:40, :20].max() == 0 and frames[:, 15:40, -20:].max() == 0

    @pytest.mark.skipif(not REAL.is_dir(), reason=f"the real clips are not at {REAL}")
    def test_real_clips_are_stored_as_they_are(self, source, tmp_path):
        folder = tmp_path / "real"
        folder.mkdir()
        for path in sorted(REAL.glob("*.avi"))[:2]:
            (folder / path.name).symlink_to(path)
        directory = self.prepare(folder, tmp_path / "records", csv=None, private_dir=str(tmp_path / "private"))
        for path in folder.iterdir():
            stored = record(directory, id_map(tmp_path / "private")[path.name])
            frames = records.decode_frames(stored["frames"], 112, 112)
            np.testing.assert_array_equal(frames, read_video(path).frames)
            assert stored["flags"] == []


def test_records_of_another_csv_are_not_passed_off_as_these(tmp_path, capsys):
    """Labels that come later would otherwise be read by nobody, and nothing would say so."""
    (tmp_path / "videos").mkdir()
    for number in range(3):
        np.save(tmp_path / "videos" / f"{number}.npy", moving_square(4, seed=number))
    labels, hers = tmp_path / "list.csv", [f"--private_dir={tmp_path / 'private'}", "--workers=1"]
    write_table(labels, ("Path", "class"), [("0.npy", "Normal"), ("1.npy", "Normal"), ("2.npy", "Abnormal")])

    def run(data_dir, *options):
        command = ["echo_folder", f"--manual_dir={tmp_path / 'videos'}", f"--data_dir={tmp_path / data_dir}"]
        code, said = prepare.main([*command, *hers, *options]), capsys.readouterr()
        return code, said.out + said.err

    csv_given = f"--csv={labels}"
    code, said = run("unlabelled")
    assert code == 0 and "  patient unknown: 3 files" in said
    assert "  frame rate unknown: 3 of 3 (give `fps` in the CSV)" in said
    assert "already complete" in run("unlabelled")[1]
    code, said = run("unlabelled", csv_given)
    assert code == 1 and "made without a CSV, and one is given. Remove it, or choose another --data_dir." in said
    code, said = run("labelled", csv_given)
    assert code == 0 and re.search(r"\nnote: .* \(class\): no AUROC there; `--split=stratified:70/10/20 --strat", said)
    code, said = run("labelled", csv_given)
    assert code == 0 and "already complete" in said
    assert "made with a CSV, and none is given" in run("labelled")[1]
    metadata = next((tmp_path / "labelled").rglob("metadata.json")).read_text()
    assert hashlib.sha256(labels.read_bytes()).hexdigest()[:16] not in metadata
    labels.write_text(labels.read_text().replace("Normal", "Abnormal"))
    code, said = run("labelled", csv_given)
    assert code == 1 and "made with another CSV" in said
