"""What devices send each other in a compiled step: counted, and the same whatever the batch."""

import collections
import math
import pathlib
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from discovr_jax.losses import interface, scd
from discovr_jax.models.transformer import Transformer
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.planning import aot, hlo

NOTEBOOK = pathlib.Path(__file__).parents[2] / "docs" / "notes" / "speed.md"


def devices_of(attributes):
    """The groups of devices that a collective of an HLO text is done in, in each of the ways to write them."""
    if listed := re.search(r"(?:source_target_pairs|replica_groups)=\{(\{[\d,{}]*\})\}", attributes):
        return [[int(device) for device in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed[1])]

    def counted(text):
        """Devices in the order that "[4,2]T(1,0)" says: those of a 4 x 2 mesh, column by column."""
        dims, order = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
        shape = [int(dim) for dim in dims.split(",")]
        axes = [int(axis) for axis in order.split(",")] if order else range(len(shape))
        return np.arange(math.prod(shape)).reshape(shape).transpose(axes)

    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes):
        return counted(found[3]).reshape(int(found[1]), int(found[2])).tolist()
    axes, order, along = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\S+)\))? \{([^}]*)\}", attributes
    ).groups()
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    mesh = counted(order or f"[{math.prod(sizes.values())}]").reshape(list(sizes.values()))
    last = [list(sizes).index(name) for name in re.findall(r"'(\w+)'", along)]
    mesh = np.moveaxis(mesh, last, range(-len(last), 0))
    return mesh.reshape(-1, math.prod(mesh.shape[-len(last) :])).tolist()


def crossing(text, model):
    """{(kind, shape)} of every array that a program sends between devices other than along the model axis.

    That axis is the innermost: its groups are `model` devices in a row.
    """
    found = set()
    for each in (each for body in hlo.parse(text)[0].values() for each in body):
        kind = each.opcode.removesuffix("-start")
        if kind in hlo.COLLECTIVES and not each.opcode.endswith("-done"):
            if any(len({device // model for device in group}) > 1 for group in devices_of(each.attributes)):
                found |= {(kind, dims) for dims, _, _ in hlo.arrays(each.shape)}
    return found


@pytest.mark.parametrize("remat", ["none", "blocks"])
def test_activations_are_cut_over_model_where_their_matrices_are(make_mesh, monkeypatch, remat):
    """Heads, and what lies between the two products of a block; the tokens between modules are whole."""
    seen, x = set(), jax.ShapeDtypeStruct((8, 3, 16), np.float32)

    def constrain(value, sharding):
        seen.add((value.shape[-1], *sharding.spec))
        return value

    monkeypatch.setattr(jax.lax, "with_sharding_constraint", constrain)
    blocks = Transformer(depth=1, heads=2, qkv_bias="none", norm_eps=1e-6, dtype=np.float32, remat=remat)
    params = jax.eval_shape(blocks.init, jax.random.key(0), x)
    assert not seen
    jax.eval_shape(mesh_lib.rows_kept(blocks.apply, make_mesh(2, 2, 2)), params, x)
    batch = mesh_lib.BATCH[0]
    assert seen == {(16, batch, None, None), (16, batch, None, "model"), (64, batch, None, "model")}


def noted():
    """{(mesh, batch): {kind: (number, kB)}} of the table in the notebook, and the version of jax that it is of."""
    section = NOTEBOOK.read_text(encoding="utf-8").split("## Collectives by mesh and batch")[1].split("\n#")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    kinds = [name.removesuffix("s") for name in rows[0][2:]]
    found = {}
    for mesh, batch, *cells in rows[2:]:
        counts = {kind: tuple(map(int, re.findall(r"\d+", cell))) for kind, cell in zip(kinds, cells, strict=True)}
        found[tuple(map(int, mesh.split(","))), int(batch)] = {kind: each for kind, each in counts.items() if each}
    return found, re.search(r"jax ([\d.]+\d)", section)[1]


def sent(text):
    """{kind: (number, kB)} of a program's collectives."""
    sums = collections.defaultdict(lambda: np.zeros(2))
    for each in hlo.cost(text).collectives:
        sums[each.kind] += each.count, each.bytes
    return {kind: (int(count), round(size / 1000)) for kind, (count, size) in sums.items()}


@pytest.mark.parametrize(
    "shape",
    [(1, 8, 1), *(pytest.param(each, marks=pytest.mark.long) for each in ((8, 1, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2)))],
    ids=str,
)
def test_no_activation_leaves_the_devices_of_its_clip(make_tiny, make_mesh, shape):
    """What crosses the data and fsdp axes in a whole step is the same for 16 and 32 clips: gradients, parameters,
    vectors of prototypes and of places. (Parameters wider than activations are what XLA would move activations to.)
    With the version of jax of the notebook all collectives are those of its table.
    """
    mesh, sizes = make_mesh(*shape), {"model.width": 64, "head.hidden": 64, "loss.img": 0.0}
    config, programs = make_tiny(**sizes).config, {}
    for batch in (16, 32):
        _, step, state, clips = aot.abstract_step(config, 80, mesh, batch)
        programs[batch] = step.lower(state, clips).compile().as_text()
    few, many = (crossing(text, shape[2]) for text in programs.values())
    assert few and few == many
    told, version = noted()
    if jax.__version__ == version:
        found = {(shape, batch): sent(text) for batch, text in programs.items()}
        rows = {key: told[key] for key in told if key[0] == shape}
        assert {key: found[key] for key in rows} == rows


def test_sinkhorn_exchanges_vectors_of_prototype_size_whatever_the_batch(tiny, mesh8):
    """SCD forward and backward on eight devices: every collective is counted in the compiled program. Twice the clips
    change neither their number nor their bytes; ten rounds of Sinkhorn for each side send one vector of prototypes a
    round and what keeps its logarithm finite, and the largest arrays are the prototypes' gradient and a histogram.
    """
    e = tiny.experiment
    tokens, width, count = e.model.grid.tokens, e.model.width, e.model.num_prototypes
    whole, rows = mesh_lib.replicated(mesh8), mesh_lib.batch_sharding(mesh8)

    def loss(decoded, image_tokens, prototypes):
        student = SimpleNamespace(decoded=decoded, prototypes=prototypes)
        teacher = SimpleNamespace(image_tokens=image_tokens)
        memory = interface.LossState({}, jax.numpy.zeros((e.model.grid.num_positions, width)))
        return scd.scd_loss(e.options, student, teacher, memory, SimpleNamespace())

    def traffic(clips):
        shapes = (
            jax.ShapeDtypeStruct((clips, tokens, width), np.float32, sharding=rows),
            jax.ShapeDtypeStruct(
                (clips, e.model.grid.frames, e.model.grid.num_positions, width), np.float32, sharding=rows
            ),
            jax.ShapeDtypeStruct((count, width), np.float32, sharding=whole),
        )
        gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 2), has_aux=True), out_shardings=None)
        return hlo.cost(gradient.lower(*shapes).compile().as_text()).collectives

    found = traffic(8)
    assert found == traffic(16)
    assert {each.kind for each in found} == {"all-reduce"}
    rounds = 2 * e.options.scd_iterations
    sinkhorn = rounds * 2 * 4 * count  # of each column: its largest score and its sum
    rest = 4 * (count * width + e.model.grid.num_positions * count)
    assert sum(each.bytes for each in found) <= sinkhorn + rest + 1000
    assert sum(each.count for each in found) <= 2 * rounds + 30
