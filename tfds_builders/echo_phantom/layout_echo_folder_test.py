"""Every format holds the simulated frames, and the CSV describes them."""

import csv

import numpy as np
import pytest

from discovr_jax.data.read import read_video
from tfds_builders.echo_phantom import files, layout_echo_folder, layouts, scanner, views
from tfds_builders.echo_phantom.simulator import simulate

COUNTS = {"train": 3, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return layouts.write("echo_folder", tmp_path_factory.mktemp("folder") / "native", COUNTS, 6, workers=1)


@pytest.fixture(scope="module")
def labels(written):
    with (written / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv(written, labels):
    assert list(labels[0]) == ["Path", "class", "patient_id", "split", "ef", "fps", "view"]
    assert [row["split"] for row in labels] == ["train"] * 5 + ["val"] * 2 + ["test"] * 2
    shown = {path.relative_to(written).as_posix() for path in written.rglob("*.*") if ".truth" not in path.parts}
    assert shown == {row["Path"] for row in labels} | {"labels.csv", "attributes.csv", "phantom.json"}
    patients = {}
    for row in labels:
        assert row["class"] == ("Normal" if float(row["ef"]) >= 50 else "Abnormal")
        fixed = (row["split"], row["ef"], row["Path"].rpartition("/")[0])
        assert patients.setdefault(row["patient_id"], fixed) == fixed
    assert len(patients) == 5
    assert {row["view"] for row in labels} == {"A4C", "PSAX", "PLAX", "A2C"}


def test_every_format_shows_the_simulated_frames(written, labels):
    suffixes = set()
    jobs = layout_echo_folder.jobs(COUNTS, 6)
    for job, row in list(zip(jobs, labels, strict=True))[: len(layout_echo_folder.SUFFIXES)]:
        assert job.name == row["Path"]
        suffixes.add("." + job.name.partition(".")[2])
        video, truth = read_video(written / job.name), files.read_truth(written, job.name)
        clip = simulate(views.draw_patient(job), job.view)
        sector = truth["sector"]
        assert video.frames.shape == (len(clip.frames), *sector.shape)
        assert truth["mask_frames"].tolist() == list(clip.traced_frames)
        if job.name.endswith((".avi", ".mp4", ".dcm", ".mkv")):
            assert video.fps == pytest.approx(float(row["fps"]), rel=1e-3)
        simulated = clip.frames[:, ~scanner.outside(clip.heart.params)].mean(axis=1)
        shown = video.frames[:, sector].mean(axis=1)
        assert np.corrcoef(shown, simulated)[0, 1] > 0.99 and shown.mean() == pytest.approx(simulated.mean(), rel=0.05)
        text_in_the_corner = video.frames[:, :14, :20].max() > 100
        assert text_in_the_corner == job.name.endswith(".dcm")
    assert suffixes == set(layout_echo_folder.SUFFIXES)


def test_a_patient_s_clips_are_of_one_heart(labels):
    jobs = layout_echo_folder.jobs(COUNTS, 6)
    drawn = [views.draw_patient(job) for job in jobs[:2]]
    assert (jobs[0].patient, jobs[0].view) == (jobs[1].patient, "A4C") and jobs[1].view == "PSAX"
    assert drawn[0].ef == drawn[1].ef and drawn[0].gain != drawn[1].gain
