"""PyTorch checkpoints in and out, in the public layout: strict, exact, and nothing written when refused."""

import argparse
import json
import pathlib
import pickle

import numpy as np
import pytest
import safetensors.numpy

import discovr_jax
from discovr_jax.convert import __main__ as convert
from discovr_jax.convert import read as weights_lib
from discovr_jax.convert import state, torch_files
from discovr_jax.convert.sizes import ConversionError, Hints
from discovr_jax.method import experiment
from discovr_jax.runs.checkpoint import Checkpoints
from tests import public_layout
from tests.public_layout import TINY, VIT_B, assert_same

HINTS = Hints(heads=2, decoder_heads=2)
FLAGS = ("--heads=2", "--decoder_heads=2")


@pytest.fixture(scope="module", params=[True, False], ids=["with qkv bias", "without"])
def tensors(request):
    return public_layout.state_dict(TINY, request.param)


@pytest.fixture(scope="module")
def biased():
    return public_layout.state_dict(TINY, True)


@pytest.fixture(scope="module")
def arrays(biased):
    """What the converter makes of `biased`."""
    return state.from_torch(biased, HINTS).arrays


@pytest.fixture(scope="module")
def converted(tmp_path_factory, biased):
    """A converted checkpoint on disk, beside its source."""
    folder = tmp_path_factory.mktemp("converted")
    source, ours = folder / "source.safetensors", folder / "ours"
    safetensors.numpy.save_file(biased, source)
    assert convert.main(["from-torch", str(source), f"--output={ours}", *FLAGS]) == 0
    return ours


def test_there_and_back_is_exact(tmp_path, tensors, capsys):
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors", {"epoch": "799"})
    source, ours, back = (str(tmp_path / name) for name in ("a.safetensors", "ours", "b.safetensors"))
    assert convert.main(["from-torch", source, f"--output={ours}", *FLAGS]) == 0
    assert convert.main(["to-torch", ours, f"--output={back}"]) == 0
    assert_same(safetensors.numpy.load_file(back), tensors)
    with safetensors.safe_open(back, "numpy") as file:
        assert file.metadata()["epoch"] == "799"
    said = {line[:16].strip(): line[16:] for line in capsys.readouterr().out.splitlines()}
    bias = "qv" if "encoder.blocks.0.attn.q_bias" in tensors else "none"
    expected = {"epoch": 799, "variant": "custom", "width": 128, "depth": 2, "frames": 4, "image_size": 16}
    expected |= {"video_qkv_bias": bias, "image_qkv_bias": "none"}
    expected |= {"branches": "image_student, image_teacher, video_student, video_teacher"}
    assert {key: said.get(key) for key in expected} == {key: str(value) for key, value in expected.items()}


@pytest.mark.parametrize("branch,module", [("video_teacher", "video_teacher"), ("video_student", "encoder")])
def test_video_encoders_are_those_of_the_public_code(tmp_path, tensors, branch, module):
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    encoder = discovr_jax.load_encoder(tmp_path / "a.safetensors", branch, clips=1, batch_size=1)
    clip = np.random.default_rng(1).integers(0, 256, (4, 16, 16), dtype=np.uint8)
    video = np.repeat(clip, 3, axis=0)  # every third frame is taken
    expected = public_layout.encode(tensors, module, clip[None], heads=2)[0]
    np.testing.assert_allclose(encoder.embed(video), expected[0], atol=2e-5)
    np.testing.assert_allclose(
        encoder.embed(video, output="tokens")[0].reshape(-1, 128), expected[1:], atol=2e-5
    )


@pytest.mark.parametrize("branch", ["image_teacher", "image_student"])
def test_image_encoders_are_those_of_the_public_code(converted, biased, branch):
    encoder = discovr_jax.load_encoder(converted, branch, clips=1, batch_size=1)
    clip = np.random.default_rng(1).integers(0, 256, (4, 16, 16), dtype=np.uint8)
    expected = public_layout.encode(biased, branch, clip[:, None], heads=2)
    video = np.repeat(clip, 3, axis=0)
    np.testing.assert_allclose(encoder.embed(video, output="frames")[0], expected[:, 0], atol=2e-5)
    np.testing.assert_allclose(encoder.embed(video), expected[:, 0].mean(0), atol=2e-5)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone."])
