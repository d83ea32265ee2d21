"""Checkpoints: bit-equal on other meshes, damage survived, dtypes guarded, donation safe."""

import contextlib
import gc
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from discovr_jax import trees
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.runs import checkpoint, checkpoint_meta
from discovr_jax.runs.checkpoint import CheckpointError, Checkpoints
from tests import run_case

# A read that fails leaves coroutines of Orbax behind, which Python reports when it collects them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

DATA = {"next_step": 3, "stream": "abc"}
CONFIG = {"seed": 0, "model": {"variant": "ti"}}


def assert_bit_equal(a, b):
    leaves = jax.tree_util.tree_leaves_with_path
    named = [{trees.path_name(path): np.asarray(leaf) for path, leaf in leaves(tree)} for tree in (a, b)]
    assert named[0].keys() == named[1].keys()
    for name, leaf in named[0].items():
        other = named[1][name]
        assert leaf.dtype == other.dtype and leaf.tobytes() == other.tobytes(), name


def small_state(step, rows=64):
    """Arrays that differ from step to step."""
    values = np.random.default_rng(step).normal(size=(rows, 128))
    return {"step": jnp.int32(step), "params": {"w": jnp.asarray(values, jnp.float32)}}


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


@pytest.fixture(scope="module", autouse=True)
def collect():
    yield
    gc.collect()


@pytest.fixture
def opened():
    """Opens `Checkpoints` and closes them when the test ends."""
    made = []

    def open_(directory, **options):
        made.append(Checkpoints(directory, **options))
        return made[-1]

    yield open_
    for checkpoints in made:
        checkpoints.close()


@pytest.fixture
def three(opened, tmp_path):
    """A workdir with checkpoints of steps 1, 2 and 12."""
    checkpoints = opened(tmp_path)
    for step in (1, 2, 12):
        checkpoints.save(step, small_state(step), DATA, CONFIG)
    checkpoints.wait()
    return tmp_path


def test_nothing_to_restore(opened, tmp_path):
    assert opened(tmp_path).restore_latest(abstract(small_state(0))) is None


def test_state_and_meta_come_back(opened, three):
    step, state, meta = opened(three).restore_latest(abstract(small_state(0)))
    assert step == 12
    assert_bit_equal(state, small_state(12))
    assert (meta["data"], meta["config"], meta["format"]) == (DATA, CONFIG, checkpoint_meta.FORMAT_VERSION)
    assert meta["versions"]["jax"] == jax.__version__
    assert opened(three).meta(12) == meta


def test_a_state_saved_on_eight_devices_restores_on_four_and_one(opened, tiny, make_mesh, tmp_path):
    """Bit for bit, and placed as the rules say for the mesh at hand."""
    checkpoints = opened(tmp_path)
    whole, shapes = (
        {"params": {"video_head": s.params["video_head"]}, "memory": s.memory} for s in (tiny.state, tiny.abstract)
    )
    state = jax.device_put(whole, mesh_lib.shardings(shapes, make_mesh(2, 2, 2)))
    for step, shape in ((1, (1, 4, 1)), (2, (1, 1, 1))):
        checkpoints.save(step, state, DATA, CONFIG)
        checkpoints.wait()
        places = mesh_lib.shardings(shapes, make_mesh(*shape))
        target = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places
        )
        state, _ = checkpoints.restore(step, target)
        assert_bit_equal(state, whole)
        for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(places), strict=True):
            assert leaf.sharding == place


def test_only_the_newest_are_kept(opened, tmp_path):
    checkpoints = opened(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, small_state(step), DATA, CONFIG)
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3]


def test_an_existing_step_is_not_overwritten(opened, three):
    checkpoints = opened(three)
    with pytest.raises(CheckpointError, match="step 12 exists already and is not overwritten"):
        checkpoints.save(12, small_state(0), DATA, CONFIG)
    assert_bit_equal(checkpoints.restore(12, abstract(small_state(0)))[0], small_state(12))


