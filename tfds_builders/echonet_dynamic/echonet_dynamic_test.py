"""EchoNet-Dynamic on files made here, with every oddity that the published files are known to have."""

import math
import pathlib

import numpy as np
import pytest

from discovr_jax.data import audit, records
from tests.builder_case import BuilderCase, moving_square, notes, phantom_dice, read, write_table, write_video
from tfds_builders.echo_phantom import layouts
from tfds_builders.echonet_dynamic.echonet_dynamic_dataset_builder import Builder
from tfds_builders.tables import SourceError

HEADER = ("FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split")
TRACING_HEADER = ("FileName", "X1", "Y1", "X2", "Y2", "Frame")
# Hashes have 16 to 18 characters.
NAMES = ("0X1A2B3C4D5E6F7081", "0X2A2B3C4D5E6F708", "0X3A2B3C4D5E6F70", "0X4A2B3C4D5E6F7081")


def tracing(left: float, top: float, right: float, bottom: float, rows: int = 21) -> list[list[float]]:
    """A rectangle as EchoNet traces it: the long axis, then horizontal chords from top to bottom."""
    chords = [[left, y, right, y] for y in np.linspace(top, bottom, rows - 1)]
    return [[(left + right) / 2, top, (left + right) / 2, bottom], *chords]


def file_row(name: str, split: str, frames: int = 6, **changes) -> list:
    row = dict(zip(HEADER, (name, 58.31, 41.2, 98.8, 112, 112, 50, frames, split), strict=True))
    return list((row | changes).values())


