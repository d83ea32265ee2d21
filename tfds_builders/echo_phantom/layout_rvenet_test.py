"""What is written is what a reader of RVENet expects, and its right ventricle ejects what the codebook says."""

import csv

import numpy as np
import pydicom
import pytest

from discovr_jax.data.read import read_video
from tfds_builders import splits
from tfds_builders.echo_phantom import dicom_files, files, layout_rvenet, layouts
from tfds_builders.echo_phantom.apical import FourChamber
from tfds_builders.echo_phantom.simulator import draw_heart, simulate

COUNTS = {"train": 3, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return layouts.write("rvenet", tmp_path_factory.mktemp("rvenet") / "native", COUNTS, 1, workers=1)


@pytest.fixture(scope="module")
def codebook(written):
    with (written / "codebook.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_codebook(written, codebook):
    header = (written / "codebook.csv").read_text().splitlines()[0]
    assert header == (
        "FileName,PatientHash,PatientGroup,Age,Sex,HR,UltrasoundSystem,FPS,NumFrames,"
        "VideoViewType,VideoOrientation,VideoQuality,RVEDV,RVESV,RVEF,Split"
    )
    # Patients 0 and 2 of a split have two clips.
    assert [row["Split"] for row in codebook] == ["train"] * 5 + ["validation"] * 4
    assert {path.stem for path in written.glob("*.dcm")} == {row["FileName"] for row in codebook}
    patients = {}
    for row in codebook:
        first, second, clip = row["FileName"].split("_")
        assert clip in ("01", "02")
        fixed = (first + second, row["RVEF"], row["RVEDV"], row["VideoOrientation"])
        assert patients.setdefault(row["PatientHash"], fixed) == fixed
        edv, esv = float(row["RVEDV"]), float(row["RVESV"])
        assert 100 * (1 - esv / edv) == pytest.approx(float(row["RVEF"]), abs=0.1)
        assert int(row["NumFrames"]) >= 20
        assert int(row["NumFrames"]) / float(row["FPS"]) >= 0.9 * 60 / int(row["HR"])
    assert len(patients) == 5
    validation = [splits.hashed_split(row["PatientHash"], 0, {"val": 1, "test": 1}) for row in codebook[5:]]
    assert validation == ["val", "val", "test", "test"]
    assert {row["VideoOrientation"] for row in codebook} == {"Mayo", "Stanford"}


def test_every_kind_of_object_shows_the_simulated_frames(written, codebook):
    kinds = set()
    for job, row in list(zip(layout_rvenet.jobs(COUNTS, 1), codebook, strict=True))[:5:2]:
        path = written / f"{job.name}.dcm"
        video, truth = read_video(path), files.read_truth(written, job.name)
        assert video.frames.shape == (int(row["NumFrames"]), 240, 320)
        assert video.fps == pytest.approx(float(row["FPS"]), rel=1e-4)
        clip = simulate(layout_rvenet.draw_right_heart(job, float(row["RVEF"])))
        top, left = 8, 62
        shown = video.frames[:, top : top + 196, left : left + 196]
        shown = shown[..., ::-1] if row["VideoOrientation"] == "Mayo" else shown
        small = shown[0].reshape(28, 7, 28, 7).mean(axis=(1, 3))
        expected = clip.frames[0].reshape(28, 4, 28, 4).mean(axis=(1, 3))
        inside = expected > 0
        assert np.abs(small - expected)[4:, 4:-4][inside[4:, 4:-4]].mean() < 2
        # Around the sector there is text, an ECG that moves, and a colour bar.
        around = np.where(truth["sector"], 0, video.frames)
        assert around[:, :60, :60].max() > 100 and around[:, 212:].max() > 100 and around[:, 16:106, 304:313].max() > 20
        assert (around[0, 212:] != around[-1, 212:]).any()
        assert truth["masks"].shape == (2, 240, 320) and set(np.unique(truth["masks"])) == {0, 1, 2, 3}
        cavity, wall = (video.frames[truth["mask_frames"][0]][truth["masks"][0] == label] for label in (1, 2))
        assert wall.mean() > cavity.mean()
        dataset = pydicom.dcmread(path)
        assert str(dataset.PatientName) == dicom_files.PATIENT_NAME
        region = dataset.SequenceOfUltrasoundRegions[0]
        rows = np.flatnonzero(truth["sector"].any(axis=1))
        assert (region.RegionLocationMinY0, region.RegionLocationMaxY1) == (rows[0], rows[-1])
        assert 10 * 1.75 * region.PhysicalDeltaX == pytest.approx(clip.heart.params.mm_per_pixel)
        kinds.add(dataset.PhotometricInterpretation)
    assert kinds == set(dicom_files.KINDS)


def test_the_right_ventricle_ejects_what_the_codebook_says(codebook):
    for job, row in zip(layout_rvenet.jobs(COUNTS, 1), codebook, strict=True):
        heart = FourChamber(layout_rvenet.draw_right_heart(job, float(row["RVEF"])))
        measured = 100 * (1 - heart.right_volume(1.0) / heart.right_volume(0.0))
        assert measured == pytest.approx(float(row["RVEF"]), abs=1.5)


def test_rvef_is_independent_of_the_left_heart_and_on_both_sides_of_45():
    drawn = [files.Job("", 2, "train", patient) for patient in range(400)]
    rvef = np.array([layout_rvenet.draw_rvef(job.rng(0)) for job in drawn])
    ef = [draw_heart(job.rng()).ef for job in drawn]
    assert abs(np.corrcoef(rvef, ef)[0, 1]) < 0.18  # 3.6 deviations of the correlation of 400 independent pairs
    assert rvef.min() >= 20 and rvef.max() <= 62 and 0.2 < (rvef <= 45).mean() < 0.45
