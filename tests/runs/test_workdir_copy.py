"""The copy of a workdir in an object store, for which fsspec's memory stands in."""

import json
import shutil

import fsspec
import pytest

from discovr_jax.errors import ConfigError
from discovr_jax.runs import workdir_copy
from discovr_jax.runs.checkpoint import whole_steps
from discovr_jax.runs.workdir import WorkdirError
from discovr_jax.runs.workdir_copy import WorkdirCopy
from tests import s3_server

URL = "memory://lab/run"
CONFIG = {"seed": 1, "eval": {"at_end": True}}


@pytest.fixture
def store(monkeypatch):
    """The store, with a thread that never looks: tests say when what is new is sent."""
    monkeypatch.setattr(workdir_copy, "_LOOK_EVERY", 1e6)
    monkeypatch.setattr(workdir_copy, "_PAUSES", (0.0, 0.0))
    store = fsspec.filesystem("memory")
    yield store
    store.rm("/lab", recursive=True)


def save(workdir, step, keep=2):
    """What a run has on disk after a checkpoint: it, those before that are kept, and the metrics."""
    files = {"state/d/a": b"a" * step, "state/manifest": b"m", "meta/metadata": b"{}", "state/empty": b""}
    for name, content in files.items():
        path = workdir / "checkpoints" / f"step_{step}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for old in whole_steps(workdir / "checkpoints")[:-keep]:
        shutil.rmtree(workdir / "checkpoints" / f"step_{old}")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": {step}}}\n')


def machine(folder, config=None, url=URL):
    """The copy as a start on another machine has it."""
    config = config or CONFIG
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return WorkdirCopy(folder, url, config)


