"""The training step: median time, clips per second, MFU, memory, and where the time goes.

The step is the one of a run, on clips of noise: no records are needed. MFU is the nominal work (planning/flops.py)
over the time and the peak of the devices (--peak, TFLOP/s per device). --parts compiles each part alone as well;
--profile writes a trace for TensorBoard or Perfetto and lists the operations that took longest.
"""

import argparse
import dataclasses
import time

import jax
import numpy as np

from discovr_jax import train
from discovr_jax.benchmark import machine
from discovr_jax.benchmark import parts as parts_lib
from discovr_jax.benchmark import trace as trace_lib
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.method import views
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.planning import flops

HELP = "the training step, its parts and its memory"
NUM_TRAIN = 7465  # videos of EchoNet-Dynamic's training split; only schedules depend on it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a config file or its name, with :arguments")
    parser.add_argument("--steps", type=int, default=10, help="steps timed")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument("--peak", type=float, help="TFLOP/s of one device in the config's dtype, for MFU")
    parser.add_argument("--parts", action="store_true", help="also time the parts, each compiled alone")
    parser.add_argument("--profile", metavar="DIR", help="write a trace of two steps and list the top operations")


def run(given: argparse.Namespace) -> None:
    """Prints the tables."""
    check_counts(given)
    config = given.config
    ready = prepare(config)
    experiment, compiled, batch = ready.experiment, ready.compiled, ready.batch
    loss = float(ready.run()["loss/total"])
    machine.reset_peak_memory()
    times = machine.timed(ready.run, given.steps, given.warmup)
    queued = machine.timed(lambda: ready.run(given.steps), 1, 0).median / given.steps
    nominal = flops.step_flops(experiment.model, experiment.masks)
    print(f"{machine.description()}; jax {jax.__version__}, {jax.device_count()} x {jax.devices()[0].device_kind}")
    print(f"{config.model.variant}, {config.model.dtype}, batch {config.batch_size}, {given.steps} steps\n")
    rows = _summary(times, queued, compiled, config.batch_size, nominal, given.peak)
    rows += [("compiling", f"{ready.compile_seconds:.0f} s"), ("loss of the first step", f"{loss:.4f}")]
    print(machine.table(("", "value"), rows))
    if given.profile:
        rows = trace_lib.top_operations(ready.run, given.profile, compiled.as_text())
        print(f"\nTrace in {given.profile}\n")
        print(machine.table(("operation", "where", "calls per step", "ms per step"), rows))
    if given.parts:
        print("\n" + machine.table(*_parts(experiment, ready.state, batch, config.batch_size, nominal, times, given)))


def check_counts(given: argparse.Namespace) -> None:
    """ValueError where no step would be timed, or the first one."""
    if given.steps < 1 or given.warmup < 1:
        raise ValueError("--steps and --warmup must be at least 1")


@dataclasses.dataclass
class Ready:
    """A compiled step with its state and a batch of noise; `state` is that after the steps that were run."""

    experiment: experiment_lib.Experiment
    compiled: jax.stages.Compiled
    compile_seconds: float
    state: train_step.TrainState
    batch: dict[str, jax.Array]

    def run(self, count: int = 1) -> dict[str, jax.Array]:
        """Takes steps one after the other, waits for the last and returns its metrics."""
        for _ in range(count):
            self.state, metrics = self.compiled(self.state, self.batch)
        return jax.block_until_ready(metrics)


def prepare(config) -> Ready:
    """The step of a run on this machine's devices."""
    experiment = experiment_lib.make_experiment(config, NUM_TRAIN)
    mesh = mesh_lib.make_mesh(config.mesh)
    state = train.init_state(experiment, mesh, config.seed)
    batch = jax.device_put(noise(config, config.batch_size), mesh_lib.batch_sharding(mesh))
    started = time.monotonic()
    compiled = experiment_lib.jit_train_step(experiment, config, mesh).lower(state, batch).compile()
    return Ready(experiment, compiled, time.monotonic() - started, state, batch)


def noise(config, clips: int) -> dict[str, np.ndarray]:
    """A batch of random frames, all valid."""
    rng, data = np.random.default_rng(0), config.data
    shapes = views.input_shapes(experiment_lib.make_views(config), clips, data.num_frames, data.image_size)

    def filled(x):
        if x.dtype == np.uint8:
            return rng.integers(0, 256, x.shape, np.uint8)
        return np.full(x.shape, data.num_frames, x.dtype)

    return {name: filled(x) for name, x in shapes.items()}


def _summary(times: machine.Times, queued: float, compiled, batch_size: int, nominal, peak: float | None):
    """Rows of the first table; `queued`: seconds per step where none is waited for, as in a run."""
    low, high = times.quartiles
    clips = batch_size / times.median
    rate = clips * sum(nominal.values())
    rows = [
        ("step, median (quartiles)", f"{times.median:.3f} s ({low:.3f} to {high:.3f})"),
        ("clips per second", f"{clips:.3g}"),
        ("clips per second, steps queued as in a run", f"{batch_size / queued:.3g}"),
        ("nominal work a clip", f"{sum(nominal.values()) / 1e9:.4g} GFLOP"),
        ("nominal rate", f"{rate / 1e9:.4g} GFLOP/s"),
    ]
    if peak is not None:
        rows.append((f"MFU of {peak:g} TFLOP/s per device", f"{100 * rate / (peak * 1e12 * jax.device_count()):.1f} %"))
    memory = compiled.memory_analysis()
    sizes = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    rows.append(("state and batch, temporaries (a device)", " + ".join(f"{size / 1e9:.2f} GB" for size in sizes)))
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        rows.append(("peak of device memory", f"{stats['peak_bytes_in_use'] / 1e9:.2f} GB"))
    rows.append(("peak of the process's memory, without compiling", f"{machine.peak_memory() / 1e9:.2f} GB"))
    return rows


def _parts(experiment, state, batch, batch_size, nominal, times, given):
    """Header and rows of the breakdown."""
    drawn = jax.jit(lambda key: train_step.draw_masks(key, experiment.model, experiment.masks, batch_size))(
        jax.random.key(0)
    )
    arguments = state, batch, drawn, parts_lib.random_inputs(experiment, batch_size)
    rows, total = [], 0.0
    for name, function in parts_lib.parts(experiment).items():
        compiled = jax.jit(function).lower(*arguments).compile()
        median = machine.timed(
            lambda run=compiled: jax.block_until_ready(run(*arguments)), given.steps, given.warmup
        ).median
        total += median
        work = batch_size * nominal.get(name, 0)
        rate = f"{work / median / 1e9:.0f}" if work else ""
        rows.append((name, f"{1e3 * median:.1f}", f"{100 * median / times.median:.0f} %", f"{work / 1e9:.1f}", rate))
    rows.append(("sum of the parts", f"{1e3 * total:.1f}", f"{100 * total / times.median:.0f} %", "", ""))
    return ("part, alone", "ms", "of the step", "nominal GFLOP", "GFLOP/s"), rows
