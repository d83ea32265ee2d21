"""Placement: every array has a rule, every mesh gives the same step, and memory falls as planned."""

import math

import jax
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from discovr_jax import trees
from discovr_jax.configs import adult
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.planning import hlo


def named(tree):
    return {trees.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


# Rules -------------------------------------------------------------------------------------------------------


def test_every_leaf_has_a_rule_and_every_rule_a_leaf(make_tiny):
    """DISCOVR with biased attention uses every rule, VideoMAE needs no other; none is left for nothing."""
    states = [
        make_tiny(**{"model.video_qkv_bias": "qv", "model.image_qkv_bias": "qv", "loss.jepa": 1.0}).abstract,
        make_tiny(**{"loss.vid": 0.0, "loss.img": 0.0, "loss.scd": 0.0, "loss.pix": 1.0}).abstract,
    ]
    unused = [set(mesh_lib.unused_rules(tree)) for tree in states]  # raises for a leaf without a rule
    assert unused[0] == set() and unused[1]


@pytest.mark.parametrize("path", ["new_module/table", "video_encoder/transformer/block0/gate/kernel"])
def test_a_leaf_without_a_rule_is_an_error(make_mesh, path):
    leaf = traverse_util.unflatten_dict({f"params/{path}": np.zeros((2, 2))}, sep="/")
    with pytest.raises(ValueError, match=f"no sharding rule matches 'params/{path}'"):
        mesh_lib.shardings(leaf, make_mesh(1, 1, 1))


def test_a_linear_layer_of_a_new_head_needs_no_rule_of_its_own(make_mesh):
    head = {"params": {"new_head": {"kernel": np.zeros((4, 8)), "bias": np.zeros(8)}}}
    places = named(mesh_lib.shardings(head, make_mesh(2, 2, 2)))
    assert places["params/new_head/kernel"].spec == PartitionSpec("fsdp", "model")
    assert places["params/new_head/bias"].is_fully_replicated


@pytest.mark.parametrize("part", ["params", "teacher", "opt_state"])
def test_parameters_teachers_and_moments_are_placed_alike(tiny, make_mesh, part):
    places = named(mesh_lib.shardings(tiny.abstract, make_mesh(2, 2, 2)))
    found = places["params/video_encoder/transformer/block0/attn/qkv"].spec
    assert found == PartitionSpec("fsdp", None, "model")
    same = [n for n in places if n.startswith(part) and n.endswith("video_encoder/transformer/block0/attn/qkv")]
    assert len(same) == (2 if part == "opt_state" else 1)
    assert all(places[name].spec == found for name in same)


def test_matrices_are_cut_and_small_arrays_are_not(tiny, make_mesh):
    mesh = make_mesh(2, 2, 2)
    places = named(mesh_lib.shardings(tiny.abstract, mesh))
    for name, leaf in named(tiny.abstract).items():
        whole = places[name].is_fully_replicated
        small = leaf.ndim < 2 and not name.endswith("block0/fc1/bias")
        assert whole == (small or "_token" in name or name.startswith("memory")), name


# Meshes ------------------------------------------------------------------------------------------------------


def test_one_axis_takes_what_is_left():
    mesh = mesh_lib.make_mesh({"data": -1, "fsdp": 2, "model": 2, "slices": 1})
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "model": 2}
    mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 4, "model": 1, "slices": 1})
    assert mesh_lib.batch_shards(mesh) == 8
    assert mesh_lib.batch_sharding(mesh).shard_shape((16, 4, 32, 32)) == (2, 4, 32, 32)


@pytest.mark.parametrize("shape", [(3, 1, 1), (-1, 3, 1), (16, 1, 1), (-1, 16, 1)])
def test_meshes_that_do_not_fit_the_devices_are_refused(shape):
    with pytest.raises(ValueError, match="there are 8: change config.mesh"):
        mesh_lib.make_mesh(dict(zip(mesh_lib.AXES, shape, strict=True)) | {"slices": 1})


