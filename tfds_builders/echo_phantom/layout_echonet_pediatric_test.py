"""What is written is what a reader of EchoNet-Pediatric expects, and its tracings are the truth."""

import csv

import av
import numpy as np
import pytest

from tfds_builders import tracings
from tfds_builders.echo_phantom import files, layout_echonet_pediatric, layouts, views

COUNTS = {"train": 2, "val": 1, "test": 1}


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pediatric") / "native"
    return layouts.write("echonet_pediatric", directory, COUNTS, 3, workers=1)


@pytest.fixture(scope="module")
def root(written):
    return written / "pediatric_echo_avi" / "pediatric_echo_avi"


def test_layout(written, root):
    assert {path.name for path in root.iterdir()} == {"A4C", "PSAX"}
    listed = {}
    for view in ("A4C", "PSAX"):
        assert (root / view / "FileList.csv").read_text().splitlines()[0] == "FileName,EF,Sex,Age,Weight,Height,Split"
        listed[view] = table(root / view / "FileList.csv")
        videos = {path.name for path in (root / view / "Videos").iterdir()}
        assert videos == {row["FileName"] for row in listed[view]}
    # Patients 0 have a second A4C clip, patient 1 of train a second PSAX clip.
    assert [row["Split"] for row in listed["A4C"]] == ["0", "0", "1", "8", "8", "9", "9"]
    assert [row["Split"] for row in listed["PSAX"]] == ["0", "1", "1", "8", "9"]
    ef = {}
    for row in listed["A4C"] + listed["PSAX"]:
        patient, study, instance = row["FileName"].removesuffix(".avi").split("-")
        assert len(row["FileName"]) == 30 and patient[:2] == study[:2] == "CR"
        assert instance in ("000001", "000002", "000003")
        ef.setdefault(patient, set()).add(row["EF"])
        assert 15 <= float(row["EF"]) <= 75 and 0 <= int(row["Age"]) <= 17 and row["Sex"] in "FM"
    assert len(ef) == 4 and all(len(values) == 1 for values in ef.values())
    assert {row["EF"] for row in table(written / "attributes.csv")} == set.union(*ef.values())
    with av.open(str(root / "PSAX" / "Videos" / listed["PSAX"][0]["FileName"])) as container:
        assert {(frame.height, frame.width) for frame in container.decode(video=0)} == {(112, 112)}


def test_contours_are_whole_pixels_systole_first_and_give_the_true_masks(written, root):
    dice, placeholders = [], 0
    for view in ("A4C", "PSAX"):
        path = root / view / "VolumeTracings.csv"
        assert path.read_text().splitlines()[0] == "FileName,X,Y,Frame"
        traced = {}
        for row in table(path):
            traced.setdefault(row["FileName"], {}).setdefault(row["Frame"], []).append((row["X"], row["Y"]))
        for name, frames in traced.items():
            truth = files.read_truth(written, name.removesuffix(".avi"))
            ed, es = truth["mask_frames"].tolist()
            if "No Systolic" in frames:
                assert frames.pop("No Systolic") == [("", "")] and list(frames) == [str(ed)]
                placeholders += 1
            else:
                assert list(frames) == [str(es), str(ed)]
            for frame, points in frames.items():
                mask, flags = tracings.contour_mask(np.array([(int(x), int(y)) for x, y in points]), 112, 112)
                cavity = truth["masks"][[ed, es].index(int(frame))] == 1
                dice.append(2 * (mask & cavity).sum() / (mask.sum() + cavity.sum()))
                assert not flags
    assert placeholders == 3 and len(dice) == 2 * 12 - 3
    assert np.mean(dice) > 0.985 and min(dice) > 0.97


def test_the_study_s_ef_is_that_of_each_clip(written):
    for row in table(written / "attributes.csv"):
        truth = files.read_truth(written, row["FileName"])
        area = (truth["masks"] == 1).sum(axis=(1, 2))
        assert area[1] < area[0]
        if row["View"] == "PSAX":
            job = next(job for job in layout_echonet_pediatric.jobs(COUNTS, 3) if job.name == row["FileName"])
            heart = views.VIEWS["PSAX"].heart(views.draw_patient(job))
            # The bullet formula: 5/6 of the area in this view times the length of the axis.
            share = heart.axis_length(1.0) / heart.axis_length(0.0)
            assert 100 * (1 - area[1] / area[0] * share) == pytest.approx(float(row["EF"]), abs=3)
