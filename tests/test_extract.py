"""A folder of videos to a table: names, quarantine, resuming, and nothing of a patient in what is written."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import discovr_jax
from discovr_jax import extract
from discovr_jax.data import inputs, read, sector
from discovr_jax.data import private as private_names
from discovr_jax.evaluation.features import feature_table, video_table
from tests import run_case
from tests.builder_case import moving_square, write_video

pydicom = pytest.importorskip("pydicom", reason="reading DICOM needs pydicom")
from pydicom import examples  # noqa: E402 (after the skip)

REAL = pathlib.Path("/work/shared/real_echo/videos")


@pytest.fixture(scope="module")
def workdir(tiny, tmp_path_factory):
    return run_case.saved(tiny, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def encoder(workdir):
    return discovr_jax.load_encoder(workdir)


@pytest.fixture
def archive(tmp_path):
    """Two AVI files, a DICOM in a folder that bears a name, one without suffix, a cut-off file and a note."""
    folder = tmp_path / "archive"
    for path in (folder / "a" / "one.avi", folder / "two.avi"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_square(20 if path.name == "one.avi" else 30))
    (folder / "DOE^JANE").mkdir()
    shutil.copy(examples.get_path("ybr_color"), folder / "DOE^JANE" / "IM0001.dcm")
    shutil.copy(examples.get_path("ybr_color"), folder / "DOE^JANE" / "IM0002")
    (folder / "cut.avi").write_bytes((folder / "two.avi").read_bytes()[:3000])
    (folder / "notes.txt").write_text("no video")
    (folder / "README").write_text("no video either")
    return folder


def rows(path):
    return pq.read_table(path).to_pylist()


def test_rows_card_and_quarantine(encoder, archive, tmp_path, capsys):
    out = tmp_path / "out" / "f.parquet"
    card = extract.extract(encoder, archive, out)
    found = rows(out)
    # In sorted order: DOE^JANE/IM0001.dcm, DOE^JANE/IM0002, a/one.avi, cut.avi, two.avi
    assert [row["row"] for row in found] == [0, 1, 2, 4]
    assert [row["id"] for row in found[2:]] == ["a/one.avi", "two.avi"]
    assert [row["format"] for row in found] == ["dcm", "dcm", "avi", "avi"]
    assert [row["num_frames"] for row in found] == [30, 30, 20, 30]
    assert (found[0]["height"], found[0]["width"], round(found[0]["fps"])) == (240, 320, 30)
    video = read.read_video(archive / "two.avi")
    np.testing.assert_allclose(found[3]["features"], encoder.embed(video.frames, fps=video.fps), atol=1e-6)
    assert [row["flags"] for row in found[:2]] == ["sector_isolated"] * 2
    with open(out.with_suffix(".quarantine.csv"), newline="") as file:
        (bad,) = csv.DictReader(file)
    assert (bad["row"], bad["id"]) == ("3", "cut.avi") and "cut.avi" not in bad["reason"]
    assert card == json.loads(out.with_suffix(".card.json").read_text())
    assert (card["inputs"], card["rows"], card["quarantined"], card["skipped"]) == (5, 4, 1, 0)
    assert card["not_read"] == {".txt": 1, "without suffix": 1}
    assert card["weights_sha256"] == encoder.weights_sha256
    assert card["preprocessing"]["fit"] == "letterbox"
    assert sorted(p.name for p in out.parent.iterdir()) == ["f.card.json", "f.parquet", "f.quarantine.csv"]
    assert "100 %" in capsys.readouterr().err


def written(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_no_name_of_a_private_file_is_written(encoder, archive, tmp_path):
    broken = archive / "DOE^JANE" / "IM0003.dcm"
    broken.write_bytes((archive / "DOE^JANE" / "IM0001.dcm").read_bytes()[:3000])
    extract.extract(encoder, archive, tmp_path / "out" / "f.parquet")
    content = written(tmp_path / "out")
    for secret in (b"DOE", b"IM000", b"microMAXX", b"PLA", b"1.2.840"):
        assert secret not in content, secret
    first = [row["id"] for row in rows(tmp_path / "out" / "f.parquet")[:2]]
    assert len(set(first)) == 2 and all(len(name) == 16 for name in first)


def test_ids_depend_on_the_salt_and_the_private_folder_keeps_it(encoder, archive, tmp_path):
    def ids(name, **options):
        extract.extract(encoder, archive, tmp_path / name / "f.parquet", **options)
        return [row["id"] for row in rows(tmp_path / name / "f.parquet")]

    private = tmp_path / "private"
    kept = ids("a", private_dir=private)
    assert ids("b", private_dir=private) == kept
    assert ids("c")[0] not in kept
    assert all(path.stat().st_mode & 0o077 == 0 for path in private.iterdir())
    with open(private / "id_map.csv", newline="") as file:
        names = {row["id"]: row["path"] for row in csv.DictReader(file)}
    assert names[kept[0]].endswith("DOE^JANE/IM0001.dcm")
    # As prepare echo_folder names it.
    assert kept[0] == private_names.salted_id(private_names.open_salt(private), "DOE^JANE/IM0001.dcm")
    with pytest.raises(extract.ExtractError, match="private_dir"):
        extract.extract(encoder, archive, tmp_path / "d" / "f.parquet", private_dir=tmp_path / "d")


def test_paths_are_shown_or_hidden_on_request(encoder, archive, tmp_path):
    extract.extract(encoder, archive, tmp_path / "a.parquet", show_paths=True)
    assert rows(tmp_path / "a.parquet")[0]["id"] == "DOE^JANE/IM0001.dcm"
    extract.extract(encoder, archive, tmp_path / "b.parquet", hide_paths=True)
    assert not any("avi" in row["id"] for row in rows(tmp_path / "b.parquet"))
    # A table that names them is not taken for one that does not, nor one without a map for one with.
    with pytest.raises(extract.ExtractError, match="exists, from other weights, settings or inputs"):
        extract.extract(encoder, archive, tmp_path / "a.parquet", hide_paths=True)
    with pytest.raises(extract.ExtractError, match="lacks id_map.csv, which says which file each id is"):
        extract.extract(encoder, archive, tmp_path / "b.parquet", hide_paths=True, private_dir=tmp_path / "map")


def test_a_csv_gives_the_order(encoder, archive, tmp_path):
    (archive / "list.csv").write_text("path,label\ntwo.avi,1\n , \nmissing.avi,0\na/one.avi,0\n")
    card = extract.extract(encoder, archive / "list.csv", tmp_path / "f.parquet")
    assert [(row["row"], row["id"]) for row in rows(tmp_path / "f.parquet")] == [(0, "two.avi"), (2, "a/one.avi")]
    assert card["quarantined"] == 1
    (archive / "list.csv").write_text("Path,class\ntwo.avi,Normal\n")
    assert extract.extract(encoder, archive / "list.csv", tmp_path / "h.parquet")["rows"] == 1
    for text, words in (
        ("file\ntwo.avi\n", "names no column path. It needs path"),
        ("path;label\ntwo.avi;1\n", r"no column path.* Its cells are separated by semicolons \(;\): save"),
        ("path,fps\ntwo.avi,fast\n", "CSV line 2: fps is not a number"),
        ("path,fps\n", "a header and no rows"),
        ("path\nvideos/two.avi\n", "Row 1: no such file.* 1 of these 1 would be found without their first 1 folder"),
        ("path\n.Trash/two.avi\n", "hidden files and folders are not read"),
    ):
        (archive / "list.csv").write_text(text)
        with pytest.raises(ValueError, match=words):
            extract.extract(encoder, archive / "list.csv", tmp_path / "g.parquet")


def test_a_csv_names_files_as_that_of_prepare_does(encoder, archive, tmp_path):
    """Backslashes, names without suffix, whole paths."""
    listed = ["a\\one.avi", "a/one", "two", str(archive / "two.avi")]
    (archive / "list.csv").write_text("\n".join(["path", *listed]) + "\n")
    card = extract.extract(encoder, archive / "list.csv", tmp_path / "f.parquet")
    assert (card["rows"], card["quarantined"]) == (4, 0)
    assert [row["num_frames"] for row in rows(tmp_path / "f.parquet")] == [20, 20, 30, 30]


def test_one_file_never_ends_an_extraction(encoder, tmp_path, monkeypatch):
    """A frame rate that cannot be met, a name that is no UTF-8, a still, an error of the reader; a sound one."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a_sound", "b_odd", "c_still", "d_fails"):
        np.save(folder / f"{name}.npy", moving_square(1 if "still" in name else 20))
    os.rename(folder / "a_sound.npy", os.fsencode(folder) + b"/Caf\xe9.npy")
    embed, read_video = encoder.embed, read.read_video

    def odd(frames, fps, spacing):
        if any(rate == 7 for rate in fps):
            raise ValueError("fps must be what it is not")
        return embed(frames, fps=fps, spacing=spacing)

    def fails(path):
        if path.name == "d_fails.npy":
            raise TypeError("not the file's fault")
        video = read_video(path)
        return dataclasses.replace(video, fps=7) if path.name == "b_odd.npy" else video

    monkeypatch.setattr(encoder, "embed", odd)
    monkeypatch.setattr(read, "read_video", fails)
    card = extract.extract(encoder, folder, tmp_path / "f.parquet")
    assert [row["id"] for row in rows(tmp_path / "f.parquet")] == ["Caf%E9.npy"]
    assert (card["rows"], card["quarantined"], card["skipped"]) == (1, 2, 1)
    listed = {}
    for kind in ("quarantine", "skipped"):
        with open(tmp_path / f"f.{kind}.csv", newline="") as file:
            listed[kind] = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert listed["quarantine"] == {
        "b_odd.npy": "it cannot be embedded: fps must be what it is not",
        "d_fails.npy": "the reader failed with TypeError; that may be its own fault",
    }
    assert list(listed["skipped"]) == ["c_still.npy"]


