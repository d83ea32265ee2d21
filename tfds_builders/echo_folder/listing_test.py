"""The CSV of an archive and the names in it: what is refused, and what is said of a row without its file."""

import os
import pathlib
import re

import numpy as np
import pytest

from discovr_jax.data import audit, file_listing
from tests.builder_case import moving_square, notes, write_table
from tfds_builders.echo_folder import class_columns, listing
from tfds_builders.echo_folder.echo_folder_test import HEADER, ROWS, fields, id_map
from tfds_builders.echo_folder.echo_folder_test import TestEchoFolder as Archive  # under this name it is not collected
from tfds_builders.tables import SourceError


@pytest.fixture
def source(tmp_path) -> pathlib.Path:
    directory = tmp_path / "source"
    directory.mkdir()
    Archive().write_source(directory)
    return directory


prepare = Archive().prepare


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("series.nii.gz", "normal", "7", "train"), "CSV line 6: class must be Normal or Abnormal, exactly"),
        (("series.nii.gz", "DOE JANE", "7", "train"), "CSV line 6: class must be"),
        (("../DOE/x.avi", "Normal", "7", "train"), "CSV line 6: the path leads out"),
        (("site/../../x.avi", "Normal", "7", "train"), "CSV line 6: the path leads out"),
        (("/etc/DOE.avi", "Normal", "7", "train"), "CSV line 6: the path leads out"),
        (("C:\\DOE.avi", "Normal", "7", "train"), "CSV line 6: the path leads out"),
        (("", "Normal", "7", "train"), "CSV line 6: the path is empty"),
        (("site/case_1/clip03", "Normal", "7", "train"), "CSV line 6: the same file as CSV line 2"),
        (("x.avi", "Normal", "", "train"), "CSV line 6: patient_id is empty"),
        (("x.avi", "Normal", "NaN", "train"), "CSV line 6: patient_id is empty"),  # not one patient of that name
        (("x.avi", "Normal", "7", "DOE"), "CSV line 6: split must be"),
        (("x.avi", "Normal", "7", "train", "DOE"), "CSV line 6: ef is not a number"),
        (("x.avi", "Normal", "7", "train", "140"), "CSV line 6: ef is outside 2 to 100 percent"),
        (("x.avi", "Normal", "7", "train", "50", "0"), "CSV line 6: fps is outside 1 to 1000 frames"),
        (("x.avi", "Normal", "7", "train", "0.55"), "CSV line 6: ef is outside 2 to 100 percent; it seems to be a"),
        (("x.avi", "Normal", "7", "train", "50", "50", "seen by Dr DOE"), "CSV line 6: view must be a code"),
        (("x.avi", "Normal", "7", "train", "", "", "", "", "DOE"), "CSV line 6: 9 cells, the header has 8"),
        (("series.nii.gz2", "Normal", "9", "train"), "in split train, but CSV line 5 says test"),
    ],
)
def test_rows_that_are_refused_are_named_by_their_line_alone(source, tmp_path, row, reason):
    np.save(source / "series.nii.gz2.npy", moving_square(3))
    rows = list(ROWS)
    if row[0] == "series.nii.gz":
        rows[3] = ("site/case_2/scan2", *ROWS[3][1:])
        np.save(source / "site/case_2/scan2.npy", moving_square(3))
    write_table(source / "list.csv", HEADER, [*rows, (*row, *[""] * (len(HEADER) - len(row)))])
    with pytest.raises(SourceError, match=re.escape(reason)) as caught:
        prepare(source, tmp_path / "records")
    assert not re.search("DOE|etc|site", str(caught.value))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("DOE JANE,Normal\n", "names no column path and class"),
        ("Path,Label\nDOE.avi,Normal\n", "names no column class"),
        ("Path,class,path\nDOE.avi,Normal,DOE.avi\n", "column path twice"),
        ("Path,class\n", "no rows"),
        ("", "names no column"),
        ("Path;class\nDOE.avi;Normal\n", r"names no column.* separated by semicolons \(;\): save it with commas"),
        ("Path\tclass\nDOE.avi\tNormal\n", r"names no column.* separated by tabs"),
        ('Path,class\n"DOE.avi,Normal\n', "cannot be read"),
        ("Path,class\nDOÉ.avi,Normal\n", r"cannot be read .*\)\. Save it as UTF-8"),
        ("PK\x03\x04" + "\x80" * 26 + "[Content_Types].xml", "Its content is an Office document.* as CSV"),
        ("\xff\xfeP\0a\0t\0h\0", "Its content is UTF-16: save the table as CSV"),
        ("P\0a\0t\0h\0,\0", "no column path.* Its content is UTF-16"),
    ],
)
def test_tables_that_are_refused(source, tmp_path, text, reason):
    (source / "list.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match=reason) as caught:
        prepare(source, tmp_path / "records")
    assert "DO" not in str(caught.value)


def test_a_name_that_several_files_have_needs_its_suffix(source, tmp_path):
    np.save(source / "site/case_1/clip04.npy", moving_square(3))
    with pytest.raises(SourceError, match="CSV line 3: 2 files"):
        prepare(source, tmp_path / "records")


def test_rows_without_video_and_videos_without_row(source, tmp_path):
    np.save(source / "extra.npy", moving_square(3))
    write_table(source / "list.csv", HEADER, [*ROWS, ("DOE.avi", "Normal", "10", "train", "", "", "", "")])
    with pytest.raises(SourceError, match="CSV line 6: no such file") as caught:
        prepare(source, tmp_path / "records")
    assert "DOE" not in str(caught.value)
    directory = prepare(source, tmp_path / "records", max_bad=1)
    assert len(fields(directory)) == 4 and notes(directory)["videos_without_row"] == 1
    assert re.search(r"\n[0-9a-f]{16},.?CSV line 6: no such file", (directory / "quarantine.csv").read_text())


def test_one_name_of_a_patient_or_study_is_one(source, tmp_path):
    """In whatever form Unicode has it; a study that is said to be unknown is none."""
    cells = [("M\u00fcller", "Mai"), ("Mu\u0308ller", "nan"), ("Meier", "N/A"), ("Meier", "")]
    rows = [(row[0], "", patient, study) for row, (patient, study) in zip(ROWS, cells, strict=True)]
    write_table(source / "list.csv", ("Path", "class", "patient_id", "study_id"), rows)
    files = file_listing.list_files(source)
    found, _ = listing.read_csv(source / "list.csv", files, class_columns.Cells([]))
    assert [row.patient_id for row in found] == ["M\u00fcller", "M\u00fcller", "Meier", "Meier"]
    assert [row.study_id for row in found] == ["Mai", "", "", ""]


def test_names_as_other_systems_write_them(source, tmp_path):
    """Bytes that are no UTF-8, decomposed letters, a backslash in a file's own name."""
    (source / "list.csv").unlink()
    names = (b"Caf\xe9.npy", "E\u0301cho.npy".encode(), b"disk\\one.npy", b"x.npy")
    for seed, name in enumerate(names, 10):
        with open(os.path.join(os.fsencode(source), name), "wb") as file:
            np.save(file, moving_square(3, seed=seed))
    directory = prepare(source, tmp_path / "records", csv=None)
    assert {"Caf%E9.npy", "\u00c9cho.npy", "one.npy"} < set(id_map(source.parent / "private"))
    assert len(fields(directory)) == 8 and audit.check(directory) == []
    (source / "list.csv").write_text("Path,class\nCaf%E9,\nE\u0301cho,\n\u00c9cho.npy,\n", encoding="utf-8")
    with pytest.raises(SourceError, match="CSV line 4: the same file as CSV line 3"):
        prepare(source, tmp_path / "again")
    (source / "list.csv").write_text("Path,class\nCaf%E9,\ndisk\\one,\n", encoding="utf-8")
    assert len(fields(prepare(source, tmp_path / "again", split_seed=3))) == 2


@pytest.mark.parametrize(
    ("listed", "shown", "private"),
    [
        ("videos/site/case_1/clip03.avi", "found without 'videos/' in front", "without their first 1 folder"),
        ("clip03.avi", "lie in the folder 'site/case_1'", "lie in a folder further down"),
        ("SITE/case_1/CLIP03.avi", "upper and lower case only", "upper and lower case only"),
        ("site/case_1/notes.vob", "files .vob are not read; read are .avi,", "files .vob are not read"),
        ("site/case_1/Jane.Featherstone", "files .featherstone are not read", "files of another suffix are not"),
        (".Trash/clip03.avi", "hidden files and folders are not read", "hidden files and folders"),
        ("gone.avi", "no such file, with or without suffix", "no such file"),
    ],
)
def test_a_row_without_file_says_what_may_be_wrong(source, tmp_path, listed, shown, private):
    for name in ("notes.vob", "Jane.Featherstone"):
        (source / "site/case_1" / name).write_text("x")
    write_table(source / "list.csv", HEADER[:2], [(listed, ""), ("other/place.avi", "")])
    with pytest.raises(SourceError, match=re.escape(shown)):
        prepare(source, tmp_path / "records", show_paths=True, private_dir=None, max_bad=9)
    with pytest.raises(SourceError, match=re.escape(private)) as caught:
        prepare(source, tmp_path / "records", max_bad=9)
    assert not re.search("site|clip03|videos/|Featherstone", str(caught.value), re.I)


def test_a_folder_of_files_that_are_not_read_says_which(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a.vob", "b.VOB", "c.txt", "d", "e.Mildred", "._a.avi"):
        (source / name).write_text("x")
    words = "holds no videos. Not read: 2 .vob, 1 .txt, 1 of another suffix, 1 without suffix."
    with pytest.raises(SourceError, match=re.escape(words)):
        prepare(source, tmp_path / "records", csv=None)
