"""Records read by byte range from a web server on this host, with the troubles of a store far away."""

import pathlib
import pickle
import threading
from concurrent import futures

import pytest
from array_record.python import array_record_module
from ml_collections import ConfigDict

from discovr_jax.benchmark import start
from discovr_jax.configs import base
from discovr_jax.data import mixture, pipeline, range_reader, records, shards
from discovr_jax.errors import RecordsError
from tests import range_server, s3_server

pytest.importorskip("aiohttp")

FILES = {  # name: (options of the writer, bytes of each record)
    "small": ("group_size:1,uncompressed", range(1, 60)),
    "large": ("group_size:1,uncompressed", [70_000, 3, 200_000, 65_536, 0, 65_400]),
    "groups": ("group_size:3,uncompressed", range(10, 21)),
    "empty": ("group_size:1,uncompressed", []),
    "long index": ("group_size:1,uncompressed", [1] * 7000),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, (options, sizes) in FILES.items():
        write(folder / name, options, sizes)
    return folder


def write(path, options, sizes):
    writer = array_record_module.ArrayRecordWriter(str(path), options)
    for number, size in enumerate(sizes):
        writer.write(f"{number} ".encode() * (size // 2))
    writer.close()


@pytest.fixture
def server(folder):
    with range_server.serving(folder) as server:
        yield server


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(range_reader, "_PAUSES", (0.0, 0.0, 0.0))


@pytest.mark.parametrize("name", FILES)
def test_records_are_those_of_the_file_and_cost_a_request_each(name, folder, server):
    here, there = (shards.open_reader(f"{place}/{name}") for place in (folder, server.url))
    opened = len(server.asked)
    assert opened == (3 if name == "long index" else 2)
    count = there.num_records()
    assert count == here.num_records() == len(FILES[name][1])
    indices = [*range(count)][:: max(count // 50, 1)]
    assert [there.read([index]) for index in indices] == [here.read([index]) for index in indices]
    assert len(server.asked) - opened == len(indices)
    assert there.read(indices[:4]) == here.read(indices[:4])


@pytest.mark.parametrize("trouble", ["503", "drop", "short", "whole"])
def test_a_request_that_fails_is_sent_again(trouble, folder, server, caplog):
    reader, expected = shards.open_reader(f"{server.url}/large"), shards.open_reader(str(folder / "large")).read([2])
    server.trouble = lambda number: trouble if number in (1, 2) else None
    assert reader.read([2]) == expected
    assert caplog.text.count("cannot be read, and is asked for again in 0 s") == 2
    server.trouble = lambda number: trouble
    before = len(server.asked)
    with pytest.raises(RecordsError, match=rf"{server.url}/large, bytes \d+ to \d+, cannot be read"):
        reader.read([2])
    assert len(server.asked) - before == 4
    server.trouble = lambda number: None
    assert reader.read([2]) == expected


def test_reads_wait_together(server):
    """Eight requests are on their way before one is answered."""
    reader, together = shards.open_reader(f"{server.url}/small"), threading.Barrier(8)
    server.trouble = lambda number: together.wait(timeout=60) and None
    with futures.ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda index: reader.read([index])[0], range(8)))
    assert [record.split(b" ")[0] for record in read[1:]] == [str(index).encode() for index in range(1, 8)]


def test_files_that_are_damaged_are_told(folder, server, tmp_path):
    content = bytearray((folder / "large").read_bytes())
    content[200_000] ^= 1  # of the third record
    (tmp_path / "flipped").write_bytes(content)
    (tmp_path / "cut").write_bytes(content[:-1000])
    (tmp_path / "other").write_bytes(bytes(2 * 65536))
    write(tmp_path / "packed", "group_size:1,zstd:3", [1000] * 3)
    with range_server.serving(tmp_path) as other:
        reader = shards.open_reader(f"{other.url}/flipped")
        assert reader.read([1]) and reader.read([3])
        with pytest.raises(RecordsError, match=f"{other.url}/flipped: .*hash mismatch"):
            reader.read([2])
        for name, words in {
            "cut": "is no whole array_record file", "other": "has a damaged index", "packed": "it is compressed",
            "absent": "cannot be read .FileNotFoundError",
        }.items():  # fmt: skip
            with pytest.raises(RecordsError, match=f"{other.url}/{name} .*{words}"):
                shards.open_reader(f"{other.url}/{name}")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """data_dir with 40 made-up records in two files."""
    folder = tmp_path_factory.mktemp("lab")
    start.make(folder, 40, 2)
    return folder


def assert_same_records(lab: pathlib.Path, address: str, copies: pathlib.Path):
    data = ConfigDict({"data_dir": str(lab), "frame_size": 16})
    here = mixture.open_source(data, "echonet_dynamic", "train")
    data.data_dir = address
    there = mixture.open_source(data, "echonet_dynamic", "train")
    assert list(copies.rglob("manifest.csv")) and not list(copies.rglob("*.array_record*"))
    with futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(there.__getitem__, range(40)))
    assert all(record["frames"] == here[index]["frames"] for index, record in enumerate(found))
    assert pickle.loads(pickle.dumps(there))[7]["frames"] == here[7]["frames"], "as in a worker"
    return there


def test_a_web_server_as_data_dir(lab, tmp_path, monkeypatch):
    monkeypatch.setenv("DISCOVR_JAX_RECORDS", str(tmp_path))
    with range_server.serving(lab) as server:
        server.trouble = lambda number: "503" if number % 5 == 1 else None
        assert_same_records(lab, server.url, tmp_path)
        data = ConfigDict({"data_dir": f"{server.url}/nowhere", "frame_size": 16})
        with pytest.raises(RecordsError, match=f"{server.url}/nowhere"):
            mixture.open_source(data, "echonet_dynamic", "train")


@pytest.mark.long  # a worker process
def test_a_worker_makes_the_batches_of_the_folder(lab, tmp_path, monkeypatch):
    monkeypatch.setenv("DISCOVR_JAX_RECORDS", str(tmp_path))

    def batches(data_dir, workers):
        config = base.get_config()
        config.batch_size = 8
        config.data.update({"data_dir": data_dir, "frame_size": 16, "image_size": 16, "num_frames": 1})
        config.data.update({"train_filter": "all", "workers": workers, "crop": "uniform"})
        with pipeline.train_batches(mixture.open_training(config.data), config) as stream:
            return [next(stream) for _ in range(7)]

    with range_server.serving(lab) as server:
        expected, found = batches(str(lab), 0), batches(server.url, 1)
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


@pytest.mark.long
def test_a_bucket_of_s3_as_data_dir(lab, tmp_path, monkeypatch):
    monkeypatch.setenv("DISCOVR_JAX_RECORDS", str(tmp_path / "copies"))
    with s3_server.serving(tmp_path, monkeypatch) as store:
        store.put(f"{lab}/", "lab/data/", recursive=True)
        there = assert_same_records(lab, "s3://lab/data", tmp_path / "copies")
        store.rm("lab/data", recursive=True)
        with pytest.raises(records.RecordsError, match=r"s3://lab/data/.*bytes \d+ to \d+, cannot be read"):
            there[3]
        with pytest.raises(RecordsError, match="s3://elsewhere/data"):
            data = ConfigDict({"data_dir": "s3://elsewhere/data", "frame_size": 16})
            mixture.open_source(data, "echonet_dynamic", "train")