def test_parts_are_put_together_in_their_order_whatever_their_number(tmp_path):
    """Numbers of six and seven digits, more than one row group, bit for bit; a part that was cut short is made anew."""
    table = feature_table.FeatureTable(tmp_path / "f.parquet")
    table.partial.mkdir()
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for number, vector in zip((1_000_000, 99_999, 100_000), values, strict=True):
        row = {"row": number, "id": str(number), "format": "npy"}
        bad = row | {"row": -number, "list": "quarantine", "reason": f"reason {number}"}
        table.write_part(number, [row | {"features": vector}, bad], 4)
    assert table.done(range(2_000_000)) == {99_999: 2, 100_000: 2, 1_000_000: 2}
    assert table.done(range(100_000)) == {99_999: 2}
    (table.partial / "part-7.parquet").write_bytes((table.partial / "part-99999.parquet").read_bytes()[:100])
    assert 7 not in table.done(range(2_000_000)) and not (table.partial / "part-7.parquet").exists()
    assert table.finish({"features": 4, "readouts": {"cls": 4}})["rows"] == 3
    found = rows(tmp_path / "f.parquet")
    assert [row["row"] for row in found] == [99_999, 100_000, 1_000_000]
    np.testing.assert_array_equal(np.array([row["features"] for row in found], np.float32), values[[1, 2, 0]])
    with open(tmp_path / "f.quarantine.csv", newline="") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["reason 99999", "reason 100000", "reason 1000000"]


