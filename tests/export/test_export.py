"""An exported program is the encoder and its heads; what is not, is not written."""

import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import discovr_jax
from discovr_jax import pretrained
from discovr_jax.evaluation import fitted_heads, out_of_distribution
from discovr_jax.evaluation.features import pixels
from discovr_jax.export import __main__ as command
from discovr_jax.export import check, formats, write
from discovr_jax.export.pixel_frames import pixel_features
from discovr_jax.export.program import Program
from discovr_jax.predictor import Predictor
from tests import run_case
from tests.builder_case import write_video


@pytest.fixture(scope="module")
def workdir(tiny, tmp_path_factory):
    """Random weights that were not evaluated."""
    return run_case.saved(tiny, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def encoder(workdir):
    return discovr_jax.load_encoder(workdir)


@pytest.fixture(scope="module")
def predictor(encoder, tmp_path_factory):
    """Made-up heads: EF from CLS with an interval, a volume from "all" without one, and a probability."""
    rng, width = np.random.default_rng(0), encoder.width
    lengths = {"cls": 2.0, "mean": 0.5}
    readouts = {"lvef": "cls", "lvedv": "all", "probe": "mean"}
    arrays, heads = {}, {}
    for part, readout in readouts.items():
        size = 2 * width if readout == "all" else width
        fitted = {"mean": rng.normal(size=size), "scale": rng.uniform(0.5, 2, size), "weights": rng.normal(size=size)}
        arrays |= {f"{part}/{name}": each for name, each in fitted.items()} | {f"{part}/intercept": np.array([50.0])}
        heads[part] = {"kind": "regression", "field": part[2:], "readout": readout, "interval": {"half_width": 9.5}}
    heads["lvedv"]["interval"]["half_width"] = None
    heads["probe"]["kind"], arrays["probe/platt"] = "probe", np.array([50.0, 4.0, 0.7, 0.1])
    clips = rng.integers(0, 256, (80, 4, 32, 32), dtype=np.uint8)
    drawn = np.split(np.stack([pixels.pixel_features(clip, 4) for clip in clips]), 2)
    rows = {
        split: {"cls": 4 * rng.normal(size=(40, width)), "pixels": each}
        for split, each in zip(("train", "val"), drawn, strict=True)
    }
    limits, more = out_of_distribution.fit(rows["train"], rows["val"])
    about = {
        "heads": heads, "out_of_distribution": limits | {"fewest_frames": 3}, "ids": [], "label_rule": "ef < 50",
        "preprocessing": {"batch_size": 8, "mean_lengths": lengths},
    }  # fmt: skip
    found = fitted_heads.Heads(tmp_path_factory.mktemp("heads") / fitted_heads.FILE, about, arrays | more)
    return Predictor(encoder, found, {"video_encoder": encoder.params["video_encoder"]})


@pytest.fixture(scope="module")
def videos(encoder):
    """One of usual length, and one whose only two frames are fewer than any training video had."""
    frames = np.random.default_rng(1).integers(0, 256, (30, 32, 32), dtype=np.uint8)
    return [check.CheckVideo(frames[:count], None, None) for count in (30, 4)]


def write_and_compare(name, folder, encoder, predictor, videos, shows_all):
    """Differences between a written program and `expected`, which is returned too."""
    program, how = Program(encoder, predictor, shows_all), formats.FORMATS[name]
    how.write(program, folder / how.file)
    wanted = [check.expected(encoder, predictor, video, shows_all) for video in videos]
    loaded = how.load(folder / how.file)
    return check.differences(loaded, list(program.outputs), encoder, videos, wanted), wanted


@pytest.mark.parametrize("size", [20, 32, 48, 56])
def test_pictures_are_those_of_the_pixel_baseline(size):
    frames = np.random.default_rng(0).integers(0, 256, (3, 6, size, size), dtype=np.uint8)
    frames[2] = 7  # of one grey level
    num_valid = np.array([6, 4, 6], np.int32)
    wanted = [pixels.pixel_features(clip, int(valid)) for clip, valid in zip(frames, num_valid, strict=True)]
    np.testing.assert_allclose(pixel_features(jnp.asarray(frames), jnp.asarray(num_valid)), wanted, atol=2e-6)


def test_heads_go_along(encoder, predictor, videos, tmp_path):
    apart, (usual, short) = write_and_compare("stablehlo", tmp_path, encoder, predictor, videos, False)
    assert max(each.scaled for each in apart.values()) < check.TOLERANCE
    assert [*apart] == [
        "features", "features_all", "features_mean", "lvedv", "lvedv_low", "lvedv_high", "lvef", "lvef_low",
        "lvef_high", "probability_abnormal", "distance", "out_of_distribution",
    ]  # fmt: skip
    assert not usual["out_of_distribution"] and usual["lvedv_high"] == np.inf and 0 < usual["probability_abnormal"] < 1
    assert usual["lvef_high"] - usual["lvef_low"] == pytest.approx(19)
    assert short["out_of_distribution"] and np.isnan(short["lvef"]) and np.isfinite(short["distance"])
    shown = Program(encoder, predictor, True)(*map(jnp.asarray, videos[1].clips(encoder)))
    assert shown["out_of_distribution"] and np.isfinite(shown["lvef"])


def test_onnxruntime_gives_the_same_and_the_page_says_how(encoder, predictor, videos, tmp_path, monkeypatch):
    for package in formats.FORMATS["onnx"].packages:
        pytest.importorskip(package, reason="extra export", exc_type=ImportError)
    folder = tmp_path / "adult_onnx"
    folder.mkdir()
    apart, wanted = write_and_compare("onnx", folder, encoder, predictor, videos, False)
    assert max(each.scaled for each in apart.values()) < check.TOLERANCE
    assert "ONNX opset" in formats.FORMATS["onnx"].says()
    frames, num_valid = videos[0].clips(encoder)
    np.savez(folder / write.CHECK, frames=frames, num_valid=num_valid, **{name: wanted[0][name] for name in apart})
    page = (run_case.ROOT / "docs" / "how-to" / "export.md").read_text(encoding="utf-8")
    (source,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "onnxruntime" in block]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(source, names)
    assert {*names["said"]} == {*apart}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder, card, loaded program, encoder) of the encoder that comes with the package, which has heads."""
    folder, encoder = tmp_path_factory.mktemp("phantom") / "exported", discovr_jax.load_encoder("phantom")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "load_encoder", lambda path: encoder)  # compiled once for all
        card = write.export("phantom", folder, "stablehlo", show_out_of_distribution=True)
    return folder, card, formats.load_stablehlo(folder / "encoder.stablehlo"), encoder


@pytest.mark.long
def test_the_program_gives_what_embed_and_predict_give(exported):
    """Numbers of a strange video too, as asked."""
    folder, card, program, encoder = exported
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "check.npz", "encoder.stablehlo"]
    rng = np.random.default_rng(0)
    video = np.cumsum(rng.integers(-20, 21, (70, 60, 80)), 0).clip(0, 255).astype(np.uint8)
    clips = check.CheckVideo(video, 25.0, None).clips(encoder)
    assert clips[0].shape == (3, 16, 48, 48)
    got, said = program(*clips), encoder.predict(video, 25.0, show_out_of_distribution=True)
    assert {*got} == {*card["outputs"]}
    np.testing.assert_allclose(got["features"], encoder.embed(video, 25.0), atol=1e-5)
    ef = said.measurements["lvef"]
    np.testing.assert_allclose([got[f"lvef{end}"] for end in ("", "_low", "_high")], [ef.value, ef.low, ef.high], 1e-5)
    np.testing.assert_allclose(got["probability_abnormal"], said.probability_abnormal, atol=1e-5)
    assert got["out_of_distribution"] == said.out_of_distribution


@pytest.mark.long
def test_the_card_says_how_to_use_it(exported):
    folder, card, program, encoder = exported
    assert json.loads((folder / "card.json").read_text()) == json.loads(json.dumps(card))
    assert card["notice"] == fitted_heads.RESEARCH_USE
    assert card["inputs"]["frames"]["shape"] == ("clips", 16, 48, 48) and card["inputs"]["frames"]["dtype"] == "uint8"
    assert "ejection fraction in %" in card["outputs"]["lvef"]["meaning"]
    assert card["preprocessing"]["trained_fps"] == 12.5 and card["preprocessing"]["stride"] == 4
    assert card["weights_sha256"]["video_encoder"] == encoder.weights_sha256
    assert max(each["scaled"] for each in card["checked"]["largest_difference"].values()) < check.TOLERANCE
    assert card["checked"]["in_distribution"] == 2  # of three: the last is shorter than every training video
    with np.load(folder / "check.npz") as archive:
        assert {*archive} == {"frames", "num_valid", *card["outputs"]} and np.isfinite(archive["lvef"])
        got = program(archive["frames"], archive["num_valid"])
        assert all(check.difference(archive[name], got[name]).scaled < check.TOLERANCE for name in card["outputs"])


def test_an_encoder_without_heads_goes_alone_and_says_so(workdir, tmp_path, capsys):
    write_video(tmp_path / "DOE.avi", np.random.default_rng(0).integers(0, 256, (40, 64, 64), dtype=np.uint8))
    arguments = [f"--workdir={workdir}", f"--output={tmp_path / 'out'}", "--format=stablehlo"]
    assert command.main([*arguments, f"--check={tmp_path / 'DOE.avi'}"]) == 0
    said = capsys.readouterr().out
    assert fitted_heads.RESEARCH_USE in said and "the encoder alone" in said and "on 4 videos" in said
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    program = formats.load_stablehlo(tmp_path / "out" / "encoder.stablehlo")
    assert program(np.zeros((1, 4, 32, 32), np.uint8), np.array([4], np.int32))["features"].shape == (16,)
    assert [*card["outputs"]] == ["features"] and card["heads"].startswith("none") and "DOE" not in json.dumps(card)
    assert command.main(arguments) == 1
    assert "exists and is not empty" in capsys.readouterr().err


def test_a_program_that_computes_something_else_is_not_left(workdir, tmp_path, capsys, monkeypatch):
    def load(path):
        return lambda frames, num_valid: {"features": np.zeros(16, np.float32)}

    monkeypatch.setitem(formats.FORMATS, "stablehlo", formats.Format("x", (), lambda *_: None, load, str))
    assert command.main([f"--workdir={workdir}", f"--output={tmp_path / 'out'}", "--format=stablehlo"]) == 1
    assert "differs from the encoder" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_bad_input_is_refused_before_anything_is_read(tmp_path, capsys, monkeypatch):
    def errors(*arguments):
        assert command.main([f"--workdir={tmp_path}", f"--output={tmp_path / 'out'}", *arguments]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        return said

    assert "must be one of stablehlo, onnx, not 'tflite'" in errors("--format=tflite")
    assert "no checkpoint" in errors("--format=stablehlo")
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'discovr_jax[export]'" in errors("--format=onnx")
    assert not list(tmp_path.iterdir())


def test_heads_of_another_encoder_are_refused(tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(pretrained.FOLDER / "phantom", copy)
    file = next(copy.rglob(fitted_heads.FILE))
    read = fitted_heads.read(file)
    fitted_heads._save(file, read.arrays, dict(read.about) | {"weights_sha256": {"video_encoder": "0" * 64}})
    with pytest.raises(fitted_heads.HeadsError, match="belong to another encoder"):
        write.export(copy, tmp_path / "out", "stablehlo")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wanted,got,absolute,scaled",
    [
        ([0.5, -0.5], [0.5, -0.25], 0.25, 0.25),
        (-200.0, -202.0, 2.0, 0.01),
        ([np.nan, np.inf], [np.nan, np.inf], 0, 0),
        (np.nan, 1.0, np.inf, np.inf),
        (1.0, np.nan, np.inf, np.inf),
        (np.inf, -np.inf, np.inf, np.inf),
        ([1.0], 1.0, np.inf, np.inf),
    ],
)
def test_difference(wanted, got, absolute, scaled):
    assert check.difference(wanted, got) == (absolute, scaled)
