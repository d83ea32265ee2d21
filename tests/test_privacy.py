"""Names planted everywhere in a private archive, and looked for in all that is made from it."""

import contextlib
import csv
import dataclasses
import io
import json
import logging
import re
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from discovr_jax import extract, predict, prepare
from discovr_jax.convert import __main__ as convert
from discovr_jax.data import contact_sheet, manifest, records
from discovr_jax.runs import checkpoint
from tests import run_case
from tests.builder_case import write_table
from tests.chaos import laboratory

# Each also as UTF-16, and in any case. None of them could come about by chance.
PLANTED = (
    "quillfeather", "zebediah", "90210777", "19380228", "1938-02-28", "saint nowhere", "1.2.3.90210777", "dr mabuse",
    "privatetag5551", "overlaytext", "descripfield",
)  # fmt: skip
NAME = "Quillfeather^Zebediah"
FOLDER = "QUILLFEATHER_ZEBEDIAH_19380228"
# As small as it can be and still make everything that a run leaves behind.
TRAINED = {
    "data.dataset": "echo_folder",
    **dict.fromkeys((f"data.simulate.{split}" for split in records.SPLITS), 0),
    "duration": "2 steps",
    **dict.fromkeys(("loss.scd", "loss.phase", "loss.amplitude"), 0.0),  # one branch compiles soonest
    "model.positions": "1d",  # as the public code, which is written to
    "mask.video_views": 1,
    "mask.image_views": 1,
    "eval.readouts": "('cls',)",
    "eval.resamples": 10,
}
# For the ordinary tests: the evaluators that write ids of videos, and what heads keep.
FEW_EVALUATORS = """
from discovr_jax.configs import phantom

def get_config(argument):
    c = phantom.get_config(argument)
    for name in set(c.eval.evaluators) - {"knn", "probe", "lvef", "anomaly", "retrieval"}:
        del c.eval.evaluators[name]
    return c
"""
SECRETS = re.compile(
    b"|".join(re.escape(word.encode(code)) for word in PLANTED for code in ("utf-8", "utf-16-le")), re.IGNORECASE
)


def screen(seed: int, text: str) -> np.ndarray:
    """uint8 [8, 150, 200]: a sector of 100 x 120 pixels that flickers, and a name burnt in above it."""
    import cv2

    frames = np.zeros((8, 150, 200), np.uint8)
    frames[:, 30:130, 40:160] = np.random.default_rng(seed).integers(40, 200, (8, 100, 120))
    for frame in frames:
        cv2.putText(frame, text, (2, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1)
    return frames


def write_dicom(path, frames, **tags):
    """An object whose every kind of element holds a name."""
    import pydicom
    from pydicom import uid

    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = uid.UltrasoundMultiFrameImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3.90210777"
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.file_meta.SourceApplicationEntityTitle = "QUILLFEATHER"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = NAME, "MRN90210777", "19380228"
    ds.StudyInstanceUID = ds.SeriesInstanceUID = "1.2.3.90210777"
    ds.InstitutionName, ds.ReferringPhysicianName, ds.StudyDate = "Saint Nowhere", "Dr Mabuse", "19380228"
    ds.ImageComments = ds.SeriesDescription = f"seen: {NAME}"
    ds.private_block(0x0009, NAME, create=True).add_new(1, "LO", "PrivateTag5551")
    ds.add_new(0x60003000, "OW", b"OverlayText!")
    item = pydicom.Dataset()
    item.PatientID = "MRN90210777"
    ds.OtherPatientIDsSequence = [item]
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.FrameTime, ds.PixelData = "20", frames.tobytes()
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.save_as(path, enforce_file_format=True)


def write_video(path, frames, codec):
    """With a title, a comment and an artist that name the patient."""
    import av

    with av.open(str(path), "w") as container:
        for key in ("title", "comment", "artist"):
            container.metadata[key] = f"{NAME} MRN90210777"
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="gray").reformat(format=stream.pix_fmt)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def write_nifti(path, frames):
    import nibabel

    image = nibabel.Nifti1Image(frames.T, np.eye(4))
    image.header["descrip"], image.header["aux_file"] = b"DescripField", NAME.encode()
    image.header["intent_name"], image.header["db_name"] = b"Zebediah", b"Quillfeather"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", f"{NAME} MRN90210777".encode()))
    nibabel.save(image, path)