class Source:
    """A dataset on disk whose tables a test can change before they are written."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.rows = [file_row(n, s) for n, s in zip(NAMES, ("TRAIN", "TRAIN", "VAL", "TEST"), strict=True)]
        self.tracings = [
            [f"{NAMES[0]}.avi", *row, frame]
            for frame, box in ((4, (40, 30, 60, 70)), (1, (44, 40, 56, 60)))
            for row in tracing(*box)
        ]
        (directory / "Videos").mkdir(parents=True)
        for seed, name in enumerate(NAMES):
            write_video(directory / "Videos" / f"{name}.avi", moving_square(seed=seed))

    def trace(self, *rows_by_frame: tuple[int, list]) -> None:
        """Replaces all tracings by those of the first clip."""
        self.tracings = [[f"{NAMES[0]}.avi", *row, frame] for frame, rows in rows_by_frame for row in rows]

    def write(self) -> None:
        write_table(self.directory / "FileList.csv", HEADER, self.rows)
        write_table(self.directory / "VolumeTracings.csv", TRACING_HEADER, self.tracings)


class TestEchonetDynamic(BuilderCase):
    builder = Builder

    def write_source(self, directory):
        Source(directory).write()

    def break_source(self, directory):
        video = directory / "Videos" / f"{NAMES[1]}.avi"
        video.write_bytes(video.read_bytes()[:-3000])
        return {f"{NAMES[1]}.avi", "FileList.csv line 3"}


@pytest.fixture
def files(tmp_path):
    return Source(tmp_path / "source")


def build(files: Source, config: str = "112", **kwargs) -> pathlib.Path:
    files.write()
    return TestEchonetDynamic().prepare(
        files.directory, files.directory.parent / "records", config=config, **kwargs
    )


def test_fields_and_masks(files):
    record = read(build(files), NAMES[0])
    assert record["ef"] == pytest.approx(58.31) and record["edv"] == pytest.approx(98.8)
    assert (record["fps"], record["num_frames"], record["view"]) == (50, 6, "A4C")
    assert record["patient_id"] == NAMES[0] and record["dataset"] == "echonet_dynamic"
    assert record["source_label"] == -1 and np.isnan(record["pixel_spacing"]).all() and record["flags"] == []
    # The larger tracing is ED although it is listed first and comes later in the video.
    assert (record["ed_frame"], record["es_frame"]) == (4, 1)
    assert record["mask_frames"].tolist() == [1, 4] and record["mask_is_expert"].all()
    # Both ends of a chord belong to the cavity.
    assert record["masks"].sum((1, 2)).tolist() == [13 * 21, 21 * 41]
    assert record["masks"][1, 30:71, 40:61].all()


def test_the_phantom_s_masks_are_the_truth(tmp_path):
    native = layouts.write("echonet_dynamic", tmp_path / "native", {"train": 6}, 3, workers=1)
    dice = phantom_dice(native, TestEchonetDynamic().prepare(native, tmp_path / "records"))
    assert len(dice[1]) == 12 and np.mean(dice[1]) >= 0.98 and min(dice[1]) > 0.96


def test_pictures_survive_in_the_record(files):
    record = read(build(files), NAMES[2])
    frames = records.decode_frames(record["frames"], 112, 112)
    assert np.abs(frames.astype(int) - moving_square(seed=2)).mean() < 2


def test_full_size_video_is_letterboxed_and_flagged(files):
    tall = np.full((6, 120, 60), 180, np.uint8)
    tall[3:] = 150  # something must change, or it is a still
    write_video(files.directory / "Videos" / f"{NAMES[3]}.avi", tall)
    record = read(build(files), NAMES[3])
    frame = records.decode_frames(record["frames"], 112, 112, [0])[0]
    assert record["flags"] == ["resized"]
    assert (frame[:, :28] == 0).all() and (frame[:, 84:] == 0).all()
    assert np.abs(frame[:, 28:84].astype(int) - 180).max() < 5


def test_odd_sizes_and_their_tracings_are_scaled_alike(files):
    tall = np.full((6, 225, 113), 180, np.uint8)
    tall[3:] = 150
    write_video(files.directory / "Videos" / f"{NAMES[0]}.avi", tall)
    files.trace((0, tracing(0, 0, 112, 224)), (1, tracing(0, 0, 112, 100)))
    record = read(build(files), NAMES[0])
    frame, mask = records.decode_frames(record["frames"], 112, 112, [0])[0], record["masks"][0]
    # 113 x 225 becomes 56 x 112; the tracing of the whole picture covers what is not black.
    np.testing.assert_array_equal(mask == 1, frame > 90)
    assert mask.sum() == 56 * 112 and record["ed_frame"] == 0


def test_config_224_scales_frames_and_masks(files):
    record = read(build(files, config="224"), NAMES[0])
    assert records.decode_frames(record["frames"], 224, 224).shape == (6, 224, 224)
    assert record["masks"].shape == (2, 224, 224)
    assert record["masks"][1].mean() == pytest.approx(21 * 41 / 112**2, rel=0.05)


def test_stacked_tracing_keeps_the_largest(files):
    files.trace((2, tracing(10, 10, 20, 20) + tracing(40, 30, 60, 70)), (3, tracing(50, 50, 60, 60)))
    record = read(build(files), NAMES[0])
    assert record["flags"] == ["stacked_tracing"]
    assert record["masks"].sum((1, 2)).tolist() == [21 * 41, 11 * 11]
    assert (record["ed_frame"], record["es_frame"]) == (2, 3)


def test_coordinates_outside_are_cut_off(files):
    files.trace((0, tracing(-4.1, 30, 20, 50)), (1, tracing(90, 60, 119.9, 80)))
    record = read(build(files), NAMES[0])
    assert record["flags"] == ["clipped_tracing"]
    assert record["masks"].sum((1, 2)).tolist() == [21 * 21, 22 * 21]


def test_frame_outside_the_video_is_clamped(files):
    files.trace((6, tracing(40, 30, 60, 70)), (0, tracing(40, 30, 50, 40)))
    record = read(build(files), NAMES[0])
    assert record["flags"] == ["clamped_frame"]
    assert record["mask_frames"].tolist() == [0, 5] and record["ed_frame"] == 5


def test_short_and_empty_tracings_are_flagged(files):
    files.trace((0, tracing(40, 30, 60, 70, rows=16)), (1, tracing(200, 200, 220, 220)))
    record = read(build(files), NAMES[0])
    assert record["flags"] == ["clipped_tracing", "empty_tracing", "short_tracing"]
    # One mask is left; alone it could be ED or ES.
    assert record["mask_frames"].tolist() == [0] and record["ed_frame"] == record["es_frame"] == -1


def test_tracing_names_match_without_extension_and_orphans_are_counted(files):
    files.tracings = [[row[0].removesuffix(".avi"), *row[1:]] for row in files.tracings]
    files.tracings += [["0X4F8859C8AB4DA9CB.avi", *row, 0] for row in tracing(40, 30, 60, 70)]
    directory = build(files)
    assert len(read(directory, NAMES[0])["masks"]) == 2
    assert notes(directory)["tracings_without_row"] == 1
    assert notes(directory)["videos_without_tracing"] == 3


def test_unknown_labels_are_nan_and_counted(files):
    files.rows[0] = file_row(NAMES[0], "TRAIN", EF="", ESV="nan", EDV="", FPS="")
    directory = build(files)
    record = read(directory, NAMES[0])
    assert math.isnan(record["ef"]) and math.isnan(record["esv"]) and math.isnan(record["edv"])
    assert record["fps"] == 50  # From the video.
    assert notes(directory)["ef_unknown"] == 1
    labels = audit.summarise(directory)["splits"]["train"]["known"]["ef"]
    assert labels == 1


def test_tables_with_byte_order_mark_crlf_other_case_and_extensions(files):
    files.write()
    table = files.directory / "FileList.csv"
    text = table.read_text().replace("FileName", "filename").replace("Split", " SPLIT ")
    text = text.replace(NAMES[2], f"{NAMES[2]}.AVI").replace("TEST", "test")
    table.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n")
    (files.directory / "Videos" / "._junk.avi").write_bytes(b"macOS")
    directory = TestEchonetDynamic().prepare(files.directory, files.directory.parent / "records")
    assert audit.check(directory) == [] and len(audit.open_all(directory)) == 3


def test_numbers_may_be_written_as_fractions_and_labels_as_whole_numbers(files):
    files.rows[0] = file_row(NAMES[0], "TRAIN", EF=58, FPS="50.0", NumberOfFrames="6.0")
    files.tracings = [[*row[:-1], f"{row[-1]}.0"] for row in files.tracings]
    record = read(build(files), NAMES[0])
    assert (record["ef"], record["fps"], record["ed_frame"], record["flags"]) == (58, 50, 4, [])


def test_tracings_of_an_absent_video_go_with_it(files):
    (files.directory / "Videos" / f"{NAMES[0]}.avi").unlink()
    directory = build(files, max_bad=1)
    listed = (directory / "quarantine.csv").read_text().splitlines()[1:]
    assert len(listed) == 1 and listed[0].startswith(f"{NAMES[0]},FileList.csv line 2: no such file")
    assert notes(directory)["tracings_without_row"] == 0 and audit.check(directory) == []


def test_root_is_found_two_levels_down(files):
    files.write()
    inner = files.directory.parent / "download" / "unpacked" / "EchoNet-Dynamic"
    inner.parent.mkdir(parents=True)
    files.directory.rename(inner)
    directory = TestEchonetDynamic().prepare(inner.parent.parent, inner.parents[2] / "records")
    assert len(audit.open_all(directory)["train"]) == 2


def test_split_without_videos_is_left_out(files):
    files.rows[2] = file_row(NAMES[2], "TRAIN")
    assert set(audit.open_all(build(files))) == {"train", "test"}


def absent_video(files):
    files.rows.append(file_row("0XABSENT", "TRAIN"))


def unlisted_video(files):
    files.rows.pop()


def name_twice(files):
    files.rows.append(file_row(f"{NAMES[0]}.avi", "VAL"))


def unknown_split(files):
    files.rows[1] = file_row(NAMES[1], "HOLDOUT")


def text_for_number(files):
    files.rows[1] = file_row(NAMES[1], "TRAIN", EF="high")


def fewer_frames_than_listed(files):
    files.rows[1] = file_row(NAMES[1], "TRAIN", frames=9)


def tracing_without_coordinate(files):
    files.tracings.append([NAMES[0], 1, 2, 3, "", 0])


@pytest.mark.parametrize(
    "change, message",
    [
        (absent_video, "0XABSENT: FileList.csv line 6: no such file"),
        (unlisted_video, f"{NAMES[3]}.avi: no row in FileList.csv"),
        (name_twice, f"FileList.csv line 6: '{NAMES[0]}' again, first at FileList.csv line 2"),
        (unknown_split, "FileList.csv line 3: Split is 'HOLDOUT', expected one of TRAIN, VAL, TEST"),
        (text_for_number, "FileList.csv line 3: column EF holds 'high'"),
        (fewer_frames_than_listed, "6 frames decoded, FileList.csv says 9"),
        (tracing_without_coordinate, "VolumeTracings.csv line 44: coordinates must be numbers"),
    ],
)
def test_faults_of_the_tables_are_named(files, change, message):
    change(files)
    with pytest.raises(SourceError) as error:
        build(files)
    assert message in str(error.value)


def test_more_frames_than_listed_is_flagged(files):
    files.rows[0] = file_row(NAMES[0], "TRAIN", frames=5)
    assert read(build(files), NAMES[0])["flags"] == ["more_frames_than_listed"]


def test_missing_column_and_missing_files_are_named(files):
    files.write()
    prepare = TestEchonetDynamic().prepare
    table = files.directory / "FileList.csv"
    table.write_text(table.read_text().replace("Split", "Fold"))
    with pytest.raises(SourceError, match=r"FileList\.csv: missing column\(s\) Split"):
        prepare(files.directory, files.directory.parent / "records")
    files.write()
    (files.directory / "VolumeTracings.csv").unlink()
    with pytest.raises(SourceError, match=r"VolumeTracings\.csv: no such file"):
        prepare(files.directory, files.directory.parent / "records")
    table.unlink()
    with pytest.raises(SourceError, match=r"no FileList\.csv here or up to two levels below.*Download"):
        prepare(files.directory, files.directory.parent / "records")
