"""What all builders share: clips read in parallel, splits disjoint by patient, quarantine, manifest.

A dataset's builder says which clips there are (`find_clips`) and how one is read (`read_clip`).
"""

import abc
import collections
import concurrent.futures
import csv
import dataclasses
import multiprocessing
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from discovr_jax.data import records
from discovr_jax.data.video_io import VideoError
from tfds_builders.tables import SourceError

# Below this many clips a worker costs more to start than it saves.
_CLIPS_PER_WORKER = 32
# Once this many bad clips are known, more would not help anyone to find the cause.
_BAD_LISTED = 20


@dataclasses.dataclass(frozen=True)
class Clip:
    """One video to read.

    Attributes:
      id: unique name within the dataset.
      patient_id: all clips of one patient are in one split.
      split: train, val or test.
      path: the file.
      where: the table row that lists it, for messages.
      fields: values of the record that the dataset's tables give.
      tracings: whatever `read_clip` of the dataset needs for masks.
    """

    id: str
    patient_id: str
    split: str
    path: pathlib.Path
    where: str
    fields: dict
    tracings: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Bad:
    """A video that cannot become a record: the file and the reason."""

    file: str
    reason: str


def unmatched(
    rows: Mapping[str, dict], videos: Mapping[str, pathlib.Path], directory: pathlib.Path, table: str
) -> list[Bad]:
    """Rows of a table without a video, then videos without a row.

    Args:
      rows: by the video's stem, each with its place in the table as "where".
      videos: by stem.
      directory: where they were looked for, for messages.
      table: what messages call the table.
    """
    absent = [
        Bad(name, f"{row['where']}: no such file in {directory}") for name, row in rows.items() if name not in videos
    ]
    return absent + [Bad(path.name, f"no row in {table}") for name, path in videos.items() if name not in rows]


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a dataset's tables and folders hold.

    Attributes:
      clips: in the order of the table.
      bad: files or rows known to be unusable before any video is read.
      notes: counts worth knowing (unknown labels, tracings without video), kept in metadata.json.
    """

    clips: list[Clip]
    bad: list[Bad]
    notes: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Option:
    """A choice that one dataset offers: a keyword of its builder and a flag of `python -m discovr_jax.prepare`.

    Attributes:
      name: of the keyword and of the flag.
      type: what makes the value from the flag's text; bool makes a flag that needs none.
      default: the value where none is given; None for none.
      help: one line for the command's --help.
      recorded: the value is kept in metadata.json, and records made with another value are not taken for these.
        False for what names private places or changes no record.
    """

    name: str
    type: Callable
    default: Any
    help: str
    recorded: bool = True


@dataclasses.dataclass(kw_only=True)
class EchoConfig(tfds.core.BuilderConfig):
    """Frame size of the records: frames are `frame_size` squared."""

    frame_size: int = 112


class EchoBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of the builders.

    Attributes:
      OPTIONS: what this dataset offers beyond the arguments below; the values are in `self.options`.

    Args:
      max_bad: how many unusable videos are tolerated (and listed in quarantine.csv) before the build fails.
      workers: processes that read videos; None for one per core.
      progress: called with (videos done, videos in all) after each video.
      **kwargs: of OPTIONS and of `tfds.core.GeneratorBasedBuilder`.
    """

    OPTIONS: tuple[Option, ...] = ()

    VERSION = tfds.core.Version(records.BUILDER_VERSION)
    BUILDER_CONFIGS = [
        EchoConfig(name=str(size), frame_size=size, description=f"Frames of {size} x {size} pixels.")
        for size in (112, 224)
    ]

    def __init__(
        self,
        *,
        max_bad: int = 0,
        workers: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        **kwargs,
    ):
        self._max_bad = max_bad
        self._workers = workers
        self._progress = progress
        self.options = {option.name: kwargs.pop(option.name, option.default) for option in self.OPTIONS}
        # array_record is the one format that is written and read without TensorFlow.
        super().__init__(**{"file_format": "array_record"} | kwargs)

    @abc.abstractmethod
    def find_clips(self, manual_dir: pathlib.Path) -> Listing:
        """Lists the clips from the dataset's tables and folders; raises SourceError if those are unusable."""

    @staticmethod
    @abc.abstractmethod
    def read_clip(clip: Clip, frame_size: int) -> dict:
        """The record of one clip; runs in a worker process; raises VideoError if the video is unusable."""

    @property
    def recorded_options(self) -> dict[str, Any]:
        """The options that decide what is in the records, as metadata.json keeps them."""
        return {option.name: self.options[option.name] for option in self.OPTIONS if option.recorded}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(self.builder_config.frame_size), metadata=tfds.core.MetadataDict()
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        listing = self.find_clips(pathlib.Path(dl_manager.manual_dir))
        _check_splits(listing.clips)
        self._listing = listing
        self._bad = list(listing.bad)
        self._digests: dict[str, str] = {}
        self._done = 0
        self._stop_if_too_many_bad()
        by_split = {
            split: [clip for clip in listing.clips if clip.split == split] for split in records.SPLITS
        }
        # TFDS cannot write a split without examples, so one that the dataset does not have is left out.
        return {split: self._generate_examples(clips) for split, clips in by_split.items() if clips}

    def _generate_examples(self, clips: list[Clip]) -> Iterator[tuple[str, dict]]:
        for clip, record, digest in self._read_all(clips):
            if isinstance(record, VideoError):
                self._bad.append(Bad(clip.path.name, f"{clip.where}: {record}"))
                if len(self._bad) >= _BAD_LISTED:
                    self._stop_if_too_many_bad()
            else:
                self._digests[clip.id] = digest
                yield clip.id, record
            if self._progress:
                self._done += 1
                self._progress(self._done, len(self._listing.clips))
        self._stop_if_too_many_bad()
        if not any(clip.id in self._digests for clip in clips):
            raise SourceError(f"Split '{clips[0].split}' has no readable video. {_listed(self._bad)}")

    def _read_all(self, clips: list[Clip]) -> Iterator[tuple[Clip, dict | VideoError, str]]:
        """Reads clips in parallel, in order; keeps few results waiting so that memory does not grow."""
        size = self.builder_config.frame_size
        workers = min(self._workers or os.cpu_count() or 1, len(clips) // _CLIPS_PER_WORKER)
        if workers < 2:
            for clip in clips:
                yield clip, *_read(type(self).read_clip, clip, size)
            return
        # Not fork: the caller may run threads (jax, TFDS) whose locks a forked child would inherit.
        with concurrent.futures.ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_die_with_parent
        ) as pool:
            waiting: collections.deque = collections.deque()
            for clip in clips:
                waiting.append((clip, pool.submit(_read, type(self).read_clip, clip, size)))
                if len(waiting) >= 4 * workers:
                    first, future = waiting.popleft()
                    yield first, *future.result()
            for clip, future in waiting:
                yield clip, *future.result()

    def _generate_splits(self, dl_manager, download_config) -> Sequence:
        # TFDS calls this while self.data_path is the temporary folder that it renames at the very end, so the
        # files written here appear together with the records or not at all.
        splits = super()._generate_splits(dl_manager, download_config)
        write_csv(self.data_path / "quarantine.csv", ("file", "reason"), map(dataclasses.asdict, self._bad))
        columns = ("split", "sha256", "num_masks", "flags", *records.SCALAR_FIELDS)
        write_csv(self.data_path / "manifest.csv", columns, self._manifest(splits))
        self.info.metadata.update(
            schema_version=records.SCHEMA_VERSION,
            frame_size=self.builder_config.frame_size,
            quarantined=len(self._bad),
            notes=self._listing.notes,
            options=self.recorded_options,
        )
        return splits

    def _manifest(self, splits) -> Iterator[dict]:
        """Rows of manifest.csv in the order in which TFDS shuffled the records, read back from its files."""
        for split in splits:
            shards = list(zip(map(os.fspath, split.filepaths), split.shard_lengths, strict=True))
            source = records.RecordSource(
                self.data_path, split.name, shards, self.info.features, self.builder_config.frame_size
            )
            for index in range(len(source)):
                record = source[index]
                yield {
                    "split": split.name,
                    "sha256": self._digests[record["id"]],
                    "num_masks": len(record["masks"]),
                    "flags": " ".join(record["flags"]),
                } | {name: record[name] for name in records.SCALAR_FIELDS}

    def _stop_if_too_many_bad(self) -> None:
        if len(self._bad) > self._max_bad:
            raise SourceError(
                f"{len(self._bad)} unusable video(s), {self._max_bad} allowed. {_listed(self._bad)}\n"
                f"Copy or download them again, or accept the loss with --max_bad={len(self._bad)} or more: "
                "they are then left out and listed in quarantine.csv."
            )


