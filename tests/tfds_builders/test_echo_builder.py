"""What the base of the builders does for all of them."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import pathlib
import stat

import pytest
from tensorflow_datasets.core import shuffle

from discovr_jax.data import audit, manifest, records
from tests import made_up
from tests.made_up import clip
from tfds_builders import reading, shards, unusable
from tfds_builders.tables import SourceError


def test_metadata_name_the_split_exactly(tmp_path):
    path = made_up.build(tmp_path, made_up.sound(clip("e", "train")))
    about = json.loads((path / "metadata.json").read_text())
    assert about["patients"] == {"train": 2, "val": 1, "test": 1}
    assert about["manifest_sha256"] == hashlib.sha256((path / "manifest.csv").read_bytes()).hexdigest()
    for row in manifest.rows(path):
        source = audit.open_all(path)[row["split"]]
        record = next(source[i] for i in range(len(source)) if source[i]["id"] == row["id"])
        frames = records.decode_frames(record["frames"], 112, 112)
        assert row["sha256"] == records.content_hash(frames) and row["patient_id"] == record["patient_id"]


def test_nobody_is_told_of_a_download(tmp_path, capsys):
    path = made_up.build(tmp_path, made_up.sound())
    said = capsys.readouterr().out.splitlines()
    assert said == [f"Making records in {path} (nothing is downloaded or sent)", f"Records are complete: {path}"]


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
    with pytest.raises(SourceError, match="Split 'val' has no usable video"):
        made_up.build(tmp_path, made_up.sound(clip("c", "val", broken="empty")), max_bad=5)


def test_one_run_counts_all_that_is_unusable(tmp_path, capsys):
    """25 in two splits, more than a message lists: all are tried, counted and listed, and that count is enough."""
    bad = [clip(f"bad{number:02d}", "val" if number % 2 else "train", broken="cut off") for number in range(25)]
    words = r"25 unusable video.s., 3 allowed; all were tried(?s:.)*--max_bad=25:"
    with pytest.raises(SourceError, match=words) as error:
        made_up.build(tmp_path, made_up.sound(*bad), max_bad=3, workers=1)
    assert "and 5 more" in str(error.value) and not list(tmp_path.rglob("*.array_record*"))
    with (tmp_path / "made_up" / "112" / "unusable.csv").open(newline="") as file:
        assert sorted(row["file"] for row in csv.DictReader(file)) == [f"bad{number:02d}.avi" for number in range(25)]
    assert "4 unusable, 3 allowed (--max_bad). The rest is read to count all" in capsys.readouterr().err
    path = made_up.build(tmp_path, made_up.sound(*bad), max_bad=25, workers=1)
    assert audit.metadata(path)["quarantined"] == 25 and not (path.parent / "unusable.csv").exists()


class Study(made_up.Builder, skip_registration=True):
    """A folder of a scanner's own, in which stills are normal."""

    IS_STUDY = True


def test_files_without_a_clip_are_skipped_in_a_study_and_bad_elsewhere(tmp_path):
    stills = [clip(f"still{number}", split, still=True) for number, split in enumerate(("train", "val", "test"))]
    path = made_up.build(tmp_path / "study", made_up.sound(*stills), cls=Study)
    about = audit.metadata(path)
    assert (about["skipped"], about["quarantined"]) == (3, 0) and len(quarantine(path)) == 0
    with (path / "skipped.csv").open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["still0.avi", "still1.avi", "still2.avi"]
    assert "skipped, as they hold no clip: 3" in audit.format_summary(audit.summarise(path))
    with pytest.raises(SourceError, match="3 unusable"):
        made_up.build(tmp_path / "public", made_up.sound(*stills))