def on(mesh, tiny):
    """State, batch and masks of the tiny experiment, placed."""
    batches = mesh_lib.batch_sharding(mesh)
    state = jax.device_put(tiny.state, mesh_lib.shardings(tiny.abstract, mesh))
    return state, jax.device_put(tiny.batch, batches), jax.device_put(tiny.masks, batches)


def assert_close(found, expected):
    """Leaf by leaf, 1e-5 of the norm."""
    expected = named(expected)
    for name, leaf in named(found).items():
        difference = np.linalg.norm(np.asarray(leaf) - np.asarray(expected[name]))
        assert difference <= 1e-5 * np.linalg.norm(expected[name]), (name, difference)


@pytest.fixture(scope="module")
def gradient(tiny):
    """`gradient(mesh)`: ((loss, (memory, metrics)), gradients) of the tiny experiment; `look` sees the program."""
    e = tiny.experiment

    def loss(params, state, batch, masks):
        return train_step.losses(e.model, e.options, params, state.teacher, state.memory, batch, masks, 0.05)

    def run(mesh, look=lambda program: None):
        state, batch, masks = on(mesh, tiny)
        given = state.params, state, batch, masks
        program = jax.jit(mesh_lib.rows_kept(jax.value_and_grad(loss, has_aux=True), mesh)).lower(*given).compile()
        look(program)
        return program(*given)

    return run


@pytest.fixture(scope="module")
def alone(gradient, make_mesh):
    return gradient(make_mesh(1, 1, 1))


LONG = [pytest.param(shape, marks=pytest.mark.long) for shape in ((1, 8, 1), (4, 1, 2))]


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), *LONG], ids=str)
def test_loss_and_gradients_are_the_same_on_every_mesh(gradient, alone, make_mesh, shape):
    (loss, (memory, metrics)), grads = gradient(make_mesh(*shape))
    (wanted, (wanted_memory, wanted_metrics)), wanted_grads = alone
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert_close(grads, wanted_grads)
    assert_close(memory, wanted_memory)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], wanted_metrics[name], rtol=1e-5, atol=1e-6, err_msg=name)


class Numbered:
    """A simulated device as one of a TPU slice."""

    platform = device_kind = "cpu"

    def __init__(self, device, slice_index):
        self.device, self.slice_index = device, slice_index

    def __repr__(self):
        return f"{self.device} of slice {self.slice_index}"


@pytest.fixture
def two_slices():
    """(mesh of two slices of four devices that come in no order, the slice of each device by its id)."""
    devices = [Numbered(device, device.id % 2) for device in jax.devices()]
    made = mesh_lib.make_mesh({"data": 2, "fsdp": 4, "model": 1, "slices": 2}, devices)
    placed = np.vectorize(lambda numbered: numbered.device)(made.devices)
    mesh = jax.sharding.Mesh(placed, made.axis_names, axis_types=made.axis_types)
    return mesh, {numbered.device.id: numbered.slice_index for numbered in devices}


def test_two_slices_give_what_one_gives(gradient, alone, two_slices):
    """The parts of an array over fsdp lie within a slice, so that matrices are gathered within slices only."""
    mesh, slice_of = two_slices
    for part in mesh.devices:
        assert len({slice_of[device.id] for device in part.flat}) == 1

    def look(program):
        found = hlo.cost(program.as_text()).collectives
        within, between = (
            sum(each.bytes for each in found if each.kind == "all-gather" and (each.group == 4) == inside)
            for inside in (True, False)
        )
        assert between < 0.01 * within

    (loss, (memory, _)), grads = gradient(mesh, look)
    (wanted, (wanted_memory, _)), wanted_grads = alone
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert_close(grads, wanted_grads)
    assert_close(memory, wanted_memory)


