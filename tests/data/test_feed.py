"""Device feed: order, sharding, bounded prefetch, errors and shutdown."""

import gc
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from discovr_jax.data import feed


@pytest.fixture
def sharding():
    mesh = jax.make_mesh((jax.device_count(), 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def numbered(count):
    rows = 2 * jax.device_count()
    for k in range(count):
        yield {"frames": np.full((rows, 3, 2, 2), k, np.uint8), "record": np.arange(rows, dtype=np.int32) + k}


def feed_threads():
    return [thread for thread in threading.enumerate() if thread.name == "device-batches"]


def wait_until(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_batches_arrive_in_order_with_the_sharding(sharding):
    batches = list(feed.device_batches(numbered(5), sharding))
    assert len(batches) == 5
    for found, wanted in zip(batches, numbered(5), strict=True):
        assert set(found) == set(wanted)
        for name in wanted:
            assert found[name].sharding.is_equivalent_to(sharding, wanted[name].ndim)
            np.testing.assert_array_equal(found[name], wanted[name])
    assert not feed_threads()


def test_only_depth_batches_are_fetched_ahead(sharding):
    fetched = []
    source = (fetched.append(k) or batch for k, batch in enumerate(numbered(20)))
    with feed.device_batches(source, sharding, depth=3) as batches:
        wait_until(lambda: len(fetched) == 3)
        time.sleep(0.05)
        assert len(fetched) == 3
        next(batches)
        wait_until(lambda: len(fetched) == 4)
        time.sleep(0.05)
        assert len(fetched) == 4
    assert not feed_threads()


def test_errors_follow_the_batches_before_them(sharding):
    def failing():
        yield from numbered(2)
        raise ValueError("record 7 is damaged")

    batches = feed.device_batches(failing(), sharding, depth=4)
    assert int(next(batches)["frames"][0, 0, 0, 0]) == 0
    assert int(next(batches)["frames"][0, 0, 0, 0]) == 1
    for _ in range(2):  # And again: an error is not forgotten.
        with pytest.raises(ValueError, match="record 7 is damaged"):
            next(batches)
    assert not feed_threads()


def test_the_end_stays_the_end(sharding):
    batches = feed.device_batches(numbered(1), sharding)
    next(batches)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(batches)


def test_closing_twice_and_reading_on(sharding):
    batches = feed.device_batches(numbered(100), sharding)
    next(batches)
    batches.close()
    batches.close()
    assert not feed_threads()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_an_abandoned_feed_ends_its_thread(sharding):
    batches = feed.device_batches(numbered(100), sharding)
    next(batches)
    assert feed_threads()
    del batches
    gc.collect()
    wait_until(lambda: not feed_threads())


def test_depth_must_be_positive(sharding):
    with pytest.raises(ValueError, match="depth must be >= 1, got 0"):
        feed.device_batches(numbered(1), sharding, depth=0)
