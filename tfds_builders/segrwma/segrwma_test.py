"""SegRWMA on files made here: names, modes, and labels and splits of CardioBench's table."""

import pytest

from discovr_jax.data import audit
from tests.builder_case import BuilderCase, moving_square, notes, read, split_of, write_table
from tfds_builders.echo_phantom import formats, layouts
from tfds_builders.segrwma.segrwma_dataset_builder import Builder
from tfds_builders.tables import SourceError

HEADER = ("patient_id", "path", "modality", "view", "n_frames", "split", "abnormal", "patient_view_id")
CLIPS = (
    ("patient1", "2D", "A2C", "train", 1), ("patient1", "2D", "A3C", "train", 1),
    ("patient1", "LVO", "A2C", "train", 1), ("patient2", "2D", "A4C", "val", 0),
    ("patient30", "2D", "A4C", "test", 0),
)  # fmt: skip


class Source:
    """A dataset on disk whose table a test can change before it is written."""

    def __init__(self, directory):
        self.directory = directory
        (directory / "wallMotion").mkdir(parents=True)
        self.rows = []
        for seed, (patient, mode, view, split, abnormal) in enumerate(CLIPS):
            name = self.video(f"{patient}-{mode}-{view}", seed)
            path = f"data/raw/Set/wallMotion/{name}"
            self.rows.append([patient, path, mode, view, 6, split, abnormal, f"{patient}_{view}"])

    def video(self, name, seed, ending="_image.nii.gz"):
        path = self.directory / "wallMotion" / f"{name}{ending}"
        formats.write_nifti(path, moving_square(6, 96, 128, seed).T, (0.4, 0.4))
        return path.name

    def write(self):
        write_table(self.directory / "segrwma_split.csv", HEADER, self.rows)


class TestSegrwma(BuilderCase):
    builder = Builder

    def prepare(self, directory, data_dir, config="112", **kwargs):
        return super().prepare(directory, data_dir, config, **{"split": "segrwma_split.csv"} | kwargs)

    def write_source(self, directory):
        Source(directory / "download").write()
        (directory / "download" / "segrwma_split.csv").rename(directory / "segrwma_split.csv")

    def break_source(self, directory):
        path = next(directory.rglob("patient1-2D-A3C_image.nii.gz"))
        path.write_bytes(path.read_bytes()[:-500])
        return {"patient1-2D-A3C_image.nii.gz"}


@pytest.fixture
def source(tmp_path):
    return Source(tmp_path / "source")


def build(source, **kwargs):
    source.write()
    return TestSegrwma().prepare(source.directory, source.directory.parent / "records", **kwargs)


def test_labels_and_splits_are_the_table_s(source):
    source.video("patient1-2D-A2C", 0, "_label.nii.gz")
    directory = build(source)
    record = read(directory, "patient1-2D-A2C")
    assert (record["patient_id"], record["view"], record["source_label"]) == ("patient1", "A2C", 1)
    assert record["pixel_spacing"] == pytest.approx([0.4 * 128 / 112] * 2) and record["num_frames"] == 6
    assert split_of(directory) == {
        "patient1-2D-A2C": "train", "patient1-2D-A3C": "train", "patient2-2D-A4C": "val", "patient30-2D-A4C": "test",
    }  # fmt: skip
    assert notes(directory) == {"other modes": 1, "not read": 1, "abnormal unknown": 0}


def test_other_modes_on_request(source):
    with pytest.raises(SourceError, match="--modes: 3D; there are 2D, LVO, MCE"):
        build(source, modes="2D,3D")
    assert "patient1-LVO-A2C" in split_of(build(source, modes="2D,LVO"))


def test_without_the_table_labels_are_unknown(source):
    directory = build(source, split="stratified:40/30/30")
    assert set(split_of(directory).values()) == {"train", "val", "test"}
    assert read(directory, "patient1-2D-A2C")["source_label"] == -1 and notes(directory)["abnormal unknown"] == 4


def test_what_does_not_fit_is_counted_and_listed(source):
    source.video("patient9-2D-A2C", 9)
    source.rows.append(["patient8", "wallMotion/patient8-2D-A2C_image.nii.gz", "2D", "A2C", 6, "val", 0, ""])
    directory = build(source, max_bad=2)
    listed = (directory / "quarantine.csv").read_text()
    assert "patient9-2D-A2C_image.nii.gz: not in segrwma_split.csv" in listed
    assert "patient8-2D-A2C,segrwma_split.csv line 7: no such video" in listed and audit.check(directory) == []


def test_a_label_that_is_none(source):
    source.rows[1][6] = "yes"
    with pytest.raises(SourceError, match="segrwma_split.csv line 3: abnormal is 'yes', expected 0 or 1"):
        build(source)
    with pytest.raises(SourceError, match="elsewhere.csv: no such file"):
        build(source, split="elsewhere.csv")


def test_the_phantom_in_this_layout(tmp_path):
    native = layouts.write("segrwma", tmp_path / "native", {"train": 1}, 3, workers=1)
    directory = TestSegrwma().prepare(native, tmp_path / "records")
    assert set(split_of(directory)) == {"patient1-2D-A4C", "patient1-2D-A2C"} and audit.check(directory) == []
