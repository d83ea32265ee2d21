"""Names of files that echo_folder read: from CardioBench's table to its CSV, to ids, and back."""

import csv

import pytest

from discovr_jax.data import file_listing, private
from discovr_jax.evaluation.cardiobench import __main__ as command
from discovr_jax.evaluation.cardiobench import files, names, tasks
from discovr_jax.evaluation.cardiobench.tasks import CardioBenchError
from tfds_builders.echo_folder import class_columns, listing

ROWS = [  # a name twice, in folders of different classes; the third is another modality's
    ("data/raw/Set/wall/patient1-2D-A2C.nii", "patient1", "2D", "A2C", "test", "1"),
    ("data/raw/Set/other/patient1-2D-A2C.nii", "patient2", "2D", "A2C", "train", "0"),
    ("data/raw/Set/wall/patient1-LVO-A2C.nii", "patient1", "LVO", "A2C", "test", "1"),
    ("data/raw/Set/wall/patient3-2D-A4C.nii", "patient3", "2D", "A4C", "val", "0"),
]
TASK = tasks.named("segRWMA/rwma")


@pytest.fixture
def clone(tmp_path):
    """A clone of CardioBench with a table of segRWMA."""
    path = tmp_path / "clone" / "data" / "splits" / TASK.truth.file
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "patient_id", "modality", "view", "split", "abnormal"), *ROWS])
    return tmp_path / "clone"


@pytest.fixture
def listed(clone, tmp_path, capsys):
    """The folder of the videos, and their rows as `prepare echo_folder` reads them from the CSV of `listing`."""
    root = tmp_path / "download"
    for path, *_ in ROWS:
        file = root / path.removeprefix("data/raw/Set/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    target = tmp_path / "list.csv"
    assert command.main(["listing", TASK.folder, f"--cardiobench={clone}", f"--output={target}"]) == 0
    assert "3 files in" in (said := capsys.readouterr().out) and "data/raw/Set." in said
    rows, without = listing.read_csv(target, file_listing.list_files(root), class_columns.Cells([]))
    assert without == 1  # the other modality's
    return root, rows


def test_the_list_is_read_by_echo_folder_and_its_ids_lead_back(clone, listed):
    root, rows = listed
    assert [(row.patient_id, row.source_label, row.split, row.view) for row in rows] == [
        ("patient1", 1, "test", "A2C"), ("patient2", 0, "train", "A2C"), ("patient3", 0, "val", "A4C"),
    ]  # fmt: skip
    assert all(row.path.is_file() for row in rows)
    table = files.truth_table(TASK, clone)
    expected = [[("_a2c", "patient1")], [("_a2c", "patient2")], [("_a4c", "patient3")]]
    assert [names.places(TASK, row.name, table) for row in rows] == expected


def test_keyed_hashes_need_the_private_folder(clone, listed, tmp_path):
    root, rows = listed
    home = tmp_path / "private"
    salt = private.open_salt(home)
    ids = [private.salted_id(salt, row.name) for row in rows]
    private.write_map(home, private.ID_MAP, "path", {i: str(root / r.name) for i, r in zip(ids, rows, strict=True)})
    table, id_map = files.truth_table(TASK, clone), names.read_id_map(home)
    assert names.places(TASK, ids[1], table, id_map) == [("_a2c", "patient2")]
    with pytest.raises(CardioBenchError, match="a test video is not in segrwma_split.csv. .*--private_dir"):
        names.places(TASK, ids[1], table)


def test_a_name_that_several_rows_have_is_refused(clone):
    with pytest.raises(CardioBenchError, match="in several rows of"):
        names.places(TASK, "patient1-2D-A2C.nii", files.truth_table(TASK, clone))


@pytest.mark.parametrize(
    "folder,identifier,key",
    [
        ("EchoNet-Dynamic/EF", "0X1A0A263B22CCD966", "0X1A0A263B22CCD966"),
        ("EchoNet-LVH/IVSd", "0X7AB576A97C6EA767", "0X7AB576A97C6EA767"),
        ("EchoNet-Pediatric/EF", "CR32a7559-CR32a9980-000045", "CR32a7559-CR32a9980-000045.avi"),
        ("CAMUS/EF", "patient0001_4CH", "patient0001"),
    ],
)
def test_ids_of_public_sets_are_names(folder, identifier, key):
    """As in CardioBench's example predictions."""
    assert names.places(tasks.named(folder), identifier, None)[0] == ("", key)
    for private_id in ("9f86d081884c7d65", "", f"{identifier}/x"):
        with pytest.raises(CardioBenchError, match="no name of"):
            names.places(tasks.named(folder), private_id, None)


def test_a_table_without_its_columns_is_refused(clone):
    path = clone / "data" / "splits" / TASK.truth.file
    path.write_text(path.read_text().replace("abnormal", "label"))
    with pytest.raises(CardioBenchError, match="lacks the columns abnormal, which rwma.py reads"):
        files.truth_table(TASK, clone)


@pytest.mark.parametrize("folder,reason", [("CAMUS/EF", "needs no list"), ("TMED2/AS", "is not served")])
def test_no_list_where_none_is_needed(clone, tmp_path, capsys, folder, reason):
    (clone / "data" / "splits" / "camus_split.csv").write_text("patient_id,EF,split\npatient0001,50,test\n")
    assert command.main(["listing", folder, f"--cardiobench={clone}", f"--output={tmp_path / 'no.csv'}"]) == 1
    assert reason in capsys.readouterr().err and not (tmp_path / "no.csv").exists()
