"""Benchmarks: what they count is pinned, what they time is only there."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from discovr_jax.benchmark import compression, evaluation, machine, parts, trace
from discovr_jax.benchmark.__main__ import main
from discovr_jax.configs import adult
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.models.variants import VARIANTS, Variant
from discovr_jax.planning import flops
from tests.builder_case import moving_square, write_video


def test_sizes_of_the_codecs(monkeypatch):
    monkeypatch.setattr(compression, "_REPEATS", 1)
    black, noise = np.zeros((2, 32, 32), np.uint8), np.random.default_rng(0).integers(0, 256, (2, 32, 32), np.uint8)
    for clips, low, high in (([black], 0, 0.12), ([noise], 1, 1.2), ([black, noise], 0.5, 0.65)):
        rows = compression.compression(clips)
        assert [row["codec"] for row in rows] == ["LZ4 (records)", "zstd 1", "zstd 3", "PNG (OpenCV)"]
        for row in rows:
            # One size is relative to the raw 1024 bytes, the other absolute.
            assert low <= row["share"] <= high and row["bytes"] == pytest.approx(1024 * row["share"])
            assert row["encode"] > 0 and row["decode"] > 0


def test_a_lossy_codec_is_refused(monkeypatch):
    zeros = np.zeros((2, 8, 8), np.uint8)
    lossy = compression.Codec("half", lambda frames: [b""] * len(frames), lambda blocks, height, width: zeros)
    monkeypatch.setattr(compression, "codecs", lambda: [lossy])
    with pytest.raises(ValueError, match="half changed a frame"):
        compression.compression([zeros + 1])


def test_command_line(tmp_path, capsys):
    write_video(tmp_path / "a.avi", moving_square(6, 60, 80))
    (tmp_path / "notes.txt").write_text("not a video")
    assert main(["compression", str(tmp_path), "--frame_size=56", "--frames=4"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 clips, 56 x 56, up to 4 frames each\n")
    in_files = (tmp_path / "a.avi").stat().st_size / 6
    assert "| raw | 3136 | 100 % |" in out and f"(of their own size) | {in_files:.0f} |" in out
    (tmp_path / "a.avi").unlink()
    assert main(["compression", str(tmp_path)]) == 1
    assert "error: There is no clip to compress." in capsys.readouterr().err


# Nominal work ------------------------------------------------------------------------------------------------


def test_nominal_work_of_the_papers_recipe():
    """By hand: GFLOP forward a clip of 64 x 112 x 112 for ViT-B, and 2.38 TFLOP for the whole step."""
    experiment = experiment_lib.make_experiment(adult.get_config(), 7465)
    forward = flops.forward_flops(experiment.model, experiment.masks)
    expected = {
        "image teacher": 553, "video teacher": 361, "image students": 276, "video students": 160, "decoder": 38,
        "scd": 14, "heads": 7,
    }  # fmt: skip
    assert {part: round(value / 1e9) for part, value in forward.items()} == expected
    assert sum(flops.step_flops(experiment.model, experiment.masks).values()) == pytest.approx(2.38e12, rel=0.01)


def test_nominal_work_by_hand():
    # Two tokens of width 3, one block: 24 * 9 for the weights and 4 * 2 * 3 for attention, a token.
    assert flops.transformer(sequences=5, tokens=2, width=3, depth=1) == 5 * 2 * (24 * 9 + 24)


def test_work_follows_the_branches(make_tiny):
    e = make_tiny(**{"loss.img": 0.0, "loss.scd": 0.0}).experiment
    assert set(flops.step_flops(e.model, e.masks)) == {"video teacher", "video students", "heads"}
    e = make_tiny(**{"loss.vid": 0.0, "loss.img": 0.0, "loss.scd": 0.0, "loss.pix": 1.0}).experiment
    assert set(flops.step_flops(e.model, e.masks)) == {"video students", "decoder"}


# Time and memory ---------------------------------------------------------------------------------------------


def test_times_leave_out_the_warm_up():
    calls = []
    times = machine.timed(lambda: calls.append(0), repeats=4, warmup=3)
    assert len(calls) == 7 and len(times.seconds) == 4
    times = machine.Times((4.0, 1.0, 2.0, 3.0, 10.0))
    assert (times.median, times.quartiles, times.fastest) == (3.0, (2.0, 4.0), 1.0)


@dataclasses.dataclass
class Event:
    start_ns: float
    duration_ns: float
    name: str
    stats: tuple = (("hlo_op", "x"),)


def test_operations_are_ranked_by_their_own_time():
    """A loop's time is without its body's, two threads add up, and events that are no operations are left out."""
    first = [Event(0, 10e6, "while.1"), Event(1e6, 6e6, "dot.2"), Event(8e6, 1e6, "dot.2")]
    second = [Event(0, 2e6, "dot.2"), Event(0, 90e6, "Execute", ())]
    text = """
      %dot.2 = f32[2,2]{1,0} dot(%a, %b), metadata={op_name="jit(step)/decoder/dot_general" stack_frame_id=1}
      ROOT while.1 = (s32[]) while(%t), body=%b
    """
    assert trace.scopes(text) == {"dot.2": "decoder/dot_general", "dot_2": "decoder/dot_general"}
    # Two calls were traced.
    assert trace.rank([first, second], trace.scopes(text)) == [
        ("dot.2", "decoder/dot_general", "1.5", "4.5"),
        ("while.1", "", "0.5", "1.5"),
    ]


# The commands ------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_flags(monkeypatch):
    """A config file's name and overrides that make `adult` tiny."""
    monkeypatch.setitem(VARIANTS, "ti", Variant(16, 1, 2, 64, 8, 2))
    small = {
        "batch_size": 8, "data.image_size": 32, "data.num_frames": 4, "model.patch": 8, "model.dtype": "float32",
        "model.decoder_depth": 1, "model.num_prototypes": 16, "head.hidden": 32, "head.bottleneck": 16,
        "head.outputs": 32, "mask.video_views": 2, "loss.img": 0.0, "loss.scd": 0.0, "eval.batch_size": 8,
    }  # fmt: skip
    return ["--config=configs/adult.py:variant=ti", *(f"--config.{key}={value}" for key, value in small.items())]


