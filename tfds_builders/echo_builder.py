"""What all builders share: clips read in parallel, splits disjoint by patient, quarantine, manifest.

A dataset's builder says which clips there are (`find_clips`) and how one is read (`read_clip`).
"""

import abc
import collections
import dataclasses
import functools
import hashlib
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from discovr_jax.data import contact_sheet, manifest, measurements, records
from discovr_jax.data.io.video import VideoError
from discovr_jax.data.read import read_video
from discovr_jax.progress import Progress
from tfds_builders import reading, shards
from tfds_builders.tables import SourceError
from tfds_builders.unusable import Bad, Unusable, write_csv

# Share of implausible values from which on a whole column is doubted.
_DOUBTED = 0.05
_LISTED = 20  # ids in a message


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
      name: what errors and quarantine.csv call the file where its own name is private; empty for its own name.
    """

    id: str
    patient_id: str
    split: str
    path: pathlib.Path
    where: str
    fields: dict
    tracings: dict = dataclasses.field(default_factory=dict)
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a dataset's tables and folders hold.

    Attributes:
      clips: in the order of the table.
      bad: files or rows known to be unusable before any video is read.
      notes: counts worth knowing (unknown labels, tracings without video), kept in metadata.json.
      hint: why rows may have found no file, a sentence with a space in front; empty if nothing is known.
    """

    clips: list[Clip]
    bad: list[Bad]
    notes: dict[str, int]
    hint: str = ""


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
      IS_STUDY: files that hold no clip (stills, `NotAClip`) are skipped and counted, as they belong into a study;
        elsewhere they are unusable, as the dataset's tables promise a video.

    Args:
      max_bad: how many unusable videos are tolerated (and listed in quarantine.csv) before the build fails.
      workers: processes that read videos; None for one per core.
      progress: called with (videos done, videos in all) after each video, and every few seconds.
      **kwargs: of OPTIONS and of `tfds.core.GeneratorBasedBuilder`.
    """

    OPTIONS: tuple[Option, ...] = ()
    IS_STUDY = False

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
        # The one format that is written and read, record by record, without TensorFlow.
        file_format = tfds.core.FileFormat.from_value(kwargs.pop("file_format", None) or "array_record")
        if file_format is not tfds.core.FileFormat.ARRAY_RECORD:
            raise ValueError(
                f"{self.name} is written as array_record, not {file_format.value}; read it by tfds.data_source."
            )
        super().__init__(file_format=file_format, **kwargs)

    @abc.abstractmethod
    def find_clips(self, manual_dir: pathlib.Path) -> Listing:
        """Lists the clips from the dataset's tables and folders; raises SourceError if those are unusable."""

    @staticmethod
    @abc.abstractmethod
    def read_clip(clip: Clip, frame_size: int) -> dict:
        """The record of one clip; runs in a worker process; raises VideoError if the video is unusable."""

    @staticmethod
    def raw_frames(clip: Clip) -> np.ndarray:
        """Grey frames as the file has them, uint8 [T, H, W], for the contact sheet; numbered as the record's."""
        return read_video(clip.path).frames

    @property
    def private_dir(self) -> pathlib.Path | None:
        """Where a private archive's contact sheet goes, which shows burnt-in text; None for public sets."""
        return None

    @property
    def recorded_options(self) -> dict[str, Any]:
        """The options that decide what is in the records, as metadata.json keeps them."""
        return {option.name: self.options[option.name] for option in self.OPTIONS if option.recorded}

    def made_otherwise(self, metadata: dict[str, Any], manual_dir: pathlib.Path) -> str:
        """Why records are not those that this builder would make, for a message; empty if they are.

        Args:
          metadata: of the records, as metadata.json has it; manual_dir: what they would be made from.
        """
        # An option that came later was at its default.
        made_with = {option.name: option.default for option in self.OPTIONS if option.recorded}
        made_with |= metadata.get("options", {})
        pairs = [(name, old, self.recorded_options.get(name)) for name, old in made_with.items()]
        other = [f"{name}: {old} before, {new} now" for name, old, new in pairs if old != new]
        return f"was made with other options ({'; '.join(other)})" if other else ""

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(self.builder_config.frame_size), metadata=tfds.core.MetadataDict()
        )

    # TFDS says here "Downloading ... (download: Unknown size ...)", of what nobody downloads.
    def _log_download_bytes(self) -> None:
        print(f"Making records in {self.data_dir} (nothing is downloaded or sent)")

    def _log_download_done(self) -> None:
        print(f"Records are complete: {self.data_dir}")

    def _example_writer(self) -> shards.ShardWriter:
        return shards.ShardWriter()

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        by_split = {
            split: [clip for clip in self._listing.clips if clip.split == split] for split in records.SPLITS
        }
        by_split = {split: clips for split, clips in by_split.items() if clips}
        if self._with_beam:
            return {split: self._beam_examples(clips) for split, clips in by_split.items()}
        return self._without_empty({split: self._generate_examples(clips) for split, clips in by_split.items()})

    def _generate_examples(self, clips: list[Clip]) -> Iterator[tuple[str, dict]]:
        for clip, record in self._reader.read(clips):
            if isinstance(record, VideoError):
                self._unusable.add(clip, record)
            else:
                yield clip.id, record
            self._done += 1
            self._tell()

    def _tell(self) -> None:
        if self._progress:
            self._progress(self._done, len(self._listing.clips))

    def _without_empty(self, examples: dict[str, Iterator]) -> dict[str, Iterator]:
        """Only the splits that have a readable video: TFDS cannot write one without, and finds out too late."""
        found = {split: (next(each, None), each) for split, each in examples.items()}
        if not any(first for first, _ in found.values()):
            raise SourceError(f"No video is usable. {self._unusable.listed()}")
        for split, (first, _) in found.items():
            if first is None:
                if not self.IS_STUDY:  # its tables promise this split
                    raise SourceError(f"Split '{split}' has no usable video. {self._unusable.listed()}")
                count = sum(clip.split == split for clip in self._listing.clips)
                self._listing.notes[f"no {split} split (all of its files skipped or unusable)"] = count
        return {split: itertools.chain([first], each) for split, (first, each) in found.items() if first is not None}

    def _beam_examples(self, clips: list[Clip]):
        """The same examples as an Apache Beam transform."""
        import apache_beam as beam

        read = functools.partial(_examples, type(self).read_clip, self.builder_config.frame_size)
        return beam.Create(clips) | beam.Reshuffle() | beam.FlatMap(read)

    def _generate_splits(self, dl_manager, download_config) -> Sequence:
        # TFDS calls this while self.data_path is the temporary folder that it renames at the very end, so the
        # files written here appear together with the records or not at all.
        listing = self.find_clips(pathlib.Path(dl_manager.manual_dir))
        self._unusable = Unusable(self._max_bad, self.IS_STUDY, listing.bad, listing.hint)
        self._unusable.stop_if_most_are(len(listing.clips))
        listing = dataclasses.replace(listing, clips=_plausible(listing.clips, listing.notes))
        self._listing = listing
        _check_splits(listing.clips)
        self._done = 0
        self._with_beam = bool(download_config.beam_runner or download_config.beam_options)
        size = self.builder_config.frame_size
        workers = 1 if self._with_beam else self._workers
        with (
            shards.shuffled_in_plain_files(),
            reading.Reader(self.read_clip, size, workers, len(listing.clips), self._tell) as self._reader,
        ):
            splits = super()._generate_splits(dl_manager, download_config)
        sources = [
            records.RecordSource(
                self.data_path, split.name,
                list(zip(map(os.fspath, split.filepaths), split.shard_lengths, strict=True)),
                self.info.features, size,
            )
            for split in splits
        ]  # fmt: skip
        rows, progress = [], Progress("records read back", sum(map(len, sources)), always=False)
        for row in (row for source in sources for row in _manifest(source)):
            rows.append(row)
            progress.add()
        if self._with_beam:
            self._find_bad({row["id"] for row in rows})
        self._unusable.stop_if_too_many(pathlib.Path(self.data_path).parent)
        write_csv(self.data_path / "manifest.csv", manifest.MANIFEST, rows)
        self._unusable.write(pathlib.Path(self.data_path))
        self._write_contact_sheet(sources)
        self.info.metadata.update(
            schema_version=records.SCHEMA_VERSION,
            frame_size=size,
            options=self.recorded_options,
            patients=_count_patients(rows),
            manifest_sha256=manifest.sha256(pathlib.Path(self.data_path)),
            quarantined=len(self._unusable.bad),
            skipped=len(self._unusable.skipped),
            notes=listing.notes,
        )
        return splits

    def _find_bad(self, written: set[str]) -> None:
        """Reads again what Beam's workers left out, for the reasons: those stay on the workers."""
        for clip in self._listing.clips:
            if clip.id in written:
                continue
            error = reading.read_one(self.read_clip, self.builder_config.frame_size, clip)
            if not isinstance(error, VideoError):
                error = VideoError("a worker of Beam could not read it, this machine can")
            self._unusable.add(clip, error)

    def _write_contact_sheet(self, sources: list[records.RecordSource], count: int = 24, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        size = self.builder_config.frame_size
        places = [(source, index) for source in sources for index in range(len(source))]
        chosen = rng.choice(len(places), min(count, len(places)), replace=False)
        clips = {clip.id: clip for clip in self._listing.clips}
        pairs, progress = [], Progress("videos on the contact sheet", len(chosen), always=False)
        for source, index in (places[number] for number in sorted(chosen)):
            record = source[index]
            frame = contact_sheet.choose(record, rng)
            after = records.decode_frames(record["frames"], size, size, [frame], record_id=record["id"])[0]
            try:
                before = self.raw_frames(clips[record["id"]])[frame]
            except (VideoError, IndexError):
                before = None  # gone since it was read, or cut by the builder
            pairs.append(contact_sheet.pair(record, frame, after, before, source.split))
            progress.add()
        if self.private_dir is None:
            contact_sheet.write(self.data_path / "contact_sheet.png", pairs)
            return
        stored = [dataclasses.replace(pair, before=None) for pair in pairs]
        contact_sheet.write(self.data_path / "contact_sheet.png", stored)
        # Records of several folders may share a private one: each has a sheet of its own.
        folder = hashlib.sha256(os.fsencode(os.path.realpath(self._data_dir_root))).hexdigest()[:8]
        private = self.private_dir / f"contact_sheet_{self.name}_{size}_{folder}.png"
        private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # without a salt nothing has made it yet
        private.touch()
        private.chmod(0o600)
        contact_sheet.write(private, pairs)


def _examples(read_clip: Callable, frame_size: int, clip: Clip) -> Iterator[tuple[str, dict]]:
    record = reading.read_one(read_clip, frame_size, clip)
    if not isinstance(record, VideoError):
        yield clip.id, record


def _manifest(source: records.RecordSource) -> Iterator[dict]:
    """Rows of manifest.csv in the order in which TFDS shuffled the records, read back from its files."""
    for index in range(len(source)):
        record = source[index]
        frames = records.decode_frames(
            record["frames"], source.frame_size, source.frame_size, record_id=record["id"]
        )
        yield {
            "split": source.split,
            "sha256": records.content_hash(frames),
            "num_masks": len(record["masks"]),
            "flags": " ".join(record["flags"]),
        } | {name: record[name] for name in records.SCALAR_FIELDS}


def _count_patients(rows: Sequence[dict]) -> dict[str, int]:
    """Patients by split, of rows of the manifest."""
    splits = sorted({row["split"] for row in rows}, key=records.SPLITS.index)
    return {split: len({row["patient_id"] for row in rows if row["split"] == split}) for split in splits}


def _plausible(clips: Sequence[Clip], notes: dict[str, int]) -> list[Clip]:
    """The clips, with single measurements that no heart has unknown and counted in `notes` as FIELD_implausible.

    Raises:
      SourceError: so many of a column are that its unit must be another, or the column another.
    """
    result = list(clips)
    for field in measurements.PLAUSIBLE:
        known = [number for number, clip in enumerate(clips) if not math.isnan(clip.fields.get(field, math.nan))]
        wrong = {
            number: reason
            for number in known
            if (reason := measurements.implausible(field, clips[number].fields))
        }
        if len(wrong) > _DOUBTED * len(known):
            first, reason = next(iter(wrong.items()))
            raise SourceError(
                f"{clips[first].where}: {reason}. So are {len(wrong)} of {len(known)} values of {field}: correct the "
                "table, or the column that is taken for it."
            )
        for number in wrong:
            result[number] = dataclasses.replace(result[number], fields=result[number].fields | {field: math.nan})
        if wrong:
            notes[f"{field}_implausible"] = len(wrong)
    return result


def _check_splits(clips: Sequence[Clip]) -> None:
    """Raises SourceError unless every clip has a patient, every patient is in one split, every id occurs once."""
    if not clips:
        raise SourceError("The dataset's tables list no videos.")
    split_of: dict[str, Clip] = {}
    for clip in clips:
        if not clip.patient_id:
            raise SourceError(f"{clip.where}: no patient; splits could not be kept apart by patient.")
        first = split_of.setdefault(clip.patient_id, clip)
        if first.split != clip.split:
            raise SourceError(
                f"{clip.where}: patient {clip.patient_id} is in split {clip.split}, but {first.where} says "
                f"{first.split}; a patient must be in one split."
            )
    doubled = [name for name, count in collections.Counter(clip.id for clip in clips).items() if count > 1]
    if doubled:
        raise SourceError(f"Clip ids occur more than once: {doubled[:_LISTED]}.")
