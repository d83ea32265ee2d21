import functools
import hashlib
import os
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

ROOT = pathlib.Path(__file__).resolve().parent.parent
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
    table = native / "FileList.csv"
    table.write_text(table.read_text().replace("0XB,60", "0XB,49"))
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
    data = {"dataset": "echonet_dynamic", "mixture": {}, "data_dir": str(data_dir), "frame_size": 112}
    return ml_collections.ConfigDict({"data": data | {"simulate": counts}, "eval": {"dataset": None}})


def test_summary_counts_by_split(built):
    train = built[2]["splits"]["train"]
    assert (train["records"], train["patients"], train["frames"], train["masks"]) == (2, 2, 12, 2)
    assert train["known"] == {"ef": 2, "rvef": 0, "edv": 2, "esv": 2, "ivsd": 0, "lvidd": 0, "lvpwd": 0}
    assert train["views"] == {"A4C": 2}
    assert train["rules"]["ef < 50"] == {"normal": 1, "abnormal": 1, "unknown": 0}
    assert train["rules"]["rvef <= 45"] == {"normal": 0, "abnormal": 0, "unknown": 2}
    lines = audit.format_summary(built[2]).splitlines()
    manifest = pathlib.Path(built[2]["path"]) / "manifest.csv"
    assert lines[1] == f"  manifest.csv (sha256): {hashlib.sha256(manifest.read_bytes()).hexdigest()}"
    assert lines[2:6] == [
        "  train: 2 records, 2 patients, 12 frames, 2 masks",
        "         view: A4C 2",
        "         measurements known: EF 2, EDV 2, ESV 2",
        "         ef < 50: 1 normal, 1 abnormal, 0 unknown",
    ]
    assert lines[-1] == "  quarantined: 0"


def test_records_that_are_there_are_kept(built, capsys):
    directory, native, summary = built
    before = {path.name: path.stat().st_mtime_ns for path in pathlib.Path(summary["path"]).iterdir()}
    assert prepare.build("echonet_dynamic", native, directory / "records", workers=1) == summary
    assert before == {path.name: path.stat().st_mtime_ns for path in pathlib.Path(summary["path"]).iterdir()}
    assert "already complete" in capsys.readouterr().err


def test_records_are_an_ordinary_dataset_of_tfds(built):
    import tensorflow_datasets as tfds

    import tfds_builders.echonet_dynamic.echonet_dynamic_dataset_builder  # noqa: F401 (registers the name)

    found = tfds.data_source("echonet_dynamic/112", split="val", data_dir=built[0] / "records")
    assert [record["id"] for record in found] == [b"0XC"]
    assert tfds.builder("echonet_dynamic", data_dir=built[0] / "records").info.splits["train"].num_examples == 2
    assert "tensorflow" not in sys.modules


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


