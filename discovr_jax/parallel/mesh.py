"""The device mesh and the rules that place every array on it. The only file that knows axis names."""

import functools
import math
import re

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from discovr_jax.errors import ConfigError
from discovr_jax.trees import path_name

AXES = ("data", "fsdp", "model")
BATCH = PartitionSpec(("data", "fsdp"))

# Ordered: the first rule whose pattern is found in the path wins. One table for parameters, teachers and
# optimizer moments, whose paths end alike. Matrices are cut over `model` along the axis that keeps a block's
# two products local (columns of the first, rows of the second), and over `fsdp` along the other one.
RULES = (
    (r"attn/qkv$", PartitionSpec("fsdp", None, "model")),
    (r"attn/[qv]_bias$", PartitionSpec("model")),
    (r"attn/proj/kernel$", PartitionSpec("model", "fsdp")),
    (r"block\d+/fc1/kernel$", PartitionSpec("fsdp", "model")),
    (r"block\d+/fc1/bias$", PartitionSpec("model")),
    (r"block\d+/fc2/kernel$", PartitionSpec("model", "fsdp")),
    (r"patch_embed/kernel$", PartitionSpec(None, None, None, None, "fsdp")),
    (r"head/fc0/kernel$", PartitionSpec("fsdp", "model")),
    (r"head/fc1/kernel$", PartitionSpec("model", "fsdp")),
    # Whole over model: the product after it takes whole rows. Where it is given cut ones and its own matrix is cut over
    # fsdp, XLA (jax 0.10.2, mesh (2, 2, 2)) makes a wrong gradient of them.
    (r"head/fc2/kernel$", PartitionSpec("fsdp", None)),
    (r"head/last$", PartitionSpec("fsdp", "model")),
    (r"prototypes/vectors$", PartitionSpec("model", "fsdp")),
    # Linear layers outside blocks, also of a head that is added. In a block the axes depend on the product before.
    (r"^(?!.*/block\d+/).*/kernel$", PartitionSpec("fsdp", "model")),
    (r"(cls_token|mask_token|bias|scale)$", PartitionSpec()),
    (r"(^|/)(step|skipped|count)$", PartitionSpec()),
    (r"^memory/", PartitionSpec()),
)


def make_mesh(shape: dict[str, int], devices=None) -> Mesh:
    """A mesh with the axes data, fsdp and model; one axis may be -1 and takes what is left.

    With shape["slices"] > 1 the slices (or nodes) follow each other along the data axis, and the other two axes stay
    within one: between slices, over the slow network, only gradients are summed.

    Raises:
      ConfigError: the axes do not multiply to the number of devices, or data is no multiple of slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [int(shape[axis]) for axis in AXES]
    known = math.prod(size for size in sizes if size > 0)
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    if math.prod(sizes) != len(devices):
        raise ConfigError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} needs {math.prod(sizes)} devices and there are "
            f"{len(devices)}: change config.mesh, or leave one axis -1"
        )
    auto, slices = (AxisType.Auto,) * len(AXES), int(shape["slices"])
    if slices == 1:
        return jax.make_mesh(sizes, AXES, axis_types=auto, devices=devices)
    # Slices of a TPU are numbered; elsewhere a process is a node.
    numbered = len({getattr(device, "slice_index", None) for device in devices}) == slices
    nodes = slices if numbered else len({device.process_index for device in devices})
    if nodes != slices or sizes[0] % slices:
        raise ConfigError(
            f"mesh.slices = {slices} must be the number of slices (there are {nodes}) and divide mesh.data = {sizes[0]}"
        )
    inside = (sizes[0] // slices, *sizes[1:])
    placed = mesh_utils.create_hybrid_device_mesh(
        inside, (slices, 1, 1), devices, process_is_granule=not numbered, allow_split_physical_axes=True
    )
    return Mesh(placed, AXES, axis_types=auto)


def batch_part(mesh: Mesh) -> tuple[int, int]:
    """(index, count): this process feeds part `index` of the batch cut into `count`.

    Where a model axis spans processes, those that share a part of the batch feed the same rows.

    Raises:
      ConfigError: the parts of two processes overlap without being equal.
    """
    shards = batch_shards(mesh)
    held = {}
    for device, (rows,) in batch_sharding(mesh).devices_indices_map((shards,)).items():
        held.setdefault(device.process_index, set()).add(rows.start or 0)
    parts = sorted({tuple(sorted(rows)) for rows in held.values()})
    if sum(map(len, parts)) != shards or len({len(part) for part in parts}) > 1:
        raise ConfigError(
            f"the mesh {dict(mesh.shape)} cuts the batch across processes unevenly ({parts}): let mesh.data * "
            "mesh.fsdp be a multiple of the processes, or mesh.model of the devices of one"
        )
    return parts.index(tuple(sorted(held[jax.process_index()]))), len(parts)


def check_batch(mesh: Mesh, name: str, size: int, gradient_accumulation_steps: int = 1) -> None:
    """Whether a batch can be cut evenly.

    Args:
      name: the setting that says the size.
      gradient_accumulation_steps: into so many steps, and each of those onto the devices.

    Raises:
      ConfigError: it cannot.
    """
    if size < 1 or size % (batch_shards(mesh) * gradient_accumulation_steps):
        times = (
            f", times gradient_accumulation_steps = {gradient_accumulation_steps}"
            if gradient_accumulation_steps > 1
            else ""
        )
        raise ConfigError(
            f"{name} = {size} must be a multiple of the {batch_shards(mesh)} devices on the mesh's data and fsdp "
            f"axes{times}"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Clips over the data and fsdp axes."""
    return NamedSharding(mesh, BATCH)