def test_a_table_is_put_together_in_little_memory(tmp_path, monkeypatch):
    """64 parts of 1 MiB in groups of 4: never more than a few groups at once."""
    import pyarrow as pa

    monkeypatch.setattr(feature_table, "_ROW_GROUP", 4 * 2**20)
    table = feature_table.FeatureTable(tmp_path / "f.parquet")
    table.partial.mkdir()
    vector = np.zeros(2**14, np.float32)
    for number in range(64):
        table.write_part(number, [{"row": 16 * number + i, "features": vector} for i in range(16)], len(vector))
    before, most = pa.total_allocated_bytes(), []
    read_parts = feature_table.FeatureTable._read

    def watched(self):
        for part in read_parts(self):
            most.append(pa.total_allocated_bytes() - before)
            yield part

    monkeypatch.setattr(feature_table.FeatureTable, "_read", watched)
    assert table.finish({"features": len(vector), "readouts": {"cls": len(vector)}})["rows"] == 1024
    assert max(most) < 24 * 2**20  # all of it is 64 MiB
    assert pq.ParquetFile(tmp_path / "f.parquet").num_row_groups == 16




def test_the_sector_alone_is_embedded_as_records_hold_it_unless_told_otherwise(encoder, archive, tmp_path):
    screen = read.read_video(archive / "DOE^JANE" / "IM0001.dcm")
    alone, _ = sector.isolate_video(screen)
    for name, video, options in (("a", alone, {}), ("b", screen, {"whole_frame": True})):
        extract.extract(encoder, archive / "DOE^JANE" / "IM0001.dcm", tmp_path / f"{name}.parquet", **options)
        found = rows(tmp_path / f"{name}.parquet")[0]
        np.testing.assert_allclose(found["features"], encoder.embed(video.frames, fps=video.fps), atol=1e-6)
    assert found["flags"] == ""