# What does not fit -------------------------------------------------------------------------------------------


def changed(part, **changes):
    """The target with another array at params/w."""
    state = abstract(small_state(0))
    leaf = state["params"]["w"]
    values = {"shape": leaf.shape, "dtype": leaf.dtype, "sharding": leaf.sharding} | changes
    return state | {"params": {part: jax.ShapeDtypeStruct(**values)}}


@pytest.mark.parametrize(
    "target,words",
    [
        (lambda: changed("w", dtype=jnp.bfloat16), r"in 1 arrays: params/w: saved .*float32.*, wanted .*bfloat16"),
        (lambda: changed("w", shape=(64, 64)), r"params/w: saved \(\(64, 128\).*wanted \(\(64, 64\)"),
        (lambda: changed("v"), r"in 2 arrays: params/v: saved None"),
    ],
    ids=["dtype", "shape", "name"],
)
def test_arrays_that_do_not_fit_are_named(opened, three, target, words):
    """Orbax would cast another dtype silently. None of the checkpoints is set aside for it."""
    checkpoints = opened(three)
    with pytest.raises(CheckpointError, match=words):
        checkpoints.restore(12, target())
    with pytest.raises(CheckpointError, match="no checkpoint can be read"):
        checkpoints.restore_latest(target())
    assert checkpoints.steps() == [1, 2, 12]


# Damage ------------------------------------------------------------------------------------------------------


def data_files(directory, step):
    """Files of a checkpoint's arrays, largest first."""
    files = [path for path in (directory / "checkpoints" / f"step_{step}" / "state").rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def truncate(directory, step):
    path = data_files(directory, step)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(directory, step):
    path = data_files(directory, step)[0]
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)


def lose(directory, step):
    data_files(directory, step)[0].unlink()


def lose_description(directory, step):
    (directory / "checkpoints" / f"step_{step}" / "state" / "_METADATA").unlink()


def cut_meta(directory, step):
    """Half of the JSON that holds the data position and the config."""
    path = directory / "checkpoints" / f"step_{step}" / "meta" / "metadata"
    path.write_text(path.read_text(encoding="utf-8")[:10], encoding="utf-8")


def flip_a_bit(directory, step):
    """Which no decompressor notices: the array is saved anew with one element changed, its checksum is not."""
    state = small_state(step)
    w = np.array(state["params"]["w"])
    w.view(np.uint32)[5, 7] ^= 1
    other = Checkpoints(directory / "other")
    other.save(step, state | {"params": {"w": jnp.asarray(w)}}, DATA, CONFIG)
    other.close()
    mine = directory / "checkpoints" / f"step_{step}" / "state"
    shutil.rmtree(mine)
    (directory / "other" / "checkpoints" / f"step_{step}" / "state").rename(mine)


@pytest.mark.parametrize("damage", [truncate, garble, lose, lose_description, cut_meta, flip_a_bit])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(opened, three, caplog, damage):
    damage(three, 12)
    checkpoints = opened(three)
    with caplog.at_level(logging.WARNING):
        step, state, _ = checkpoints.restore_latest(abstract(small_state(0)))
    assert step == 2
    assert_bit_equal(state, small_state(2))
    assert "step_12 cannot be read and is set aside" in caplog.text
    assert checkpoints.steps() == [1, 2]
    kept = [path.name for path in (three / "checkpoints").iterdir()]
    assert sum(name.startswith("damaged") and name.endswith("step_12") for name in kept) == 1
    # The run goes on from there and saves the same step again.
    checkpoints.save(12, small_state(12), DATA, CONFIG)
    checkpoints.wait()
    step, state, _ = opened(three).restore_latest(abstract(small_state(0)))
    assert step == 12
    assert_bit_equal(state, small_state(12))


def test_the_same_step_may_be_damaged_twice(opened, three):
    for _ in range(2):
        truncate(three, 12)
        checkpoints = opened(three)
        assert checkpoints.restore_latest(abstract(small_state(0)))[0] == 2
        checkpoints.save(12, small_state(12), DATA, CONFIG)
        checkpoints.wait()
    assert len([p for p in (three / "checkpoints").iterdir() if p.name.startswith("damaged")]) == 2


