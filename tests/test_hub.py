"""Encoders on a Hub: the same numbers after the way there and back; every failure is an error of one line.

The Hub is `fake_hub`, on loopback.
"""

import os
import pathlib
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

import discovr_jax
from discovr_jax import extract, hub, push
from tests import fake_hub
from tests.run_case import ROOT

pytest.importorskip("huggingface_hub", reason="the extra 'hub'")

SLIM = "checkpoints/step_7/weights.safetensors"
SHARED = {SLIM: b"weights" * 99, "eval/7/results.json": b"{}", "README.md": b"---\nlicense: other\n---\n"}
ABOUT = ["--licence=cc-by-4.0", "--data=1000 simulated hearts."]
# Of the library itself, where it has no hf_xet.
UPLOADS = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A Hub that this process speaks to, as its owner; the cache is empty."""
    from huggingface_hub import constants

    made = fake_hub.FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield made
    made.close()


@pytest.fixture
def shared(server):
    """The same with a repository of a made-up model, and what must not be fetched."""
    repository = server.repositories["lab/adult"] = fake_hub.Repository(private=False)
    repository.commit(SHARED | {"pickle.pth": b"never", "eval/7/report.html": b"never", "config.json": b"{}"})
    return server


def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_nothing_but_the_name_is_needed(tmp_path):
    """In a process that has imported nothing of huggingface_hub, where no variable names the Hub."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", "from discovr_jax import hub; hub.download('hf:lab/adult')"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("discovr_jax.hub.HubError: lab/adult on https://huggingface.co is not in the cache"), last


@UPLOADS
def test_there_and_back_the_numbers_are_the_same(server, tmp_path, capsys):
    assert push.main(["--workdir=phantom", "--repo=lab/phantom", "--with_heads", *ABOUT]) == 0
    assert f"sent: {server.url}/lab/phantom/commit/" in capsys.readouterr().out
    repository = server.repositories["lab/phantom"]
    assert repository.private and len(repository.commits) == 2, "one commit after the first"
    assert set(repository.commits[-1][1]) == {
        ".gitattributes", "README.md", "config.json", "checkpoints/step_8000/weights.safetensors",
        "eval/8000/heads.safetensors", "eval/8000/results.json",
    }  # fmt: skip
    video = np.random.default_rng(0).integers(0, 256, (40, 60, 80)).astype(np.uint8)
    here, there = (discovr_jax.load_encoder(name) for name in ("phantom", "hf:lab/phantom@main"))
    assert there.options == here.options and there.weights_sha256 == here.weights_sha256
    np.testing.assert_array_equal(there.embed(video), here.embed(video))
    assert there.heads.read_bytes() == here.heads.read_bytes()
    assert server.fetched() == {f for f in repository.commits[-1][1] if f.startswith(("checkpoints", "eval"))}


def test_only_what_is_needed_is_fetched_and_only_once(shared):
    folder = hub.download("hf:lab/adult")
    assert shared.fetched() == {SLIM, "eval/7/results.json"}
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert held == shared.fetched()
    shared.requests.clear()
    assert hub.download("hf:lab/adult") == folder and not shared.fetched()


def test_the_hub_is_told_nothing_but_versions(shared):
    hub.download("hf:lab/adult")
    assert all(re.fullmatch(r"discovr_jax/\S+; hf_hub/[\d.]+; python/[\d.]+", each) for each in shared.user_agents)
    assert all("lab/adult" in each for each in shared.requests)


def test_a_revision_is_the_one_that_was_asked_for(shared):
    repository = shared.repositories["lab/adult"]
    old, _ = repository.commits[-1]
    repository.commit(SHARED | {SLIM: b"newer"})
    assert (hub.download(f"hf:lab/adult@{old}") / SLIM).read_bytes() == SHARED[SLIM]
    assert (hub.download("hf:lab/adult") / SLIM).read_bytes() == b"newer"


@pytest.mark.parametrize("name", ["hf:adult", "hf:", "hf:lab/adult@", "hf:lab/a/b", "hf:../adult", "hf:lab/adult x"])
def test_names_of_another_form_are_refused_before_anything_is_asked(server, name):
    with pytest.raises(hub.HubError, match="names no repository: give hf:OWNER/NAME"):
        hub.download(name)
    assert not server.requests


def test_what_is_not_there_is_said(shared, monkeypatch):
    with pytest.raises(hub.HubError, match="lab/child on http://127.* does not exist, or is private: check the name"):
        hub.download("hf:lab/child")
    with pytest.raises(hub.HubError, match="lab/adult on .* has no revision v9: give a branch"):
        hub.download("hf:lab/adult@v9")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(hub.HubError, match="lab/child on .* does not exist, or is private.*log in first .*HF_TOKEN"):
        hub.download("hf:lab/child")


