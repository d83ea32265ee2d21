"""Records that are damaged, edited or slow to read: named before or while training, never read wrongly."""

import gc
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest

from discovr_jax.data import clip_reader, pipeline, records
from tests import made_up
from tests.chaos import soak
from tests.data.test_pipeline import assert_equal_batches, make_config, make_source, named, noisy_source, take


@pytest.fixture
def built(tmp_path):
    """data_dir with records "made_up": two in train, one in val and one in test."""
    made_up.build(tmp_path / "data", made_up.sound())
    return tmp_path / "data"


def open_train(data_dir):
    return records.open_source(data_dir, "made_up", "112", "train")


def shard(data_dir):
    (path,) = data_dir.rglob("*-train.array_record-*")
    return path


def contents(source):
    read = [source[index] for index in range(len(source))]
    frames = [records.decode_frames(record["frames"], 112, 112, record_id=record["id"]) for record in read]
    return [(record["id"], record["ef"], pixels.tobytes()) for record, pixels in zip(read, frames, strict=True)]


def test_a_lost_or_cut_shard_is_named_before_training(built):
    path = shard(built)
    whole = path.read_bytes()
    for cut in (len(whole) // 2, 100, 0):
        path.write_bytes(whole[:cut])
        with pytest.raises(records.RecordsError, match=f"{path.name}.*(holds|cannot be opened)") as error:
            contents(open_train(built))
        assert "python -m discovr_jax.prepare made_up" in str(error.value)
    path.unlink()
    with pytest.raises(records.RecordsError, match=f"incomplete: .*{path.name} is missing"):
        open_train(built)


def test_no_flipped_bit_in_a_shard_is_taken_for_content(built):
    path = shard(built)
    whole, before = path.read_bytes(), contents(open_train(built))
    found = 0
    content = np.flatnonzero(np.frombuffer(whole, np.uint8))  # the rest is mostly padding
    for place in content[np.linspace(0, len(content) - 1, 60, dtype=int)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            assert contents(open_train(built)) == before
        except records.RecordsError as error:
            assert path.name in str(error) or str(path.parent) in str(error)
            found += 1
    assert found >= 40


def test_an_edited_manifest_is_refused(built):
    """Its labels are read instead of those of the records."""
    (path,) = built.rglob("manifest.csv")
    whole = path.read_text()
    assert ",60.0," in whole
    path.write_text(whole.replace(",60.0,", ",30.0,", 1))
    with pytest.raises(records.RecordsError, match="manifest.csv was changed since the build.*Put the file back"):
        open_train(built)
    path.write_text(whole)
    assert len(open_train(built)) == 2


def test_records_made_anew_from_other_files_are_another_position(built, tmp_path):
    """Same ids and frame counts, one label changed in the source: a run does not go on with them."""
    made_up.build(tmp_path / "other", made_up.sound(made_up.clip("a", "train", "p1", ef=55.0)))
    made_up.build(tmp_path / "same", made_up.sound())
    config, states = make_config(), []
    config.batch_size = 1
    for data_dir in (built, tmp_path / "same", tmp_path / "other"):
        with pipeline.train_batches(named(open_train(data_dir)), config) as batches:
            states.append(batches.get_state())
    first, same, other = states
    assert first == same
    assert first["stream"] == other["stream"] and first["manifests"] != other["manifests"]


# Storage that is slow or fails -------------------------------------------------------------------------------


def troubled(source, trouble):
    """`source` with `trouble(number of the read, index of the record)` before every read."""
    records.record_fields(source, ["id"])  # kept; in the built records they are in the manifest
    reads = []

    class Troubled(type(source)):
        def __getitem__(self, index):
            reads.append(index)
            trouble(len(reads), index)
            return super().__getitem__(index)

    again = Troubled.__new__(Troubled)
    again.__dict__.update(source.__dict__)
    return again, reads


def test_slow_storage_gives_the_same_batches():
    source, config = noisy_source(), make_config()
    slow, reads = troubled(source, lambda number, _: time.sleep(0.05 if number % 3 == 0 else 0))
    assert_equal_batches(take(slow, config, 4), take(source, config, 4))
    assert len(reads) >= 16


def test_a_read_that_fails_is_tried_again_and_gives_the_same_batches(monkeypatch, caplog):
    left, lock = {2: 1, 5: 2}, threading.Lock()  # failures of a record; no read may meet a third

    def fail(_, index):
        with lock:  # of the threads that read
            failing = left.get(index, 0) > 0
            left[index] = left.get(index, 0) - 1
        if failing:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(clip_reader, "_RETRY_SECONDS", (0.0, 0.0))
    source, config = noisy_source(), make_config()
    failing, _ = troubled(source, fail)
    assert_equal_batches(take(failing, config, 4), take(source, config, 4))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3 and "a read failed, and is tried again in 0 s: " in warnings[0].getMessage()


def test_a_read_that_keeps_failing_stops_the_loader(monkeypatch):
    def fail(number, _):
        raise records.RecordsError(f"read {number} failed")

    monkeypatch.setattr(clip_reader, "_RETRY_SECONDS", (0.0, 0.0))
    failing, reads = troubled(make_source([9]), fail)
    with pytest.raises(records.RecordsError, match="failed"):
        take(failing, make_config(crop_scales=(1.0,)), 1)
    assert len(reads) >= 3


def test_files_that_come_back_are_opened_anew(built):
    """A network disk was away: the handles from before are of no use."""
    source, path = open_train(built), shard(built)
    before = contents(source)
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    source = pickle.loads(pickle.dumps(source))  # without an open file
    with pytest.raises(records.RecordsError, match="Record 0 of .* cannot be read .*storage is sound"):
        source[0]
    path.write_bytes(whole)
    assert contents(source) == before


# Workers -----------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_an_error_and_no_endless_wait():
    with pipeline.train_batches(named(noisy_source()), make_config(workers=1)) as batches:
        next(batches)
        (worker,) = (child for child in multiprocessing.active_children() if "grain" in child.name)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(pipeline.LoaderError, match="a loader worker was killed .*-9.*the same command resumes"):
            for _ in range(100):
                next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_long_run_keeps_its_memory_and_its_files(built, workers):
    """10,000 batches: `make chaos`."""
    config = make_config(workers=workers)
    config.batch_size = 2
    with pipeline.train_batches(named(open_train(built)), config) as batches:
        growth = soak.soak(batches, warm_up=30, count=120)
    gc.collect()
    assert growth["batches"] == 120
    # So 80 kB or a tenth of a file kept of each batch is found. (Batches on their way have files, some more or less.)
    assert growth["grown_mib"] < 10 and growth["grown_files"] < 12, growth