def test_if_all_are_damaged_each_is_named(opened, three):
    for step in (1, 2, 12):
        truncate(three, step)
    with pytest.raises(CheckpointError, match="no checkpoint can be read .step 12: .*step 2: .*step 1: "):
        opened(three).restore_latest(abstract(small_state(0)))


def test_a_half_written_checkpoint_is_invisible(opened, three):
    """What a kill during saving leaves: Orbax's temporary folder, renamed only when all is on disk."""
    folder = three / "checkpoints"
    (folder / "step_12").rename(folder / "step_12.orbax-checkpoint-tmp-7")
    assert opened(three).restore_latest(abstract(small_state(0)))[0] == 2


def test_no_damage_to_any_file_is_taken_for_content(opened, tmp_path, request):
    """Each file cut to half, and with bits flipped at places all over it: found, or without effect."""
    checkpoints = opened(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, small_state(step, rows=4), DATA, CONFIG)
    checkpoints.wait()
    target, folder = abstract(small_state(0, rows=4)), tmp_path / "checkpoints" / "step_2"
    _, meta = checkpoints.meta(1), checkpoints.meta(2)
    found = unharmed = 0
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    assert len(files) > 8
    for path in files:
        whole = path.read_bytes()
        damaged = [whole[: len(whole) // 2]]
        for place in np.linspace(0, len(whole) - 1, 3, dtype=int):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << (place % 8)
            damaged.append(bytes(flipped))
        for content in damaged:
            path.write_bytes(content)
            reader = Checkpoints(tmp_path, read_only=True)
            step, state, read = reader.restore_latest(target)
            reader.close()
            assert_bit_equal(state, small_state(step, rows=4))
            assert step == 1 or read == meta
            found, unharmed = found + (step == 1), unharmed + (step == 2)
        path.write_bytes(whole)
    assert found >= 16, (found, unharmed)


def test_another_meta_is_damage(opened, three):
    """One digit of the data position, which is still JSON."""
    path = three / "checkpoints" / "step_12" / "meta" / "metadata"
    path.write_text(path.read_text().replace('"next_step": 3', '"next_step": 2'))
    with pytest.raises(CheckpointError, match="step_12 is damaged: its meta .* is not what was saved"):
        opened(three).meta(12)
    assert opened(three).restore_latest(abstract(small_state(0)))[0] == 2


def test_a_later_format_is_named_and_an_earlier_one_read(opened, tmp_path, monkeypatch):
    checkpoints = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_meta, "FORMAT_VERSION", 3)
        checkpoints.save(1, small_state(1), DATA, CONFIG)
        checkpoints.wait()
    words = "step_1 has format 3, this code reads up to 2: use the version of discovr_jax that wrote it"
    with pytest.raises(CheckpointError, match=words):
        checkpoints.restore(1, abstract(small_state(0)))
    with pytest.raises(CheckpointError, match=words):
        checkpoint.read_arrays(tmp_path, lambda name: True)
    assert checkpoints.steps() == [1]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_meta, "FORMAT_VERSION", 1)
        patch.setattr(checkpoint_meta, "_hash", lambda meta: None)
        checkpoints.save(2, small_state(2), DATA, CONFIG)
        checkpoints.wait()
    assert_bit_equal(checkpoints.restore(2, abstract(small_state(0)))[0], small_state(2))


def test_reading_alone_changes_nothing_on_disk(three, caplog):
    """An evaluation beside a training neither sets aside nor removes what is being saved."""
    truncate(three, 12)
    folder = three / "checkpoints"
    (folder / "step_13.orbax-checkpoint-tmp-7").mkdir()
    before = sorted(path.name for path in folder.iterdir())
    reader = Checkpoints(three, read_only=True)
    assert reader.restore_latest(abstract(small_state(0)))[0] == 2
    reader.close()
    assert sorted(path.name for path in folder.iterdir()) == before
    assert "step_12 cannot be read and is passed over" in caplog.text