def test_prefixes_are_ignored(biased, arrays, prefix):
    found = state.from_torch({prefix + name: tensor for name, tensor in biased.items()}, HINTS)
    assert_same(found.arrays, arrays)


def test_two_tensors_of_one_name_are_refused(biased):
    twice = biased | {"module.mask_token": biased["mask_token"]}
    with pytest.raises(ConversionError, match="mask_token"):
        state.from_torch(twice, HINTS)


def test_a_bare_encoder_becomes_the_video_teacher(biased, arrays):
    start = "video_teacher."
    bare = {f"backbone.{name.removeprefix(start)}": x for name, x in biased.items() if name.startswith(start)}
    found = state.from_torch(bare, Hints(image_size=16))
    assert_same(found.arrays, {n: x for n, x in arrays.items() if n.startswith("teacher/video_encoder/")})


def without_last_block(tensors):
    return {name: x for name, x in tensors.items() if not name.startswith("encoder.blocks.1.")}


def transposed(name):
    return lambda tensors: tensors | {name: np.ascontiguousarray(tensors[name].T)}


REFUSED = {
    "missing": (lambda t: {n: x for n, x in t.items() if n != "decoder.head.bias"}, "missing: decoder.head.bias"),
    "block missing": (without_last_block, "encoder.blocks.1.norm1.weight"),
    "extra": (lambda t: t | {"encoder.gamma": np.ones(3, np.float32)}, "not used: encoder.gamma"),
    "transposed": (transposed("image_teacher.blocks.1.mlp.fc2.weight"), "image_teacher.blocks.1.mlp.fc2.weight"),
    "patches transposed": (transposed("encoder.patch_embed.proj.weight"), "encoder.patch_embed.proj.weight"),
    "prototypes transposed": (transposed("prototypes"), "prototypes"),
    "mask token transposed": (transposed("mask_token"), "mask_token"),
    "learned positions": (
        lambda t: t | {"encoder.pos_embed": t["encoder.pos_embed"] + np.float32(0.01)},
        "encoder.pos_embed is not the fixed sinusoid",
    ),
    "learned gain": (
        lambda t: t | {"video_dino_head.last_layer.weight_g": np.full((40, 1), 1.1, np.float32)},
        "weight_g is not a gain of ones",
    ),
    "grayscale": (
        lambda t: t | {"encoder.patch_embed.proj.weight": t["encoder.patch_embed.proj.weight"][:, :1]},
        "grayscale",
    ),
    "no encoder": (lambda t: {"mask_token": t["mask_token"]}, "no encoder"),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path, biased, damage, capsys):
    change, reason = REFUSED[damage]
    changed = {name: np.ascontiguousarray(tensor) for name, tensor in change(biased).items()}
    safetensors.numpy.save_file(changed, tmp_path / "a.safetensors")
    arguments = ["from-torch", str(tmp_path / "a.safetensors"), f"--output={tmp_path / 'new' / 'ours'}", *FLAGS]
    assert convert.main(arguments) == 1
    assert reason in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["a.safetensors"]


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_a_damaged_safetensors_file_is_refused(tmp_path, biased, content, capsys):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(biased, path)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    assert convert.main(["from-torch", str(path), f"--output={tmp_path / 'ours'}"]) == 1
    assert "a.safetensors is no readable safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_a_failure_while_writing_leaves_nothing(tmp_path, biased, monkeypatch):
    safetensors.numpy.save_file(biased, tmp_path / "a.safetensors")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Checkpoints, "wait", fail)
    assert convert.main(["from-torch", str(tmp_path / "a.safetensors"), f"--output={tmp_path / 'ours'}", *FLAGS]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_an_output_that_exists_is_left_alone(converted, capsys):
    source, before = converted.parent / "source.safetensors", sorted(path.name for path in converted.iterdir())
    assert convert.main(["from-torch", str(source), f"--output={converted}", *FLAGS]) == 1
    assert "exists" in capsys.readouterr().err
    assert sorted(path.name for path in converted.iterdir()) == before


def test_what_is_knowingly_left_out_may_be(biased):
    parts = {n: x for n, x in biased.items() if not n.startswith(("decoder", "mask_token", "encoder_to"))}
    allow = ("decoder.*", "mask_token", "encoder_to_decoder.*", "queue")
    found = state.from_torch(parts | {"queue": np.ones(3, np.float32)}, HINTS, allow)
    assert not any(path.startswith("params/decoder") for path in found.arrays)
    assert "allowed, not used: queue" in found.notes
    assert any(note.startswith("allowed, missing: decoder.blocks.0.attn.proj.bias") for note in found.notes)
    with pytest.raises(ConversionError, match="mask_token"):
        state.from_torch(parts, HINTS, ("decoder.*",))


def test_clip_sizes_come_from_tables_then_arguments_then_are_assumed(biased):
    def data(tensors, **hints):
        found = state.from_torch(tensors, Hints(heads=2, decoder_heads=2, **hints))
        return found.config.data.num_frames, found.config.data.image_size, len(found.notes)

    plain = {name: x for name, x in biased.items() if "pos_embed" not in name}
    assert data(biased, num_frames=99, image_size=999) == (4, 16, 0)
    assert data(plain, num_frames=8, image_size=24) == (8, 24, 0)
    assert data(plain) == (64, 112, 2)


def test_arguments_of_the_training_script():
    args = {"num_frames": 16, "input_size": 112, "sampling_rate": 4, "model": "x", "window_size": (8, 7, 7)}
    assert Hints.from_args(args) == Hints(num_frames=16, image_size=112, stride=4)
    assert Hints.from_args({"num_frames": "16", "input_size": True}) == Hints()
    assert Hints(heads=3).over(Hints(heads=5, stride=2)) == Hints(heads=3, stride=2)


def test_heads_are_those_of_the_public_models_or_64_channels_wide():
    public = public_layout.state_dict(TINY | {"width": 384, "depth": 1, "decoder_width": 192}, False)
    config = state.from_torch(public, Hints()).config
    assert (config.model.heads, config.model.decoder_heads) == (6, 3)
    own = public_layout.state_dict(TINY | {"width": 192, "depth": 1, "decoder_width": 96}, False)
    found = state.from_torch(own, Hints())
    assert (found.config.model.heads, found.config.model.decoder_heads) == (3, 1)
    assert any("heads are assumed" in note for note in found.notes)
    with pytest.raises(ConversionError, match="--heads"):
        state.from_torch(public_layout.state_dict(TINY | {"width": 96, "depth": 1}, False), Hints())


def test_a_run_of_ours_goes_out_whole(tmp_path, tiny):
    """Tables and gains that the public code stores are added."""
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save(7, tiny.state, {}, experiment.config_dict(tiny.config))
    checkpoints.close()
    assert convert.main(["to-torch", str(tmp_path / "run"), f"--output={tmp_path / 'a.safetensors'}"]) == 0
    found = state.from_torch(safetensors.numpy.load_file(tmp_path / "a.safetensors"), HINTS)
    assert (found.config.data.num_frames, found.config.data.image_size) == (4, 32)
    want = weights_lib.read_weights(
        tmp_path / "run", lambda path: path.startswith(("params", "teacher", "memory/centers"))
    )
    assert_same(found.arrays, want.arrays)


def test_arrays_without_counterpart_go_out_only_if_allowed(biased):
    found = state.from_torch(biased, HINTS)
    arrays = found.arrays | {"params/pixel_head/bias": np.ones(3, np.float32)}
    with pytest.raises(ConversionError, match="params/pixel_head/bias"):
        state.to_torch(arrays, found.config, found.computed)
    assert_same(state.to_torch(arrays, found.config, found.computed, ("params/pixel_head/*",)), biased)


def test_positions_that_the_public_code_lacks_do_not_go_out(biased):
    found = state.from_torch(biased, HINTS)
    found.config.model.positions = "factorised"
    with pytest.raises(ConversionError, match="model.positions='factorised'"):
        state.to_torch(found.arrays, found.config, found.computed)


# Files that only torch reads -------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="reading .pth files needs torch (pip install 'discovr_jax[torch]')")


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def save(torch, path, tensors, **others):
    torch.save({"model": {name: torch.from_numpy(x) for name, x in tensors.items()}} | others, path)


def test_pth_files_of_all_kinds(torch, tmp_path, biased):
    args = argparse.Namespace(num_frames=4, input_size=16, opt_betas=[0.9, 0.95], lr=np.float64(1e-4))
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}}, "param_groups": []}
    prefixed = {f"module.{name}": x for name, x in biased.items()}
    save(torch, tmp_path / "a.pth", prefixed, optimizer=optimizer, epoch=7, scaler={"scale": 1.0}, args=args)
    assert convert.main(["from-torch", str(tmp_path / "a.pth"), f"--output={tmp_path / 'ours'}", *FLAGS]) == 0
    report = json.loads((tmp_path / "ours" / "conversion.json").read_text())
    assert (report["epoch"], report["frames"], report["notes"]) == (7, 4, [])
    assert convert.main(["to-torch", str(tmp_path / "ours"), f"--output={tmp_path / 'b.pth'}"]) == 0
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    assert back["epoch"] == 7
    assert_same({name: x.numpy() for name, x in back["model"].items()}, biased)

    torch.save({name: torch.from_numpy(x) for name, x in biased.items()}, tmp_path / "bare.pth")
    assert_same(torch_files.read_torch_file(tmp_path / "bare.pth").tensors, biased)
    save(torch, tmp_path / "old.pth", biased)
    half = {"x": torch.ones(3, dtype=torch.bfloat16)}
    torch.save(half, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(
        torch_files.read_torch_file(tmp_path / "old.pth").tensors["x"], np.ones(3, np.float32)
    )


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "text", "cut", "empty", "list", "numbers"])
def test_files_that_run_code_or_are_damaged_are_refused(torch, tmp_path, biased, kind, capsys):
    path, marker = tmp_path / "a.pth", tmp_path / "ran"
    evil = {"model": {"x": torch.ones(2)}, "args": RunsCode(marker)}
    if kind in ("zip", "legacy"):
        torch.save(evil, path, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"model": RunsCode(marker)}, protocol=2))
    elif kind == "cut":
        save(torch, path, biased)
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        torch.save({"list": [1, 2], "numbers": {"model": {"x": 1}}}.get(kind), path)
        if kind in ("text", "empty"):
            path.write_bytes(b"no weights" if kind == "text" else b"")
    assert convert.main(["from-torch", str(path), f"--output={tmp_path / 'ours'}"]) == 1
    message = capsys.readouterr().err
    assert "a.pth" in message
    assert ("would import or run code" in message) == (kind in ("zip", "legacy", "pickle"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("video_bias", [False, True], ids=["as published", "with q and v bias"])
def test_vit_b_at_full_size(torch, tmp_path, video_bias):
    """64 frames of 112 x 112, four encoders: found out from the file alone, equal in output, exact on the way back."""
    tensors = public_layout.state_dict(VIT_B, video_bias)
    args = argparse.Namespace(model="pretrain_videomae_base_patch16_224", num_frames=64, input_size=112)
    save(torch, tmp_path / "a.pth", tensors, epoch=799, args=args)
    assert convert.main(["from-torch", str(tmp_path / "a.pth"), f"--output={tmp_path / 'ours'}"]) == 0
    report = json.loads((tmp_path / "ours" / "conversion.json").read_text())
    assert (report["variant"], report["frames"], report["image_size"]) == ("b", 64, 112)
    assert report["video_qkv_bias"] == ("qv" if video_bias else "none")
    assert not report["notes"]

    encoder = discovr_jax.load_encoder(tmp_path / "ours", clips=1, batch_size=1)
    video = np.random.default_rng(1).integers(0, 256, (192, 112, 112), dtype=np.uint8)
    expected = public_layout.encode(tensors, "video_teacher", video[None, ::3], heads=12)[0]
    found = encoder.embed(video)
    assert np.linalg.norm(found - expected[0]) < 1e-5 * np.linalg.norm(expected[0])

    assert convert.main(["to-torch", str(tmp_path / "ours"), f"--output={tmp_path / 'b.safetensors'}"]) == 0
    assert_same(safetensors.numpy.load_file(tmp_path / "b.safetensors"), tensors)