def write_csv(path: os.PathLike, columns: Sequence[str], rows) -> None:
    """Writes dicts as CSV with LF line ends."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _read(read_clip, clip: Clip, frame_size: int) -> tuple[dict | VideoError, str]:
    try:
        record = read_clip(clip, frame_size)
    except VideoError as error:
        return error, ""
    frames = records.decode_frames(record["frames"], frame_size, frame_size, record_id=clip.id)
    return record, records.content_hash(frames)


def _listed(bad: Sequence[Bad]) -> str:
    lines = [f"\n  {item.file}: {item.reason}" for item in bad[:_BAD_LISTED]]
    return "Unusable:" + "".join(lines) + ("\n  ..." if len(bad) > _BAD_LISTED else "")


def _check_splits(clips: Sequence[Clip]) -> None:
    """Raises SourceError unless every patient is in one split and every id occurs once."""
    if not clips:
        raise SourceError("The dataset's table lists no clips.")
    split_of: dict[str, Clip] = {}
    for clip in clips:
        first = split_of.setdefault(clip.patient_id, clip)
        if first.split != clip.split:
            raise SourceError(
                f"{clip.where}: patient {clip.patient_id} is in split {clip.split}, but {first.where} says "
                f"{first.split}; a patient must be in one split."
            )
    doubled = [name for name, count in collections.Counter(clip.id for clip in clips).items() if count > 1]
    if doubled:
        raise SourceError(f"Clip ids occur more than once: {doubled[:_BAD_LISTED]}.")


def _die_with_parent() -> None:
    """Ends this worker when its parent is gone, which also covers a parent that was killed."""
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
