"""Records in a bucket. fsspec's memory stands in for it: the same calls, no network."""

from types import SimpleNamespace

import fsspec
import pytest
from ml_collections import ConfigDict

from discovr_jax import prepare
from discovr_jax.data import bucket, mixture, records
from discovr_jax.runs import workdir

FILES = {"dataset_info.json": b"{}", "metadata.json": b"[1]", "a-train.array_record-00000-of-00001": b"abc"}


@pytest.fixture
def store():
    """The stand-in: what `prepare` would have written, under memory://lab/records."""
    store = fsspec.filesystem("memory")
    for name, content in FILES.items():
        store.pipe_file(f"/lab/records/handmade/112/1.0.0/{name}", content)
    yield store
    store.rm("/lab", recursive=True)


def contents(home):
    folder = records.records_dir(home, "handmade", "112")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_copied_once_and_again_when_they_change(store, tmp_path, monkeypatch):
    home = bucket.local_records("memory://lab/records", "handmade", "112", tmp_path)
    assert contents(home) == FILES
    with monkeypatch.context() as patched:
        patched.setattr(store, "get_file", None)
        assert bucket.local_records("memory://lab/records/", "handmade", "112", tmp_path) == home
    store.pipe_file("/lab/records/handmade/112/1.0.0/metadata.json", b"[2]")
    other = bucket.local_records("memory://lab/records", "handmade", "112", tmp_path)
    assert other != home and contents(other) == FILES | {"metadata.json": b"[2]"} and contents(home) == FILES


def test_an_interrupted_copy_leaves_nothing(store, tmp_path, monkeypatch):
    def cut(path, target):
        with open(target, "wb") as file:
            file.write(b"a")

    home = bucket.local_records("memory://lab/records", "handmade", "112", tmp_path)
    home.rename(home.with_suffix(".part"))  # as a killed process leaves it
    monkeypatch.setattr(store, "get_file", cut)
    with pytest.raises(records.RecordsError, match="came as 1 bytes, not 3: try again"):
        bucket.local_records("memory://lab/records", "handmade", "112", tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_what_cannot_be_copied_is_told(store, tmp_path, monkeypatch):
    with pytest.raises(records.RecordsError, match="No records at memory://lab/records/camus/112/1.0.0"):
        bucket.local_records("memory://lab/records", "camus", "112", tmp_path)
    with pytest.raises(records.RecordsError, match=r"cannot be read \(ValueError: Protocol not known: nothing"):
        bucket.local_records("nothing://lab", "handmade", "112", tmp_path)
    monkeypatch.setattr(bucket.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5))
    with pytest.raises(records.RecordsError, match="set DISCOVR_JAX_RECORDS to a folder on a larger disk"):
        bucket.local_records("memory://lab/records", "handmade", "112", tmp_path)


def test_without_the_library_of_google_cloud(tmp_path, monkeypatch):
    def missing(url):
        raise ImportError("no gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(records.RecordsError, match=r"gs://lab/records/handmade.*pip install gcsfs"):
        bucket.local_records("gs://lab/records", "handmade", "112", tmp_path)


def test_a_config_reads_from_a_bucket(store, tmp_path, monkeypatch):
    """data.data_dir as an address: the copy is opened, here to find that these are no real records."""
    monkeypatch.setenv("DISCOVR_JAX_RECORDS", str(tmp_path))
    data = ConfigDict({"data_dir": "memory://lab/records", "frame_size": 112})
    with pytest.raises(records.RecordsError, match=rf"No prepared records at {tmp_path}/.*features.json is missing"):
        mixture.open_source(data, "handmade", "train")


def test_addresses_are_no_folders_to_write_to():
    with pytest.raises(records.RecordsError, match="made in a folder, not at gs://lab/records"):
        prepare.build("echonet_dynamic", "nowhere", "gs://lab/records")
    with pytest.raises(workdir.WorkdirError, match="is an address, and must be a folder"), workdir.locked("gs://lab/run"):
        pass
