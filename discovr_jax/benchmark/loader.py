"""The loader: clips per second from prepared records, stage by stage in one thread, then whole with its workers.

"cold" drops the records from the system's cache first. A core-second is one of processor time, of this process and its
workers: clips per core-second say what a core does however busy the machine is. `--latency` makes every read of a
record wait first, as distant storage does.
"""

import argparse
import multiprocessing
import os
import pathlib
import time

import numpy as np

from discovr_jax.benchmark import machine
from discovr_jax.data import mixture, pipeline, records, transforms
from discovr_jax.method.fidelity import option

HELP = "clips per second from records, by stage and by number of workers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a config file or its name, with :arguments")
    parser.add_argument("--clips", type=int, default=256, help="clips of each measurement")
    parser.add_argument("--workers", default="0,1,2", help="numbers of worker processes to compare")
    parser.add_argument("--latency", default="0", help="milliseconds that every read of a record waits, to compare")


def run(given: argparse.Namespace) -> None:
    """Prints the tables."""
    config, workers = given.config, [int(number) for number in given.workers.split(",")]
    latencies = [float(number) for number in given.latency.split(",")]
    if given.clips < config.batch_size:
        raise ValueError(f"--clips={given.clips} is less than one batch of {config.batch_size}")
    sources = mixture.open_training(config.data)
    print(machine.description())
    print(f"{config.data.num_frames} frames of {config.data.image_size} pixels, batches of {config.batch_size}\n")
    source = next(iter(sources.values()))
    result = stages(source, config, given.clips)
    total = sum(result.values())
    rows = [(name, f"{1e3 * seconds:.2f}", f"{1 / seconds:.0f}") for name, seconds in result.items()]
    rows.append(("sum", f"{1e3 * total:.2f}", f"{1 / total:.0f}"))
    print(machine.table(("stage, one thread, warm", "ms per clip", "clips per second"), rows) + "\n")
    rows = []
    for number in workers:
        for latency in latencies:
            slow = {name: DistantSource(each, latency / 1e3) for name, each in sources.items()} if latency else sources
            for cache in ("warm",) if latency else ("cold", "warm"):
                if cache == "cold":
                    for each in sources.values():
                        drop_from_cache(each)
                rows.append((number, f"{latency:g}", cache, *_row(whole(slow, config, number, given.clips))))
    header = "workers|ms per read|cache|first batch, s|clips per second|clips per core-second|MB per worker"
    print(machine.table(header.split("|"), rows))


class DistantSource(records.RecordSource):
    """The records of another source, each read `seconds` later."""

    def __init__(self, source: records.RecordSource, seconds: float):
        vars(self).update(vars(source))
        self.seconds = seconds

    def __getitem__(self, index: int) -> dict:
        time.sleep(self.seconds)
        return super().__getitem__(index)


def stages(source: records.RecordSource, config, clips: int) -> dict[str, float]:
    """Seconds a clip of each stage of a training clip: means over random records, each read once before."""
    rng, data, side = np.random.default_rng(0), config.data, source.frame_size
    seconds = dict.fromkeys(("read and parse", "decode", "crop and resize", "batch"), 0.0)
    batch = []
    for index in rng.integers(len(source), size=clips).tolist():
        source[index]
        marks = [time.perf_counter()]
        record = source[index]
        marks.append(time.perf_counter())
        count = len(record["frames"])
        start = rng.integers(transforms.last_start(count, data.num_frames, data.stride), endpoint=True)
        which, num_valid = transforms.clip_indices(count, data.num_frames, data.stride, int(start))
        frames = records.decode_frames(record["frames"], side, side, which[:num_valid])
        marks.append(time.perf_counter())
        box = transforms.multi_scale_crop(rng, side, side, tuple(data.crop_scales))
        batch.append(transforms.crop_resize(frames, box, data.image_size))
        marks.append(time.perf_counter())
        if len(batch) == config.batch_size:
            np.concatenate(batch)
            batch.clear()
        marks.append(time.perf_counter())
        for name, passed in zip(seconds, np.diff(marks), strict=True):
            seconds[name] += passed / clips
    return seconds


def whole(sources, config, workers: int, clips: int) -> dict[str, float]:
    """`pipeline.train_batches` from its start to `clips` clips after its first batch."""
    with config.unlocked():
        config = config.copy_and_resolve_references()
    config.data.workers = workers
    start = time.perf_counter()
    crop, second_clip = option(config, "data.crop"), config.views.positive == "other_beat"
    with pipeline.train_batches(sources, config, crop=crop, second_clip=second_clip) as batches:
        next(batches)
        children = [process.pid for process in multiprocessing.active_children()]
        first, used = time.perf_counter(), _processor_seconds(children)
        count = -(-clips // config.batch_size)
        for _ in range(count):
            next(batches)
        seconds, used = time.perf_counter() - first, _processor_seconds(children) - used
        sizes = [own_memory(pid) for pid in children]
    count_of_clips = count * config.batch_size
    return {
        "first": first - start,
        "rate": count_of_clips / seconds,
        "per_core": count_of_clips / used,
        "memory": float(np.mean(sizes)) if sizes else float("nan"),
    }


def drop_from_cache(source: records.RecordSource) -> None:
    """Asks the system to forget the pages of a split's files; does nothing where it cannot."""
    for path in pathlib.Path(source.path).glob("*.array_record*"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _processor_seconds(children: list[int]) -> float:
    """Of this process, finely, and of the given ones, in hundredths of a second (Linux)."""
    ticks = 0
    for pid in children:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def own_memory(pid: int) -> float:
    """Bytes of a process, shared pages counted in part (Linux)."""
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _row(result: dict[str, float]) -> tuple[str, str, str, str]:
    memory = "" if np.isnan(result["memory"]) else f"{result['memory'] / 1e6:.0f}"
    return f"{result['first']:.1f}", f"{result['rate']:.0f}", f"{result['per_core']:.0f}", memory
