"""Test videos that were trained on: by id, by frames, and by patient where that becomes known later."""

import dataclasses
import json

import numpy as np
import pytest

from discovr_jax.data import records, training_videos
from tests.made_up import build, clip

SEEDS = range(7)  # of frames that all differ


def counts(*values):
    return dict(zip(("test_videos", "trained_on", "patients_trained_on"), values, strict=True))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Records where nobody knew a patient: every file counts as one."""
    splits = ("train", "train", "train", "train", "val", "test")
    clips = [clip(f"file{number}", split, seed=SEEDS[number]) for number, split in enumerate(splits)]
    return build(tmp_path_factory.mktemp("first"), clips)


def scored(trained, path, name="made_up"):
    return training_videos.among_test(trained, name, records.open_directory(path, "test"))


def kept(path, tmp_path, chosen):
    """As a workdir keeps it."""
    hashes = training_videos.hashed({"made_up": records.open_directory(path, "train")}, {"made_up": chosen})
    (tmp_path / training_videos.FILE).write_text(training_videos.to_json(hashes))
    return training_videos.read(tmp_path)


def lists(hashes):
    return {kind: values.tolist() for kind, values in hashes.items()}


def test_the_records_of_the_training_share_none(first, tmp_path):
    trained = kept(first, tmp_path, range(4))
    assert scored(trained, first) == counts(1, 0, 0)
    assert scored(None, first) is None and training_videos.read(tmp_path / "elsewhere") is None
    assert b"file" not in (tmp_path / training_videos.FILE).read_bytes()


def test_other_splits_and_patients_that_become_known(first, tmp_path):
    """file0 moves to test; file5 turns out to be of the same patient; file4 is of nobody who was trained on."""
    trained = kept(first, tmp_path, range(4))
    patients = ("p0", "p1", "p2", "p3", "p4", "p0")
    splits = ("test", "train", "train", "val", "test", "test")
    again = [
        clip(f"file{number}", split, patient, seed=SEEDS[number])
        for number, (split, patient) in enumerate(zip(splits, patients, strict=True))
    ]
    path = build(tmp_path, again)
    assert scored(trained, path) == counts(3, 1, 2)
    # A video that the filter left out was not trained on.
    ids = records.record_fields(records.open_directory(first, "train"), ["id"])["id"]
    assert scored(kept(first, tmp_path, np.flatnonzero(ids != "file0")), path) == counts(3, 0, 0)
    # Under other ids, as of another salt, frames are what is the same.
    renamed = [dataclasses.replace(each, id=f"x{each.id}", patient_id=f"x{each.patient_id}") for each in again]
    assert scored(trained, build(tmp_path / "renamed", renamed)) == counts(3, 1, 2)


def test_a_patient_named_alike_in_another_dataset_is_another_one(first, tmp_path):
    trained = kept(first, tmp_path, range(4))
    path = build(tmp_path, [clip("new", "test", "file0", seed=SEEDS[6])])
    assert scored(trained, path) == counts(1, 0, 1)
    assert scored(trained, path, name="another") == counts(1, 0, 0)


def test_what_earlier_starts_were_trained_on_stays(first, tmp_path):
    """The same command again, on other records, trains nothing anew: the first ones are still in the weights."""
    earlier = kept(first, tmp_path, [0, 1])
    source = {"made_up": records.open_directory(first, "train")}
    for chosen in ([2], [1, 2]):
        later = training_videos.hashed(source, {"made_up": chosen}, earlier)
        assert lists(later) == lists(kept(first, tmp_path, [0, 1, 2]))
    assert lists(training_videos.hashed(source, {"made_up": [0, 1]})) == lists(earlier)


def test_the_file_is_json_of_sorted_lists(first, tmp_path):
    kept(first, tmp_path, [0, 1])
    written = json.loads((tmp_path / training_videos.FILE).read_text())
    assert [len(written[kind]) for kind in training_videos.KINDS] == [2, 2, 2]
    assert all(values == sorted(values) and len(values[0]) == 16 for values in written.values())
    assert json.loads(training_videos.to_json(dict.fromkeys(("a", "b"), np.zeros(0, "S16")))) == {"a": [], "b": []}


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / training_videos.FILE).write_text('{"videos": []}')
    with pytest.raises(records.RecordsError, match=r"training_videos.json is damaged"):
        training_videos.read(tmp_path)