def test_frame_rate_is_used_unless_told_otherwise(encoder, archive, tmp_path, monkeypatch):
    extract.extract(encoder, archive / "two.avi", tmp_path / "a.parquet")
    extract.extract(encoder, archive / "two.avi", tmp_path / "b.parquet", use_fps=False)
    video = read.read_video(archive / "two.avi")
    plain = rows(tmp_path / "b.parquet")[0]["features"]
    np.testing.assert_allclose(plain, encoder.embed(video.frames), atol=1e-6)
    monkeypatch.setitem(encoder.options, "trained_fps", None)
    with pytest.raises(extract.ExtractError, match="--trained_fps"):
        extract.extract(encoder, archive, tmp_path / "c.parquet")


def test_frame_rates_come_from_a_csv(encoder, archive, tmp_path, monkeypatch):
    """That of `prepare`, with a folder; or the one that names the files. It goes before what a file says."""
    frames = moving_square(30)
    np.save(archive / "silent.npy", frames)
    listed = "Path,class,patient_id,fps,study_id\nsilent,Normal,p,25,\na/one.avi,,p,,\ntwo.avi,,p,100,\ngone.avi,,p,,\n"
    (tmp_path / "LIST.csv").write_text(listed)
    card = extract.extract(encoder, archive, tmp_path / "a.parquet", csv=tmp_path / "LIST.csv")
    assert card["fps_of_csv"]["files"] == 2 and card["not_read"]["row(s) of the CSV without a file"] == 1
    found = {row["id"]: row for row in rows(tmp_path / "a.parquet")}
    assert (found["silent.npy"]["fps"], found["two.avi"]["fps"]) == (25, 100)
    assert found["a/one.avi"]["fps"] == read.read_video(archive / "a" / "one.avi").fps  # its cell is empty
    np.testing.assert_allclose(found["silent.npy"]["features"], encoder.embed(frames, fps=25), atol=1e-6)
    (archive / "list.csv").write_text("path,fps\nsilent.npy,25\n")
    for name, source, options in (
        ("b", archive / "list.csv", {}), ("c", archive / "silent.npy", {"csv": "list.csv"})
    ):  # fmt: skip
        extract.extract(encoder, source, tmp_path / f"{name}.parquet", **options)
        (row,) = rows(tmp_path / f"{name}.parquet")
        np.testing.assert_array_equal(row["features"], found["silent.npy"]["features"])
    # Other rates are another table.
    (tmp_path / "LIST.csv").write_text(listed.replace("25", "26"))
    with pytest.raises(extract.ExtractError, match="exists"):
        extract.extract(encoder, archive, tmp_path / "a.parquet", csv=tmp_path / "LIST.csv")
    with pytest.raises(inputs.InputError, match="is a CSV: give the columns"):
        extract.extract(encoder, archive / "list.csv", tmp_path / "d.parquet", csv=tmp_path / "LIST.csv")
    (tmp_path / "LIST.csv").write_text("path,fps\nx/a/one.avi,25\n")
    with pytest.raises(inputs.InputError, match="none of its 1 rows names a file.* without their first 1 folder"):
        extract.extract(encoder, archive, tmp_path / "d.parquet", csv=tmp_path / "LIST.csv")
    # The stride serves no encoder that was trained at a set rate.
    monkeypatch.setitem(encoder.options, "target_fps", 16.0)
    (archive / "list.csv").write_text("path,fps\nsilent.npy,\ntwo.avi,\n")
    assert extract.extract(encoder, archive / "list.csv", tmp_path / "e.parquet")["rows"] == 1
    with open(tmp_path / "e.quarantine.csv", newline="") as file:
        (bad,) = csv.DictReader(file)
    assert bad["id"] == "silent.npy" and "trained at 16 frames per second: give fps" in bad["reason"]
    assert extract.extract(encoder, archive / "list.csv", tmp_path / "f.parquet", use_fps=False)["rows"] == 2


