"""What the base of the builders does for all of them."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import stat

import pytest
from tensorflow_datasets.core import shuffle

from discovr_jax.data import audit, records
from tests import made_up
from tests.made_up import clip
from tfds_builders import reading, shards
from tfds_builders.tables import SourceError


def test_metadata_name_the_split_exactly(tmp_path):
    path = made_up.build(tmp_path, made_up.sound(clip("e", "train")))
    about = json.loads((path / "metadata.json").read_text())
    assert about["patients"] == {"train": 2, "val": 1, "test": 1}
    assert about["manifest_sha256"] == hashlib.sha256((path / "manifest.csv").read_bytes()).hexdigest()
    for row in records.manifest_rows(path):
        source = audit.open_all(path)[row["split"]]
        record = next(source[i] for i in range(len(source)) if source[i]["id"] == row["id"])
        frames = records.decode_frames(record["frames"], 112, 112)
        assert row["sha256"] == records.content_hash(frames) and row["patient_id"] == record["patient_id"]


@pytest.mark.parametrize(
    "extra,message",
    [
        (clip("e", "test", "p1"), "row e: patient p1 is in split test, but row a says train"),
        (clip("e", "test", ""), "row e: no patient"),
    ],
)
def test_a_patient_belongs_to_one_split(tmp_path, extra, message):
    with pytest.raises(SourceError, match=message):
        made_up.build(tmp_path, made_up.sound(extra))
    assert not list(tmp_path.rglob("*.array_record*"))


def test_ids_are_unique(tmp_path):
    with pytest.raises(SourceError, match="ids occur more than once: .'a'"):
        made_up.build(tmp_path, [*made_up.sound(), clip("a", "train", "p1")])


def quarantine(path):
    with (path / "quarantine.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_quarantine_names_public_files_and_hides_private_ones(tmp_path):
    public = clip("e", "train", broken="cut off")
    private = dataclasses.replace(clip("f", "train", broken="cut off"), name="row 7, 5a3f")
    path = made_up.build(tmp_path, made_up.sound(public, private), max_bad=2)
    assert quarantine(path) == [
        {"file": "e.avi", "reason": "row e: /made/up/e.avi: cut off."},
        {"file": "row 7, 5a3f", "reason": "row f: row 7, 5a3f: cut off."},
    ]
    with pytest.raises(SourceError, match="2 unusable video.s., 1 allowed") as error:
        made_up.build(tmp_path / "again", made_up.sound(public, private), max_bad=1)
    assert "f.avi" not in str(error.value)


def test_a_split_of_which_nothing_is_left_stops_the_build(tmp_path):
    with pytest.raises(SourceError, match="Split 'val' has no readable video"):
        made_up.build(tmp_path, made_up.sound(clip("c", "val", broken="empty")), max_bad=5)


def test_an_error_of_the_builder_names_the_row(tmp_path):
    with pytest.raises(TypeError, match="SeedSequence expects") as error:
        made_up.build(tmp_path, made_up.sound(clip("e", "train", seed="x")))
    assert "While reading the clip of row e." in error.value.__notes__


def many(*more):
    return [*made_up.sound(), *(clip(f"m{number}", "train") for number in range(8)), *more]


def test_workers_write_the_same_in_the_same_order(tmp_path, monkeypatch):
    bad = clip("bad", "train", broken="cut off")
    one = made_up.build(tmp_path / "one", many(bad), workers=1, max_bad=1)
    monkeypatch.setattr(reading, "_CLIPS_PER_WORKER", 2)
    two = made_up.build(tmp_path / "two", many(bad), workers=2, max_bad=1)
    for name in ("manifest.csv", "quarantine.csv", "metadata.json", "made_up-train.array_record-00000-of-00001"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_killed_worker_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_CLIPS_PER_WORKER", 2)
    with pytest.raises(SourceError, match="process that read videos was killed, at row .* try fewer --workers"):
        made_up.build(tmp_path, many(clip("e", "train", killed=True)), workers=2)


class Private(made_up.Builder, skip_registration=True):
    """Its sources may show names."""

    private = None

    @property
    def private_dir(self):
        return self.private


def test_contact_sheet_shows_the_source_of_public_sets_only(tmp_path):
    import cv2

    def shape(path):
        return cv2.imread(str(path)).shape

    # Four pairs of tiles of 224 in a row; a private source's frames go to the private folder.
    public = made_up.build(tmp_path / "public", made_up.sound())
    assert shape(public / "contact_sheet.png") == (260, 4 * 454, 3)
    Private.private = tmp_path / "private"
    Private.private.mkdir()
    private = made_up.build(tmp_path / "records", made_up.sound(), cls=Private)
    assert shape(private / "contact_sheet.png") == (260, 4 * 230, 3)
    sheet = Private.private / "contact_sheet_112.png"
    assert shape(sheet) == (260, 4 * 454, 3) and stat.S_IMODE(sheet.stat().st_mode) == 0o600


def test_contact_sheet_does_without_a_source_that_is_gone(tmp_path, monkeypatch):
    from discovr_jax.data.video_io import read_video

    monkeypatch.setattr(made_up.Builder, "raw_frames", staticmethod(lambda clip: read_video(clip.path)))
    assert (made_up.build(tmp_path, made_up.sound()) / "contact_sheet.png").stat().st_size > 0


def test_other_file_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match="made_up is written as array_record, not tfrecord; read it"):
        made_up.Builder(config="112", data_dir=tmp_path, file_format="tfrecord")


def test_shards_hold_the_records_without_another_compression(tmp_path):
    path = made_up.build(tmp_path, made_up.sound(), file_format=None)
    source = audit.open_all(path)["train"]
    shard = next(path.glob("*-train.array_record*")).read_bytes()
    assert all(frame in shard for frame in source[0]["frames"])


def test_a_split_larger_than_the_memory_of_the_shuffler_is_built_alike(tmp_path, monkeypatch):
    clips = made_up.sound(*(clip(f"train{index}", "train") for index in range(12)))
    whole = made_up.build(tmp_path / "in_memory", clips)
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)  # bytes; 1 GB unless told
    spilled = made_up.build(tmp_path / "on_disk", clips)
    for name in ("manifest.csv", *(file.name for file in whole.glob("*.array_record*"))):
        assert (spilled / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(spilled.glob("bucket*"))
    assert shuffle.Shuffler.__module__ == shuffle.__name__  # TFDS is left as it was


def shuffler(folder):
    return shards.Shuffler(folder, "train", False, False, contextlib.ExitStack())


@pytest.mark.parametrize("memory", [1, 100])  # bytes: in a file, in memory
def test_examples_come_in_the_order_of_their_keys_hashes(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", memory)
    ours = shuffler(tmp_path)
    added = [("a", b"first"), ("b", b""), ("c", b"\x00\xff")]
    for key, data in added:
        ours.add(key, data)
    assert ours.size == 7 and ours.num_examples == 3 and ours.bucket_lengths == [3]
    hashes = [int(hashlib.md5(b"train" + key.encode()).hexdigest(), 16) for key, _ in added]
    assert list(ours) == sorted(zip(hashes, (data for _, data in added), strict=True))
    assert not list(tmp_path.iterdir())


def test_two_examples_of_one_key_are_refused(tmp_path):
    ours = shuffler(tmp_path)
    for data in (b"first", b"second"):
        ours.add("a", data)
    with pytest.raises(shuffle.DuplicatedKeysError):
        list(ours)
