"""What a run would need, without compiling it: seconds instead of the minutes of `--mode=plan`.

python -m discovr_jax.estimate --config=adult --variants=ti,s,b,l,h --topologies=v5e:4x4,gpu:h200:8 [--output=ROWS]
python -m discovr_jax.estimate --config=archive:gigabytes=8 --memory_gb=8

The state's bytes are exact, FLOPs are those of the recipe (planning/flops.py). Activations are what the traced step
keeps for its backward pass, before a compiler fuses or orders anything. Data parallelism: what is sent is the gradient
of every parameter, once around a ring; Sinkhorn's vectors are less than a thousandth of it. Where not one clip fits so,
all is cut over all devices (mesh.fsdp), and every matrix gathered twice.

`--memory_gb` asks of one GPU, whatever its name, whether the config's batch fits its memory. With
`--config.gradient_accumulation_steps=n` only the activations of one part of the batch are kept at a time.
"""

import argparse
import dataclasses
import json
import math

import jax
from ml_collections import ConfigDict

from discovr_jax import command_line, storage
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.method import views
from discovr_jax.planning import chips, flops

REACHED = 0.4  # share of the peak that matrix products are taken to reach in the prediction of scaling
SPARE = 0.1  # share of memory left free: temporaries, fragmentation, the runtime
TAKEN = 0.75  # share of a GPU's memory that jax takes unless told otherwise
# Of traced activations, what is left of them once NVIDIA's compiler has fused the step and cuDNN computes attention:
# 0.49 to 0.50 by its plans of ViT-Ti and B (docs/tutorials/own_archive.md), 0.51 measured on an H200 with ViT-B.
FUSED = 0.55


@dataclasses.dataclass(frozen=True)
class Requirements:
    """Of one model, whatever it runs on.

    Attributes:
      parameters: that train; their gradient is float32.
      state_bytes: parameters, teachers, optimizer.
      clip_bytes: of activations for the backward pass, per clip of the batch.
      clip_flops: of a step, per clip.
      parts: of the batch that go through the students one after the other (`gradient_accumulation_steps`).
    """

    parameters: int
    state_bytes: int
    clip_bytes: int
    clip_flops: float
    parts: int = 1

    @property
    def fixed_bytes(self) -> int:
        """Whatever the batch: the state, and the gradient, which in parts stands beside the sum of those before."""
        return self.state_bytes + 4 * self.parameters * (1 if self.parts == 1 else 2)

    def largest_clips(self, free: float, clip_bytes: float) -> int:
        """Clips, of so many bytes, that fit `free` bytes: as many in each part."""
        return max(math.floor(free / clip_bytes) // self.parts * self.parts, 0)


def requirements(config: ConfigDict) -> Requirements:
    """From shapes alone; two depths and two batch sizes are traced, and extended to all blocks."""
    experiment = _experiment(config)
    model, depth = experiment.model, experiment.model.depth
    state, parts = _state(experiment), config.gradient_accumulation_steps
    residual_bytes = {}
    for blocks in (1, 2):
        short = ConfigDict(config.to_dict())
        sizes = {name: getattr(model, name) for name in ("width", "heads", "mlp_dim", "decoder_width", "decoder_heads")}
        short.model.update(variant="custom", depth=blocks, **sizes)
        residual_bytes[blocks] = _residuals_per_clip(_experiment(short), parts)
    return Requirements(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        state_bytes=_bytes(state),
        clip_bytes=max(one + (depth - 1) * (two - one) for one, two in zip(*residual_bytes.values(), strict=True)),
        clip_flops=sum(flops.step_flops(model, experiment.masks).values()),
        parts=parts,
    )


def row(required: Requirements, topology: chips.Topology, clips: int | None = None, fsdp: bool = False) -> dict:
    """One line of the table: the model on all devices of a topology.

    Args:
      clips: on each device; None for as many as fit.
      fsdp: state and gradient are cut over all devices, or whole on each.

    Returns:
      Sizes in bytes, times in seconds; `efficiency` is the share of the time that is arithmetic at `REACHED` of the
      peak if the sum of gradients overlaps with none of it (all of it: 1, as long as it is the shorter).
    """
    chip, devices = topology.chip, topology.slices * topology.devices_per_slice
    gradient = 4 * required.parameters
    # Gradients live beside the state when the last activation is gone, at the latest.
    free = (1 - SPARE) * chip.hbm_bytes - required.fixed_bytes / (devices if fsdp else 1)
    largest = required.largest_clips(free, required.clip_bytes)
    clips = largest if clips is None else clips
    compute = clips * required.clip_flops / (REACHED * chip.flops)
    # Around a ring: a sum is two rounds, a gather of the parameters for each pass and a scattered sum one each.
    rounds = (3 if fsdp else 2) * (devices - 1) / devices
    sent = rounds * gradient / topology.bandwidth(devices) if devices > 1 else 0.0
    return {
        "devices": devices,
        "mesh": "fsdp" if fsdp else "data",
        "state_bytes": required.state_bytes,
        "clip_bytes": required.clip_bytes,
        "largest_clips": largest,
        "clips": clips,
        "compute_seconds": compute,
        "sent_seconds": sent,
        "clips_per_second": devices * clips / (compute + sent) if clips else 0.0,
        "efficiency": compute / (compute + sent) if clips else 0.0,
    }


def one_gpu(required: Requirements, clips: int, memory_gb: float) -> dict:
    """Whether a batch of `clips` fits one GPU of `memory_gb` GB, with attention by cuDNN (Ampere and newer, 16 bits).

    Returns:
      Sizes in bytes; `largest_clips` is the largest batch that fits.
    """
    clip, fixed = FUSED * required.clip_bytes, required.fixed_bytes
    usable = TAKEN * memory_gb * 1e9
    return {
        "state_bytes": required.state_bytes,
        "clips": clips,
        "used_bytes": fixed + clips * clip,
        "usable_bytes": usable,
        "fits": fixed + clips * clip <= usable,
        "largest_clips": required.largest_clips(usable - fixed, clip),
    }


def _experiment(config: ConfigDict):
    config = ConfigDict(config.to_dict())
    if config.model.attention == "auto":
        config.model.attention = "reference"
    return experiment_lib.make_experiment(config, 7465)  # of schedules, which change no shape


def _state(experiment) -> train_step.TrainState:
    def init(key):
        return train_step.init_state(experiment.model, experiment.tx, experiment.masks, key)

    return jax.eval_shape(init, jax.random.key(0))


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf.dtype, "itemsize"))


