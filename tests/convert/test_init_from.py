"""A run that starts from the weights of a checkpoint."""

import jax
import numpy as np
import pytest

from discovr_jax import trees
from discovr_jax.convert import folder, init_from, state
from discovr_jax.convert import read as weights_lib
from discovr_jax.convert.sizes import Hints
from discovr_jax.method import experiment
from discovr_jax.runs.checkpoint import Checkpoints
from tests import public_layout
from tests.public_layout import assert_same

HINTS = Hints(heads=2, decoder_heads=2)


@pytest.fixture(scope="module")
def biased():
    return public_layout.state_dict(public_layout.TINY, True)


@pytest.fixture(scope="module")
def converted(biased, tmp_path_factory):
    """A converted checkpoint on disk."""
    ours = tmp_path_factory.mktemp("converted") / "ours"
    folder.write(ours, state.from_torch(biased, HINTS), {})
    return ours


SIZES = {
    "model.width": 128,
    "model.depth": 2,
    "model.heads": 2,
    "model.decoder_width": 16,
    "model.decoder_heads": 2,
    "model.video_qkv_bias": "qv",
    "model.num_prototypes": 20,
    "head.hidden": 24,
    "head.bottleneck": 12,
    "head.outputs": 40,
    "data.image_size": 16,
    "data.num_frames": 4,
}


@pytest.fixture
def start(make_tiny):
    """`start(path, **{key: value})` -> (config, fresh state) of a run from `path`; sizes are the converted ones'."""

    def make(path, **overrides):
        tiny = make_tiny(**SIZES | overrides, init_from=str(path))
        return tiny.config, jax.tree.map(jax.numpy.asarray, tiny.state)

    return make


def flat(tree):
    return {trees.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_a_run_starts_from_a_converted_checkpoint(converted, start, biased, caplog):
    config, drawn = start(converted)
    ours = init_from.initialise_from(drawn, config)
    want = state.from_torch(biased, HINTS).arrays
    found = flat({"params": ours.params, "teacher": ours.teacher, "memory": {"centers": ours.memory.centers}})
    assert_same({name: np.asarray(leaf) for name, leaf in found.items()}, want)
    assert all(a is b for a, b in zip(jax.tree.leaves(ours.opt_state), jax.tree.leaves(drawn.opt_state), strict=True))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_students_start_as_the_teacher_that_alone_is_there(tmp_path, start, biased):
    kept = {name: x for name, x in biased.items() if not name.startswith(("encoder.", "image_dino_head"))}
    found = state.from_torch(kept, HINTS, ("encoder.*", "image_dino_head.*"))
    folder.write(tmp_path / "ours", found, {})
    config, drawn = start(tmp_path / "ours")
    ours = init_from.initialise_from(drawn, config)
    for module in ("video_encoder", "image_head"):
        jax.tree.map(np.testing.assert_array_equal, ours.params[module], ours.teacher[module])


@pytest.mark.parametrize(
    "key,value,reason",
    [
        ("model.width", 64, "does not fit"),
        ("model.heads", 4, "2 attention heads"),
        ("model.depth", 3, "lacks"),
        ("head.outputs", 8, "does not fit"),
    ],
)
def test_other_sizes_are_refused(converted, start, key, value, reason):
    config, drawn = start(converted, **{key: value})
    with pytest.raises(weights_lib.WeightsError, match=reason):
        init_from.initialise_from(drawn, config)


def test_other_clips_are_pointed_out(converted, start, caplog):
    config, drawn = start(converted, **{"data.num_frames": 8})
    init_from.initialise_from(drawn, config)
    assert "--config.model.position_grid='(2, 2, 2)'" in caplog.text
    caplog.clear()
    config.model.position_grid = (2, 2, 2)
    init_from.initialise_from(drawn, config)
    assert "position_grid" not in caplog.text


def test_a_checkpoint_older_than_a_key_has_its_default(tmp_path, make_tiny):
    tiny = make_tiny()
    saved = experiment.config_dict(tiny.config)
    del saved["model"]["positions"], saved["optim"]["image_lr_scale"]
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save(7, tiny.state, {}, saved)
    checkpoints.close()
    found = weights_lib.read_weights(tmp_path / "run", lambda path: path.startswith("params")).config
    assert (found.model.positions, found.optim.image_lr_scale) == ("1d", 1)
    assert set(found.eval.evaluators) == set(tiny.config.eval.evaluators)


@pytest.fixture
def trained(tmp_path, make_tiny):
    """`trained(**overrides)` -> (workdir of such a run, its last state)."""

    def make(**overrides):
        tiny = make_tiny(**overrides)
        checkpoints = Checkpoints(tmp_path / "before")
        checkpoints.save(7, tiny.state, {}, experiment.config_dict(tiny.config))
        checkpoints.close()
        return tmp_path / "before", tiny.state

    return make


def started(make_tiny, path, **overrides):
    """(fresh state, the same after `init_from`)."""
    tiny = make_tiny(**overrides, init_from=str(path))
    drawn = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf) + 1, tiny.state)  # other numbers than `trained`
    return drawn, init_from.initialise_from(drawn, tiny.config)


def test_a_run_may_train_cls_branches_that_the_checkpoint_did_not(trained, make_tiny, caplog):
    """Of a run without the image loss: its centre and head are drawn, all else is taken over."""
    path, before = trained(**{"loss.img": 0.0})
    drawn, ours = started(make_tiny, path)
    np.testing.assert_array_equal(ours.memory.centers["vid"], before.memory.centers["vid"])
    np.testing.assert_array_equal(ours.memory.centers["img"], drawn.memory.centers["img"])
    np.testing.assert_array_equal(ours.memory.position_mean, before.memory.position_mean)
    jax.tree.map(np.testing.assert_array_equal, ours.params["image_head"], drawn.params["image_head"])
    jax.tree.map(np.testing.assert_array_equal, ours.params["video_head"], before.params["video_head"])
    # The image student starts as the teacher, the only one there is.
    jax.tree.map(np.testing.assert_array_equal, ours.params["image_encoder"], before.teacher["image_encoder"])
    assert "starting anew: memory/centers/img, params/image_head, teacher/image_head" in caplog.text


def test_a_run_may_leave_cls_branches_out(trained, make_tiny, caplog):
    path, before = trained()
    _, ours = started(make_tiny, path, **{"loss.vid": 0.0})
    assert list(ours.memory.centers) == ["img"]
    np.testing.assert_array_equal(ours.memory.centers["img"], before.memory.centers["img"])
    jax.tree.map(np.testing.assert_array_equal, ours.params["image_head"], before.params["image_head"])
    assert "starting anew" not in caplog.text


def test_frames_of_another_size_have_no_mean_token_of_each_place_yet(trained, make_tiny):
    path, before = trained()
    drawn, ours = started(make_tiny, path, **{"data.image_size": 16})
    assert drawn.memory.position_mean.shape != before.memory.position_mean.shape
    np.testing.assert_array_equal(ours.memory.position_mean, drawn.memory.position_mean)
    np.testing.assert_array_equal(ours.memory.centers["img"], before.memory.centers["img"])