def contents(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def in_store(store):
    return {path.removeprefix("/lab/run/"): store.cat_file(path) for path in store.find("/lab/run")}


def index(store):
    return json.loads(in_store(store)["copy.json"]) if "copy.json" in in_store(store) else {"steps": {}}


def test_another_machine_gets_what_the_first_one_had(store, tmp_path):
    with machine(tmp_path / "a"):
        (tmp_path / "a" / "eval" / "step_6").mkdir(parents=True)
        (tmp_path / "a" / "eval" / "step_6" / "results.json").write_text("{}")
        for step in (3, 6):
            save(tmp_path / "a", step)
    with machine(tmp_path / "b"):
        assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_the_newest_is_sent_at_once_and_what_is_gone_here_goes_there(store, tmp_path):
    with machine(tmp_path / "a") as copy:
        (tmp_path / "a" / "events.1").touch()
        for step in (3, 6):
            save(tmp_path / "a", step)
        for _ in range(2):
            assert copy._try() and [*index(store)["steps"]] == ["6"]
        (tmp_path / "a" / "events.1").rename(tmp_path / "a" / "events.2")
        save(tmp_path / "a", 9, keep=3)
        assert copy._try()
        (tmp_path / "a" / "checkpoints" / "step_6" / "meta" / "metadata").unlink()  # is being removed
        assert copy._try() and [*index(store)["steps"]] == ["6", "9"]
        for step in (3, 6):
            shutil.rmtree(tmp_path / "a" / "checkpoints" / f"step_{step}")
        save(tmp_path / "a", 12)
    assert [*index(store)["steps"]] == ["9", "12"]
    there = in_store(store)
    assert there.pop("copy.json") and there.pop("owner.json") and there == contents(tmp_path / "a")


def test_what_is_of_this_machine_or_unfinished_is_not_sent(store, tmp_path):
    with machine(tmp_path / "a"):
        save(tmp_path / "a", 3)
        for name in ("lock", "local_checkpoints", ".config.json.x1", ".fetched/metrics.jsonl"):
            (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "a" / name).touch()
        for name in ("step_6.orbax-checkpoint-tmp", "damaged_1_step_2"):
            shutil.copytree(tmp_path / "a" / "checkpoints" / "step_3", tmp_path / "a" / "checkpoints" / name)
    there = in_store(store)
    assert {name for name in there if not name.startswith("checkpoints/step_3/")} == {
        "copy.json", "owner.json", "config.json", "metrics.jsonl",
    }  # fmt: skip


def test_a_checkpoint_that_was_half_sent_is_never_fetched(store, tmp_path, monkeypatch):
    """The first machine is lost after each number of files in turn."""
    put = store.put_file

    def lost_after(count):
        left = [count]

        def put_file(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise OSError("the machine is lost")
            put(*arguments)

        return put_file

    for count in range(20):
        first = tmp_path / f"first_{count}"
        with machine(first) as copy:
            save(first, 3)
            assert copy._try()
            save(first, 6)
            with monkeypatch.context() as patch:
                patch.setattr(store, "put_file", lost_after(count))
                sent = copy._try()
            copy._lost = True  # the machine sends nothing more
        with machine(tmp_path / f"second_{count}") as copy:
            assert whole_steps(copy._workdir / "checkpoints") == ([3, 6] if sent else [3])
            for step in whole_steps(copy._workdir / "checkpoints"):
                folder = f"checkpoints/step_{step}"
                assert contents(copy._workdir / folder) == contents(first / folder)
            if not sent:
                save(copy._workdir, 6)
        assert index(store)["steps"].keys() == {"3", "6"}
        store.rm("/lab/run", recursive=True)
        if sent:
            break
    assert sent and count > 4


def test_a_fetch_that_is_cut_short_leaves_no_checkpoint(store, tmp_path, monkeypatch):
    with machine(tmp_path / "a"):
        save(tmp_path / "a", 3)
    get = store.get_file

    def cut(path, target):
        get(path, target)
        if path.endswith("d/a"):
            with open(target, "wb"):
                pass

    with monkeypatch.context() as patch:
        patch.setattr(store, "get_file", cut)
        with pytest.raises(WorkdirError, match="d/a came as 0 bytes, not 3"), machine(tmp_path / "b"):
            pass
    assert whole_steps(tmp_path / "b" / "checkpoints") == []
    with machine(tmp_path / "b"):
        assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_a_folder_that_is_further_on_stays_as_it_is(store, tmp_path):
    with machine(tmp_path / "a") as copy:
        save(tmp_path / "a", 3)
        assert copy._try()
        save(tmp_path / "a", 6)
        copy._lost = True
    before = contents(tmp_path / "a")
    with machine(tmp_path / "a"):
        assert contents(tmp_path / "a") == before
    assert "6" in index(store)["steps"]


def test_a_store_that_fails_is_told_of_once_and_tried_again(store, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")

    def fail(*_):
        raise PermissionError("503")

    copy = machine(tmp_path / "a").__enter__()
    with monkeypatch.context() as patch:
        patch.setattr(store, "pipe_file", fail)
        save(tmp_path / "a", 3)
        assert [copy._try() for _ in range(4)] == [False] * 4
    assert caplog.text.count("cannot be written (PermissionError: 503): training goes on") == 1
    assert copy._try() and "is written again" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(store, "put_file", fail)
        save(tmp_path / "a", 6)
        copy.__exit__()
    assert "lacks the end of the run; it has the checkpoints of step 3." in caplog.text
    with machine(tmp_path / "a"):
        pass
    assert index(store)["steps"].keys() == {"3", "6"}


def test_what_is_new_is_sent_while_the_run_goes_on(store, tmp_path, monkeypatch):
    monkeypatch.setattr(workdir_copy, "_LOOK_EVERY", 0.01)
    with machine(tmp_path / "a") as copy:
        save(tmp_path / "a", 3)
        for _ in range(3000):
            if "3" in index(store)["steps"]:
                break
            copy._ending.wait(0.01)
        assert "3" in index(store)["steps"]


def test_the_last_start_owns_the_copy(store, tmp_path, caplog):
    with machine(tmp_path / "a") as first:
        save(tmp_path / "a", 3)
        assert first._try()
        with machine(tmp_path / "b") as second:
            save(tmp_path / "b", 6)
            assert second._try()
            save(tmp_path / "a", 5)
            assert first._try() and first._try()
    assert caplog.text.count(f"{URL} gets nothing more from here: it belongs to process") == 1
    assert index(store)["steps"].keys() == {"3", "6"}


@pytest.mark.parametrize("asked", ["at that moment", "before that start"])
def test_no_start_undoes_the_last_send_of_the_one_before(asked, store, tmp_path, monkeypatch):
    """Which ends after each access of that start to the store in turn; it asked for the owner then, or before."""
    accesses = [(name, getattr(store, name)) for name in ("cat_file", "get_file", "pipe_file")]
    for count in range(1, 50):
        earlier, later, last = (tmp_path / f"{name}_{count}" for name in ("earlier", "later", "last"))
        first = machine(earlier).__enter__()
        for step in (3, 6):
            save(earlier, step)
        assert first._try(at_end=True)
        save(earlier, 9)
        if asked == "before that start":
            monkeypatch.setattr(first, "_owns", lambda: True)
        left = [count]

        def counted(access, left=left, first=first):
            def call(*arguments):
                try:
                    return access(*arguments)
                finally:
                    left[0] -= 1
                    if left[0] == 0:
                        assert first._try(at_end=True)

            return call

        with monkeypatch.context() as patch:
            for name, access in accesses:
                patch.setattr(store, name, counted(access))
            second = machine(later).__enter__()
        if left[0] > 0:  # later than all that a start does
            assert first._try(at_end=True)
        for step in (12, 15):
            save(later, step, keep=4)
            assert second._try()
        with machine(last):
            assert whole_steps(last / "checkpoints")[-1] == 15
        store.rm("/lab/run", recursive=True)
        if left[0] > 0:
            break
    assert left[0] > 0 and count > 10


def test_an_index_that_is_written_late_takes_no_copy_back(store, tmp_path, monkeypatch):
    """The later start comes between the last look at the owner and the writing of the index."""
    first = machine(tmp_path / "a").__enter__()
    second, write = machine(tmp_path / "b"), store.pipe_file
    save(tmp_path / "a", 3)

    def late(*arguments):
        monkeypatch.setattr(store, "pipe_file", write)
        second.__enter__()
        write(*arguments)

    monkeypatch.setattr(store, "pipe_file", late)
    assert first._try()
    save(tmp_path / "b", 6)
    assert second._try() and index(store)["steps"].keys() == {"6"}


def test_another_run_is_refused_and_takes_nothing_over(store, tmp_path):
    with machine(tmp_path / "a") as copy:
        save(tmp_path / "a", 3)
        assert copy._try()
        with pytest.raises(WorkdirError, match=rf"{URL} belongs to .*another config \(seed: was 1, is 2\)"):
            machine(tmp_path / "b", {"seed": 2}).__enter__()
        save(tmp_path / "a", 6)
    assert index(store)["steps"].keys() == {"3", "6"}
    assert "metrics.jsonl" not in contents(tmp_path / "b")
    with machine(tmp_path / "c", CONFIG | {"eval": {"at_end": False}}):  # a key that may change
        assert whole_steps(tmp_path / "c" / "checkpoints") == [3, 6]


def test_files_that_are_no_copy_are_refused_and_stay(store, tmp_path):
    store.pipe_file("/lab/run/checkpoints/step_3/state", b"of another")
    with pytest.raises(WorkdirError, match=r"has files, and no copy.json: give an empty folder"):
        machine(tmp_path / "a").__enter__()
    assert [*in_store(store)] == ["checkpoints/step_3/state"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"version": 3}, "written by a later version"),
        ({"version": 1, "owner": "x", "steps": {"3": {}}, "files": ["../../x"]}, "names ../../x, which is not in"),
        ({"version": 1, "owner": "x", "steps": {"3": {}}, "files": ["/etc/x"]}, "names /etc/x, which is not in"),
        ([], "cannot be read and written .*Check the address and the credentials"),
    ],
)
def test_an_index_that_is_not_ours_is_refused(content, told, store, tmp_path):
    store.pipe_file("/lab/run/copy.json", json.dumps(content).encode())
    with pytest.raises(WorkdirError, match=told):
        machine(tmp_path / "a").__enter__()


