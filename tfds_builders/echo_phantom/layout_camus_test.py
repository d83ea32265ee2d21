"""What is written is what a reader of CAMUS expects: orientation, spacing, frames, masks and EF."""

import nibabel
import numpy as np
import pytest

from tfds_builders.echo_phantom import files, layout_camus, layouts, measure, scanner, screen, views
from tfds_builders.echo_phantom.simulator import simulate

COUNTS = {"train": 2, "val": 1, "test": 1}
NAMES = [f"patient{number:04d}_{chamber}" for number in range(1, 5) for chamber in ("2CH", "4CH")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return layouts.write("camus", tmp_path_factory.mktemp("camus") / "native", COUNTS, 4, workers=1)


def load(written, name, ending):
    return nibabel.load(written / "database_nifti" / name.split("_")[0] / f"{name}_{ending}.nii.gz")


def info(written, name):
    patient, chamber = name.split("_")
    lines = (written / "database_nifti" / patient / f"Info_{chamber}.cfg").read_text().splitlines()
    return dict(line.split(": ") for line in lines)


def test_files(written):
    for group, numbers in (("training", (1, 2)), ("validation", (3,)), ("testing", (4,))):
        listed = (written / "database_split" / f"subgroup_{group}.txt").read_text()
        assert listed == "".join(f"patient{number:04d}\n" for number in numbers)
    found = {path.name for path in (written / "database_nifti" / "patient0002").iterdir()}
    kinds = [f"{what}{ending}" for what in ("ED", "ES", "half_sequence") for ending in ("", "_gt")]
    assert found == {f"patient0002_{chamber}_{kind}.nii.gz" for chamber in ("2CH", "4CH") for kind in kinds} | {
        "Info_2CH.cfg",
        "Info_4CH.cfg",
    }


def test_frames_and_spacing(written):
    reversed_order = 0
    for number, name in enumerate(NAMES):
        values, sequence = info(written, name), load(written, name, "half_sequence")
        assert list(values) == ["ED", "ES", "NbFrame", "Sex", "Age", "ImageQuality", "EF", "FrameRate"]
        array, masks = np.asarray(sequence.dataobj), np.asarray(load(written, name, "half_sequence_gt").dataobj)
        ed, es = int(values["ED"]) - 1, int(values["ES"]) - 1
        assert array.dtype == masks.dtype == np.uint8 and array.shape == masks.shape
        assert {ed, es} == {0, int(values["NbFrame"]) - 1} and array.shape[2] == int(values["NbFrame"])
        reversed_order += ed > es
        for phase, index in (("ED", ed), ("ES", es)):
            for ending, whole in (("", array), ("_gt", masks)):
                single = np.asarray(load(written, name, phase + ending).dataobj)
                # Patients 0 of a split have 2-D files, patient 1 of train a third axis of 1.
                assert single.ndim == (3 if number in (2, 3) else 2)
                assert np.array_equal(np.squeeze(single), whole[..., index])
        lateral, depth = sequence.header.get_zooms()[:2]
        assert depth < 0.8 * lateral and array.shape[0] != array.shape[1]
    assert reversed_order == 2  # both views of the second patient


def test_x_is_lateral_and_y_is_depth(written):
    jobs = layout_camus.jobs(COUNTS, 4)
    for name, job in zip(NAMES, jobs, strict=True):
        params = layout_camus.draw(job)
        image = load(written, name, "ED")
        array = np.squeeze(np.asarray(image.dataobj))
        inside = ~scanner.outside(params)
        size = inside.any(axis=0).sum(), inside.any(axis=1).sum()
        # As many mm as the simulated sector, in each direction.
        spans = np.array(image.header.get_zooms()[:2]) * array.shape[:2]
        assert spans == pytest.approx(np.array(size) * params.mm_per_pixel, rel=1e-5)
        # The sector is narrow near the probe, at the lowest y.
        width = (array > 0).any(axis=1).sum()
        assert (array[:, : array.shape[1] // 10] > 0).any(axis=1).sum() < 0.5 * width
        # The atrium lies deeper than the ventricle.
        masks = np.squeeze(np.asarray(load(written, name, "ED_gt").dataobj))
        assert set(np.unique(masks)) == {0, 1, 2, 3}
        assert np.argwhere(masks == 3)[:, 1].mean() > np.argwhere(masks == 1)[:, 1].mean()


def test_four_chamber_frames_are_the_simulated_ones(written):
    job = layout_camus.jobs(COUNTS, 4)[1]
    clip = simulate(layout_camus.draw(job), "A4C")
    array = np.squeeze(np.asarray(load(written, NAMES[1], "ED").dataobj)).T
    inside = ~scanner.outside(clip.heart.params)
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    expected = clip.frames[clip.ed_frame][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    quarters = [[part.mean() for half in np.array_split(image, 2) for part in np.array_split(half, 2, axis=1)]
                for image in (array, expected)]  # fmt: skip
    assert quarters[0] == pytest.approx(quarters[1], abs=1.5)


def test_the_ef_is_that_of_the_masks_of_both_views(written):
    for patient in range(4):
        names = NAMES[2 * patient : 2 * patient + 2]
        listed = {info(written, name)["EF"] for name in names}
        assert len(listed) == 1
        shares = []
        for name in names:
            truth = files.read_truth(written, name)
            zooms = load(written, name, "ED").header.get_zooms()[:2]
            assert truth["mask_frames"].tolist() == [int(info(written, name)[phase]) - 1 for phase in ("ED", "ES")]
            for mask, phase in zip(truth["masks"], ("ED_gt", "ES_gt"), strict=True):
                assert np.array_equal(mask, np.squeeze(np.asarray(load(written, name, phase).dataobj)).T)
            height, width = truth["masks"].shape[1:]
            square = round(width * zooms[0] / zooms[1]), height  # pixels of one size in both directions
            edv, esv = (measure.mask_volume(screen.enlarge_labels(mask, square)) for mask in truth["masks"])
            shares.append(100 * (1 - esv / edv))
        assert np.mean(shares) == pytest.approx(float(listed.pop()), abs=3)


def test_biplane_volume_of_two_equal_views_is_that_of_one():
    job = layout_camus.jobs(COUNTS, 4)[0]
    heart = views.VIEWS["A2C"].heart(layout_camus.draw(job))
    assert layout_camus.biplane_volume([heart, heart], 0.5) == pytest.approx(heart.volume(0.5))
