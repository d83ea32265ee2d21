"""Encoders of others, with modules of the right interface and made-up weights: one table of features, or one error."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from discovr_jax import cross_validate, extract
from discovr_jax.evaluation.features import outside
from discovr_jax.outside_encoders.encoder import OutsideEncoder
from discovr_jax.outside_encoders.known import KNOWN
from discovr_jax.outside_encoders.torch_module import OutsideEncoderError
from tests import evaluation_case

# The networks take clips [B, 3, T, S, S] and give vectors or tokens, or take frames [B, 3, S, S]. This one sees means
# over coarse cells, of which a linear layer makes the features.
LOADER = """
import torch

class Network(torch.nn.Module):
    def __init__(self, width, tokens):
        super().__init__()
        self.tokens, self.linear = tokens, torch.nn.Linear(48, width)

    def forward(self, x):
        assert x.dtype == torch.float32 and not self.training
        size = (4, 4) if x.ndim == 4 else (None, 4, 4)
        pooled = (torch.nn.functional.adaptive_avg_pool2d if x.ndim == 4 else torch.nn.functional.adaptive_avg_pool3d)
        cells = pooled(x, size)
        if x.ndim == 4:
            return self.linear(cells.flatten(1))
        of_frames = self.linear(cells.transpose(1, 2).flatten(2))
        return of_frames if self.tokens else of_frames.mean(1)

def load(weights):
    network = Network({width}, {tokens})
    network.load_state_dict(torch.load(weights, weights_only=True)["model"])
    return network
"""
TOKENS = ("echojepa", "vjepa2", "videomae")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="running encoders of others needs torch (pip install .[torch])")


def write_encoder(torch, folder, width, tokens=False, loader=LOADER, extra=None):
    """(loader.py, weights.pt) of made-up weights."""
    generator = torch.Generator().manual_seed(0)
    linear = {"weight": (width, 48), "bias": (width,)}
    model = {f"linear.{name}": torch.randn(shape, generator=generator) for name, shape in linear.items()}
    torch.save({"model": model | (extra or {}), "epoch": 3}, folder / "weights.pt")
    (folder / "loader.py").write_text(loader.replace("{width}", str(width)).replace("{tokens}", str(tokens)))
    return folder / "loader.py", folder / "weights.pt"


@pytest.fixture
def videos(tmp_path):
    """12 videos of six patients; where the heart is bright says which class."""
    folder, rng = tmp_path / "videos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(12):
        frames = rng.integers(40, size=(20, 48, 48), dtype=np.uint8)
        rows = slice(8, 24) if number % 2 else slice(24, 40)
        frames[:, rows, 8:40] += 100
        np.save(folder / f"{number:02}.npy", frames)
    lines = [f"{number:02}.npy,p{number // 2},{'ab'[number % 2]}" for number in range(12)]
    (folder / "labels.csv").write_text("\n".join(["path,patient,class", *lines]) + "\n")
    return folder


@pytest.mark.parametrize("name", KNOWN)
def test_one_table_per_encoder_which_cross_validation_takes(torch, videos, tmp_path, name):
    width = KNOWN[name].widths[0]
    loader, weights = write_encoder(torch, tmp_path, width, name in TOKENS)
    arguments = [f"--encoder=torch:{name}", f"--loader={loader}", f"--weights={weights}", "--clips=1", "--show_paths"]
    table = tmp_path / f"{name}.parquet"
    assert extract.main([*arguments, f"--input={videos / 'labels.csv'}", f"--output={table}", "--whole_frame"]) == 0
    found = pq.read_table(table).to_pylist()
    assert [len(row["features"]) for row in found] == [width] * 12
    card = json.loads((tmp_path / f"{name}.card.json").read_text())
    assert card["encoder"] == f"torch:{name}" and card["weights_in_use"] == 1 and not card["use_fps"]
    assert card["preprocessing"]["sources"] == KNOWN[name].sources and len(card["weights_sha256"]) == 64
    done = cross_validate.main([
        f"--features={name}={table}", f"--labels={videos / 'labels.csv'}", "--label=class", "--group=patient",
        f"--output={tmp_path / 'folds'}", "--folds=3", "--repeats=1", "--inner_folds=2", "--resamples=20",
    ])  # fmt: skip
    results = json.loads((tmp_path / "folds" / "results.json").read_text())
    assert done == 0 and results["encoders"][name]["probe/auroc"]["value"] == 1
    # The same file beside a run's own encoder.
    fields = evaluation_case.make_fields({"train": 8, "val": 2, "test": 2}, lambda row: row)
    names = iter(row["id"] for row in found)
    for columns in fields.values():
        columns["id"] = np.array([next(names) for _ in columns["id"]])
        columns["num_frames"] = np.full(len(columns["id"]), 20)
    assert outside.read({name: [str(table)]}, fields)[name].seeds[0]["test"]["features"].shape == (2, width)


def test_features_are_those_of_the_prepared_clips(torch, tmp_path):
    """Twice in different batches; a video's frames of unit length are averaged."""
    from discovr_jax.outside_encoders import clips

    paths = write_encoder(torch, tmp_path, 512)
    video = np.random.default_rng(1).integers(256, size=(60, 30, 40), dtype=np.uint8)
    stored = torch.load(paths[1])["model"]
    weight, bias = stored["linear.weight"].numpy(), stored["linear.bias"].numpy()
    for name in ("echoprime", "echoclip"):
        of_clips = []
        for start in clips.distinct_starts(len(video), KNOWN[name], 2)[0]:
            clip = clips.clip(video, KNOWN[name], start)
            cells = clip.reshape(3, -1, 4, 56, 4, 56).mean((3, 5)).swapaxes(0, 1).reshape(clip.shape[1], -1)
            vectors = cells @ weight.T + bias
            if name == "echoclip":
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            of_clips.append(vectors.mean(0))
        for batch_size in (1, 3):
            encoder = OutsideEncoder(name, *paths, clips=2, batch_size=batch_size)
            np.testing.assert_allclose(encoder.embed(video), np.mean(of_clips, axis=0), rtol=1e-4, atol=1e-4)
            colour = np.repeat(video[..., None], 3, axis=3)
            np.testing.assert_allclose(encoder.embed([video[:20], colour])[1], encoder.embed(video), atol=1e-5)