def test_a_library_that_is_missing_is_named(store, tmp_path, monkeypatch):
    store.pipe_file("/lab/file", b"")

    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ConfigError, match=rf"copy_to={URL}: Install s3fs to access S3; pip install 'discovr_jax\["):
        machine(tmp_path / "a").__enter__()


def test_without_an_address_nothing_is_done(tmp_path):
    with WorkdirCopy(tmp_path, "", CONFIG):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.long  # starts a server
def test_a_bucket_of_s3(tmp_path, monkeypatch):
    url = "s3://lab/run"
    monkeypatch.setattr(workdir_copy, "_LOOK_EVERY", 1e6)
    with s3_server.serving(tmp_path, monkeypatch) as bucket:
        with machine(tmp_path / "a", url=url):
            save(tmp_path / "a", 3)
        bucket.pipe_file("lab/run/checkpoints/step_6/state/d/a", b"half sent")
        with machine(tmp_path / "b", url=url):
            assert contents(tmp_path / "b") == contents(tmp_path / "a")
            save(tmp_path / "b", 9)
        bucket.invalidate_cache()
        there = {path.removeprefix("lab/run/"): bucket.cat_file(path) for path in bucket.find("lab/run")}
        assert there.pop("copy.json") and there.pop("owner.json") and there == contents(tmp_path / "b")
        with pytest.raises(WorkdirError, match="s3://elsewhere/run cannot be read and written"):
            machine(tmp_path / "c", url="s3://elsewhere/run").__enter__()
