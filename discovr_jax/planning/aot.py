"""The step of a run, compiled for hardware that you do not have: bytes and counts of the program, nothing is run."""

import dataclasses
import logging
import math
import time

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.models import attention
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.planning import chips, hlo

logger = logging.getLogger(__name__)

# By the platform that compiles.
COMPILERS = {
    "tpu": "for TPUs, by their compiler",
    "gpu": "for GPUs, by their compiler, which tried no kernels",
    "cpu": "for simulated CPU devices (for a GPU memory is too high: pip install 'discovr_jax[gpu]', no GPU is needed)",
}
# The CPU stands in for GPUs whose compiler is not installed: what matters is the partitioned program, not its speed.
# With no GPU to try kernels on, cuBLAS for every product is nearest to what the GPU's compiler takes after having
# tried (docs/notes/speed.md).
_OPTIONS = {
    "tpu": {},
    "gpu": {"xla_gpu_enable_triton_gemm": False},
    "cpu": {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
}
# With `quick` the TPU compiler does not search for the best tiles: a fifth of the time, the same program but for the
# order and the tiles of its parts. Elsewhere `quick` only shortens the encoders.
_HASTY = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}
# Added to what a compiler says when it refuses a step.
_HINTS = {
    "gpu": ". Known to compile for GPUs that are not there: jax 0.10.2; before, cuDNN asked for one "
    "(model.attention=reference does without)"
}


class PlanError(ValueError):
    """The plan cannot be made; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One compiled step: bytes and FLOPs are of one device.

    Attributes:
      state: bytes of parameters, teachers (with centres) and optimizer.
      working: bytes beyond the state at the peak.
    """

    batch: int
    state: dict[str, int]
    working: int
    cost: hlo.Cost


def aim(config: ConfigDict, topology_name: str):
    """(a copy of the config for those chips, their topology, the mesh over them).

    Raises:
      TopologyError, ConfigError: no such topology, a mesh that does not fit it.
    """
    config = ConfigDict(config.to_dict())
    topology = chips.parse_topology(topology_name, config.mesh.slices)
    mesh = mesh_lib.make_mesh(config.mesh, chips.devices(topology))
    if config.model.attention == "auto":  # what it means on the chips planned for, not on this machine
        flash = attention.flash_suits(platform(mesh), jnp.dtype(config.model.dtype))
        config.model.attention = "flash" if flash else "reference"
    return config, topology, mesh


def abstract_step(config: ConfigDict, videos: int, mesh, batch: int):
    """(experiment, step, state, batch) of a config; the last two without content."""
    config = ConfigDict(config.to_dict())
    config.batch_size = batch
    experiment = experiment_lib.make_experiment(config, videos)
    state = train_step.abstract_state(experiment.model, experiment.tx, experiment.masks, mesh)
    place = mesh_lib.batch_sharding(mesh)
    shapes = experiment.input_shapes(batch).items()
    clips = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for name, x in shapes}
    return experiment, experiment_lib.jit_train_step(experiment, config, mesh), state, clips


def compile_step(
    config: ConfigDict, videos: int, mesh, topology: chips.Topology, batch: int, hasty: bool = False
) -> Compiled | None:
    """The step compiled at one batch size; None if it does not fit the chip's memory.

    The CPU standing in for a GPU needs more than that: there what does not fit is compiled all the same.

    Raises:
      PlanError: the compiler refuses the step for another reason.
    """
    _, step, state, clips = abstract_step(config, videos, mesh, batch)
    options = _HASTY if hasty and topology.is_tpu else _OPTIONS[platform(mesh)]
    started = time.monotonic()
    try:
        program = step.lower(state, clips).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return None
        reason = str(error).strip().splitlines()[0]
        raise PlanError(
            f"the {platform(mesh)} compiler of jax {jax.__version__} says: {reason}{_HINTS.get(platform(mesh), '')}"
        ) from error
    logger.info("compiled a batch of %d in %.0f s", batch, time.monotonic() - started)
    sizes = _state_bytes(state)
    m = program.memory_analysis()
    peak = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    if peak > topology.chip.hbm_bytes and platform(mesh) != "cpu":  # the GPU's compiler only warns
        return None
    return Compiled(batch, sizes, max(peak - sum(sizes.values()), 0), hlo.cost(program.as_text()))