def _residuals_per_clip(experiment, parts: int) -> tuple[int, ...]:
    """Bytes that one more clip of the batch keeps, at each moment of the step that may be its fullest."""

    def of_a_clip(residuals):
        return residuals(experiment, 2) - residuals(experiment, 1)

    if parts == 1:
        return (of_a_clip(_residuals),)
    # `method.step.accumulated`: the objective meets the outputs of the whole batch; then, beside their gradient, the
    # activations of one part are kept.
    return of_a_clip(_objective_residuals), of_a_clip(_outputs) + math.ceil(of_a_clip(_student_residuals) / parts)


def _residuals(experiment, clips: int) -> int:
    """Bytes that the forward pass hands to the backward pass, parameters among them."""

    def residuals(params, state, batch, masks):
        def loss(params):
            key = jax.random.key(0)
            return train_step.losses(
                experiment.model, experiment.options, params, state.teacher, state.memory, batch, masks, 0.05, key
            )

        return jax.vjp(loss, params, has_aux=True)[1]

    return _bytes(_traced(experiment, clips, residuals))


def _objective_residuals(experiment, clips: int) -> int:
    """Those of the objective alone, by the outputs of the students."""

    def residuals(params, state, batch, masks):
        model, frames = experiment.model, (batch["frames"], batch["num_valid"])
        teacher = model.apply({"params": state.teacher}, *frames, method="teacher") if state.teacher else None

        def loss(outputs):
            key = jax.random.key(0)
            return train_step.objective(
                outputs, teacher, model, experiment.options, state.memory, batch, masks, 0.05, key
            )

        return jax.vjp(loss, _student(experiment, params, batch, masks), has_aux=True)[1]

    return _bytes(_traced(experiment, clips, residuals))


def _student_residuals(experiment, clips: int) -> int:
    """Those of the students alone."""

    def residuals(params, state, batch, masks):
        return jax.vjp(lambda params: _student(experiment, params, batch, masks), params)[1]

    return _bytes(_traced(experiment, clips, residuals))


