"""Batches of clips: the same for any processes, workers and restarts; only what is sampled is read."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import ml_collections
import numpy as np
import pytest

from discovr_jax.data import pipeline, records, transforms

SIDE = 16
NAN = float("nan")


def make_config(**data):
    settings = dict(
        dataset="echonet_dynamic", mixture={}, image_size=SIDE, num_frames=4, stride=3, target_fps=None,
        stride_jitter=0.0, train_filter="all", abnormal_rule=None, crop_scales=(1.0, 0.875, 0.75, 0.66), workers=0,
        reads=8,
    )  # fmt: skip
    return ml_collections.ConfigDict(
        dict(seed=0, batch_size=4, eval=dict(clips=3), data=settings | data), convert_dict=True
    )


def make_source(lengths, **fields):
    """A source in memory; frame t of record i is t + 10 * i everywhere: pixels tell which frame they are."""

    # A local class, because workers cannot import this test: it travels by value.
    class Source:
        frame_size = SIDE
        path = pathlib.Path("/nowhere")
        split = "train"

        def __init__(self, items):
            self.items = items
            self._columns = {}
            self.only_in_worker = False

        def __len__(self):
            return len(self.items)

        def __repr__(self):
            return "Source(test)"

        def __getitem__(self, index):
            if self.only_in_worker:
                import cv2
                import jax

                assert multiprocessing.parent_process() is not None, "read outside of a worker"
                assert multiprocessing.current_process().daemon
                jax.config.update("jax_num_cpu_devices", index + 1)  # an error once a backend has started
                assert cv2.getNumThreads() == 1
            return self.items[index]

    items = []
    for i, length in enumerate(lengths):
        values = (np.arange(length) + 10 * i).astype(np.uint8)
        frames = np.broadcast_to(values[:, None, None], (length, SIDE, SIDE))
        own = {name: values[i] for name, values in fields.items()}
        items.append(records.make_record(frames, id=f"record-{i}", patient_id=f"p{i}", **own))
    return Source(items)


def noisy_source(count=7, **fields):
    rng = np.random.default_rng(0)
    source = make_source([int(n) for n in rng.integers(1, 40, count)], **fields)
    for item in source.items:
        noise = rng.integers(0, 256, (item["num_frames"], SIDE, SIDE), dtype=np.uint8)
        item["frames"] = records.encode_frames(noise)
    return source


def named(source):
    """Sources by name, as training takes them."""
    return source if isinstance(source, dict) else {"echonet_dynamic": source}


def take(source, config, count, **arguments):
    with pipeline.train_batches(named(source), config, **arguments) as batches:
        return [next(batches) for _ in range(count)]


def assert_equal_batches(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert set(a) == set(b)
        for name in b:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def test_a_batch_has_the_documented_arrays():
    (batch,) = take(noisy_source(), make_config(image_size=12), 1)
    assert {name: (array.dtype, array.shape) for name, array in batch.items()} == {
        "frames": (np.uint8, (4, 4, 12, 12)), "num_valid": (np.int32, (4,)),
        "dataset": (np.int32, (4,)), "record": (np.int32, (4,)),
    }  # fmt: skip


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_batches_of_one(process_count):
    source, config = noisy_source(), make_config()
    parts = [
        take(source, config, 5, process_index=index, process_count=process_count, start_step=2)
        for index in range(process_count)
    ]
    joined = [
        {name: np.concatenate([batch[name] for batch in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_equal_batches(joined, take(source, config, 7)[2:])


def test_start_step_skips_batches_and_the_state_says_so():
    source, config = noisy_source(), make_config()
    with pipeline.train_batches(named(source), config) as batches:
        for _ in range(5):
            next(batches)
        state = batches.get_state()
        wanted = [next(batches) for _ in range(3)]
    with pipeline.train_batches(named(source), config, start_step=5) as batches:
        assert batches.get_state() == state
        assert_equal_batches([next(batches) for _ in range(3)], wanted)
    with pipeline.train_batches(named(source), make_config(stride=2), start_step=5) as batches:
        assert batches.get_state() != state
    # Far away, at once: nothing is replayed.
    assert len(take(source, config, 1, start_step=10**12)) == 1


def test_workers_give_the_same_batches_and_never_start_a_jax_backend():
    source, config = noisy_source(), make_config()
    wanted = take(source, config, 9)[3:]
    jax.devices()  # A backend in this process; workers must not have one.
    source.only_in_worker = True
    with pytest.raises(AssertionError, match="outside of a worker"):
        take(source, config, 1)
    assert_equal_batches(take(source, make_config(workers=2), 6, start_step=3), wanted)


def test_an_error_in_a_worker_arrives_with_its_message():
    source = make_source([10])
    source.items[0]["frames"][3] = b"\x00damaged"
    with pytest.raises(ValueError, match="record-0: frame 3 is damaged"):
        take(source, make_config(workers=1, crop_scales=(1.0,)), 1)


def test_workers_of_a_killed_process_end(tmp_path):
    script = """