def test_private_and_gated_repositories_ask_for_a_token(shared, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    shared.repositories["lab/adult"].private = True
    with pytest.raises(hub.HubError, match="does not exist, or is private"):
        hub.download("hf:lab/adult")
    shared.repositories["lab/adult"].private, shared.repositories["lab/adult"].gated = False, True
    with pytest.raises(hub.HubError, match="lab/adult on .* is gated: accept its terms .*, then log in"):
        hub.download("hf:lab/adult")
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
    assert (hub.download("hf:lab/adult") / SLIM).is_file()


def test_a_repository_of_something_else_is_refused_and_nothing_of_it_is_fetched(server):
    server.repositories["lab/bert"] = fake_hub.Repository(private=False)
    server.repositories["lab/bert"].commit({"config.json": b"{}", "model.safetensors": b"x", "pytorch_model.bin": b"x"})
    with pytest.raises(hub.HubError, match="is no model of discovr_jax: it holds no checkpoints/step_"):
        hub.download("hf:lab/bert")
    assert not server.fetched()


@pytest.mark.parametrize("path", [SLIM, "eval/7/results.json"])
def test_a_damaged_file_is_refused_until_it_was_deleted(shared, path, monkeypatch):
    shared.damaged.add(path)
    with pytest.raises(hub.HubError, match="is damaged: its hash is not the one that the Hub says. Delete") as caught:
        hub.download("hf:lab/adult")
    shared.damaged.clear()
    with monkeypatch.context() as without, pytest.raises(hub.HubError, match="is damaged"):
        offline(without)
        hub.download("hf:lab/adult")
    with pytest.raises(hub.HubError, match="is damaged"):
        hub.download("hf:lab/adult")
    pathlib.Path(re.search(r"Delete (\S+) and load again", str(caught.value))[1]).unlink()
    assert (hub.download("hf:lab/adult") / path).read_bytes() == SHARED[path]


def test_the_cache_is_used_without_a_connection_only_if_that_is_asked_for(shared, monkeypatch):
    folder = hub.download("hf:lab/adult")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(hub.HubError, match="no answer of a Hub .*refused.*HF_HUB_OFFLINE=1"):
        hub.download("hf:lab/adult")
    offline(monkeypatch)
    assert hub.download("hf:lab/adult") == folder
    with pytest.raises(hub.HubError, match="lab/child on .* is not in the cache, and HF_HUB_OFFLINE is set"):
        hub.download("hf:lab/child")
    with pytest.raises(hub.HubError, match="lab/adult on .* at v9 is not in the cache"):
        hub.download("hf:lab/adult@v9")


def test_a_hub_that_fails_is_no_reason_to_take_what_is_in_the_cache(shared, monkeypatch):
    hub.download("hf:lab/adult")
    monkeypatch.setattr(shared, "_info", lambda *_: (_ for _ in ()).throw(fake_hub.Refused(503)))
    with pytest.raises(hub.HubError, match="lab/adult on .* was refused with status 503: try again later"):
        hub.download("hf:lab/adult")


def test_without_the_extra_its_name_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(hub.HubError, match=r"pip install 'discovr_jax\[hub\]'"):
        discovr_jax.load_encoder("hf:lab/adult")
    arguments = ["--checkpoint=hf:lab/adult", f"--input={tmp_path}", f"--output={tmp_path / 'x.parquet'}"]
    assert extract.main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: the Hub needs huggingface_hub, which is not installed")


@pytest.fixture
def folder(tmp_path):
    """What `push` would send of the made-up model."""
    for name, content in SHARED.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    return tmp_path / "folder"


@UPLOADS
def test_a_push_takes_away_what_an_earlier_one_left_and_nothing_else(server, folder, monkeypatch):
    repository = server.repositories["lab/adult"] = fake_hub.Repository(private=True)
    repository.commit({"eval/3/heads.safetensors": b"old", "checkpoints/step_3/x": b"old", "paper.pdf": b"kept"})
    hub.upload(folder, "lab/adult")
    assert set(repository.commits[-1][1]) == {*SHARED, "paper.pdf"}
    preupload = server._preupload

    def somebody_commits(*given):
        repository.commit(repository.commits[-1][1] | {"README.md": b"edited by hand"})
        return preupload(*given)

    monkeypatch.setattr(server, "_preupload", somebody_commits)
    with pytest.raises(hub.HubError, match="lab/adult on .* was refused with status 412"):
        hub.upload(folder, "lab/adult")
    assert repository.commits[-1][1]["README.md"] == b"edited by hand"


@UPLOADS
def test_what_stops_a_push(server, folder, monkeypatch):
    assert hub.upload(folder, "lab/open", public=True).startswith(f"{server.url}/lab/open/commit/")
    assert not server.repositories["lab/open"].private
    with pytest.raises(hub.HubError, match="lab/open on .* exists and is public: give --public, or another --repo"):
        hub.upload(folder, "lab/open")
    assert len(server.repositories["lab/open"].commits) == 2
    (folder / "README.md").write_text("---\nlicense: mine\n---\n")
    with pytest.raises(hub.HubError, match="lab/closed on .*: Invalid metadata in README.md"):
        hub.upload(folder, "lab/closed")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(hub.HubError, match="log in first"):
        hub.upload(folder, "lab/closed")
    offline(monkeypatch)
    with pytest.raises(hub.HubError, match="HF_HUB_OFFLINE is set: unset it"):
        hub.upload(folder, "lab/closed")
