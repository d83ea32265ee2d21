"""One table by several processes: what each makes, what it refuses, and that the table is that of one process."""

import concurrent.futures
import json
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from discovr_jax import extract, file_lock
from discovr_jax.data import private
from discovr_jax.evaluation.features import feature_table, video_table
from discovr_jax.evaluation.features.video_table import ExtractError, Shard
from tests.builder_case import moving_square

FILES, CHUNK = 26, 3  # nine chunks, the last of two files


class Encoder:
    """Features of a video change with those embedded beside it, as a network's may in their last bits."""

    def __init__(self, weights="first"):
        self.weights, self.embedded, self.before = weights, 0, lambda: None
        self.options, self.frame_rates, self.uses_fps = {"trained_fps": 50.0, "stride": 3}, {}, True

    def card(self):
        return {"weights_sha256": self.weights, "features": 2, "readouts": {"cls": 2}, "preprocessing": self.options}

    def embed(self, frames, fps, spacing):
        self.before()
        self.embedded += len(frames)
        means = np.array([video.mean() for video in frames], np.float32)
        return np.stack([means, np.full_like(means, means.sum())], 1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(video_table, "CHUNK", CHUNK)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """24 clips, a still and a file that is none."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(FILES):
        np.save(folder / f"{number:02d}.npy", moving_square(1 if number == 7 else 4 + number % 5, 32, 48, seed=number))
    (folder / "11.npy").write_bytes(b"no array")
    return folder


@pytest.fixture(scope="module")
def one_process(archive, tmp_path_factory):
    """The files that one process writes, and the folder of the salt."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_table, "CHUNK", CHUNK)
        run(archive, folder / "out" / "f.parquet", private_dir=folder / "private")
    return folder


def run(archive, output, shard=None, encoder=None, **options):
    return extract.extract(
        encoder or Encoder(), archive, output, shard=shard and Shard.parse(shard), hide_paths=True, **options
    )


def interrupted(*_, **__):
    raise KeyboardInterrupt


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_write_what_one_process_writes_byte_for_byte(archive, one_process, tmp_path):
    """Table, card and both lists, whichever shard ends last; no file is embedded twice, and nothing else stays."""
    out, encoders = tmp_path / "out" / "f.parquet", [Encoder() for _ in range(3)]
    options = {"private_dir": one_process / "private"}
    assert run(archive, out, "3/3", encoders[0], **options)["unfinished_shards"] == ["1/3", "2/3"]
    assert run(archive, out, "1/3", encoders[1], **options)["unfinished_shards"] == ["2/3"]
    assert not out.exists()
    card = run(archive, out, "2/3", encoders[2], **options)
    assert [encoder.embedded for encoder in encoders] == [7, 8, 9]
    assert contents(out.parent) == contents(one_process / "out")
    assert sorted(contents(out.parent)) == ["f.card.json", "f.parquet", "f.quarantine.csv", "f.skipped.csv"]
    assert card == json.loads(out.with_suffix(".card.json").read_text()) and card["rows"] == 24
    assert [row["row"] for row in pq.read_table(out).to_pylist()] == [n for n in range(FILES) if n not in (7, 11)]
    # All is done, so each of them says so.
    assert run(archive, out, "3/3", Encoder(), **options) == card


def test_shards_at_once_have_one_salt_and_write_one_table(archive, tmp_path, monkeypatch):
    made, token_hex = [], secrets.token_hex

    def slow(size):
        made.append(size)
        time.sleep(0.2)  # in which all would see that there is none
        return token_hex(size)

    monkeypatch.setattr(secrets, "token_hex", slow)
    out = tmp_path / "f.parquet"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        cards = list(pool.map(lambda index: run(archive, out, f"{index}/4"), range(1, 5)))
    assert len(made) == 1
    assert [card["rows"] for card in cards if "rows" in card] and not (tmp_path / "f.parquet.partial").exists()
    assert [row["row"] for row in pq.read_table(out).to_pylist()] == [n for n in range(FILES) if n not in (7, 11)]


def test_files_of_all_shards_are_named_by_one_salt(archive, tmp_path):
    out = tmp_path / "f.parquet"
    run(archive, out, "1/2")
    salt = private.open_salt(tmp_path / "f.parquet.partial")
    run(archive, out, "2/2")
    for row in pq.read_table(out).to_pylist():
        assert row["id"] == private.salted_id(salt, f"{row['row']:02d}.npy")


def test_a_killed_shard_goes_on_where_it_stopped(archive, one_process, tmp_path):
    """SIGKILL in its third chunk: the kernel gives its lock back, and two chunks are not made again."""
    out = tmp_path / "out" / "f.parquet"
    options = {"private_dir": one_process / "private"}
    code = (
        "import os, signal, sys\n"
        "from tests.evaluation.features import test_video_table as case\n"
        "case.video_table.CHUNK = case.CHUNK\n"
        "encoder = case.Encoder()\n"
        "encoder.before = lambda: encoder.embedded < 5 or os.kill(os.getpid(), signal.SIGKILL)\n"
        "case.run(sys.argv[1], sys.argv[2], '2/2', encoder, private_dir=sys.argv[3])\n"
    )
    root = pathlib.Path(__file__).parents[3]
    command = [sys.executable, "-c", code, archive, out, one_process / "private"]
    assert subprocess.run(command, cwd=root).returncode == -signal.SIGKILL
    parts = out.parent / "f.parquet.partial"
    assert sorted(path.name for path in parts.glob("part-*")) == ["part-1.parquet", "part-3.parquet"]
    again = Encoder()
    assert run(archive, out, "2/2", again, **options)["unfinished_shards"] == ["1/2"]
    assert again.embedded == 6
    run(archive, out, "1/2", **options)
    assert contents(out.parent) == contents(one_process / "out")


@pytest.mark.parametrize(("shard", "named"), [("1/2", "--shard=1/2 of --output="), (None, "--output=")])
def test_nobody_else_writes_a_shard_meanwhile(archive, tmp_path, shard, named):
    encoder, second = Encoder(), Encoder()

    def another():
        with pytest.raises(ExtractError, match=f"^{named}.* is being written by process {os.getpid()} on "):
            run(archive, tmp_path / "f.parquet", shard, second)

    encoder.before = another
    run(archive, tmp_path / "f.parquet", shard, encoder)
    assert (encoder.embedded, second.embedded) == (13 if shard else 24, 0)


def test_a_table_is_not_written_while_a_shard_is_missing(archive, tmp_path, monkeypatch):
    out = tmp_path / "f.parquet"
    run(archive, out, "2/4")
    with pytest.raises(ExtractError, match=r"in 4 shards; not done: 1/4, 3/4, 4/4\. Run them \(--shard=1/4\)"):
        run(archive, out)
    run(archive, out, "1/4")
    run(archive, out, "4/4")
    with pytest.raises(ExtractError, match=r"not done: 3/4\. Run"):
        run(archive, out)
    assert [path.name for path in tmp_path.iterdir()] == ["f.parquet.partial"]
    # The last one is killed while it writes the table: the command without --shard writes it, and embeds nothing.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(feature_table, "write_json", interrupted)
        run(archive, out, "3/4")
    assert not out.exists()
    encoder = Encoder()
    assert run(archive, out, None, encoder)["rows"] == 24 and encoder.embedded == 0


def test_shards_must_be_of_one_table(archive, tmp_path):
    """The same weights, settings, files and number of shards."""
    out = tmp_path / "f.parquet"
    run(archive, out, "1/2")
    for change in (
        {"encoder": Encoder("second")}, {"whole_frame": True}, {"use_fps": False}, {"private_dir": tmp_path / "private"}
    ):  # fmt: skip
        for shard in ("2/2", None):
            with pytest.raises(ExtractError, match="begun with other weights, settings or inputs"):
                run(archive, out, shard, **change)
    with pytest.raises(ExtractError, match="begun with other weights, settings or inputs"):
        extract.extract(Encoder(), archive, out, shard=Shard(2, 2))  # names are not hidden
    with pytest.raises(ExtractError, match=r"begun in 2 shards: give --shard=I/2, or remove it"):
        run(archive, out, "3/3")
    alone, encoder = tmp_path / "alone.parquet", Encoder()
    encoder.before = interrupted
    with pytest.raises(KeyboardInterrupt):
        run(archive, alone, None, encoder)
    with pytest.raises(ExtractError, match="begun without --shard: go on so"):
        run(archive, alone, "1/2")


def test_what_an_earlier_version_began_is_refused(archive, tmp_path):
    """It did not note the files' names, so that others may have been listed."""
    run(archive, tmp_path / "f.parquet", "1/2")
    begun = tmp_path / "f.parquet.partial" / "settings.json"
    kept = {key: value for key, value in json.loads(begun.read_text()).items() if key not in ("shards", "names")}
    begun.write_text(json.dumps(kept))
    for shard in ("2/2", None):
        with pytest.raises(ExtractError, match="other weights, settings or inputs"):
            run(archive, tmp_path / "f.parquet", shard)


def test_another_machine_must_list_the_same_files(archive, tmp_path):
    """As many, but one has another name: row numbers would mean other files."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in archive.iterdir():
        (folder / path.name).symlink_to(path)
    run(archive, tmp_path / "f.parquet", "1/2")
    (folder / "25.npy").rename(folder / "26.npy")
    with pytest.raises(ExtractError, match="other weights, settings or inputs"):
        run(folder, tmp_path / "f.parquet", "2/2")
    (folder / "26.npy").rename(folder / "25.npy")
    assert run(folder, tmp_path / "f.parquet", "2/2")["rows"] == 24


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "-1/3", "3", "1/3/5", "a/3", "1.5/3", ""])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ExtractError, match=f"--shard={text}: "):
        Shard.parse(text)


def test_a_shard_without_files(archive, tmp_path, capsys):
    """More shards than chunks: those beyond have nothing to do, and nobody waits for them."""
    encoder = Encoder()
    left = run(archive, tmp_path / "f.parquet", "12/12", encoder)["unfinished_shards"]
    assert left == [f"{index}/12" for index in range(1, 10)] and encoder.embedded == 0
    assert capsys.readouterr().err == ""  # not "0 of 0 files"
    cards = [run(archive, tmp_path / "f.parquet", shard) for shard in left]
    assert cards[-1]["rows"] == 24


def test_shards_of_which_no_file_can_be_read(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(2 * CHUNK):
        (folder / f"{number}.npy").write_bytes(b"no array")
    assert run(folder, tmp_path / "f.parquet", "1/2")["unfinished_shards"] == ["2/2"]
    with pytest.raises(ExtractError, match="none of the 6 files gave a row: 6 could not be read"):
        run(folder, tmp_path / "f.parquet", "2/2")


def test_a_disk_without_locks_serves_one_process_alone(archive, tmp_path, monkeypatch):
    def none(handle, wait):
        raise OSError("Function not implemented")

    monkeypatch.setattr(file_lock, "lock", none)
    assert run(archive, tmp_path / "f.parquet")["rows"] == 24
    with pytest.raises(ExtractError, match=r"--shard needs a disk that locks files.*not implemented"):
        run(archive, tmp_path / "g.parquet", "1/2")


def test_many_shards_are_not_all_named():
    assert video_table.in_words([f"{index}/12" for index in range(1, 13)]).endswith("10/12 and 2 more")
