"""One rule for which files are read, whoever asks."""

import os

import numpy as np
import pytest

from discovr_jax.data import file_listing
from tfds_builders import tables


@pytest.fixture
def folder(tmp_path):
    """Two videos, one without suffix, one that is not read, and what systems leave behind."""
    for name in (
        "sub/a.npy", "b.npy", "c.vob", "notes", "list.csv", "DICOMDIR", "._b.npy", ".Trash/old.npy", "__MACOSX/b.npy",
        "@eaDir/b.npy", "sub/.hidden/x.npy", "deep/er/z.NPY",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.save(file, np.zeros((2, 4, 4), np.uint8))
    return tmp_path


def test_hidden_files_and_those_of_systems_are_left_out_and_others_counted(folder):
    files = file_listing.list_files(folder)
    assert list(files.videos) == ["b.npy", "deep/er/z.NPY", "sub/a.npy"]
    assert files.counts(private=False) == {".vob": 1, "without suffix": 1}
    assert file_listing.in_words(files.counts(False)) == "1 .vob, 1 without suffix"
    os.symlink(folder / "sub", folder / "linked")
    assert list(file_listing.list_files(folder, depth=0).videos) == ["b.npy"]
    counts = file_listing.list_files(folder, depth=1).counts(False)
    assert counts == {".vob": 1, "linked folders": 1, "without suffix": 1}
    assert len(file_listing.list_files(folder).videos) == 3


def test_builders_list_by_the_same_rule(folder):
    """Arrays beside the videos of a public set are not among them."""
    for name in ("sub/0XA.avi", "0XB.AVI", "._0XA.avi", ".Trash/0XC.avi"):
        (folder / name).touch()
    videos, notes = tables.list_videos(folder, depth=1)
    assert {name: path.name for name, path in videos.items()} == {"0XA": "0XA.avi", "0XB": "0XB.AVI"}
    assert notes == {"not_read .npy": 2, "not_read .vob": 1, "not_read without suffix": 1}


@pytest.mark.parametrize("listed", ["sub/a.npy", "sub\\a.npy", "sub/a", "sub\\a", "./sub/a.npy"])
def test_a_name_is_found_however_it_is_written(folder, listed):
    assert file_listing.list_files(folder).find(listed) == ["sub/a.npy"]


def test_of_two_files_of_one_name_one_is_read_and_the_other_counted(tmp_path):
    """Letters composed and decomposed, a backslash, and bytes that are no text beside their own spelling."""
    names = ("\u00c9.npy", "E\u0301.npy", "a\\b.npy", "a/b.npy", "%E9.npy", b"\xe9.npy")
    (tmp_path / "a").mkdir()
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), os.fsencode(name)), "wb") as file:
            np.save(file, np.zeros((2, 4, 4), np.uint8))
    files = file_listing.list_files(tmp_path)
    assert list(files.videos) == ["%E9.npy", "a/b.npy", "\u00c9.npy"]
    assert files.counts(private=True) == {"of a name that another file has": 3}


def test_a_suffix_of_a_private_archive_is_told_only_if_it_is_no_name(tmp_path):
    for name in ("Doe.Jane", "a.vob", "b.xyzzy"):
        (tmp_path / name).touch()
    files = file_listing.list_files(tmp_path)
    assert files.counts(private=True) == {"of another suffix": 2, ".vob": 1}
    assert files.counts(private=False) == {".jane": 1, ".vob": 1, ".xyzzy": 1}


def test_a_file_that_cannot_be_found_out_about_is_no_error(tmp_path, monkeypatch):
    """An unreadable file of unknown suffix; the tests may run as root, who may read all."""
    (tmp_path / "a").touch()

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(file_listing.read, "format_of", refuse)
    assert file_listing.list_files(tmp_path).counts(False) == {"without suffix": 1}
