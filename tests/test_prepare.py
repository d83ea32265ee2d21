import pathlib
import shutil
import signal
import subprocess
import sys
import time

import ml_collections
import numpy as np
import pytest

from discovr_jax import prepare
from discovr_jax.data import audit, records
from tests.builder_case import moving_square, write_video

HEADER = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split\n"


def write_native(directory: pathlib.Path, ef: str = "60", names=("0XA", "0XB", "0XC", "0XD")) -> pathlib.Path:
    (directory / "Videos").mkdir(parents=True)
    rows = ""
    for seed, (name, split) in enumerate(zip(names, ("TRAIN", "TRAIN", "VAL", "TEST"), strict=True)):
        write_video(directory / "Videos" / f"{name}.avi", moving_square(seed=seed))
        rows += f"{name},{ef},40,100,112,112,50,6,{split}\n"
    (directory / "FileList.csv").write_text(HEADER + rows)
    chords = "".join(
        f"0XA.avi,40,{30 + step * row},60,{30 + step * row},{frame}\n"
        for frame, step in ((0, 2), (3, 1))
        for row in (0, *range(20))
    )
    (directory / "VolumeTracings.csv").write_text("FileName,X1,Y1,X2,Y2,Frame\n" + chords)
    return directory


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepare")
    native = write_native(directory / "native_files")
    return directory, native, prepare.build("echonet_dynamic", native, directory / "records", workers=1)


@pytest.fixture
def copy(built, tmp_path):
    """A copy of the records' folder that a test may damage."""
    path = tmp_path / "echonet_dynamic" / "112" / records.BUILDER_VERSION
    shutil.copytree(built[2]["path"], path)
    return path


