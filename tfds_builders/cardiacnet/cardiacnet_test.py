"""CardiacNet on files made here: folders that are called as files, labels, patients, and both diseases."""

import pytest

from discovr_jax.data import audit
from tests.builder_case import BuilderCase, moving_square, notes, read, split_of, write_table
from tfds_builders.cardiacnet.cardiacnet_dataset_builder import Builder
from tfds_builders.echo_phantom import formats, layouts
from tfds_builders.tables import SourceError

# Folders below CardiacNet-PAH/, files, ids as CardioBench has them, splits.
CLIPS = (
    ("PAH/001_image.nii", "patient-2-4_image.nii", "001_image_patient-2-4", "train"),
    ("PAH/002_image.nii", "patient-2-5_image.nii", "002_image_patient-2-5", "train"),
    ("PAH", "108_image.nii", "PAH_108", "val"),
    ("Non-PAH/003_image.nii", "patient23-4_image.nii", "003_image_patient23-4", "train"),
    ("Non-PAH/134_image.nii", "PHI01.nii", "134_image_PHI01", "test"),
)


class Source:
    """The part of one disease on disk."""

    def __init__(self, directory, disease="PAH"):
        self.directory, self.root = directory, directory / "CardiacNet" / f"CardiacNet-{disease}"
        self.rows = []
        for seed, (folder, name, identifier, split) in enumerate(CLIPS):
            self.video(f"{folder.replace('PAH', disease)}/{name}", seed)
            self.rows.append([identifier.replace("PAH", disease), split])

    def video(self, name, seed):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        formats.write_nifti(path, moving_square(6, 96, 128, seed).T, (0.4, 0.4))

    def write(self):
        write_table(self.directory / "split.csv", ("unique_id", "split"), self.rows)


class TestCardiacNet(BuilderCase):
    builder = Builder

    def prepare(self, directory, data_dir, config="pah_112", **kwargs):
        return super().prepare(directory, data_dir, config, **{"split": "split.csv"} | kwargs)

    def write_source(self, directory):
        Source(directory).write()

    def break_source(self, directory):
        path = next(directory.rglob("patient-2-5_image.nii"))
        path.write_bytes(path.read_bytes()[:-500])
        return {"patient-2-5_image.nii", "PAH/002_image.nii"}


@pytest.fixture
def source(tmp_path):
    return Source(tmp_path / "source")


def build(source, **kwargs):
    source.write()
    return TestCardiacNet().prepare(source.directory, source.directory.parent / "records", **kwargs)


def test_names_labels_and_patients(source):
    source.video("PAH/001_label.nii", 9)
    directory = build(source)
    assert split_of(directory) == dict(source.rows)
    found = {name: read(directory, name) for name in split_of(directory)}
    assert {name: record["source_label"] for name, record in found.items()} == {
        "001_image_patient-2-4": 1, "002_image_patient-2-5": 1, "PAH_108": 1, "003_image_patient23-4": 0,
        "134_image_PHI01": 0,
    }  # fmt: skip
    assert [found[name]["patient_id"] for name in ("001_image_patient-2-4", "002_image_patient-2-5", "PAH_108")] == [
        "patient-2", "patient-2", "108_image",
    ]  # fmt: skip
    assert {record["view"] for record in found.values()} == {"A4C"} and notes(directory) == {"masks, not read": 1}


def test_the_other_disease_is_another_variant(tmp_path):
    Source(tmp_path / "source")
    source = Source(tmp_path / "source", "ASD")
    directory = build(source, config="asd_112")
    assert directory.parent.name == "asd_112" and split_of(directory).keys() == {name for name, _ in source.rows}
    assert read(directory, "ASD_108")["source_label"] == 1


def test_without_a_table_patients_are_divided(source):
    splits = split_of(build(source, split="stratified:40/30/30"))
    assert splits["001_image_patient-2-4"] == splits["002_image_patient-2-5"] and len(set(splits.values())) > 1


def test_what_does_not_fit_is_counted_and_listed(source):
    source.rows[0] = ["001_image_patient-7-4", "train"]
    directory = build(source, max_bad=2)
    listed = (directory / "quarantine.csv").read_text()
    assert "PAH/001_image.nii/patient-2-4_image.nii: not in split.csv" in listed
    assert "001_image_patient-7-4,split.csv line 2: no such video" in listed and audit.check(directory) == []


def test_a_folder_of_the_other_disease_is_none(tmp_path):
    source = Source(tmp_path / "source", "ASD")
    with pytest.raises(SourceError, match="no Non-PAH here or up to two levels below"):
        build(source)


def test_the_phantom_in_this_layout(tmp_path):
    native = layouts.write("cardiacnet", tmp_path / "native", {"train": 1}, 3, workers=1)
    for disease in ("asd", "pah"):
        table = f"cardiacnet_{disease}_split.csv"
        directory = TestCardiacNet().prepare(native, tmp_path / "records", f"{disease}_112", split=table)
        assert split_of(directory) == {"001_image_patient-1-4": "train"} and audit.check(directory) == []
