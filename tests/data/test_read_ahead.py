"""Clips dealt out to workers, and read at the same time."""

import itertools
import sys
import threading

import grain
import pytest

from discovr_jax.data import read_ahead, records
from tests.data.test_pipeline import assert_equal_batches, make_config, noisy_source, take


@pytest.mark.parametrize("workers", [0, 1, 2, 3, 9])
def test_streams_of_workers_make_the_batches_in_turn(workers):
    """44 clips, batches of 3 of the second of two processes from batch 1 of 14 on: 1, 3, ... 13."""
    clips = read_ahead.ClipsOfWorkers(grain.MapDataset.range(44), 3, 1, 2, workers)
    assert clips.workers == min(workers, 7)
    count = max(1, clips.workers)
    streams = [list(clips[worker::count].to_iter_dataset().batch(3, drop_remainder=True)) for worker in range(count)]
    for number in range(7):
        batch = streams[number % count].pop(0)
        assert batch.tolist() == [3 * (1 + 2 * number) + row for row in range(3)]
    assert not any(streams)


def test_a_stream_without_end():
    clips = read_ahead.ClipsOfWorkers(grain.MapDataset.range(5).repeat(), 2, 10**12, 1, 3)
    assert sys.maxsize // 2 < len(clips) <= sys.maxsize and len(clips) % 6 == 0
    assert clips[0] == 2 * 10**12 % 5


def test_clips_are_read_at_the_same_time():
    """The first reads end when eight have begun: two batches' worth."""
    source, config = noisy_source(), make_config(reads=8)
    wanted = take(noisy_source(), config, 4)  # from another source: a closed loader may still end its reads
    records.record_fields(source, ["id"])  # read here, one by one; in built records they are in the manifest
    together, begun = threading.Barrier(8), itertools.count()

    class Waiting(type(source)):
        def __getitem__(self, index):
            if next(begun) < 8:
                together.wait(timeout=30)
            return super().__getitem__(index)

    source.__class__ = Waiting
    assert_equal_batches(take(source, config, 4), wanted)
    with pytest.raises(ValueError, match="data.reads = 0 must be at least 1"):
        take(source, make_config(reads=0), 1)
