"""manifest.csv by column and by row."""

import csv

import numpy as np
import pytest

from discovr_jax.data import manifest
from discovr_jax.errors import RecordsError

ROW = dict.fromkeys(manifest.MANIFEST, "nan") | dict.fromkeys(manifest.TEXT_FIELDS, "") | {
    **dict.fromkeys(manifest.INT_FIELDS, "-1"), "num_masks": "2", "flags": "resized mirrored", "sha256": "0f" * 32,
}  # fmt: skip
ROWS = [
    ROW | {"split": "train", "id": "007", "classes": '{"view": "A4C", "note": "a ""b"", c"}', "ef": "61.2"},
    ROW | {"split": "test", "id": "é\n1", "fps": "0.1"},
]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, ROWS)
    return tmp_path


def write(folder, rows, names=manifest.MANIFEST):
    with (folder / manifest.FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def test_rows_are_those_that_were_written(folder, tmp_path):
    assert manifest.rows(folder) == ROWS
    assert manifest.rows(tmp_path / "elsewhere") is None and manifest.columns(tmp_path / "elsewhere", ["id"]) is None


def test_columns_have_their_types_and_the_rows_of_a_split(folder):
    columns = manifest.columns(folder, ["id", "ef", "num_masks", "sha256"])
    assert columns["id"].tolist() == ["007", "é\n1"] and columns["num_masks"].tolist() == [2, 2]
    assert columns["sha256"].tolist() == [b"0f" * 32] * 2
    np.testing.assert_array_equal(columns["ef"], np.array([61.2, np.nan], np.float32))
    (fps,) = manifest.columns(folder, ["fps"], "test")["fps"]
    assert fps == np.float32(0.1) and fps.dtype == np.float32


def test_the_first_schema_has_no_classes(folder):
    write(folder, ROWS, [name for name in manifest.MANIFEST if name != "classes"])
    assert manifest.columns(folder, ["classes"])["classes"].tolist() == ["", ""]
    assert manifest.rows(folder)[1] == ROWS[1]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"ef": "secret"}, "column #.* CSV conversion error"),
        ({"num_frames": "2.5"}, "column #.* CSV conversion error"),
        ({"split": "all"}, r"splits \['all'\]"),
        ({"sha256": "é"}, "sha256 is no ASCII"),
    ],
)
def test_a_damaged_value_is_not_quoted(folder, change, reason):
    write(folder, [ROWS[0] | change])
    with pytest.raises(RecordsError, match=rf"manifest.csv is damaged \(.*{reason}") as error:
        manifest.columns(folder, ["ef", "num_frames", "sha256"])
    assert "secret" not in str(error.value)
