"""What every builder must do, as a base class of its tests; and small videos to build from.

TFDS has a test case of its own, which imports TensorFlow; this one does not.
"""

import csv
import hashlib
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
import tensorflow_datasets as tfds

from discovr_jax.data import audit, records
from discovr_jax.data.letterbox import letterbox
from tfds_builders.echo_phantom import files
from tfds_builders.tables import SourceError


def moving_square(frames: int = 6, height: int = 112, width: int = 112, seed: int = 0) -> np.ndarray:
    """Grey uint8 [frames, height, width]: a bright square moving over a dark gradient, different by seed."""
    start = np.random.default_rng(seed).integers(10, min(height, width) // 2)
    video = np.tile(np.linspace(0, 60, width).astype(np.uint8), (frames, height, 1))
    for index, frame in enumerate(video):
        frame[start : start + 24, start + index : start + 24 + index] = 200
    return video


def write_video(path: pathlib.Path, frames: np.ndarray, fps: int = 50, codec: str = "mjpeg", crf: int = 0) -> None:
    """Writes grey frames as EchoNet does: an MJPEG AVI in colour."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = {"qscale": "2"} if codec == "mjpeg" else {"crf": str(crf)}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="gray").reformat(format=stream.pix_fmt)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def write_table(path: pathlib.Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Writes a CSV file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def read(directory: pathlib.Path, name: str) -> dict:
    """The record with the id `name`, from whatever split."""
    for source in audit.open_all(directory).values():
        for index, found in enumerate(records.record_fields(source, ["id"])["id"]):
            if found == name:
                return source[index]
    raise AssertionError(f"no record {name}")


def split_of(directory: pathlib.Path) -> dict[str, str]:
    """The split of each record's id."""
    return {
        str(name): split
        for split, source in audit.open_all(directory).items()
        for name in records.record_fields(source, ["id"])["id"]
    }


def notes(directory: pathlib.Path) -> dict[str, int]:
    """What the builder counted in the source."""
    return audit.metadata(directory)["notes"]


def phantom_dice(
    native: pathlib.Path,
    directory: pathlib.Path,
    spacing: Callable[[str], tuple[float, float] | None] = lambda name: None,
) -> dict[int, list[float]]:
    """Overlap of the experts' masks in records of 112 pixels with the truth beside the phantom they were made from.

    Args:
      native: what `layouts.write` wrote.
      directory: the records.
      spacing: millimetres between rows and columns of the native pictures of a clip, None for square pixels.

    Returns:
      {class: [Dice coefficient of each mask]}; a truth of another size is brought to 112 by share of covered area.
    """
    overlaps: dict[int, list[float]] = {}
    for name in split_of(directory):
        record, truth = read(directory, name), files.read_truth(native, name)
        true_masks = dict(zip(truth["mask_frames"].tolist(), truth["masks"], strict=True))
        for frame, mask, expert in zip(record["mask_frames"], record["masks"], record["mask_is_expert"], strict=True):
            for value in np.unique(mask[mask > 0]) if expert else ():
                covered = np.where(true_masks[int(frame)] == value, 255, 0).astype(np.uint8)
                true, found = letterbox(covered[None], 112, spacing(name))[0][0] > 127, mask == value
                dice = 2 * np.count_nonzero(true & found) / (np.count_nonzero(true) + np.count_nonzero(found))
                overlaps.setdefault(int(value), []).append(dice)
    return overlaps


class BuilderCase:
    """Inherit, and define `builder`, `write_source` and `break_source`; see the members."""

    builder: type[tfds.core.GeneratorBasedBuilder]

    def write_source(self, directory: pathlib.Path) -> None:
        """Writes a small sound dataset with all three splits."""
        raise NotImplementedError

    def break_source(self, directory: pathlib.Path) -> set[str]:
        """Damages one clip of the written dataset; returns words that the error must contain."""
        raise NotImplementedError

    def prepare(self, directory: pathlib.Path, data_dir: pathlib.Path, config: str = "112", **kwargs):
        """Builds the records; returns their directory."""
        builder = self.builder(config=config, data_dir=data_dir, **kwargs)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=directory))
        return pathlib.Path(builder.data_dir)

    @pytest.fixture
    def source(self, tmp_path) -> pathlib.Path:
        directory = tmp_path / "source"
        directory.mkdir()
        self.write_source(directory)
        return directory

    @pytest.fixture
    def prepared(self, source, tmp_path) -> pathlib.Path:
        return self.prepare(source, tmp_path / "records")

    def test_records_are_sound_and_follow_the_schema(self, prepared):
        assert audit.check(prepared) == []
        sources = audit.open_all(prepared)
        assert set(sources) == set(records.SPLITS)
        for split_source in sources.values():
            record = split_source[0]
            assert set(record) == set(records.features(112))
            frames = records.decode_frames(record["frames"], 112, 112)
            assert frames.shape == (record["num_frames"], 112, 112) and frames.std() > 0
            assert record["masks"].dtype == np.uint8 and record["masks"].shape[1:] == (112, 112)

    def test_splits_are_disjoint_by_patient(self, prepared):
        patients = [
            set(records.record_fields(source, ["patient_id"])["patient_id"])
            for source in audit.open_all(prepared).values()
        ]
        assert sum(map(len, patients)) == len(set.union(*patients))

    def test_two_builds_are_equal_byte_by_byte(self, source, prepared, tmp_path):
        again = self.prepare(source, tmp_path / "again")
        assert _hashes(prepared) == _hashes(again)

    def test_builder_from_directory_reads_without_tensorflow(self, prepared):
        source = tfds.builder_from_directory(prepared).as_data_source("train")
        assert source[0]["schema_version"] == records.SCHEMA_VERSION
        assert "tensorflow" not in sys.modules

    def test_a_broken_clip_stops_the_build_and_leaves_nothing(self, source, tmp_path):
        words = self.break_source(source)
        with pytest.raises(SourceError) as error:
            self.prepare(source, tmp_path / "records")
        for word in words | {"--max_bad"}:
            assert word in str(error.value)
        assert not list((tmp_path / "records").rglob("*.array_record*"))

    def test_max_bad_quarantines_the_broken_clip(self, source, tmp_path):
        words = self.break_source(source)
        directory = self.prepare(source, tmp_path / "records", max_bad=1)
        listed = (directory / "quarantine.csv").read_text()
        assert len(listed.splitlines()) == 2 and all(word in listed for word in words)
        assert audit.summarise(directory)["quarantined"] == 1
        assert audit.check(directory) == []


def _hashes(directory: pathlib.Path) -> dict[str, str]:
    files = [path for path in sorted(directory.iterdir()) if path.suffix != ".png"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