# Run as a file, so that its workers import it too: one video of the second split takes for ever.
SLOW = """
import os, sys, time
from discovr_jax import prepare
from discovr_jax.data import read
from tfds_builders import reading

real = read.READERS[".avi"]

def slow(path):
    with open(os.environ["PIDS"], "a") as file:
        print(os.getpid(), file=file)
    if "0XC" in path.name:
        time.sleep(60)
    return real(path)

read.READERS[".avi"] = slow
reading._CLIPS_PER_WORKER = 1
if __name__ == "__main__":
    prepare.main(sys.argv[1:])
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_build_leaves_nothing_that_looks_complete_and_can_be_repeated(tmp_path, workers):
    native = write_native(tmp_path / "native")
    table = native / "FileList.csv"  # the slow video becomes the second of val: the first of each split is read first
    table.write_text(table.read_text().replace("0XB,60,40,100,112,112,50,6,TRAIN", "0XB,60,40,100,112,112,50,6,VAL"))
    config_dir = tmp_path / "records" / "echonet_dynamic" / "112"
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "slow.py", "echonet_dynamic", f"--manual_dir={native}",
         f"--data_dir={tmp_path / 'records'}", f"--workers={workers}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"PIDS": str(tmp_path / "pids"), "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(config_dir.glob("incomplete.*/*train*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(config_dir.glob("incomplete.*"))
    with pytest.raises(records.RecordsError, match="No prepared records"):
        records.open_source(tmp_path / "records", "echonet_dynamic", "112", "train")
    # The workers end with their parent.
    pids = {int(line) for line in (tmp_path / "pids").read_text().split()}
    assert (process.pid in pids) == (workers == 1)
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))
    prepare.build("echonet_dynamic", native, tmp_path / "records", workers=1)
    assert audit.check(config_dir / records.BUILDER_VERSION) == []
    assert sorted(path.name for path in config_dir.iterdir()) == [".lock", records.BUILDER_VERSION]


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


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
        echo_builder.Option("side", str, "left", "side that is kept"),
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
    assert seen == [{"test_fold": 3, "side": "left", "show": True}]
    path = records.records_dir(tmp_path, "echonet_dynamic", "112")
    assert audit.metadata(path)["options"] == {"test_fold": 3, "side": "left"}
    # What is not recorded may differ; other records are not passed off as these.
    assert prepare.main([*arguments, "--test_fold=3"]) == 0 and len(seen) == 1
    capsys.readouterr()
    assert prepare.main(arguments) == 1
    # Only what differs is named.
    assert f"{path} was made with other options (test_fold: 3 before, 9 now). Remove it" in capsys.readouterr().err
    with pytest.raises(ValueError, match="echonet_dynamic has no option val_fold"):
        prepare.build("echonet_dynamic", native, tmp_path, val_fold=1)


def test_errors_end_the_command_with_one_line(tmp_path, capsys):
    arguments = ["echonet_dynamic", f"--manual_dir={tmp_path / 'absent'}", f"--data_dir={tmp_path}"]
    assert prepare.main(arguments) == 1
    assert f"error: {tmp_path / 'absent'}: no such directory. Download" in capsys.readouterr().err
    native = write_native(tmp_path / "native")
    assert prepare.main([*arguments, f"--manual_dir={native}", "--frame_size=64"]) == 1
    assert "echonet_dynamic has no records '64' ([variant_]frame_size), only 112, 224" in capsys.readouterr().err
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


def test_a_script_without_the_guard_is_told_in_one_line(tmp_path):
    """Each worker imports the script, which would make the records once more and wait for its own parent."""
    native = tmp_path / "native_files"
    native.mkdir()
    for number in range(16):
        np.save(native / f"{number}.npy", moving_square(3, seed=number))
    call = f"prepare.build('echo_folder', {str(native)!r}, 'records', show_paths=True, workers=2)\n"
    simulated = (
        "c = ml_collections.ConfigDict({'data': {'dataset': 'echonet_dynamic', 'mixture': {}, 'data_dir': 'simulated',"
        " 'frame_size': 112, 'simulate': {'train': 2, 'val': 1, 'test': 1, 'seed': 0}}, 'eval': {'dataset': None}})\n"
        "prepare.os.cpu_count = lambda: 2\n"
        "prepare.ensure_records(c)\n"
    )
    for name, text in (
        ("bare.py", call),
        ("simulating.py", simulated),
        ("guarded.py", f"if __name__ == '__main__':\n    {call}"),
    ):
        (tmp_path / name).write_text(f"import ml_collections\nfrom discovr_jax import prepare\n{text}")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run_script = functools.partial(
        subprocess.run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    for name in ("bare.py", "simulating.py"):
        said = run_script([sys.executable, name])
        last = said.stderr.strip().splitlines()[-1]
        assert said.returncode == 1 and 'below the line `if __name__ == "__main__":`' in last
        assert "bootstrapping" not in said.stderr and "Waiting for another" not in said.stderr
    assert run_script([sys.executable, "guarded.py"]).returncode == 0
