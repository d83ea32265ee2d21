"""Records of several files by index: from threads, and again after a read failed."""

import threading
from concurrent import futures

import pytest
from array_record.python import array_record_module

from discovr_jax.data import shards
from discovr_jax.errors import RecordsError

COUNTS = (3, 0, 2)


@pytest.fixture
def files(tmp_path):
    written = []
    for number, count in enumerate(COUNTS):
        path = tmp_path / f"{number}.array_record"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for row in range(count):
            writer.write(f"{number}.{row}".encode())
        writer.close()
        written.append((str(path), count))
    return written


def test_by_index_from_many_threads_at_once(files, monkeypatch):
    """Reads of one file wait for nobody: each of four has begun before one ends. Each file is opened once."""
    opened, open_reader, together = [], shards.open_reader, threading.Barrier(4)

    class Waiting:
        def __init__(self, path):
            opened.append(path)
            self.reader = open_reader(path)

        def read(self, indices):
            together.wait(timeout=30)
            return self.reader.read(indices)

    monkeypatch.setattr(shards, "open_reader", Waiting)
    source = shards.Shards(files)
    assert len(source) == 5
    with futures.ThreadPoolExecutor(4) as pool:
        read = list(pool.map(source.__getitem__, [0, 1, 2, 3, 4, 0, 2, 1]))
    assert read == [b"0.0", b"0.1", b"0.2", b"2.0", b"2.1", b"0.0", b"0.2", b"0.1"]
    assert sorted(opened) == [files[0][0], files[2][0]]
    with pytest.raises(IndexError, match="record 5 of 5"):
        source[5]


def test_a_file_is_opened_anew_after_a_read_that_failed(files, monkeypatch):
    open_reader = shards.open_reader

    class Failing:
        def read(self, indices):
            raise OSError("the disk is away")

    source = shards.Shards(files)
    monkeypatch.setattr(shards, "open_reader", lambda path: Failing())
    with pytest.raises(OSError, match="the disk is away"):
        source[4]
    monkeypatch.setattr(shards, "open_reader", open_reader)
    assert source[4] == b"2.1"


def test_files_that_are_not_as_they_should_be(files, tmp_path):
    shards.Shards(files).check()
    (path, _), *others = files
    with pytest.raises(RecordsError, match="0.array_record holds 3 records, not 4"):
        shards.Shards([(path, 4), *others]).check()
    with pytest.raises(RecordsError, match="incomplete: .*none is missing"):
        shards.Shards([*files, (str(tmp_path / "none"), 1)]).check()


def test_an_error_of_the_program_is_not_told_of_the_records(monkeypatch):
    def broken(path):
        raise error

    monkeypatch.setattr(shards, "RangeReader", broken)
    error = RecordsError("s3://a/b has a damaged index")
    with pytest.raises(RecordsError, match="cannot be opened .*damaged index"):
        shards.Shards([("s3://a/b", 1)]).check()
    error = ValueError("a mistake of ours")
    with pytest.raises(ValueError, match="^a mistake of ours$"):
        shards.Shards([("s3://a/b", 1)]).check()
