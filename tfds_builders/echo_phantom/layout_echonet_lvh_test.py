"""What is written is what a reader of EchoNet-LVH expects, and the calipers end on the walls."""

import csv

import numpy as np
import pytest

from discovr_jax.data.read import read_video
from tfds_builders.echo_phantom import files, layout_echonet_lvh, layouts, long_axis

COUNTS = {"train": 3, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return layouts.write("echonet_lvh", tmp_path_factory.mktemp("lvh") / "native", COUNTS, 2, workers=1)


@pytest.fixture(scope="module")
def measured(written):
    """{name: {calc: row}}"""
    found = {}
    with (written / "MeasurementsList.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["HashedFileName"], {})[row["Calc"]] = row
    return found


def test_layout(written, measured):
    lines = (written / "MeasurementsList.csv").read_text().splitlines()
    assert lines[0] == ",HashedFileName,Calc,CalcValue,Frame,X1,X2,Y1,Y2,Frames,FPS,Width,Height,split"
    assert [line.split(",")[0] for line in lines[1:]] == [str(number) for number in range(4 * 5)]
    assert all(list(calcs) == ["IVSd", "LVIDd", "LVPWd", "LVIDs"] for calcs in measured.values())
    assert [calcs["IVSd"]["split"] for calcs in measured.values()] == ["train"] * 3 + ["val", "test"]
    videos = {path.stem: path for path in written.glob("Batch*/*.avi")}
    assert set(videos) == set(measured)
    assert {path.parent.name for path in videos.values()} == {"Batch1", "Batch2", "Batch3"}
    sizes = set()
    for name, calcs in measured.items():
        video = read_video(videos[name])
        row = calcs["IVSd"]
        assert video.frames.shape == (int(row["Frames"]), int(row["Height"]), int(row["Width"]))
        assert video.fps == pytest.approx(float(row["FPS"]))
        sector = files.read_truth(written, name)["sector"]
        assert video.frames[:, ~sector].mean() < 1 < video.frames[:, sector].mean()
        sizes.add(video.frames.shape[1:])
    assert len(sizes) == 3


def test_calipers_end_on_the_true_borders(written, measured):
    for name, calcs in measured.items():
        truth = files.read_truth(written, name)
        ed, es = truth["mask_frames"].tolist()
        line = []
        for calc, label in (("IVSd", 2), ("LVIDd", 1), ("LVPWd", 2), ("LVIDs", 1)):
            row = calcs[calc]
            assert int(row["Frame"]) == (es if calc == "LVIDs" else ed)
            first, second = (np.array([float(row[f"X{n}"]), float(row[f"Y{n}"])]) for n in (1, 2))
            assert first[0] <= second[0]
            # Along the caliper there is nothing but its label, but for its last pixel and a half.
            mask = truth["masks"][int(calc == "LVIDs")]
            length = np.linalg.norm(second - first)
            shares = np.linspace(1.5 / length, 1 - 1.5 / length, 20)[:, None]
            x, y = np.rint(first + shares * (second - first)).astype(int).T
            inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
            assert inside.any() and (mask[y[inside], x[inside]] == label).all(), (name, calc)
            line.append((length, float(row["CalcValue"]), {tuple(first), tuple(second)}))
        # One scale for all, and each begins where the one before it ends.
        scales = [value / length for length, value, _ in line]
        assert scales == pytest.approx([scales[0]] * 4, rel=0.03)
        assert line[0][2] & line[1][2] and line[1][2] & line[2][2] and not line[0][2] & line[2][2]


def test_thickness_is_that_of_normal_and_of_hypertrophied_hearts():
    drawn = [long_axis.draw_long_axis(np.random.default_rng(seed)) for seed in range(300)]
    septum = np.array([params.septum * params.mm_per_pixel / 10 for params in drawn])
    assert septum.min() >= 0.7 and septum.max() <= 2.0 and 0.15 < (septum >= 1.3).mean() < 0.45
    ef = np.array([params.ef for params in drawn])
    assert abs(np.corrcoef(septum, ef)[0, 1]) < 0.21  # 3.6 deviations of the correlation of 300 independent pairs


def test_diameter_falls_in_systole(measured):
    for calcs in measured.values():
        assert float(calcs["LVIDs"]["CalcValue"]) < float(calcs["LVIDd"]["CalcValue"])


def test_names_are_hash_like():
    for job in layout_echonet_lvh.jobs(COUNTS, 2):
        assert len(job.name) == 18 and int(job.name[2:], 16) >= 0