def run(*arguments, **kwargs):
    command = [sys.executable, "-m", "discovr_jax.prepare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


def config(data_dir, **simulate):
    counts = {"train": 0, "val": 0, "test": 0, "seed": 0} | simulate
    data = {"dataset": "echonet_dynamic", "data_dir": str(data_dir), "frame_size": 112, "simulate": counts}
    return ml_collections.ConfigDict({"data": data})


def test_summary_counts_by_split(built):
    train = built[2]["splits"]["train"]
    assert (train["records"], train["patients"], train["frames"], train["masks"]) == (2, 2, 12, 2)
    assert train["labels"]["ef"] == {"known": 2, "unknown": 0}
    assert train["labels"]["rvef"] == {"known": 0, "unknown": 2}
    text = audit.format_summary(built[2])
    assert "train: 2 records, 2 patients, 12 frames, 2 masks, EF known 2 of 2" in text
    assert "EF unknown: 0, RVEF unknown: 4" in text and "quarantined: 0" in text


def test_contact_sheet_shows_outlines(built):
    import cv2

    sheet = cv2.imread(str(pathlib.Path(built[2]["path"]) / "contact_sheet.png"))
    assert sheet.shape == (224, 6 * 224, 3)
    assert ((sheet == (0, 255, 255)).all(-1)).sum() > 50


def test_records_that_are_there_are_kept(built, capsys):
    directory, native, summary = built
    before = {path.name: path.stat().st_mtime_ns for path in pathlib.Path(summary["path"]).iterdir()}
    assert prepare.build("echonet_dynamic", native, directory / "records", workers=1) == summary
    assert before == {path.name: path.stat().st_mtime_ns for path in pathlib.Path(summary["path"]).iterdir()}
    assert "already complete" in capsys.readouterr().err


def test_damaged_records_are_moved_aside_and_built_again(built, copy, capsys):
    next(copy.glob("*-val.array_record*")).write_bytes(b"")
    summary = prepare.build("echonet_dynamic", built[1], copy.parents[2], workers=1)
    assert audit.check(pathlib.Path(summary["path"])) == []
    assert len(list(copy.parent.glob("damaged.*"))) == 1 and "is damaged; moved" in capsys.readouterr().err


def test_leftovers_of_an_interrupted_build_are_removed(built, tmp_path):
    leftover = tmp_path / "echonet_dynamic" / "112" / "incomplete.ABC_1.0.0"
    leftover.mkdir(parents=True)
    prepare.build("echonet_dynamic", built[1], tmp_path, workers=1)
    assert not leftover.exists()


def test_a_killed_build_leaves_nothing_that_looks_complete_and_can_be_repeated(tmp_path):
    native = write_native(tmp_path / "native")
    arguments = ["echonet_dynamic", f"--manual_dir={native}", f"--data_dir={tmp_path / 'records'}"]
    config_dir = tmp_path / "records" / "echonet_dynamic" / "112"
    # One video of the second split that takes for ever holds the build in its middle.
    script = (
        "import sys, time; from discovr_jax import prepare; from discovr_jax.data import video_io\n"
        "real = video_io.READERS['.avi']\n"
        "def slow(path):\n"
        "    if '0XC' in path.name: time.sleep(60)\n"
        "    return real(path)\n"
        "video_io.READERS['.avi'] = slow\n"
        "prepare.main(sys.argv[1:])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not list(config_dir.glob("incomplete.*/*train*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(config_dir.glob("incomplete.*"))
    with pytest.raises(records.RecordsError, match="No prepared records"):
        records.open_source(tmp_path / "records", "echonet_dynamic", "112", "train")
    prepare.build("echonet_dynamic", native, tmp_path / "records", workers=1)
    assert audit.check(config_dir / records.BUILDER_VERSION) == []
    assert not list(config_dir.glob("incomplete.*"))


@pytest.mark.parametrize("split", records.SPLITS)
def test_check_finds_a_flipped_byte(copy, split):
    shard = next(copy.glob(f"*-{split}.array_record*"))
    data = np.frombuffer(shard.read_bytes(), np.uint8).copy()
    # Files are padded with zeros; the middle of the rest lies in the records.
    data[np.median(np.flatnonzero(data)).astype(int)] ^= 0xFF
    shard.write_bytes(data.tobytes())
    problems = audit.check(copy)
    assert problems and f"'{split}'" in problems[0]


def edit_manifest(copy, old: str, new: str) -> list[str]:
    manifest = copy / "manifest.csv"
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new))
    return audit.check(copy)


def test_check_compares_frames_with_the_manifest(copy):
    digest = records.manifest_rows(copy)[0]["sha256"]
    problems = edit_manifest(copy, digest, "0" * 64)
    assert len(problems) == 1 and "its frames are not those that manifest.csv lists" in problems[0]


def test_check_finds_lost_records_and_quarantine(copy):
    problems = edit_manifest(copy, "val,", "val,0,0,,lost,,,,,,,,,,,,,,,,,,\nval,")
    assert any("val record lost is in manifest.csv but not readable" in problem for problem in problems)
    (copy / "quarantine.csv").write_text("file,reason\nx.avi,gone\n")
    assert any("quarantine.csv lists 1, metadata.json 0" in problem for problem in audit.check(copy))


def test_check_finds_the_same_video_in_two_splits(tmp_path):
    native = write_native(tmp_path / "native")
    shutil.copyfile(native / "Videos" / "0XA.avi", native / "Videos" / "0XD.avi")
    path = prepare.build("echonet_dynamic", native, tmp_path / "records", workers=1)["path"]
    problems = audit.check(pathlib.Path(path))
    assert problems == ["the same frames in several splits: test 0XD, train 0XA."]


def test_check_finds_labels_out_of_range(tmp_path):
    native = write_native(tmp_path / "native", ef="0.6")
    text = (native / "FileList.csv").read_text()
    (native / "FileList.csv").write_text(text.replace("0XB,0.6,40,100", "0XB,160,140,100"))
    done = prepare.build("echonet_dynamic", native, tmp_path / "records", workers=1)
    problems = audit.check(pathlib.Path(done["path"]))
    assert sorted(problems) == [
        "train record 0XB: ef is 160.0, outside 0 to 100.",
        "train record 0XB: esv 140.0 is above edv 100.0.",
    ]


def test_command_line(built, tmp_path):
    directory, native, summary = built
    done = run("echonet_dynamic", f"--manual_dir={native}", f"--data_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "train: 2 records" in done.stdout and "4 of 4 videos" in done.stderr
    path = tmp_path / "echonet_dynamic" / "112" / records.BUILDER_VERSION
    done = run("check", path)
    assert done.returncode == 0 and "No problems found" in done.stdout
    next(path.glob("*-test.array_record*")).write_bytes(b"x")
    done = run("check", path)
    assert (
        done.returncode == 1 and "1 problem(s) found" in done.stdout and "-test.array_record" in done.stdout
    )


def test_options_of_a_builder_are_flags_and_part_of_the_records(tmp_path, monkeypatch, capsys):
    from tfds_builders import echo_builder
    from tfds_builders.echonet_dynamic.echonet_dynamic_dataset_builder import Builder

    seen = []
    options = (
        echo_builder.Option("test_fold", int, 9, "fold of the test split"),
        echo_builder.Option("show", bool, False, "name files", recorded=False),
    )
    monkeypatch.setattr(Builder, "OPTIONS", options)
    find_clips = Builder.find_clips

    def spy(self, manual_dir):
        seen.append(self.options)
        return find_clips(self, manual_dir)

    monkeypatch.setattr(Builder, "find_clips", spy)
    native = write_native(tmp_path / "native")
    arguments = ["echonet_dynamic", f"--manual_dir={native}", f"--data_dir={tmp_path}"]
    assert prepare.main([*arguments, "--test_fold=3", "--show"]) == 0
    assert seen == [{"test_fold": 3, "show": True}]
    path = records.records_dir(tmp_path, "echonet_dynamic", "112")
    assert audit.metadata(path)["options"] == {"test_fold": 3}
    # What is not recorded may differ; other records are not passed off as these.
    assert prepare.main([*arguments, "--test_fold=3"]) == 0 and len(seen) == 1
    capsys.readouterr()
    assert prepare.main(arguments) == 1
    assert "made with the options {'test_fold': 3}, not {'test_fold': 9}" in capsys.readouterr().err
    with pytest.raises(ValueError, match="echonet_dynamic has no option val_fold"):
        prepare.build("echonet_dynamic", native, tmp_path, val_fold=1)


def test_errors_end_the_command_with_one_line(tmp_path, capsys):
    arguments = ["echonet_dynamic", f"--manual_dir={tmp_path / 'absent'}", f"--data_dir={tmp_path}"]
    assert prepare.main(arguments) == 1
    assert f"error: {tmp_path / 'absent'}: no such directory. Download" in capsys.readouterr().err
    native = write_native(tmp_path / "native")
    assert prepare.main([*arguments, f"--manual_dir={native}", "--frame_size=64"]) == 1
    assert "frame_size is 64; echonet_dynamic has 112, 224" in capsys.readouterr().err
    (native / "Videos" / "0XB.avi").unlink()
    assert prepare.main([*arguments, f"--manual_dir={native}"]) == 1
    assert "0XB: FileList.csv line 3: no such file" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no dataset 'mnist'; there are .*echonet_dynamic"):
        prepare.build("mnist", native, tmp_path)


def test_ensure_records_names_the_command(tmp_path):
    with pytest.raises(records.RecordsError, match="python -m discovr_jax.prepare echonet_dynamic"):
        prepare.ensure_records(config(tmp_path))


def test_ensure_records_simulates_once(tmp_path, monkeypatch):
    from tfds_builders.echo_phantom import layouts

    calls = []

    def write(layout, directory, counts, seed, workers):
        calls.append((layout, counts, seed))
        if seed:
            raise FileExistsError("holds other simulated clips")
        return directory if directory.exists() else write_native(directory)

    monkeypatch.setattr(layouts, "write", write)
    wanted = config(tmp_path, train=2, val=1, test=1)
    prepare.ensure_records(wanted)
    path = records.records_dir(tmp_path, "echonet_dynamic", "112")
    before = path.stat().st_mtime_ns
    prepare.ensure_records(wanted)
    assert path.stat().st_mtime_ns == before and calls[0] == ("echonet_dynamic", {"train": 2, "val": 1, "test": 1}, 0)
    assert len(records.open_source(tmp_path, "echonet_dynamic", "112", "train")) == 2
    with pytest.raises(records.RecordsError, match="asks for other clips than data.data_dir"):
        prepare.ensure_records(config(tmp_path, train=2, val=1, test=1, seed=5))
