"""What the protections of a run cost, as a share of the training step.

python -m tests.chaos.cost [--config=phantom] [--batch=16] [--steps=15]

Steps with and without each protection are made in turn, on random clips. CPU time of the process and not wall time,
so that other work of the machine hardly counts (on an accelerator: --wall).
"""

import argparse
import contextlib
import importlib
import pathlib
import statistics
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax import train
from discovr_jax.losses import monitors
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.runs import checkpoint, checksums, metrics_log, step_watch

_NONE = {
    "teacher_entropies": lambda *_: {},
    "assignment_monitors": lambda *_: {},
    "feature_rank": lambda *_: jnp.zeros(()),
}


def _unguarded(finite, new, old):
    del finite, old
    return new


WITHOUT = {
    "nothing": contextlib.nullcontext,
    "steps that are not finite are not applied": lambda: mock.patch.object(train_step, "guarded", _unguarded),
    "collapse monitors": lambda: mock.patch.multiple(monitors, **_NONE),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.cost", description=__doc__)
    parser.add_argument("--config", default="phantom", help="a config's name")
    parser.add_argument("--batch", type=int, help="clips per step, if not the config's")
    parser.add_argument("--steps", type=int, default=15, help="of each kind")
    parser.add_argument("--wall", action="store_true")
    given = parser.parse_args()
    clock = time.perf_counter if given.wall else time.process_time
    config = importlib.import_module(f"discovr_jax.configs.{given.config}").get_config()
    config.batch_size = given.batch or config.batch_size
    experiment, mesh = experiment_lib.make_experiment(config, 400), mesh_lib.make_mesh(config.mesh)
    state, batch = train.init_state(experiment, mesh, 0), _batch(config, mesh)
    steps = {}
    for name, patch in WITHOUT.items():
        with patch():
            compiled = experiment_lib.jit_train_step(experiment, config, mesh)
            state, metrics = jax.block_until_ready(compiled(state, _inputs(batch)))
        steps[name] = compiled
        if name == "nothing":
            whole = metrics
    seconds = {name: [] for name in steps}
    for _ in range(given.steps):
        for name, compiled in steps.items():
            start = clock()
            state, _ = jax.block_until_ready(compiled(state, _inputs(batch)))
            seconds[name].append(clock() - start)
    step = statistics.median(seconds["nothing"])
    print(f"{given.config}, {config.batch_size} clips per step, {jax.devices()[0].device_kind}: ", end="")
    print(f"{step:.3f} s {'of wall' if given.wall else 'of CPU'} time a step, median of {given.steps}\n")
    print("| protection | of the step | how |\n| --- | --- | --- |")
    for name, times in seconds.items():
        if name != "nothing":
            # Of steps made one after the other: what slows the machine slows both.
            ratios = [1 - without / full for without, full in zip(times, seconds["nothing"], strict=True)]
            print(f"| {name} | {100 * statistics.median(ratios):+.2f} % | steps without it |")
    with tempfile.TemporaryDirectory() as folder:
        for name, each, every in _beside(pathlib.Path(folder), experiment, config, state, whole, batch, clock, step):
            share = 100 * each / every / step
            print(f"| {name} | {share:+.3f} % | {1000 * each:.1f} ms every {every} step(s) |")


def _beside(folder, experiment, config, state, metrics, batch, clock, step):
    """(name, seconds, every how many steps) of what is done beside the step."""
    checkpoints = checkpoint.Checkpoints(folder)
    watch = step_watch.StepWatch(folder, state, 3, ["a"], checkpoints, {}, {})
    yield "every step looked at (not finite, spikes)", _time(lambda: watch.look(0, state, metrics, batch), clock), 1
    every = max(experiment.checkpoint_every, 1)
    arrays = {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(state))}
    yield "checksum of every array in a checkpoint", _time(lambda: checksums.of_arrays(arrays), clock), every
    log, number = metrics_log.MetricsLog(folder, 0), iter(range(1, 10**6))
    row = {n: float(v) for n, v in metrics.items()}
    yield "a line of metrics, on disk", _time(lambda: log.write(next(number), row), clock), experiment.log_every
    checkpoints.close()
    local = checkpoint.Checkpoints(folder / "local", keep=1)

    def save():
        local.save(next(number), state, {}, {})
        local.wait()

    every = round(config.checkpoint.local_seconds / step)
    yield "a checkpoint on the local disk, started and written", _time(save, clock, repeats=10), every
    local.close()


def _time(function, clock, repeats: int = 30) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = clock()
        function()
        times.append(clock() - start)
    return statistics.median(times)


def _batch(config, mesh) -> dict:
    size, rows, rng = config.data.image_size, config.batch_size, np.random.default_rng(0)
    batch = {
        "frames": rng.integers(0, 256, (rows, config.data.num_frames, size, size), np.uint8),
        "num_valid": np.full(rows, config.data.num_frames, np.int32),
        "dataset": np.zeros(rows, np.int32),
        "record": np.arange(rows, dtype=np.int32),
    }
    return {name: jax.device_put(value, mesh_lib.batch_sharding(mesh)) for name, value in batch.items()}


def _inputs(batch: dict) -> dict:
    return {name: batch[name] for name in ("frames", "num_valid")}


if __name__ == "__main__":
    main()