def _outputs(experiment, clips: int) -> int:
    """Bytes of the students' outputs, and of the gradient by them."""
    return _bytes(
        _traced(experiment, clips, lambda params, state, batch, masks: _student(experiment, params, batch, masks))
    )


def _student(experiment, params, batch, masks):
    return experiment.model.apply({"params": params}, **batch, masks=masks, method="student")


def _traced(experiment, clips: int, function):
    """Shapes of what `function(params, state, batch, masks)` gives of a batch with its views."""

    def with_masks(params, state, batch):
        key = jax.random.key(0)
        masks = train_step.draw_masks(key, experiment.model, experiment.masks, clips)
        return function(
            params, state, views.add_views(key, batch, experiment.views, experiment.masks.video_views), masks
        )

    state = _state(experiment)
    return jax.eval_shape(with_masks, state.params, state, experiment.input_shapes(clips))


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", default="adult", help="a config with its arguments, or one that takes variant=")
    parser.add_argument("--variants", default="ti,s,b,l,h", help="where --config has no arguments")
    parser.add_argument("--topologies", default="v5e:4x4,v5p:4x4x4,v6e:8x8,gpu:h200:8")
    parser.add_argument("--memory_gb", type=float, help="memory of one GPU, in place of --topologies")
    parser.add_argument("--clips", type=int, help="on each device; default: as many as fit; --memory_gb: the config's")
    parser.add_argument("--output", help="file for the rows, JSON lines")
    given, overrides = parser.parse_known_args(storage.expand_home(arguments))
    jax.config.update("jax_platforms", "cpu")
    name, _, argument = given.config.partition(":")
    wanted = [argument] if argument else [f"variant={variant}" for variant in given.variants.split(",")]
    try:
        configs = {each: command_line.read_config(f"{name}:{each}", overrides) for each in wanted}
    except ValueError as error:
        parser.error(str(error))
    if given.memory_gb is not None:
        rows = _print_one_gpu(configs, given.memory_gb, given.clips)
    else:
        rows = _print_topologies(configs, given.topologies.split(","), given.clips)
    if given.output:
        with open(given.output, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(each) + "\n" for each in rows)


def _print_topologies(configs: dict[str, ConfigDict], names: list[str], clips: int | None) -> list[dict]:
    topologies = {name: chips.parse_topology(name) for name in names}
    columns = "model|M parameters|state GB|MB per clip|topology|mesh|clips each|compute, ms|sent, ms|clips/s"
    print(f"| {columns.replace('|', ' | ')} |\n|" + " --- |" * 10)
    rows = []
    for arguments, config in configs.items():
        model, required = arguments.removeprefix("variant="), requirements(config)
        for name, topology in topologies.items():
            r = row(required, topology, clips)
            if not r["largest_clips"]:
                r = row(required, topology, clips, fsdp=True)
            rows.append({"variant": model, "topology": name, "parameters": required.parameters, **r})
            cells = [
                model,
                f"{required.parameters / 1e6:.1f}",
                f"{required.state_bytes / 1e9:.2f}",
                f"{required.clip_bytes / 1e6:.0f}",
                name,
                r["mesh"],
                r["clips"],
                f"{1000 * r['compute_seconds']:.1f}",
                f"{1000 * r['sent_seconds']:.2f}",
                f"{r['clips_per_second']:.0f}",
            ]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return rows


def _print_one_gpu(configs: dict[str, ConfigDict], memory_gb: float, clips: int | None) -> list[dict]:
    rows = []
    for arguments, config in configs.items():
        required = requirements(config)
        r = one_gpu(required, clips or config.batch_size, memory_gb)
        in_parts = f", in {required.parts} parts," if required.parts > 1 else ""
        rows.append({"config": arguments, "memory_gb": memory_gb, **r})
        print(
            f"{arguments}: {r['clips']} clips per step{in_parts} take {r['used_bytes'] / 1e9:.1f} GB; of "
            f"{memory_gb:g} GB jax may use {r['usable_bytes'] / 1e9:.1f}: "
            f"{'fits' if r['fits'] else 'DOES NOT FIT'} "
            f"(at most {r['largest_clips']} clips)",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
