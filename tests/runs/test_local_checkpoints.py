"""The checkpoint on a local disk: when it is due, and that only its own run goes on from it."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.errors import ConfigError
from discovr_jax.runs import checkpoint_meta, local_checkpoints
from discovr_jax.runs.checkpoint import Checkpoints, whole_steps
from discovr_jax.runs.local_checkpoints import LocalCheckpoints
from tests import run_case

# A read that fails leaves coroutines of Orbax behind, which Python reports when it collects them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def opened(tmp_path):
    """`opened(name of a workdir)`: its local checkpoints; all are closed at the end."""
    made = []

    def open_one(name="run", seconds=0.0):
        (tmp_path / name).mkdir(exist_ok=True)
        made.append(LocalCheckpoints(tmp_path / name, str(tmp_path / "local"), seconds))
        return made[-1]

    yield open_one
    for each in made:
        each.close()


def state(value):
    return {"a": jnp.full((3, 4), value, jnp.float32)}


def target():
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0))


def save(local, step):
    local.save(step, state(step), {"next_step": step}, {"seed": 0})
    local.close()


def test_the_newest_is_restored_where_the_workdir_has_none_as_new(opened):
    assert opened().restore_newer([], target()) is None
    save(opened(), 4)
    save(opened(), 7)
    step, restored, meta = opened().restore_newer([3, 6], target())
    assert step == 7 and meta["data"] == {"next_step": 7}
    np.testing.assert_array_equal(restored["a"], state(7)["a"])
    assert [path.name for path in opened().directory.glob("checkpoints/step_*")] == ["step_7"]
    assert opened().restore_newer([7], target()) is None
    assert opened().restore_newer([], target())[0] == 7


def test_no_other_run_goes_on_from_it(opened, tmp_path):
    """Neither a copy of the workdir, nor one that was begun anew under the same name."""
    save(opened(), 4)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert opened("copy").restore_newer([], target()) is None
    assert opened().restore_newer([], target())[0] == 4
    shutil.rmtree(tmp_path / "run")
    assert opened().restore_newer([], target()) is None


def test_one_of_a_later_step_is_in_nobodys_way(opened):
    """A run that goes back to an earlier checkpoint saves steps before it."""
    save(opened(), 9)
    local = opened()
    local.clear()
    save(local, 2)
    assert opened().restore_newer([], target())[0] == 2


def test_a_damaged_one_is_passed_over(opened, caplog):
    save(opened(), 4)
    (folder,) = opened().directory.glob("checkpoints/step_4")
    shutil.rmtree(folder / "state")
    local = opened()
    assert [local.restore_newer(steps, target()) for steps in ([3], [2])] == [None, None]
    assert "step_4 cannot be read" in caplog.text and caplog.text.count("going on from the workdir's own") == 1


def test_one_of_a_later_version_is_kept_for_that_version(opened, caplog, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_meta, "FORMAT_VERSION", checkpoint_meta.FORMAT_VERSION + 1)
        save(opened(), 7)
    local = opened()
    assert local.restore_newer([3], target()) is None and "use the version of discovr_jax" in caplog.text
    assert whole_steps(local.directory / "checkpoints") == [7], "the run may still not begin"
    local.clear()  # as the training does that goes on from elsewhere
    save(local, 4)
    local.remove()
    (aside,) = local.directory.parent.iterdir()
    assert re.fullmatch(rf"damaged_\d+_{local.directory.name}", aside.name) and str(aside) in caplog.text
    aside.rename(local.directory)
    monkeypatch.setattr(checkpoint_meta, "FORMAT_VERSION", checkpoint_meta.FORMAT_VERSION + 1)
    step, restored, _ = opened().restore_newer([4], target())
    assert step == 7
    np.testing.assert_array_equal(restored["a"], state(7)["a"])


def test_it_is_gone_on_from_where_newer_ones_of_the_workdir_are_damaged(opened, tmp_path):
    """Which is known only after they were tried. They are set aside: their steps are made again."""
    save(opened(), 5)
    local, checkpoints = opened(), Checkpoints(tmp_path / "run")
    for step in (5, 6):
        checkpoints.save(step, state(step), {}, {})
    checkpoints.wait()
    for step in (5, 6):
        shutil.rmtree(checkpoints.directory / f"step_{step}" / "state")
    step, restored, _ = checkpoints.restore_latest(target(), lambda steps: local.restore_newer(steps, target()))
    checkpoints.close()
    assert step == 5 and local.restored
    np.testing.assert_array_equal(restored["a"], state(5)["a"])
    assert whole_steps(checkpoints.directory) == [] and len([*checkpoints.directory.glob("damaged_*")]) == 2


def test_it_is_due_so_many_seconds_after_any_checkpoint(opened, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(local_checkpoints.time, "monotonic", lambda: now[0])
    local = opened(seconds=60.0)
    now[0] += 59
    assert not local.due
    now[0] += 1
    assert local.due
    local.reset_timer()
    assert not local.due


def test_a_disk_that_fails_costs_the_local_checkpoint_and_not_the_run(opened, caplog):
    save(opened(), 2)
    local = opened()
    with run_case.largest_file(16):
        local.save(4, state(4), {"next_step": 4}, {"seed": 0})  # fails in the background
        assert local.due
        local.save(7, state(7), {"next_step": 7}, {"seed": 0})
    assert not local.due, "it is not tried again and again"
    assert caplog.text.count("could not be written") == 1 and "until the next start" in caplog.text
    assert opened().restore_newer([], target())[0] == 2
    local.remove()
    assert not local.directory.exists()


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"checkpoint.local_dir.*file/local.*another folder"):
        LocalCheckpoints(tmp_path, str(tmp_path / "file" / "local"), 60.0)


def test_without_a_folder_nothing_is_due_or_kept(tmp_path):
    local = LocalCheckpoints(tmp_path, "", 0.0)
    assert not local.due and local.restore_newer([], target()) is None
    local.clear()
    local.remove()
    local.close()
    assert not list(tmp_path.iterdir())


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(local_checkpoints.jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="local_dir is for a run of one process"):
        LocalCheckpoints(tmp_path, str(tmp_path / "local"), 60.0)