def test_resumes_where_it_was_stopped(encoder, archive, tmp_path, monkeypatch):
    """Chunks of one file; stopped before the third, only what is left is embedded, and the result is the same."""
    monkeypatch.setattr(video_table, "CHUNK", 1)
    extract.extract(encoder, archive, tmp_path / "whole.parquet", hide_paths=True, private_dir=tmp_path / "private")
    embed, calls = encoder.embed, []

    def stops(frames, **options):
        calls.append(len(frames))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(frames, **options)

    out = tmp_path / "f.parquet"
    options = {"hide_paths": True, "private_dir": tmp_path / "private"}
    monkeypatch.setattr(encoder, "embed", stops)
    with pytest.raises(KeyboardInterrupt):
        extract.extract(encoder, archive, out, **options)
    assert not out.exists()
    with pytest.raises(extract.ExtractError, match="other weights, settings or inputs"):
        extract.extract(encoder, archive, out, use_fps=False, **options)
    monkeypatch.setattr(encoder, "embed", lambda *a, **k: [calls.append(1), embed(*a, **k)][1])
    extract.extract(encoder, archive, out, **options)
    assert len(calls) == 5  # four readable files, one of them twice
    assert rows(out) == rows(tmp_path / "whole.parquet")
    monkeypatch.setattr(encoder, "embed", None)
    assert extract.extract(encoder, archive, out, **options)["rows"] == 4  # all done: nothing to do
    with pytest.raises(extract.ExtractError, match="exists"):
        extract.extract(encoder, archive / "a", out, **options)


def test_nothing_to_do(encoder, tmp_path):
    with pytest.raises(inputs.InputError, match="no videos"):
        extract.extract(encoder, tmp_path, tmp_path / "f.parquet")
    with pytest.raises(inputs.InputError, match="no such file"):
        extract.extract(encoder, tmp_path / "absent", tmp_path / "f.parquet")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.avi").write_bytes(b"")
    with pytest.raises(extract.ExtractError, match="none of the 1 files gave a row: 1 could not be read.*0 bytes"):
        extract.extract(encoder, tmp_path / "in", tmp_path / "f.parquet")
    assert not (tmp_path / "f.parquet").exists()


def test_command(workdir, archive, tmp_path, capsys):
    arguments = [f"--checkpoint={workdir}", f"--input={archive}", f"--output={tmp_path / 'f.parquet'}"]
    assert extract.main([*arguments, "--readout=mean_map", "--clips=2"]) == 0
    out = capsys.readouterr().out
    assert "4 rows of 144 features" in out and "f.quarantine.csv" in out
    assert extract.main([*arguments, "--readout=cls"]) == 1
    assert "choose another" in capsys.readouterr().err
    assert extract.main([arguments[0].replace("run", "gone"), *arguments[1:]]) == 1
    assert "no checkpoint here" in capsys.readouterr().err


def test_shards_by_command(workdir, archive, tmp_path, monkeypatch, capsys):
    """The real encoder in two shards: the features of one process to the bit, in the same order."""
    monkeypatch.setattr(video_table, "CHUNK", 2)
    arguments = [f"--checkpoint={workdir}", f"--input={archive}", f"--private_dir={tmp_path / 'private'}"]
    assert extract.main([*arguments, f"--output={tmp_path / 'whole.parquet'}"]) == 0
    arguments.append(f"--output={tmp_path / 'f.parquet'}")
    assert extract.main([*arguments, "--shard=2/2"]) == 0
    assert "shard 2/2 is done; not yet: 1/2. The last one writes" in capsys.readouterr().out
    assert extract.main(arguments) == 1
    assert "in 2 shards; not done: 1/2. Run them" in capsys.readouterr().err
    assert extract.main([*arguments, "--shard=1/2"]) == 0
    out = capsys.readouterr().out
    assert "4 rows of 16 features" in out and "f.quarantine.csv" in out
    for kind in ("parquet", "card.json", "quarantine.csv"):
        assert (tmp_path / f"f.{kind}").read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    assert extract.main(["--checkpoint=gone", *arguments[1:], "--shard=3/2"]) == 1
    assert "of N processes the first is --shard=1/N" in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real clips are not at {REAL}")
def test_real_clips_and_a_real_dicom(encoder, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for path in sorted(REAL.glob("*.avi")):
        (folder / path.name).symlink_to(path)
    (folder / "x.dcm").symlink_to(examples.get_path("ybr_color"))
    assert extract.extract(encoder, folder, tmp_path / "f.parquet")["rows"] == 8
    features = np.array([row["features"] for row in rows(tmp_path / "f.parquet")])
    assert np.isfinite(features).all() and np.linalg.matrix_rank(features - features.mean(0)) == 7