def write_archive(folder):
    """Videos of every format, sound and not, and the rows of their CSV."""
    folder.mkdir(parents=True)
    for number in range(12):
        clip = screen(number, "")[:, 40:120, 50:150]
        suffix, codec = ((".avi", "mjpeg"), (".mp4", "libx264"), (".mkv", "libx264"))[number % 3]
        write_video(folder / f"Quillfeather_{number:02}{suffix}", clip, codec)
    for number, suffix in enumerate((".nii.gz", ".nii")):
        write_nifti(folder / f"Quillfeather_90210777{suffix}", screen(20 + number, "")[:, 40:120, 50:150])
    write_dicom(folder / "Zebediah_a", screen(30, "QUILLFEATHER"))
    write_dicom(folder / "Zebediah_b.dcm", screen(30, "ZEBEDIAH 9"))
    sound = sorted(path.name for path in folder.iterdir())
    for name in sound:  # each cut off, and each in the words of another format
        suffix = "".join((folder / name).suffixes) or ".dcm"
        if not (folder / f"Quillfeather_cut{suffix}").exists():
            content = (folder / name).read_bytes()
            (folder / f"Quillfeather_cut{suffix}").write_bytes(content[: len(content) // 2])
            (folder / f"Quillfeather_text{suffix}").write_text(f"{NAME} MRN90210777 born 1938-02-28 " * 50)
    write_dicom(folder / "Quillfeather_kind.dcm", screen(1, "x"), PhotometricInterpretation="QUILLFEATHER")
    write_dicom(folder / "Quillfeather_rate.dcm", screen(2, "x"))
    rate = folder / "Quillfeather_rate.dcm"
    rate.write_bytes(rate.read_bytes().replace(b"DS\x02\x0020", b"DS\x0c\x00QUILLFEATHER"))
    np.save(folder / "Quillfeather_pickle.npy", np.array([{"name": NAME}], object))
    (folder / "Quillfeather_archive.npz").write_text(NAME)
    bad = sorted({path.name for path in folder.iterdir()} - set(sound))
    splits = ("train", "val", "test")
    rows = [
        (f"{FOLDER}/{name}", ("Normal", "Abnormal")[number // 3 % 2], f"MRN90210777-{name}",
         "test" if name.startswith("Zeb") else splits[number % 3], str(30 + 3 * number), NAME, "1938-02-28")
        for number, name in enumerate(sound)
    ]  # fmt: skip
    return rows, [(f"{FOLDER}/{name}", "", f"Zebediah {name}", "train", "", NAME, "1938-02-28") for name in bad]


@pytest.fixture(scope="module", params=["few evaluators", pytest.param("all", marks=pytest.mark.long)])
def made(request, tmp_path_factory):
    """All that is made from the archive, below one folder; and what was printed and logged meanwhile."""
    root = tmp_path_factory.mktemp("privacy")
    manual, out, private = root / "Quillfeather archive", root / "out", root / "private"
    sound, bad = write_archive(manual / FOLDER)
    header = ("Path", "class", "patient_id", "split", "ef", "name", "birth date")
    write_table(manual / "Zebediah.csv", header, sound + bad)
    environment = run_case.command_environment(run_case.session_folder(tmp_path_factory)) | laboratory.ONE_DEVICE
    printed, log = io.StringIO(), logging.StreamHandler()
    log.setStream(printed)
    for name in ("", "discovr_jax"):
        logging.getLogger(name).addHandler(log)
    logging.getLogger("discovr_jax").setLevel(logging.INFO)
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        run_case.compiled_programs(run_case.session_folder(tmp_path_factory)),
    ):
        command = ["echo_folder", f"--manual_dir={manual}", f"--data_dir={out / 'data'}", "--csv=Zebediah.csv"]
        command += [f"--private_dir={private}", "--workers=1"]
        assert prepare.main(command) == 1, "bad files stop a build"
        assert prepare.main([*command, f"--max_bad={len(bad)}"]) == 0
        directory = records.records_dir(out / "data", "echo_folder", "112")
        assert prepare.main(["check", str(directory)]) == 0
        arguments = {}
        if request.param != "all":
            (root / "few_evaluators.py").write_text(FEW_EVALUATORS)
            arguments = {"config": str(root / "few_evaluators.py:smoke"), "heads": {}}
        command = [sys.executable, "-m", "discovr_jax.main"]
        command += run_case.command_flags(out / "data", TRAINED, **arguments)
        command += [f"--workdir={out / 'run'}"]
        training = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert training.returncode == 0, training.stdout
        printed.write(training.stdout)
        features = out / "features.parquet"
        arguments = [f"--checkpoint={out / 'run'}", f"--input={manual}", f"--output={features}", "--ignore_fps"]
        assert extract.main([*arguments, "--hide_paths"]) == 0
        arguments = [f"--workdir={out / 'run'}", f"--input={manual}", f"--output={out / 'predictions.parquet'}"]
        assert predict.main([*arguments, "--ignore_fps", "--hide_paths", "--show_out_of_distribution"]) == 0
        exported = out / "exported.safetensors"
        assert convert.main(["to-torch", str(out / "run"), f"--output={exported}", "--allow=*"]) == 0
        sizes = ["--heads=2", "--decoder_heads=2", "--num_frames=8", "--image_size=32"]
        assert convert.main(["from-torch", str(exported), f"--output={out / 'converted'}", *sizes, "--allow=*"]) == 0
    for name in ("", "discovr_jax"):
        logging.getLogger(name).removeHandler(log)
    # The DICOM whose frame rate is a name is read, its rate unknown; the name stays in the file.
    return root, printed.getvalue(), len(sound) + 1, len(bad) - 1


def names_by_id(root) -> dict[str, str]:
    """{id: name of the file}, from the private folder."""
    with (root / "private" / "id_map.csv").open(newline="") as lines:
        return {row["id"]: row["path"].rsplit("/", 1)[-1] for row in csv.DictReader(lines)}


def found(content: bytes) -> set[bytes]:
    return {match.lower() for match in SECRETS.findall(content)}


def test_the_scan_sees_what_was_planted(made):
    """Otherwise the tests below could not fail."""
    root, *_ = made
    archive = b"".join(path.read_bytes() for path in (root / "Quillfeather archive").rglob("*") if path.is_file())
    assert {word.decode("utf-8") for word in found(archive)} == set(PLANTED)
    for suffix in ("avi", "mp4", "mkv"):
        assert found(next((root / "Quillfeather archive").rglob(f"*_0*.{suffix}")).read_bytes()), suffix
    assert found((root / "private" / "id_map.csv").read_bytes())


def test_nothing_planted_is_in_any_file_or_name(made):
    root, *_ = made
    files = [path for path in (root / "out").rglob("*") if path.is_file()]
    kinds = {path.name.split(".")[-1].split("-")[0] for path in files}
    assert {"array_record", "csv", "json", "jsonl", "html", "parquet", "safetensors", "png"} <= kinds
    assert any("events" in path.name for path in files) and (root / "out" / "run" / "checkpoints").is_dir()
    for path in files:
        assert not found(str(path.relative_to(root)).encode()), path
        assert not found(path.read_bytes()), path


def test_nothing_planted_is_in_what_is_stored_compressed(made):
    out = made[0] / "out"
    _, meta = checkpoint.read_arrays(out / "run", lambda name: name.startswith("teacher/video_encoder/"))
    predictions = pq.read_table(out / "predictions.parquet")
    drawn = [name for name in predictions.column_names if name.endswith("_png")]
    tables = (pq.read_table(out / "features.parquet"), predictions.drop_columns(drawn))
    for content in (meta, *(part for table in tables for part in (table.to_pylist(), str(table.schema)))):
        assert not found(json.dumps(content).encode())
    for table in tables:
        assert len(table) and all(re.fullmatch("[0-9a-f]{16}", row["id"]) for row in table.to_pylist())


def test_nothing_planted_is_printed_but_the_paths_that_the_user_gave(made):
    root, printed, _, bad = made
    # What holds no clip (stills, Doppler) is skipped, the rest is bad; the build says so, and then `check`.
    counts = [int(count) for count in re.findall(r"(?:hold no clip|quarantined): (\d+)", printed)]
    assert "CSV line" in printed and "error: " in printed and sum(counts) == 2 * bad
    assert "resumed" not in printed and "state on the mesh" in printed and "features in" in printed
    assert not found(printed.encode())


def test_every_bad_file_is_listed_by_line_and_id_alone(made):
    root, _, _, bad = made
    rows = []
    for name in ("quarantine.csv", "skipped.csv"):
        file = records.records_dir(root / "out" / "data", "echo_folder", "112") / name
        with file.open(newline="") as lines:
            rows += csv.DictReader(lines)
    assert len(rows) == bad
    assert all(re.fullmatch(r"[0-9a-f]{16}", row["file"]) for row in rows)
    assert all(re.match(rf"CSV line \d+: {row['file']}: \S", row["reason"]) for row in rows)


def test_burnt_in_names_leave_no_trace_in_the_frames(made):
    """Two objects with other names over the same sector give the same frames."""
    root, *_ = made
    names = names_by_id(root)
    rows = manifest.rows(records.records_dir(root / "out" / "data", "echo_folder", "112"))
    hashes = {names[row["id"]]: row["sha256"] for row in rows}
    assert hashes["Zebediah_a"] == hashes["Zebediah_b.dcm"]


def test_the_contact_sheet_shows_what_is_stored_and_no_more(made, tmp_path):
    """Drawn again from nothing but the records it is the same picture. The one in the private folder is not."""
    root, _, sound, _ = made
    ids = names_by_id(root)
    rng, places, pairs = np.random.default_rng(0), [], []
    for split in records.SPLITS:
        source = records.open_source(root / "out" / "data", "echo_folder", "112", split)
        places += [(source, index) for index in range(len(source))]
    assert len(places) == sound <= 24, "all are shown"
    rng.choice(len(places), sound, replace=False)
    for source, index in places:
        record = source[index]
        frame = contact_sheet.choose(record, rng)
        after = records.decode_frames(record["frames"], 112, 112, [frame], record_id=record["id"])[0]
        # Of the file's own frame only the size is told.
        whole = ids[record["id"]].startswith("Zebediah") or ids[record["id"]] == "Quillfeather_rate.dcm"
        size = (150, 200) if whole else (80, 100)
        pair = contact_sheet.pair(record, frame, after, np.zeros(size, np.uint8), source.split)
        pairs.append(dataclasses.replace(pair, before=None))
    contact_sheet.write(tmp_path / "sheet.png", pairs)
    sheet = next((root / "out" / "data").rglob("contact_sheet.png")).read_bytes()
    assert sheet == (tmp_path / "sheet.png").read_bytes()
    (private,) = (root / "private").glob("contact_sheet_echo_folder_112_*.png")
    assert sheet != private.read_bytes()