def extend_step(config: ConfigDict, videos: int, mesh, topology: chips.Topology, batch: int) -> Compiled | None:
    """What `compile_step` gives, from encoders of one and of two blocks: blocks are alike, so all but the state's size
    is taken to grow in proportion. The state's size is exact. Compiling takes a fraction of the time.

    Raises:
      PlanError: the two programs are not alike.
    """
    model = experiment_lib.make_model(config)
    short = []
    for depth in (1, 2):
        config = ConfigDict(config.to_dict())
        config.model.update(
            variant="custom",
            depth=depth,
            **{name: getattr(model, name) for name in ("width", "heads", "mlp_dim", "decoder_width", "decoder_heads")},
        )
        short.append(compile_step(config, videos, mesh, topology, batch, hasty=True))
    if None in short:
        return None
    times = model.depth - 1

    def extend(what: str, first: float, second: float) -> float:
        extended = first + times * (second - first)
        if extended < 0:
            raise PlanError(
                f"--quick cannot extend this step: the compiler cut the batch of {batch} on the mesh "
                f"{dict(mesh.shape)} in another way for two blocks than for one ({extended:g} {what}); leave out "
                "--quick, or try another --batch or mesh"
            )
        return extended

    few, more = ({(c.kind, c.group): c for c in each.cost.collectives} for each in short)
    none = hlo.Collective("", 0, 0, 0)
    collectives = [
        hlo.Collective(
            kind,
            round(extend(kind, few.get((kind, group), none).count, more.get((kind, group), none).count)),
            round(extend(f"bytes of {kind}", few.get((kind, group), none).bytes, more.get((kind, group), none).bytes)),
            group,
        )
        for kind, group in sorted(few.keys() | more.keys())
    ]
    cost = hlo.Cost(
        extend("FLOPs", short[0].cost.flops, short[1].cost.flops),
        extend("bytes of memory traffic", short[0].cost.bytes, short[1].cost.bytes),
        tuple(collectives),
        round(extend("operations", short[0].cost.operations, short[1].cost.operations)),
    )
    config.model.depth = model.depth
    sizes = _state_bytes(abstract_step(config, videos, mesh, batch)[2])
    working = round(extend("bytes in use", short[0].working, short[1].working))
    fits = sum(sizes.values()) + working <= topology.chip.hbm_bytes
    return Compiled(batch, sizes, working, cost) if fits else None


def seconds(cost: hlo.Cost, topology: chips.Topology) -> dict[str, float]:
    """Of a step, were it bound by that part alone: arithmetic at the vendor's bfloat16 peak, memory, or wires."""
    chip = topology.chip
    wires = sum(_sent(each) / topology.bandwidth(each.group) for each in cost.collectives)
    return {"compute": cost.flops / chip.flops, "memory": cost.bytes / chip.hbm_bandwidth, "interconnect": wires}


def _sent(each: hlo.Collective) -> float:
    """Bytes that one device sends for a collective done around a ring."""
    share = (each.group - 1) / each.group
    return each.bytes * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(each.kind, share)


def platform(mesh) -> str:
    """Whose compiler makes a program for these devices: "tpu", "gpu" or "cpu"."""
    return mesh.devices.flat[0].platform


def _state_bytes(state) -> dict[str, int]:
    return {
        "parameters": _local_bytes(state.params),
        "teachers": _local_bytes((state.teacher, state.memory)),
        "optimizer": _local_bytes((state.opt_state, state.step, state.skipped)),
    }


def _local_bytes(tree) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