def test_a_whole_step_on_a_mesh_of_three_axes(tiny, tiny_step, make_mesh, capfd):
    """It draws the masks that one device draws, leaves the state where the rules put it, each device holds its
    share, and XLA gathers nothing for want of a better plan.
    """
    mesh = make_mesh(2, 2, 2)
    step = experiment_lib.jit_train_step(tiny.experiment, tiny.config, mesh)
    state, metrics = step(*on(mesh, tiny)[:2])
    wanted, wanted_metrics = tiny_step(tiny.state, tiny.batch)
    np.testing.assert_allclose(metrics["loss/total"], wanted_metrics["loss/total"], rtol=1e-5)
    (moments,), (wanted_moments,) = ([part.mu for part in s.opt_state if hasattr(part, "mu")] for s in (state, wanted))
    assert_close(moments, wanted_moments)
    places = jax.tree.leaves(mesh_lib.shardings(tiny.abstract, mesh))
    for (name, leaf), place in zip(named(state).items(), places, strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim), name
    kernel = state.params["video_head"]["fc0"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    assert "Involuntary full rematerialization" not in capfd.readouterr().err


# Memory ------------------------------------------------------------------------------------------------------


def table_total(table):
    """(leaves, MB, MB per device) of a table's last line."""
    _, leaves, size, local = table.splitlines()[-1].split()
    return int(leaves), float(size), float(local)


def test_bytes_a_device_fall(tiny, make_mesh):
    state = named(jax.device_put(tiny.state, mesh_lib.shardings(tiny.abstract, make_mesh(1, 8, 1))))
    total = sum(leaf.nbytes for leaf in state.values())
    local = sum(leaf.addressable_shards[0].data.nbytes for leaf in state.values())
    assert local < 0.3 * total
    table = mesh_lib.shard_table(tiny.abstract, make_mesh(1, 8, 1))
    leaves, size, on_device = table_total(table)
    assert leaves == len(state)
    assert (size, on_device) == (pytest.approx(total / 1e6, abs=0.006), pytest.approx(local / 1e6, abs=0.006))


def test_the_papers_model_fits_eight_devices(make_mesh):
    """ViT-B, its teachers and moments: 4 copies of 200 M floats, an eighth on each device."""
    config = adult.get_config()
    e = experiment_lib.make_experiment(config, 7465)
    abstract = train_step.abstract_state(e.model, e.tx, e.masks, make_mesh(1, 8, 1))
    leaves, size, local = table_total(mesh_lib.shard_table(abstract, make_mesh(1, 8, 1)))
    assert 2500 < size < 3500 and local < 0.13 * size
    assert leaves == len(jax.tree.leaves(abstract))
    for name, leaf in named(abstract).items():
        share = math.prod(leaf.sharding.shard_shape(leaf.shape)) / max(math.prod(leaf.shape), 1)
        assert share in (1, 1 / 8), name
        assert share == 1 / 8 or leaf.size < 100_000, name


def test_an_uneven_dimension_stays_whole_and_is_counted(make_mesh):
    """3001 rows over 2 and 7 columns over 2 parts: both stay whole; 3000 x 8 is cut."""
    mesh = make_mesh(2, 2, 2)

    def tree(rows, columns):
        return {"params": {"prototypes": {"vectors": jax.ShapeDtypeStruct((rows, columns), np.float32)}}}

    (place,) = jax.tree.leaves(mesh_lib.shardings(tree(3001, 7), mesh))
    assert place.is_fully_replicated
    (place,) = jax.tree.leaves(mesh_lib.shardings(tree(3001, 8), mesh))
    assert place == NamedSharding(mesh, PartitionSpec(None, "fsdp"))

    def uneven(rows, columns):
        return mesh_lib.shard_table(tree(rows, columns), mesh).splitlines()[1].split()[-1]

    assert [uneven(3001, 7), uneven(3001, 8), uneven(3000, 8)] == ["1", "1", "0"]


def test_one_device_gets_no_table(make_mesh):
    tree = {"params": {"prototypes": {"vectors": jax.ShapeDtypeStruct((8, 8), np.float32)}}}
    assert mesh_lib.placement(tree, make_mesh(1, 1, 1)) == "{'data': 1, 'fsdp': 1, 'model': 1}"
    assert mesh_lib.placement(tree, make_mesh(1, 8, 1)).splitlines()[1].startswith("part")
