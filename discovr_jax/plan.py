"""What a run would need and how fast it could go, from the real step compiled for a topology nobody has to own.

`--mode=plan`. Sizes and counts are the compiler's; times are a roofline, so a lower bound: every part at its
vendor's peak, and collectives, memory and arithmetic all hidden behind one another.
"""

import dataclasses
import functools
import json
import logging
import math
import pathlib
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from discovr_jax import chips, flops, hlo, sharding, train_step, workdir
from discovr_jax import experiment as experiment_lib
from discovr_jax.data import mixture, pipeline, records

logger = logging.getLogger(__name__)

# Training videos of datasets whose records are not on this machine: the published split (before data.train_filter).
PUBLISHED = {"echonet_dynamic": 7465, "echonet_pediatric": 6139, "camus": 800}
# The CPU backend stands in for other chips: what matters is the partitioned program, not its speed.
_SIMULATED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
# With `quick` the TPU compiler does not search for the best tiles: a fifth of the time, the same program but for the
# order and the tiles of its parts.
_HASTY = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}


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


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `--mode=plan` prints; `summary` is what it saves."""

    topology: chips.Topology
    mesh: dict[str, int]
    compiled: Compiled
    per_clip: float  # bytes a clip of the batch on a device beyond the state
    useful_flops: float  # a step, all devices: what the recipe needs (discovr_jax/flops.py)
    shards: int
    accumulate: int
    total_steps: int
    parameters: int

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @functools.cached_property
    def bytes(self) -> dict[str, int]:
        activations = round(min(self.per_clip * self.compiled.batch / self.shards, self.compiled.working))
        rest = self.compiled.working - activations
        capacity = round(self.topology.chip.hbm_bytes)
        return self.compiled.state | {"activations": activations, "temporaries": rest, "capacity": capacity}

    @property
    def used(self) -> int:
        """Bytes of one device at the peak."""
        return sum(self.compiled.state.values()) + self.compiled.working

    @functools.cached_property
    def seconds(self) -> dict[str, float]:
        """Of a step, were it bound by that part alone."""
        chip, cost = self.topology.chip, self.compiled.cost
        wires = sum(_sent(each) / self.topology.bandwidth(each.group) for each in cost.collectives)
        return {"compute": cost.flops / chip.flops, "memory": cost.bytes / chip.hbm_bandwidth, "interconnect": wires}

    @property
    def step_seconds(self) -> float:
        return max(self.seconds.values())

    @property
    def mfu_bound(self) -> float:
        return self.useful_flops / (self.devices * self.topology.chip.flops * self.step_seconds)

    @property
    def largest_batch(self) -> int:
        """Clips over all devices; memory beyond the state grows in proportion, measured at two batch sizes."""
        free = self.bytes["capacity"] - sum(self.compiled.state.values()) - self.bytes["temporaries"]
        return max(int(free // (self.per_clip * self.accumulate)), 0) * self.accumulate * self.shards

    def summary(self) -> dict:
        """The content of plan.json."""
        collectives = {}
        for each in self.compiled.cost.collectives:
            row = collectives.setdefault(each.kind, {"kind": each.kind, "count": 0, "bytes": 0})
            row["count"] += each.count
            row["bytes"] += each.bytes
        return {
            "devices": self.devices,
            "flops_per_device": self.compiled.cost.flops,
            "bytes": self.bytes,
            "collectives": list(collectives.values()),
            "step_seconds": self.step_seconds,
            "mfu_bound": self.mfu_bound,
            "largest_batch": self.largest_batch,
            "days": self.step_seconds * self.total_steps / 86400,
        }

    def table(self) -> str:
        """For people: everything in `summary`, and what it was made from."""
        cost, found, seconds = self.compiled.cost, self.summary(), self.seconds
        fits = "fits" if self.used <= self.bytes["capacity"] else "DOES NOT FIT"
        lines = [
            f"{self.devices} x {self.topology.kind}, mesh {self.mesh}, batch {self.compiled.batch}, "
            f"{self.parameters / 1e6:.1f} M parameters that train",
            "| on each device | MB |\n| --- | ---: |",
            *(f"| {name} | {size / 1e6:.1f} |" for name, size in self.bytes.items() if name != "capacity"),
            f"| together, of {self.bytes['capacity'] / 1e6:.0f} ({fits}) | {self.used / 1e6:.1f} |",
            "| collective, each step and device | group | count | MB |\n| --- | ---: | ---: | ---: |",
            *(f"| {each.kind} | {each.group} | {each.count} | {each.bytes / 1e6:.2f} |" for each in cost.collectives),
            f"matrix products {cost.flops / 1e12:.3f} TFLOP a device, {cost.flops / max(cost.bytes, 1):.0f} FLOP "
            f"a byte of memory ({self.topology.chip.flops / self.topology.chip.hbm_bandwidth:.0f} would balance)",
            "step at least "
            + ", ".join(f"{1000 * value:.2f} ms for {name}" for name, value in seconds.items())
            + f" ({1000 * sum(seconds.values()):.2f} ms if nothing overlaps)",
            f"at best {self.compiled.batch / self.step_seconds:.0f} clips/s, MFU {self.mfu_bound:.1%}, "
            f"{found['days']:.2f} days for {self.total_steps} steps; largest batch {found['largest_batch']}",
        ]
        return "\n".join(lines)


def _sent(each: hlo.Collective) -> float:
    """Bytes that one device sends for a collective done around a ring."""
    share = (each.group - 1) / each.group
    return each.bytes * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(each.kind, share)


def plan_config(config: ConfigDict, topology_name: str, batch: int | None = None, quick: bool = False) -> Plan:
    """Plan the step of a config on its mesh.

    Args:
      topology_name: one slice of the `config.mesh.slices`; see `chips.parse_topology`.
      batch: clips a step; None takes the config's. Where they do not fit the chip's memory, the plan is for half,
        and so on.
      quick: compile one and two blocks an encoder and extend to all of them, see `_extended`.

    Raises:
      PlanError, ValueError: no such topology, a mesh or batch that does not fit it, no clip that fits, a `quick` plan
        that cannot be extended.
    """
    topology = chips.parse_topology(topology_name, config.mesh.slices)
    mesh = sharding.make_mesh(config.mesh, chips.devices(topology))
    shards, parts = sharding.batch_shards(mesh), sharding.batch_shards(mesh) * config.accumulate
    wanted = batch or config.batch_size
    if wanted % parts:
        raise PlanError(
            f"a batch of {wanted} cannot be cut into {parts} equal parts (mesh {dict(mesh.shape)}, accumulate "
            f"{config.accumulate}): give --batch as a multiple of {parts}, or another mesh"
        )
    config = ConfigDict(config.to_dict())
    if config.model.attention == "auto":
        config.model.attention = "whole"  # what it means on the chips planned for, not on this machine
    videos = _training_videos(config)
    measure = functools.partial(_extended if quick else _compile, config, videos, mesh, topology)
    clips = wanted // parts
    while (compiled := measure(clips * parts)) is None:
        if clips == 1:
            raise PlanError(
                f"one clip a device does not fit the {topology.chip.hbm_bytes / 1e9:.0f} GB of {topology.kind} on the "
                f"mesh {dict(mesh.shape)}: cut more (mesh.fsdp, mesh.model), or set model.remat=blocks"
            )
        logger.info("a batch of %d does not fit; trying half", clips * parts)
        clips //= 2
    other = clips // 2 or 2 * clips
    second = measure(other * parts)
    # If even two clips do not fit, all of one's memory counts as its own.
    grown = compiled.working if second is None else (compiled.working - second.working) / (clips - other)
    experiment, _, state, _ = _abstract_step(config, videos, mesh, compiled.batch)
    return Plan(
        topology=topology,
        mesh=dict(mesh.shape),
        compiled=compiled,
        per_clip=max(grown, 1.0) / config.accumulate,
        useful_flops=sum(flops.step_flops(experiment.model, experiment.masks).values()) * compiled.batch,
        shards=shards,
        accumulate=config.accumulate,
        total_steps=experiment.total,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    )


def sweep(config: ConfigDict, topology_name: str, batch: int | None = None, quick: bool = False) -> list[Plan]:
    """Plans of the usual mesh shapes that fit, the fastest first; equally fast ones by the largest batch."""
    topology = chips.parse_topology(topology_name, config.mesh.slices)
    total = topology.devices_per_slice * topology.slices
    shapes = {(total // fsdp // model, fsdp, model) for fsdp in (1, 8, total) for model in (1, 2, 4)}
    plans = []
    for data, fsdp, model in sorted(shapes, reverse=True):
        config = ConfigDict(config.to_dict())
        config.mesh.data, config.mesh.fsdp, config.mesh.model = data, fsdp, model
        if data * fsdp * model != total or data % topology.slices:
            continue
        try:
            plans.append(plan_config(config, topology_name, batch, quick))
        except ValueError as error:
            logger.info("mesh %s left out: %s", (data, fsdp, model), error)
    if not plans:
        raise PlanError(f"no mesh shape of {total} devices fits {topology_name}; see the reasons above")
    return sorted(plans, key=lambda plan: (plan.step_seconds / plan.compiled.batch, -plan.largest_batch))


def plan_workdir(
    config: ConfigDict, directory, topology_name: str, batch: int | None, compare: bool = False, quick: bool = False
) -> dict:
    """`--mode=plan`: prints the table, saves WORKDIR/plan.json (with `compare`, of the fastest mesh shape).

    Returns:
      The content of plan.json.
    """
    made = (sweep if compare else plan_config)(config, topology_name, batch, quick)
    plans = made if compare else [made]
    if compare:
        print("| mesh | batch | GB | clips/s at best | MFU bound | largest batch |\n|" + " --- |" * 6)
        for each in plans:
            rate = each.compiled.batch / each.step_seconds
            print(
                f"| {each.mesh} | {each.compiled.batch} | {each.used / 1e9:.2f} | {rate:.0f} "
                f"| {each.mfu_bound:.1%} | {each.largest_batch} |"
            )
        print("best: " + " ".join(f"--config.mesh.{axis}={size}" for axis, size in plans[0].mesh.items()))
    print(plans[0].table())
    folder = pathlib.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    workdir.write_atomically(folder / "plan.json", json.dumps(plans[0].summary(), indent=1) + "\n")
    return plans[0].summary()


def _abstract_step(config: ConfigDict, videos: int, mesh, batch: int):
    """(experiment, step, state, batch) of a config; the last two without content."""
    config = ConfigDict(config.to_dict())
    config.batch_size = batch
    experiment = experiment_lib.make_experiment(config, videos)
    state = train_step.abstract_state(experiment.model, experiment.tx, experiment.masks, mesh)
    place, side = sharding.batch_sharding(mesh), config.data.image_size
    clips = {
        "frames": jax.ShapeDtypeStruct((batch, config.data.num_frames, side, side), np.uint8, sharding=place),
        "num_valid": jax.ShapeDtypeStruct((batch,), np.int32, sharding=place),
    }
    return experiment, experiment_lib.jit_train_step(experiment, config, mesh), state, clips


def _compile(
    config: ConfigDict, videos: int, mesh, topology: chips.Topology, batch: int, hasty: bool = False
) -> Compiled | None:
    """The step compiled at one batch size; None if it does not fit the chip's memory."""
    _, step, state, clips = _abstract_step(config, videos, mesh, batch)
    options = (_HASTY if hasty else None) if topology.is_tpu else _SIMULATED
    started = time.monotonic()
    try:
        program = step.lower(state, clips).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
    logger.info("compiled a batch of %d in %.0f s", batch, time.monotonic() - started)
    sizes = _state_bytes(state)
    m = program.memory_analysis()
    peak = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    return Compiled(batch, sizes, max(peak - sum(sizes.values()), 0), hlo.cost(program.as_text()))


