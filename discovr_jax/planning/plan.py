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

import jax
from ml_collections import ConfigDict

from discovr_jax.data import facts, mixture, pipeline, records
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.planning import aot, chips, flops
from discovr_jax.planning.aot import PlanError
from discovr_jax.runs import workdir

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `--mode=plan` prints; `summary` is what it saves."""

    topology: chips.Topology
    platform: str  # whose compiler made the program, see `aot.platform`
    mesh: dict[str, int]
    compiled: aot.Compiled
    per_clip: float  # bytes per clip of the batch on a device beyond the state
    useful_flops: float  # a step, all devices: what the recipe needs (discovr_jax/planning/flops.py)
    shards: int
    gradient_accumulation_steps: int
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
        return aot.seconds(self.compiled.cost, self.topology)

    @property
    def step_seconds(self) -> float:
        return max(self.seconds.values())

    @property
    def mfu_bound(self) -> float:
        return self.useful_flops / (self.devices * self.topology.chip.flops * self.step_seconds)

    @property
    def largest_batch(self) -> int:
        """Clips over all devices; memory beyond the state grows in proportion, measured at two batch sizes."""
        together = self.shards * self.gradient_accumulation_steps
        more = (self.bytes["capacity"] - self.used) // (self.per_clip * self.gradient_accumulation_steps)
        return max(self.compiled.batch // together + int(more), 0) * together

    def summary(self) -> dict:
        """The content of plan.json."""
        collectives = {}
        for each in self.compiled.cost.collectives:
            row = collectives.setdefault(each.kind, {"kind": each.kind, "count": 0, "bytes": 0})
            row["count"] += each.count
            row["bytes"] += each.bytes
        return {
            "compiler": self.platform,
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
        cost, result, seconds = self.compiled.cost, self.summary(), self.seconds
        fits = "fits" if self.used <= self.bytes["capacity"] else "DOES NOT FIT"
        lines = [
            f"{self.devices} x {self.topology.kind}, mesh {self.mesh}, batch {self.compiled.batch}, "
            f"{self.parameters / 1e6:.1f} M parameters that train",
            f"compiled {aot.COMPILERS[self.platform]}",
            "| on each device | MB |\n| --- | ---: |",
            *(f"| {name} | {size / 1e6:.1f} |" for name, size in self.bytes.items() if name != "capacity"),
            f"| together, of {self.bytes['capacity'] / 1e6:.0f} ({fits}) | {self.used / 1e6:.1f} |",
            "| collective, each step and device | group | count | MB |\n| --- | ---: | ---: | ---: |",
            *(f"| {each.kind} | {each.group} | {each.count} | {each.bytes / 1e6:.2f} |" for each in cost.collectives),
            f"{cost.operations} operations; matrix products {cost.flops / 1e12:.3f} TFLOP per device, "
            f"{cost.flops / max(cost.bytes, 1):.0f} FLOP a byte of memory "
            f"({self.topology.chip.flops / self.topology.chip.hbm_bandwidth:.0f} would balance)",
            "step at least "
            + ", ".join(f"{1000 * value:.2f} ms for {name}" for name, value in seconds.items())
            + f" ({1000 * sum(seconds.values()):.2f} ms if nothing overlaps)",
            f"at best {self.compiled.batch / self.step_seconds:.0f} clips/s, MFU {self.mfu_bound:.1%}, "
            f"{result['days']:.2f} days for {self.total_steps} steps; largest batch {result['largest_batch']}",
        ]
        return "\n".join(lines)


def plan_config(config: ConfigDict, topology_name: str, batch: int | None = None, quick: bool = False) -> Plan:
    """Plan the step of a config on its mesh.

    Args:
      topology_name: one slice of the `config.mesh.slices`; see `chips.parse_topology`.
      batch: clips per step; None takes the config's. Where they do not fit the chip's memory, the plan is for half,
        and so on.
      quick: compile one and two blocks an encoder and extend to all of them, see `aot.extend_step`.

    Raises:
      PlanError, ValueError: no such topology, a mesh or batch that does not fit it, no clip that fits, a `quick` plan
        that cannot be extended.
    """
    config, topology, mesh = aot.aim(config, topology_name)
    shards, parts = mesh_lib.batch_shards(mesh), mesh_lib.batch_shards(mesh) * config.gradient_accumulation_steps
    wanted = batch or config.batch_size
    if wanted % parts:
        raise PlanError(
            f"a batch of {wanted} cannot be cut into {parts} equal parts (mesh {dict(mesh.shape)}, "
            f"gradient_accumulation_steps {parts // shards}): give --batch as a multiple of {parts}, or another mesh"
        )
    videos = _training_videos(config)
    measure = functools.partial(aot.extend_step if quick else aot.compile_step, config, videos, mesh, topology)
    clips = wanted // parts
    while (compiled := measure(clips * parts)) is None:
        if clips == 1:
            raise PlanError(
                f"one clip per device does not fit the {topology.chip.hbm_bytes / 1e9:.0f} GB of {topology.kind} on "
                f"the mesh {dict(mesh.shape)}: cut more (mesh.fsdp, mesh.model), or set model.remat=blocks"
            )
        logger.info("a batch of %d does not fit; trying half", clips * parts)
        clips //= 2
    other = clips // 2 or 2 * clips
    second = measure(other * parts)
    # If even two clips do not fit, all of one's memory counts as its own.
    grown = compiled.working if second is None else (compiled.working - second.working) / (clips - other)
    experiment, _, state, _ = aot.abstract_step(config, videos, mesh, compiled.batch)
    return Plan(
        topology=topology,
        platform=aot.platform(mesh),
        mesh=dict(mesh.shape),
        compiled=compiled,
        per_clip=max(grown, 1.0) / config.gradient_accumulation_steps,
        useful_flops=sum(flops.step_flops(experiment.model, experiment.masks).values()) * compiled.batch,
        shards=shards,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
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


def _training_videos(config: ConfigDict) -> int:
    """Videos of an epoch: of the records if they are here, else of the published training split.

    Raises:
      PlanError: neither is known.
    """
    try:
        sources = mixture.open_training(config.data)
        return sum(map(len, pipeline.training_records(sources, config.data).values()))
    except records.RecordsError:
        names = list(mixture.weights(config.data))
        known = [facts.of(name) for name in names]
        if not all(each and each.training_videos for each in known):
            raise PlanError(
                f"no records of {', '.join(names)} in {config.data.data_dir}, so the length of an epoch is unknown: "
                "prepare them, or plan with a public dataset's: --config.data.dataset=echonet_dynamic"
            ) from None
        logger.info("no records in %s: an epoch is taken as the whole published training split", config.data.data_dir)
        return sum(each.training_videos for each in known)