import multiprocessing, os, signal, sys
from tests_pipeline import make_config, named, noisy_source, pipeline
batches = pipeline.train_batches(named(noisy_source()), make_config(workers=1))
next(batches)
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    loader = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('tests_pipeline', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\nsys.modules[spec.name] = module\n"
        "spec.loader.exec_module(module)\n"
    )
    root = pathlib.Path(pipeline.__file__).parents[2]
    output = tmp_path / "output"
    # Into a file: a pipe would stay open for as long as the worker lives.
    with output.open("w") as file:
        process = subprocess.run(
            [sys.executable, "-c", loader + script], stdout=file, stderr=subprocess.STDOUT, timeout=60,
            env=os.environ | {"PYTHONPATH": str(root)},
        )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, output.read_text()
    worker = int(output.read_text().split()[0])
    deadline = time.monotonic() + 10
    while _is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    if _is_running(worker):
        os.kill(worker, signal.SIGKILL)
        pytest.fail("The worker outlived its parent.")


def _is_running(pid):
    """Whether a process exists and is no zombie (in a container nobody may reap orphans)."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rsplit(")", 1)[1].split()[0] not in "ZX"


def test_too_little_shared_memory_is_refused_before_workers_start(monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="use data.workers=0, or start the container with more"):
        pipeline.train_batches(named(noisy_source()), make_config(workers=2))


def test_every_epoch_has_all_records_in_another_order():
    batches = take(make_source([5] * 8), make_config(), 8)
    drawn = np.concatenate([batch["record"] for batch in batches])
    orders = [tuple(epoch) for epoch in drawn.reshape(4, 8)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len(set(orders)) == 4


def test_seeds_give_other_streams_and_not_one_shifted_by_an_epoch():
    source, config = make_source([5] * 8), make_config()
    first = [tuple(batch["record"]) for batch in take(source, config, 8)]
    config.seed = 1
    second = [tuple(batch["record"]) for batch in take(source, config, 8)]
    assert first != second and first[2:] != second[:-2]


def test_the_public_codes_crop_where_it_is_asked_for():
    """Boxes of 8 of 16 pixels, not resized: at 13 of the 81 places, their corners 0, 2, 4, 6, 8 pixels in."""
    source, config = noisy_source(), make_config(crop_scales=(0.5,), image_size=8, num_frames=1)

    def corners(**crop):
        found = set()
        for batch in take(source, config, 40, **crop):
            for frames, record in zip(batch["frames"], batch["record"], strict=True):
                own = records.decode_frames(source.items[record]["frames"], SIDE, SIDE)
                windows = np.lib.stride_tricks.sliding_window_view(own, (8, 8), (1, 2))
                ((_, top, left), *_) = np.argwhere((windows == frames[0]).all((3, 4)))
                found.add((int(top), int(left)))
        return found

    assert corners(crop="anchors") == {(2 * down, 2 * right) for down, right in transforms.ANCHORS}
    assert len(corners()) > 50
    with pytest.raises(ValueError, match="data.crop must be one of .* not 'corners'"):
        take(source, config, 1, crop="corners")


def test_a_stream_is_named_as_before_there_were_kinds_of_crops(monkeypatch):
    """Or checkpoints of earlier versions would not resume."""
    states = []
    for crop in transforms.CROPS:
        with pipeline.train_batches(named(noisy_source()), make_config(), crop=crop) as batches:
            states.append(batches.get_state()["stream"])
    monkeypatch.setattr(pipeline, "_NAMED_AT_ONCE", 3)  # of 7
    with pipeline.train_batches(named(noisy_source()), make_config()) as batches:
        assert batches.get_state()["stream"] == states[0]
    assert states[0] == "7aa14514161cd119" != states[1]


def test_copies_of_a_record_in_one_batch_are_sampled_independently():
    config = make_config()
    config.batch_size = 16
    (batch,) = take(make_source([100]), config, 1)
    assert set(batch["record"]) == {0}
    starts = batch["frames"][:, 0, 0, 0]
    assert len(set(starts)) > 8 and starts.max() <= 100 - 12


def test_pixels_are_those_of_the_sampled_frames():
    source, config = make_source([30, 7, 2]), make_config()
    for batch in take(source, config, 6):
        rows = zip(batch["frames"], batch["num_valid"], batch["record"], strict=True)
        for frames, num_valid, record in rows:
            assert (frames == frames[:, :1, :1]).all()
            offsets = frames[:, 0, 0].astype(int) - 10 * record
            if record == 0:
                np.testing.assert_array_equal(offsets - offsets[0], [0, 3, 6, 9])
                assert 0 <= offsets[0] <= 30 - 12 and num_valid == 4
            elif record == 1:
                np.testing.assert_array_equal(offsets, [0, 3, 6, 6])
                assert num_valid == 3
            else:
                np.testing.assert_array_equal(offsets, [0, 0, 0, 0])
                assert num_valid == 1


def test_frames_that_are_not_sampled_are_not_decoded():
    source = make_source([10])
    good = list(source.items[0]["frames"])
    source.items[0]["frames"] = [good[t] if t % 3 == 0 else b"\x00damaged" for t in range(10)]
    (batch,) = take(source, make_config(), 1)
    assert (batch["num_valid"] == 4).all()
    source.items[0]["frames"][6] = b"\x00damaged"
    with pytest.raises(ValueError, match="record-0: frame 6 is damaged"):
        take(source, make_config(), 1)


def test_target_fps_sets_the_stride_of_each_video():
    source = make_source([60, 60], fps=[30.0, 50.0])
    for batch in take(source, make_config(target_fps=20.0), 4):
        for frames, record in zip(batch["frames"], batch["record"], strict=True):
            offsets = frames[:, 0, 0].astype(int) - frames[0, 0, 0]
            np.testing.assert_array_equal(offsets, [[0, 2, 3, 5], [0, 3, 5, 8]][record])


@pytest.mark.parametrize("unknown", [NAN, 0.0])
def test_target_fps_names_the_record_without_a_frame_rate(unknown):
    source = make_source([9, 9, 9], fps=[30.0, unknown, 30.0])
    with pytest.raises(ValueError, match="record-1 has no frame rate.*1 of 3 records.*data.target_fps=None"):
        pipeline.train_batches(named(source), make_config(target_fps=10.0))
    # Records that are not read may lack it.
    with pipeline.eval_batches(source, make_config(target_fps=10.0), batch_size=1, indices=[0, 2]) as batches:
        next(batches)


def test_stills_are_scored_at_any_rate_and_not_trained_on():
    source = make_source([1, 9])
    with pipeline.eval_batches(source, make_config(target_fps=10.0), batch_size=1, indices=[0]) as batches:
        assert next(batches)["num_valid"] == 1
    with pytest.raises(ValueError, match="1 of the 2 training records of echonet_dynamic are stills"):
        pipeline.train_batches(named(source), make_config())


def test_the_filter_keeps_normal_records_only():
    source = make_source([5] * 6, ef=[60.0, 40.0, NAN, 50.0, 49.9, 71.0])
    batches = take(source, make_config(train_filter="normal"), 6)
    assert {int(i) for batch in batches for i in batch["record"]} == {0, 3, 5}


def test_a_filter_that_leaves_nothing_names_the_rule_and_the_remedy():
    source = make_source([5] * 2, ef=[40.0, NAN])
    with pytest.raises(ValueError, match=r"None of the 2 records.*'ef < 50'.*data\.train_filter=all"):
        pipeline.train_batches(named(source), make_config(train_filter="normal"))
    with pytest.raises(ValueError, match="'normal' or 'all', got 'abnormal'"):
        pipeline.train_batches(named(source), make_config(train_filter="abnormal"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(process_count=3), "batch_size 4 must be a positive multiple of 3 processes"),
        (dict(process_index=2, process_count=2), r"process_index must be in 0\.\.1"),
        (dict(start_step=-1), "start_step"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline.train_batches(named(noisy_source()), make_config(), **arguments)


@pytest.mark.parametrize("process_count", [1, 2])
def test_evaluation_covers_every_video_once_in_order(process_count):
    lengths = [40, 5, 1, 13, 12]
    source = make_source(lengths)
    parts = [
        list(pipeline.eval_batches(
            source, make_config(), batch_size=4, process_index=index, process_count=process_count
        ))
        for index in range(process_count)
    ]  # fmt: skip
    assert [len(part) for part in parts] == [4] * process_count
    rows = [
        {name: np.concatenate([batch[name] for batch in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    joined = {name: np.concatenate([step[name] for step in rows]) for name in rows[0]}
    assert joined["weight"].dtype == np.float32
    np.testing.assert_array_equal(joined["weight"], [1] * 15 + [0])
    np.testing.assert_array_equal(joined["record"], [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 4)
    starts = joined["frames"][:15, 0, 0, 0] - 10 * joined["record"][:15]
    np.testing.assert_array_equal(starts, [0, 14, 28, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(joined["num_valid"][:15:3], [4, 2, 1, 4, 4])


def test_evaluation_sees_the_whole_frame_of_the_chosen_records():
    source = noisy_source()
    (batch,) = pipeline.eval_batches(source, make_config(), batch_size=6, indices=[5, 2])
    np.testing.assert_array_equal(batch["record"], [5, 5, 5, 2, 2, 2])
    for row, record in ((0, 5), (3, 2)):
        frames = records.decode_frames(source.items[record]["frames"], SIDE, SIDE)
        np.testing.assert_array_equal(batch["frames"][row, 0], frames[0])
    with pytest.raises(ValueError, match="`indices` is empty"):
        pipeline.eval_batches(source, make_config(), batch_size=6, indices=[])


def test_evaluation_with_more_workers_than_batches():
    source = noisy_source(2)
    wanted = list(pipeline.eval_batches(source, make_config(), batch_size=6))
    with pipeline.eval_batches(source, make_config(workers=8), batch_size=6) as batches:
        assert_equal_batches(list(batches), wanted)


def test_labelled_batches_show_the_frames_asked_for():
    """Pixels tell which frame they are; the copies that fill the last batch have weight 0."""
    source = make_source([20, 3, 40])
    asked = [(0, 8), (2, 39), (1, 2), (2, 0), (0, 19)]
    with pipeline.labelled_batches(source, make_config(), asked, tubelet=2, batch_size=4) as batches:
        found = list(batches)
    joined = {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}
    assert joined["record"].tolist() == [0, 1, 2, 3, 4, 4, 4, 4] and joined["weight"].tolist() == [1] * 5 + [0] * 3
    for row, (record, frame) in enumerate(asked):
        shown = joined["frames"][row, joined["position"][row], 0, 0]
        assert shown == frame + 10 * record and joined["position"][row] < joined["num_valid"][row]
    assert joined["num_valid"].tolist()[:5] == [4, 4, 1, 4, 4]
    halves = {"tubelet": 2, "batch_size": 4, "process_index": 1, "process_count": 2}
    with pipeline.labelled_batches(source, make_config(), asked, **halves) as part:
        assert_equal_batches([next(part)], [{name: values[2:4] for name, values in joined.items()}])