def test_a_split_of_stills_alone_is_left_out_of_a_study_and_said(tmp_path):
    path = made_up.build(tmp_path, made_up.sound(clip("c", "val", still=True)), cls=Study)
    assert set(audit.open_all(path)) == {"train", "test"} and audit.check(path) == []
    assert audit.metadata(path)["notes"] == {"no val split (all of its files skipped or unusable)": 1}
    with pytest.raises(SourceError, match="No video is usable. Skipped, as they hold no clip:\n  a.avi: row a: "):
        stills = [clip(name, split, still=True) for name, split in (("a", "train"), ("b", "val"), ("c", "test"))]
        made_up.build(tmp_path / "none", stills, cls=Study)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("ef", 0.55, "ef is outside 2 to 100 percent; it seems to be a fraction of 1: give percent .times 100."),
        ("rvef", 0.45, "rvef .* a fraction of 1"),
        ("edv", 0.12, "edv is outside 0.35 to 1000 mL; it seems to be in litres"),
        ("ivsd", 11, "ivsd is outside 0.03 to 5 cm; it seems to be in millimetres: give cm .times 0.1."),
        ("lvidd", 47, "lvidd .* in millimetres"),
        ("fps", 0.02, "fps is outside 1 to 1000 frames per second"),
    ],
)
def test_a_column_of_another_unit_stops_the_build_and_says_which(tmp_path, field, value, words):
    clips = made_up.sound(*(clip(name, split, **{field: value}) for name, split in (("a", "train"), ("c", "val"))))
    with pytest.raises(SourceError, match=f"row a: {words}.*So are 2 of 2 values of {field}"):
        made_up.build(tmp_path, clips)


def test_a_single_implausible_value_becomes_unknown_and_is_counted(tmp_path):
    """One of 25: an odd row of a public table, not another unit."""
    clips = [clip(f"m{number:02d}", "train", rvef=0.4 if number == 3 else 45.0) for number in range(25)]
    path = made_up.build(tmp_path, [*made_up.sound(), *clips], workers=1)
    rows = {row["id"]: row["rvef"] for row in manifest.rows(path)}
    assert (rows["m03"], rows["m04"]) == ("nan", "45.0")
    assert audit.metadata(path)["notes"] == {"rvef_implausible": 1} and audit.check(path) == []


def test_volumes_of_a_heart_that_is_larger_in_systole(tmp_path):
    """Both of a single one become unknown; where most are, the columns are exchanged."""
    odd = {3: {"esv": 95.0}, 5: {"edv": 0.3}}  # of the second only the one that no heart has
    clips = [clip(f"m{n:02d}", "train", **{"edv": 90.0, "esv": 40.0} | odd.get(n, {})) for n in range(50)]
    path = made_up.build(tmp_path / "one", [*made_up.sound(), *clips], workers=1)
    rows = {row["id"]: (row["edv"], row["esv"]) for row in manifest.rows(path)}
    assert rows["m03"] == ("nan", "nan") and rows["m04"] == ("90.0", "40.0") and rows["m05"] == ("nan", "40.0")
    assert audit.metadata(path)["notes"] == {"edv_implausible": 2, "esv_implausible": 1}
    exchanged = [clip(name, "train", edv=40.0, esv=90.0) for name in "mn"]
    with pytest.raises(SourceError, match="row m: edv is of a heart .* are esv and edv exchanged.*So are 2 of 2"):
        made_up.build(tmp_path / "all", made_up.sound(*exchanged))


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
    (sheet,) = Private.private.glob("contact_sheet_private_112_*.png")
    assert shape(sheet) == (260, 4 * 454, 3) and stat.S_IMODE(sheet.stat().st_mode) == 0o600


def test_contact_sheet_does_without_a_source_that_is_gone(tmp_path, monkeypatch):
    from discovr_jax.data.read import read_video

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


@pytest.mark.parametrize(
    ("names", "files", "hint"),
    [
        (("0XD", "0XE"), ("0XA", "0XB"), " List.csv names 0XD, 0XE; in /in lie 0XA, 0XB."),
        (("0xa",), ("0XA",), " 1 differ in upper and lower case only (0xa in List.csv, 0XA on disk)."),
        (("0XA",), (), " /in holds no videos."),
        (("0XA",), ("0XA",), ""),
    ],
)
def test_rows_and_files_without_counterpart_say_what_may_be_wrong(names, files, hint):
    rows = {name: {"where": f"List.csv line {line}"} for line, name in enumerate(names, 2)}
    videos = {name: pathlib.Path(f"/in/{name}.avi") for name in files}
    bad, said = unusable.unmatched(rows, videos, pathlib.Path("/in"), "List.csv")
    assert said == hint and len(bad) == len(set(names) ^ set(files))
    if bad:
        with pytest.raises(SourceError, match=f"{len(bad)} of {len(bad)} rows and files have no counterpart"):
            unusable.Unusable(100, False, bad, said).stop_if_most_are(0)


def test_two_examples_of_one_key_are_refused(tmp_path):
    ours = shuffler(tmp_path)
    for data in (b"first", b"second"):
        ours.add("a", data)
    with pytest.raises(shuffle.DuplicatedKeysError):
        list(ours)
