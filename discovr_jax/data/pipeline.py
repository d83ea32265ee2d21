"""Records to batches of clips, with grain. Batch k depends on the config and k only.

Shuffle and repeat each dataset -> mix -> all random choices -> slice per process and worker -> batch: every random
choice is made by the position of the clip in the stream, before the stream is cut up. So batch k, elements and
augmentation, is the same for any number of processes, workers and threads and after any restart, and starting at
step k costs nothing.
"""

import dataclasses
import functools
import gc
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import grain
import ml_collections
import numpy as np
from absl import flags

from discovr_jax.data import frame_rates, labels, manifest, mixture, read_ahead, records
from discovr_jax.data.clip_reader import ClipReader
from discovr_jax.errors import ConfigError

# Clips of one process that are being read or wait for their batch take so many bytes, at most.
_IN_FLIGHT_BYTES = 128 * 2**20
# Records whose names are hashed in one go.
_NAMED_AT_ONCE = 10_000
# Batches of one worker that lie in shared memory at once, at most: four queue up, one is being copied out.
_SHARED_BATCHES_PER_WORKER = 5
_SHARED_MEMORY = "/dev/shm"


class LoaderError(RuntimeError):
    """A loader worker ended on its own; the run can be resumed."""


class Batches:
    """Iterator over batches (dicts of numpy arrays) that owns its threads and worker processes: close it.

    Attributes:
      next_step: number of the batch that `next` returns.
    """

    def __init__(
        self,
        clips: read_ahead.ClipsOfWorkers,
        clip_bytes: int,
        reads: int,
        start_step: int,
        identity: dict[str, Any],
    ):
        self.next_step = start_step
        self._identity = identity
        self._in_shared_memory = clips.workers > 0
        if reads < 1:
            raise ConfigError(f"data.reads = {reads} must be at least 1: so many clips are read at the same time.")
        dataset = clips.batches(in_flight=max(1, min(reads, _IN_FLIGHT_BYTES // clip_bytes)))
        if clips.workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, and not every caller is an absl app.
            batch_bytes = clips.rows * clip_bytes
            _check_shared_memory(clips.workers * _SHARED_BATCHES_PER_WORKER * batch_bytes, clips.workers)
            options = grain.MultiprocessingOptions(num_workers=clips.workers, per_worker_buffer_size=1)
            dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
        self._iterator = iter(dataset)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        try:
            shared = next(self._iterator, None)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise LoaderError(
                f"a loader worker was killed ({error}), most often by the system for want of memory: give the machine "
                "more, or lower data.workers; the same command resumes. See docs/troubleshooting.md"
            ) from error
        if shared is None:
            self.close()
            if self._in_shared_memory:
                gc.collect()  # A reference cycle in grain's exception holds the last batch.
            raise StopIteration
        self.next_step += 1
        # Copies: what comes from a worker lies in shared memory that vanishes with the array grain returns.
        return {name: np.array(value) for name, value in shared.items()}

    def get_state(self) -> dict:
        """{"next_step": int, "stream": str, "manifests": {name: str}, ...}, equal if the same batches follow.

        To resume, make a new iterator with `start_step`; this is its cross-check. `stream` names the seed,
        the batch size, the records chosen and the sampling; `manifests` (hashes of manifest.csv, which lists a hash
        of every record) their content; `frame_rates` is that of `frame_rates.of_training`.
        """
        return {"next_step": self.next_step, **self._identity}

    def close(self) -> None:
        """Stops threads and workers; may be called twice."""
        self._iterator.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def train_batches(
    sources: Mapping[str, records.RecordSource],
    config: ml_collections.ConfigDict,
    *,
    crop: str = "uniform",
    second_clip: bool = False,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Endless batches of randomly placed, randomly cropped clips; every epoch of a dataset in another order.

    The clips of several datasets alternate in fixed proportion (of whole hundredths of the smallest weight), so
    that all batches are mixed alike.

    Args:
      sources: the training split of each dataset of `mixture.weights`, by name.
      config: seed, batch_size (of all processes together) and data.*.
      crop: how boxes are drawn, of `transforms.CROPS`; `fidelity.option(config, "data.crop")` for a run's own clips.
      second_clip: another clip of the same video too (`views.positive = "other_beat"`).
      start_step: number of the first batch; the batches before it are skipped at no cost.
      process_index, process_count: the batches of the processes, concatenated, are the batch of one process.

    Returns:
      Iterator over dicts, b = batch_size / process_count, T = data.num_frames, S = data.image_size:
        frames: uint8 [b, T, S, S].
        num_valid: int32 [b], how many of the T frames are real; the rest repeat the last of them.
        dataset: int32 [b], position of the clip's dataset in `mixture.weights`.
        record: int32 [b], index into that dataset's source.
        other_frames, other_valid: as frames and num_valid, of the `second_clip`.

    Raises:
      ValueError: settings that do not fit together or to the records; later, a damaged record or frame.
    """
    rows = _rows_per_process(config.batch_size, process_index, process_count)
    if start_step < 0:
        raise ValueError(f"start_step must be >= 0, got {start_step}.")
    selected, shares = training_records(sources, config.data), mixture.weights(config.data)
    reader = ClipReader.create(
        [sources[name] for name in shares],
        config.data,
        list(selected.values()),
        crop,
        second_clip,
    )
    words = np.random.SeedSequence(config.seed).generate_state(1 + len(shares))
    first_seed, clip_seed, *other_seeds = (int(word) for word in words)
    streams = [
        grain.MapDataset.source(_Places(position, np.asarray(indices))).shuffle(seed=seed).repeat()
        for position, (indices, seed) in enumerate(zip(selected.values(), (first_seed, *other_seeds), strict=True))
    ]
    clips = grain.MapDataset.mix(streams, list(shares.values())).random_map(reader.random_clip, seed=clip_seed)
    first = start_step * process_count + process_index
    ordered = read_ahead.ClipsOfWorkers(clips, rows, first, process_count, config.data.workers)
    sampling = dataclasses.asdict(dataclasses.replace(reader, sources=()))
    # So that checkpoints from before there was a choice resume.
    for name, usual in (("crop", "uniform"), ("stride_jitter", 0.0), ("second_clip", False)):
        if sampling[name] == usual:
            del sampling[name]
    stream = _stream_name([config.seed, config.batch_size, shares], sources, selected, sampling)
    manifests = {name: manifest.sha256(sources[name].path) for name in selected}
    return Batches(
        ordered, reader.clip_bytes, config.data.reads, start_step,
        {"stream": stream, "manifests": manifests, frame_rates.KEY: frame_rates.of_training(sources, selected)},
    )  # fmt: skip


def training_records(
    sources: Mapping[str, records.RecordSource], data: ml_collections.ConfigDict
) -> dict[str, list[int]]:
    """The records that data.train_filter keeps of each dataset, in the order of `mixture.weights`.

    One epoch is as many clips as these are together. In a mixture the weights, not the sizes, say how often a
    dataset comes up, so a small one may be seen several times in an epoch and a large one in part.

    Raises:
      ValueError: an unknown filter or rule, a dataset of which nothing is left, or stills.
    """
    mixture.check_filter(data)
    selected = {}
    for name in mixture.weights(data):
        source = sources[name]
        selected[name] = list(range(len(source)))
        if data.train_filter == "normal":
            rule = mixture.abnormal_rule(data, name)
            label = labels.normal_label(records.record_fields(source, labels.rule_fields(rule)), rule)
            selected[name] = np.flatnonzero(label == 0).tolist()
            if not selected[name]:
                raise ConfigError(
                    f"None of the {len(source)} records of {source!r} is left for training: data.train_filter=normal "
                    f"keeps those that the rule '{rule}' calls normal. Set data.abnormal_rule to a rule whose fields "
                    "this dataset has, or train on all records with data.train_filter=all."
                )
        lengths = records.record_fields(source, ["num_frames"])["num_frames"][selected[name]]
        if stills := int((lengths == 1).sum()):
            raise ConfigError(
                f"{stills} of the {len(lengths)} training records of {name} are stills, and what is learned is motion. "
                "Train on videos, and score stills with --mode=eval --config.eval.dataset."
            )
    return selected


def _stream_name(
    settings: list, sources: Mapping[str, records.RecordSource], selected: Mapping[str, list[int]], sampling: dict
) -> str:
    """Hash of the JSON text [*settings, {dataset: [[index, id, number of frames], ...]}, sampling], made in parts: of a
    million records it is 50 MB long, and ten times that in memory."""
    digest = hashlib.sha256(json.dumps(settings)[:-1].encode() + b", {")
    for place, (name, indices) in enumerate(selected.items()):
        digest.update(f"{', ' * bool(place)}{json.dumps(name)}: [".encode())
        fields = records.record_fields(sources[name], ["id", "num_frames"])
        for first in range(0, len(indices), _NAMED_AT_ONCE):
            part = indices[first : first + _NAMED_AT_ONCE]
            videos = zip(part, fields["id"][part].tolist(), fields["num_frames"][part].tolist(), strict=True)
            digest.update((", " * bool(first) + json.dumps(list(videos))[1:-1]).encode())
        digest.update(b"]")
    digest.update(f"}}, {json.dumps(sampling)}]".encode())
    return digest.hexdigest()[:16]


def eval_batches(
    source: records.RecordSource,
    config: ml_collections.ConfigDict,
    *,
    batch_size: int,
    indices: Sequence[int] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Every video `config.eval.clips` times, whole frame, clips evenly spaced, in order, once.

    Args:
      source: any split.
      config: data.* and eval.clips.
      batch_size: of all processes together.
      indices: which records, in which order; None for all.
      process_index, process_count: as in `train_batches`; all processes get equally many batches.

    Returns:
      Iterator over dicts as of `train_batches`, and weight: float32 [b], 1, or 0 for the copies of the last
      clip that fill the last batch.

    Raises:
      ValueError: settings that do not fit together or to the records; later, a damaged record or frame.
    """
    selected = list(range(len(source))) if indices is None else [int(index) for index in indices]
    reader = ClipReader.create([source], config.data, [selected])
    clips = config.eval.clips
    tasks = [(index, clip, clips) for index in selected for clip in range(clips)]
    return _once(reader, reader.even_clip, tasks, batch_size, config.data, process_index, process_count)


def labelled_batches(
    source: records.RecordSource,
    config: ml_collections.ConfigDict,
    frames: Sequence[tuple[int, int]],
    *,
    tubelet: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """A clip for each of `frames` that shows that frame (`transforms.clip_showing`): whole frame, in order, once.

    Labelled frames of one video never share a tubelet (`transforms.read_apart`).

    Args:
      source: any split.
      config: data.*.
      frames: (record, frame of its video).
      tubelet: frames per token of the encoders.
      batch_size, process_index, process_count: as in `eval_batches`.

    Returns:
      Iterator over dicts as of `eval_batches`; `record` is the index into `frames`, and position: int32 [b], the
      frame's place in the clip.

    Raises:
      ValueError: as `eval_batches`.
    """
    reader = ClipReader.create([source], config.data, [[index for index, _ in frames]])
    tasks = [(row, int(index), int(frame)) for row, (index, frame) in enumerate(frames)]
    showing = functools.partial(reader.clip_showing, tubelet=tubelet)
    return _once(reader, showing, tasks, batch_size, config.data, process_index, process_count)


def _once(reader, make, tasks: list[tuple], batch_size: int, data, process_index: int, process_count: int) -> Batches:
    """Batches of the clip of each task, once; copies of the last one, of weight 0, fill the last batch."""
    rows = _rows_per_process(batch_size, process_index, process_count)
    if not tasks:
        raise ValueError("There is no record to evaluate: `indices` is empty.")
    weighted = [(task, 1.0) for task in tasks] + [(tasks[-1], 0.0)] * (-len(tasks) % batch_size)
    clips = grain.MapDataset.source(weighted).map(_Weighted(make))
    ordered = read_ahead.ClipsOfWorkers(clips, rows, process_index, process_count, data.workers)
    return Batches(ordered, reader.clip_bytes, data.reads, 0, {})


@dataclasses.dataclass(frozen=True)
class _Places:
    """(position of a dataset, index) of each of its chosen records; an array, as it travels to every worker."""

    position: int
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[int, int]:
        return self.position, int(self.indices[place])


@dataclasses.dataclass(frozen=True)
class _Weighted:
    """(task, weight) -> the clip of the task with its weight; travels to the workers."""

    make: Callable[[tuple], dict[str, np.ndarray]]

    def __call__(self, task: tuple[tuple, float]) -> dict[str, np.ndarray]:
        return self.make(task[0]) | {"weight": np.float32(task[1])}


def _rows_per_process(batch_size: int, process_index: int, process_count: int) -> int:
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index must be in 0..{process_count - 1}, got {process_index}.")
    if batch_size < 1 or batch_size % process_count:
        raise ConfigError(f"batch_size {batch_size} must be a positive multiple of {process_count} processes.")
    return batch_size // process_count


def _check_shared_memory(needed: int, workers: int) -> None:
    """Raises rather than let workers die of a bus error, as they do in containers with the usual 64 MB."""
    if not os.path.isdir(_SHARED_MEMORY):
        return
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
        raise ConfigError(
            f"{workers} loader workers need {needed / 2**20:.0f} MiB of shared memory, {_SHARED_MEMORY} has "
            f"{free / 2**20:.0f} MiB free. Lower data.workers or batch_size, use data.workers=0, or start "
            "the container with more (docker run --shm-size=8g)."
        )


def _start_worker(worker_index: int, worker_count: int) -> None:
    """Runs first in every worker process."""
    del worker_index, worker_count
    cv2.setNumThreads(0)  # The workers are the parallelism.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides when workers end.
    threading.Thread(target=_die_with_parent, name="die-with-parent", daemon=True).start()


def _die_with_parent() -> None:
    # Daemon processes end with a parent that exits, but not with one that is killed.
    multiprocessing.parent_process().join()
    os._exit(1)