def batch_shards(mesh: Mesh) -> int:
    """Number of parts that a batch is cut into; batch sizes must be multiples of it."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def rows_kept(function, mesh: Mesh):
    """`function`, in which activations stay on the devices that hold their clips.

    Left to itself XLA moves them to where a parameter is cut when they are smaller than it, and gathers the whole batch
    for that. So what goes into each Flax module (its first argument) and what comes out is told where to lie, and with
    it its gradient: cut along the first axis, which holds clips, or frames or views of clips in the order of the batch.
    Along the last axis it is whole, but cut over the mesh's model axis where a matrix of `RULES` takes or gives it so.
    """

    def placed(x, width):
        if not isinstance(x, jax.Array) or x.ndim < 2:
            return x
        spec = PartitionSpec(*BATCH, *(None,) * (x.ndim - 2), width)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, _fitting(spec, x.shape, mesh)))

    def keep(method, args, kwargs, context):
        if context.method_name != "__call__" or not args:  # the prototypes are no activations
            return method(*args, **kwargs)
        taken, given = _widths(context.module)
        return placed(method(placed(args[0], taken), *args[1:], **kwargs), given)

    @functools.wraps(function)
    def call(*args):
        with nn.intercept_methods(keep):
            return function(*args)

    return call


def _widths(module: nn.Module) -> tuple[str | None, str | None]:
    """Mesh axes of the last dimensions of what a module takes and gives: of its own matrix, without `fsdp`."""
    for name in ("kernel", "last"):
        # In some modules "last" is a layer with a kernel of its own.
        if module.has_variable("params", name) and isinstance(module.get_variable("params", name), jax.Array):
            spec = rule_for("/".join((*module.path, name)))[1]
            taken, given = ("model" if axis == "model" else None for axis in (spec[-2], spec[-1]))
            return taken, given
    return None, None


def place_rows(tree, mesh: Mesh):
    """NumPy arrays, this process's rows of a batch (`batch_part`) -> arrays of the whole batch on the mesh."""
    place = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(place, np.asarray(rows)), tree)


def gather_rows(tree, mesh: Mesh):
    """NumPy arrays, this process's rows of a batch -> NumPy arrays of all rows, on every process."""
    return to_host(place_rows(tree, mesh)) if batch_part(mesh)[1] > 1 else tree


def to_host(tree):
    """Every leaf whole in host memory, as NumPy arrays on every process, wherever its parts lie."""

    def fetch(leaf):
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            leaf = jax.jit(lambda x: x, out_shardings=replicated(leaf.sharding.mesh))(leaf)
        return jax.device_get(leaf)

    return jax.tree.map(fetch, tree)


def rule_for(name: str) -> tuple[str, PartitionSpec]:
    """The first rule that matches a leaf's path.

    Raises:
      ValueError: no rule does; nothing is replicated by accident.
    """
    for pattern, spec in RULES:
        if re.search(pattern, name):
            return pattern, spec
    raise ValueError(f"no sharding rule matches {name!r}: add one to discovr_jax/parallel/mesh.py")


def _fitting(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The spec without the axes that do not divide the array; jax refuses uneven shards of arguments."""
    axes = []
    for size, axis in zip(shape, spec, strict=False):
        names = (axis,) if isinstance(axis, str) else (axis or ())
        parts = math.prod(mesh.shape[name] for name in names)
        axes.append(axis if size % parts == 0 else None)
    return PartitionSpec(*axes)


def shardings(tree, mesh: Mesh):
    """A NamedSharding for every leaf of a tree of arrays or ShapeDtypeStructs."""

    def place(path, leaf):
        return NamedSharding(mesh, _fitting(rule_for(path_name(path))[1], leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, tree)


def unused_rules(tree) -> list[str]:
    """Patterns that no leaf uses: a rule that misses its target replicates silently."""
    used = {rule_for(path_name(path))[0] for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
    return [pattern for pattern, _ in RULES if pattern not in used]


def placement(tree, mesh: Mesh) -> str:
    """The mesh's axes and, below, `shard_table`; on one device, which holds everything, the axes alone."""
    axes = str(dict(mesh.shape))
    return f"{axes}\n{shard_table(tree, mesh)}" if mesh.size > 1 else axes


def shard_table(tree, mesh: Mesh) -> str:
    """Per top-level part and rule: leaves, bytes, bytes per device; leaves that stay whole because an axis does
    not divide them are counted as such.
    """
    rows = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path_name(path)
        pattern, spec = rule_for(name)
        placed = _fitting(spec, leaf.shape, mesh)
        size = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        local = math.prod(NamedSharding(mesh, placed).shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        row = rows.setdefault((name.split("/")[0], pattern, str(spec)), [0, 0, 0, 0])
        row[0] += 1
        row[1] += size
        row[2] += local
        row[3] += placed != PartitionSpec(*spec[: len(leaf.shape)]) and size > 0
    lines = [f"{'part':<10} {'rule':<38} {'spec':<44} {'leaves':>6} {'MB':>9} {'MB/device':>9} {'uneven':>6}"]
    for (part, pattern, spec), (count, size, local, uneven) in rows.items():
        lines.append(
            f"{part:<10} {pattern:<38} {spec.replace('PartitionSpec', 'P'):<44} {count:>6} "
            f"{size / 1e6:>9.2f} {local / 1e6:>9.2f} {uneven:>6}"
        )
    total, local = (sum(row[i] for row in rows.values()) / 1e6 for i in (1, 2))
    lines.append(f"{'total':<94} {sum(row[0] for row in rows.values()):>6} {total:>9.2f} {local:>9.2f}")
    return "\n".join(lines)