def test_checkpoints_that_a_training_replaced_meanwhile_are_looked_for_again(opened, three):
    """They were listed, then newer ones were saved and these removed."""
    reader = Checkpoints(three, read_only=True)
    assert reader.steps() == [1, 2, 12]
    writer = opened(three, keep=1)
    writer.save(20, small_state(20), DATA, CONFIG)
    writer.wait()
    step, state, _ = reader.restore_latest(abstract(small_state(0)))
    assert step == 20
    assert_bit_equal(state, small_state(20))
    reader.close()


def test_what_killed_saves_left_is_removed(opened, three):
    """Else every kill during a save would cost the space of a checkpoint."""
    folder = three / "checkpoints"
    shutil.copytree(folder / "step_12", folder / "step_13.orbax-checkpoint-tmp-7")
    checkpoints = opened(three)
    assert checkpoints.restore_latest(abstract(small_state(0)))[0] == 12
    checkpoints.save(13, small_state(13), DATA, CONFIG)
    checkpoints.wait()
    assert sorted(path.name for path in folder.iterdir()) == ["step_12", "step_13", "step_2"]


def test_a_save_that_fails_is_an_error_and_the_one_before_stays(three):
    checkpoints, message = Checkpoints(three), "could not be written .* newest whole one is step 12. Make space"
    with run_case.largest_file(8192), pytest.raises(CheckpointError, match=message):
        checkpoints.save(13, small_state(13), DATA, CONFIG)
        checkpoints.wait()
    assert Checkpoints(three, read_only=True).restore_latest(abstract(small_state(0)))[0] == 12


def test_a_save_that_fails_unseen_does_not_replace_the_error_that_ends_the_run(three, caplog):
    """On a full disk something else may fail before the save in the background is looked at."""
    checkpoints = Checkpoints(three)
    with (
        run_case.largest_file(8192),
        pytest.raises(OSError, match="the disk is full"),
        contextlib.closing(checkpoints),
    ):
        checkpoints.save(13, small_state(13), DATA, CONFIG)
        raise OSError("the disk is full")
    assert "could not be written" in caplog.text and "newest whole one is step 12" in caplog.text


# Asynchronous saving -----------------------------------------------------------------------------------------


def test_steps_that_donate_the_state_do_not_touch_what_is_being_saved(opened, mesh8, tmp_path):
    """The CPU backend may share its buffers with NumPy; saving must have copied before it returns."""
    place = NamedSharding(mesh8, PartitionSpec("data"))
    state = jax.device_put(small_state(1, rows=16384), {"step": NamedSharding(mesh8, PartitionSpec()),
                                                        "params": {"w": place}})  # fmt: skip
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    before = jax.tree.map(lambda x: np.array(x, copy=True), state)
    target = abstract(state)
    checkpoints = opened(tmp_path)
    checkpoints.save(1, state, DATA, CONFIG)
    for _ in range(5):
        state = step(state)
    jax.block_until_ready(state)
    checkpoints.wait()
    assert_bit_equal(checkpoints.restore(1, target)[0], before)


# Reading without a model -------------------------------------------------------------------------------------


def test_reading_some_arrays(three):
    for place in (three, three / "checkpoints", three / "checkpoints" / "step_12"):
        arrays, meta = checkpoint.read_arrays(place, lambda name: name == "params/w")
        assert arrays.keys() == {"params/w"}
        np.testing.assert_array_equal(arrays["params/w"], small_state(12)["params"]["w"])
        assert meta["config"] == CONFIG
    with pytest.raises(CheckpointError, match="none of the arrays"):
        checkpoint.read_arrays(three, lambda name: False)


def test_no_checkpoint_to_read(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint here. Give a workdir or one of its"):
        checkpoint.newest_step(tmp_path)