def test_a_clip_goes_through_the_network_once(torch, tmp_path, monkeypatch):
    """Where the three clips of a video are one and the same, or two of them are; it still counts as often."""
    from discovr_jax.outside_encoders import torch_module

    seen, load = [], torch_module.load

    def loading(*paths):
        embed, about = load(*paths)

        def noted(batch):
            seen.append(len(batch))
            return embed(batch)

        return noted, about

    monkeypatch.setattr(torch_module, "load", loading)
    encoder = OutsideEncoder("echoprime", *write_encoder(torch, tmp_path, 512))
    assert seen == [1]  # which says how wide its vectors are
    video = np.random.default_rng(1).integers(256, size=(33, 30, 40), dtype=np.uint8)
    long, short = encoder.embed([video, video[:20]])
    assert seen == [1, 3]  # frames 0, 2 ... 30 twice, then 1, 3 ... 31; and that of the short video
    one = OutsideEncoder("echoprime", tmp_path / "loader.py", tmp_path / "weights.pt", clips=1)
    np.testing.assert_allclose(short, one.embed(video[:20]), rtol=1e-5, atol=1e-5)
    at_0, at_1 = one.embed([video[:31], video[1:]])
    np.testing.assert_allclose(long, (2 * at_0 + at_1) / 3, rtol=1e-5, atol=1e-5)