def _extended(config: ConfigDict, videos: int, mesh, topology: chips.Topology, batch: int) -> Compiled | None:
    """What `_compile` gives, from encoders of one and of two blocks: blocks are alike, so all but the state's size is
    taken to grow in proportion. The state's size is exact. Compiling takes a fraction of the time.

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
            **{name: getattr(model, name) for name in ("width", "heads", "decoder_width", "decoder_heads")},
        )
        short.append(_compile(config, videos, mesh, topology, batch, hasty=True))
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
    )
    config.model.depth = model.depth
    sizes = _state_bytes(_abstract_step(config, videos, mesh, batch)[2])
    working = round(extend("bytes in use", short[0].working, short[1].working))
    fits = sum(sizes.values()) + working <= topology.chip.hbm_bytes
    return Compiled(batch, sizes, working, cost) if fits else None


def _state_bytes(state) -> dict[str, int]:
    return {
        "parameters": _local_bytes(state.params),
        "teachers": _local_bytes((state.teacher, state.memory)),
        "optimizer": _local_bytes((state.opt_state, state.step, state.skipped)),
    }


def _local_bytes(tree) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _training_videos(config: ConfigDict) -> int:
    """Videos of an epoch: of the records if they are here, else of the published training split.

    Raises:
      PlanError: neither is known.
    """
    try:
        sources = mixture.open_training(config.data)
        return sum(map(len, pipeline.training_records(sources, config.data).values()))
    except records.RecordsError:
        names = [name.partition("/")[0] for name in mixture.weights(config.data)]
        if not set(names) <= set(PUBLISHED):
            raise PlanError(
                f"no records of {', '.join(names)} in {config.data.data_dir}, so the length of an epoch is unknown: "
                "prepare them, or give --config.duration in steps"
            ) from None
        logger.info("no records in %s: an epoch is taken as the whole published training split", config.data.data_dir)
        return sum(PUBLISHED[name] for name in names)