@pytest.mark.long  # compiles a step and each of its parts
def test_step(tiny_flags, tmp_path, capsys):
    command = ["step", *tiny_flags, "--steps=2", "--warmup=1", "--peak=0.001", "--parts", f"--profile={tmp_path}"]
    assert main(command) == 0
    out = capsys.readouterr().out
    value = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", out, re.MULTILINE))
    seconds, rate = float(value["step, median (quartiles)"].split()[0]), float(value["clips per second"])
    assert rate == pytest.approx(8 / seconds, rel=0.02) or seconds < 0.02
    mfu = float(value["MFU of 0.001 TFLOP/s per device"].removesuffix(" %"))
    nominal = float(value["nominal rate"].removesuffix(" GFLOP/s"))
    assert mfu == pytest.approx(100 * nominal / jax.device_count(), rel=0.05)
    timed = re.findall(r"^\| ([a-z ]+) \| [0-9.]+ \| \d+ % \|", out, re.MULTILINE)
    assert timed == ["video teacher", "video students", "heads", "optimizer", "sum of the parts"]
    assert list(tmp_path.rglob("*.xplane.pb")) and "dot" in out.partition("Trace in")[2]


@pytest.mark.parametrize("branch,missing", [("loss.scd", "image students"), ("loss.img", "decoder")])
def test_every_part_of_a_branch_is_found_and_runs_abstractly(make_tiny, branch, missing):
    others = {"loss.vid": 0.0, "loss.img": 0.0, "loss.scd": 0.0, branch: 1.0}
    tiny = make_tiny(**others)
    found = parts.parts(tiny.experiment)
    assert set(found) == {*flops.step_flops(tiny.experiment.model, tiny.experiment.masks), "optimizer"}
    assert missing not in found
    inputs = parts.random_inputs(tiny.experiment, tiny.config.batch_size)
    for function in found.values():
        assert jax.tree.leaves(jax.eval_shape(function, tiny.state, tiny.batch, tiny.masks, inputs))


def test_start_and_loader(tmp_path, capsys):
    command = ["start", "--records=6", "--shards=2", "--workers=0", f"--folder={tmp_path}"]
    assert main(command) == 0
    rows = re.findall(r"^\| ([a-z ]+) \| [0-9.]+ \| [0-9.]+ \| \d+ \|  \|$", capsys.readouterr().out, re.MULTILINE)
    assert rows == ["imports", "records opened", "records chosen", "training videos hashed", "first batch"]
    settings = {"batch_size": 2, "data.data_dir": tmp_path, "data.frame_size": 16, "data.num_frames": 1}
    command = ["loader", "--config=adult", *(f"--config.{key}={value}" for key, value in settings.items())]
    assert main([*command, "--clips=6", "--workers=0", "--latency=0,1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^\| sum \| [0-9.]+ \| \d+ \|$", out, re.MULTILINE)
    rows = re.findall(r"^\| 0 \| (\d) \| (cold|warm) \| [0-9.]+ \| \d+ \| \S+ \|  \|$", out, re.MULTILINE)
    assert rows == [("0", "cold"), ("0", "warm"), ("1", "warm")]


def test_sinkhorn_and_eval(tiny_flags, capsys):
    assert main(["sinkhorn", *tiny_flags, "--repeats=1"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert float(rows[-1][-1].removesuffix(" |")) < 1e-5  # both forms assign alike
    assert main(["eval", *tiny_flags, "--repeats=1"]) == 0
    assert "| clips per second |" in capsys.readouterr().out


def test_evaluators_on_many_rows(capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "_WIDTH", 16)
    arguments = ["eval", "--config=adult", "--rows=300", "--config.eval.resamples=20", "--config.eval.search_rows=90"]
    assert main(arguments) == 0
    pattern = r"^\| (\w+) \| (\S+) (\S+) .* \| ([0-9.]*) \| [0-9.]+ \| [0-9.]+ \| [0-9.]+ \| \d+ \|$"
    rows = re.findall(pattern, capsys.readouterr().out, re.M)
    found = {name: (metric, float(value)) for name, metric, value, _ in rows}
    recall = {name: float(share) for name, *_, share in rows if share}
    assert set(recall) == {"knn", "anomaly", "retrieval"} and 0.4 < min(recall.values()) < 1
    assert set(found) == {"knn", "anomaly", "probe", "lvef", "retrieval"}
    assert found["probe"][0] == "probe/macro_f1" and found["probe"][1] > 0.55  # the label is linear in the features
    assert found["lvef"][1] < 8  # the EF's standard deviation


@pytest.mark.parametrize(
    "arguments,reason",
    [
        (["step", "--config=adult", "--config.batch_sizes=3"], "batch_sizes"),
        (["step", "--config=nowhere.py"], "no config 'nowhere.py' here"),
        (["step", "--config=adult", "--steps=0"], "--steps and --warmup must be at least 1"),
        (["loader", "--config=adult", "--clips=3"], "--clips=3 is less than one batch of 128"),
        (["loader", "--config=adult", "--config.data.data_dir=nowhere"], "No prepared records at nowhere"),
    ],
)
def test_errors_say_what_is_wrong(arguments, reason, capsys):
    assert main(arguments) == 1
    assert reason in capsys.readouterr().err