LOAD = "network.load_state_dict(torch.load(weights, weights_only=True)[\"model\"])"
MISTAKES = {
    "another network": ("echoprime", 100, LOADER, "gave vectors of 100 numbers, not of 512"),
    "weights never loaded": ("echoprime", 512, LOADER.replace(LOAD, "pass"), "only 0% of the parameters .* are in it"),
    "no such function": ("echoprime", 512, "import torch\n", "has no attribute 'load'"),
    "no such key": ("echoprime", 512, LOADER.replace('"model"', '"encoder"'), "KeyError: 'encoder'"),
    "no module": ("echoprime", 512, "def load(weights):\n    return weights\n", "returned a str, no torch.nn.Module"),
    "a module of logits by task": (
        "panecho", 768, LOADER.replace("of_frames.mean(1)", "{'EF': of_frames}"), "gave a dict for a batch of"
    ),
    "maps instead of vectors": (
        "panecho", 768, LOADER.replace("of_frames.mean(1)", "of_frames[:, None]"), r"gave a Tensor \[1, 1, 16, 768\]"
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line(torch, tmp_path, mistake):
    name, width, loader, words = MISTAKES[mistake]
    with pytest.raises(OutsideEncoderError, match=words):
        OutsideEncoder(name, *write_encoder(torch, tmp_path, width, loader=loader))


@pytest.mark.parametrize("made", ["half", "bfloat16", "double"])
@pytest.mark.parametrize("saved", ["float32", "float16", "bfloat16"])
def test_weights_of_other_types_are_the_same(torch, tmp_path, saved, made):
    """A file of one type of numbers, and a loader that makes another of it: each rounds in its own way."""
    loader, weights = write_encoder(torch, tmp_path, 512)
    loader.write_text(loader.read_text().replace(LOAD, f"{LOAD}\n    network = network.{made}()"))
    stored = torch.load(weights)["model"]
    torch.save({"model": {name: x.to(getattr(torch, saved)) for name, x in stored.items()}}, weights)
    assert OutsideEncoder("echoprime", loader, weights).card()["weights_in_use"] == 1


def test_what_holds_no_tensor_that_can_be_read_is_not_said_to_hold_other_weights(torch, tmp_path, caplog):
    loader, weights = write_encoder(torch, tmp_path, 512)
    loader.write_text(loader.read_text().replace(LOAD, "network.load_state_dict(_of_arrays(weights))"))
    with open(loader, "a") as file:
        file.write("def _of_arrays(path):\n    import numpy\n    arrays = numpy.load(path)\n")
        file.write("    return {name: torch.from_numpy(arrays[name]) for name in arrays.files}\n")
    arrays = {name: x.numpy() for name, x in torch.load(weights)["model"].items()}
    np.savez(tmp_path / "weights.npz", **arrays)
    card = OutsideEncoder("echoprime", loader, tmp_path / "weights.npz").card()
    assert card["weights_in_use"] is None and card["weights_not_read"] == []
    assert "weights.npz: whether the module of loader.py uses them cannot be told" in caplog.text


class _Settings:
    """Of a training: an object that torch reads only by running code."""


@pytest.mark.parametrize("loaded", [True, False])
def test_a_file_beside_the_weights_that_cannot_be_read(torch, tmp_path, caplog, loaded):
    """The others are compared all the same, and it is named."""
    loader, weights = write_encoder(torch, tmp_path, 512)
    folder = tmp_path / "folder"
    folder.mkdir()
    weights.rename(folder / "pytorch_model.bin")
    torch.save(_Settings(), folder / "training_args.bin")
    of_folder = LOAD.replace("torch.load(weights,", "torch.load(weights + '/pytorch_model.bin',")
    loader.write_text(loader.read_text().replace(LOAD, of_folder if loaded else "pass"))
    if not loaded:
        with pytest.raises(OutsideEncoderError, match="only 0% of the parameters"):
            OutsideEncoder("echoprime", loader, folder)
        return
    card = OutsideEncoder("echoprime", loader, folder).card()
    assert card["weights_in_use"] == 1 and card["weights_not_read"] == ["training_args.bin"]
    assert "not compared with the module, since reading it may run code: training_args.bin" in caplog.text


def test_weights_that_only_running_code_would_read_are_not_refused(torch, tmp_path):
    """What is missing from the files that can be read may be in one that cannot."""
    loader, weights = write_encoder(torch, tmp_path, 512)
    folder = tmp_path / "folder"
    folder.mkdir()
    settings = _Settings()
    settings.model = torch.load(weights)["model"]
    torch.save(settings, folder / "whole.bin")
    torch.save({"other": torch.zeros(3)}, folder / "part.pt")
    whole = "torch.load(weights + '/whole.bin', weights_only=False).model"
    loader.write_text(loader.read_text().replace(LOAD, f"network.load_state_dict({whole})"))
    assert OutsideEncoder("echoprime", loader, folder).card()["weights_in_use"] is None


def test_a_file_and_a_folder_of_the_same_weights_give_the_same_features(torch, tmp_path):
    """Nested in a file, beside what is not used; or a folder of safetensors."""
    loader, weights = write_encoder(torch, tmp_path, 512, extra={"head.weight": torch.zeros(9, 9)})
    loader.write_text(loader.read_text().replace(LOAD, f"{LOAD[:-1]}, strict=False)"))
    one = OutsideEncoder("echoprime", loader, weights)
    assert one.card()["weights_in_use"] == 1
    from safetensors.torch import save_file

    (tmp_path / "folder").mkdir()
    save_file(torch.load(weights)["model"], tmp_path / "folder" / "model.safetensors")
    (tmp_path / "folder" / "config.json").write_text("{}")
    loader.write_text(
        loader.read_text().replace(
            'torch.load(weights, weights_only=True)["model"]',
            '__import__("safetensors.torch").torch.load_file(weights + "/model.safetensors")',
        )
    )
    other = OutsideEncoder("echoprime", loader, tmp_path / "folder")
    video = np.random.default_rng(1).integers(256, size=(20, 30, 40), dtype=np.uint8)
    np.testing.assert_array_equal(one.embed(video), other.embed(video))


def test_from_python_no_frame_rate_is_asked_for(torch, videos, tmp_path):
    """As by the command: these encoders take frames by their number."""
    encoder = OutsideEncoder("echoprime", *write_encoder(torch, tmp_path, 512), clips=1)
    card = extract.extract(encoder, videos, tmp_path / "f.parquet", whole_frame=True)
    assert card["rows"] == 12 and not card["use_fps"]


def test_vectors_that_are_not_finite_are_no_rows(torch, videos, tmp_path, capsys):
    loader, weights = write_encoder(torch, tmp_path, 512)
    infinite = "of_frames = of_frames / (x.sum() < 0)\n        return of_frames if"
    loader.write_text(loader.read_text().replace("return of_frames if", infinite))
    arguments = ["--encoder=torch:echoprime", f"--loader={loader}", f"--weights={weights}", "--clips=1"]
    assert extract.main([*arguments, f"--input={videos}", f"--output={tmp_path / 'f.parquet'}", "--whole_frame"]) == 1
    told = capsys.readouterr().err
    assert "none of the 12 files gave a row" in told and "echoprime gave vectors that are not finite" in told
    assert not (tmp_path / "f.parquet").exists()


def test_missing_parts(tmp_path, capsys, monkeypatch):
    """Without torch too: it is asked for last but one, and by name."""
    import sys

    out = ["--input=absent", f"--output={tmp_path / 'f.parquet'}"]
    files = [f"--loader={tmp_path / 'loader.py'}", f"--weights={tmp_path / 'weights.pt'}"]
    ours = ["--fit=squeeze", "--branch=image_teacher", "--ignore_fps", "--readout=cls"]
    for arguments, words in (
        (["--encoder=torch:echoprime"], "give --loader and --weights"),
        *((["--encoder=torch:echoprime", *files, flag], f"{flag.split('=')[0]} is for our own") for flag in ours),
        (["--encoder=torch:echofm", *files], "there are echoprime, panecho"),
        (["--encoder=pixels", "--config=phantom", *files], "are those of --encoder=torch:NAME"),
    ):
        assert extract.main([*arguments, *out]) == 1
        assert words in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        assert extract.main(["--encoder=torch:echoprime", *files, *out]) == 1
    assert "needs PyTorch: pip install 'discovr_jax[torch]'" in capsys.readouterr().err


def test_missing_files(torch, tmp_path):
    with pytest.raises(OutsideEncoderError, match="loader.py: no such file; it holds 'def load"):
        OutsideEncoder("echoprime", tmp_path / "loader.py", tmp_path / "weights.pt")
    loader, weights = write_encoder(torch, tmp_path, 512)
    weights.unlink()
    with pytest.raises(OutsideEncoderError, match="weights.pt: no such file or folder"):
        OutsideEncoder("echoprime", loader, weights)
