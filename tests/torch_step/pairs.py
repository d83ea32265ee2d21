"""Our step and its re-statement in PyTorch, timed in turns on this machine; prints a table in Markdown.

python -m tests.torch_step.pairs --config=adult:variant=ti --config.model.dtype=float32 --config.batch_size=1

Each has a process of its own, which waits while the other works. A row is a pair: the median of --steps steps of ours,
then that of PyTorch. Peak memory is that of the process in these steps, without what compiling took.
"""

import argparse
import multiprocessing
import os
import sys
from multiprocessing.connection import Connection

import numpy as np

from discovr_jax.benchmark import machine

WARMUP = 2  # steps of each before the first pair


def _ours(pipe: Connection, config: str, overrides: list[str]) -> None:
    from discovr_jax import command_line
    from discovr_jax.benchmark import step

    _serve(pipe, step.prepare(command_line.read_config(config, overrides)).run)


def _theirs(pipe: Connection, sizes, batch: dict[str, np.ndarray]) -> None:
    import torch

    from tests.torch_step.network import Network
    from tests.torch_step.step import Step

    step = Step(Network(sizes), lr=1e-4, temperature=0.04, momentum=0.996)
    frames, num_valid = torch.from_numpy(batch["frames"]), torch.from_numpy(batch["num_valid"])
    _serve(pipe, lambda: step(frames, num_valid))


def _serve(pipe: Connection, run) -> None:
    """Answers a number of steps with their seconds and the peak of memory; ends at 0."""
    for _ in range(WARMUP):
        run()
    machine.reset_peak_memory()
    pipe.send("ready")
    while steps := pipe.recv():
        pipe.send((machine.timed(run, steps, 0).median, machine.peak_memory()))


def _start(function, *arguments) -> Connection:
    """A process that serves; it is ready, so that it takes no time from the next one."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    multiprocessing.get_context("spawn").Process(target=function, args=(there, *arguments), daemon=True).start()
    there.close()
    here.recv()
    return here


def _asked(pipe: Connection, steps: int) -> tuple[float, int]:
    pipe.send(steps)
    return pipe.recv()


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    import jax
    import torch

    from discovr_jax import command_line
    from discovr_jax.benchmark import step
    from discovr_jax.method import experiment as experiment_lib
    from tests.torch_step import ours

    parser = argparse.ArgumentParser(prog="python -m tests.torch_step.pairs", description=__doc__)
    parser.add_argument("--config", required=True, help="a config file or its name, with :arguments")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of which a median is taken")
    given, overrides = parser.parse_known_args(arguments)
    try:
        config = command_line.read_config(given.config, overrides)
        sizes = ours.sizes_of(config, experiment_lib.make_experiment(config, step.NUM_TRAIN))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{machine.description()}; jax {jax.__version__}, torch {torch.__version__}")
    print(f"{given.config} {' '.join(overrides)}: medians of {given.steps} steps\n")
    sides = [
        _start(_ours, given.config, overrides),
        _start(_theirs, sizes, step.noise(config, config.batch_size)),
    ]
    print(machine.table(("pair", "load", "ours, s", "PyTorch, s", "times as fast"), []), flush=True)
    medians, peaks = [], []
    for pair in range(1, given.pairs + 1):
        load = os.getloadavg()[0]
        seconds, memory = zip(*(_asked(side, given.steps) for side in sides), strict=True)
        medians.append(seconds)
        peaks.append(memory)
        cells = (f"{load:.1f}", *(f"{each:.2f}" for each in seconds), f"{seconds[1] / seconds[0]:.2f}")
        print(machine.row((pair, *cells)), flush=True)
    for side in sides:
        side.send(0)
    each, ratio = np.median(medians, axis=0), np.median([theirs / own for own, theirs in medians])
    print(machine.row(("median", "", *(f"{one:.2f}" for one in each), f"{ratio:.2f}")))
    print(machine.row(("peak, GB", "", *(f"{one / 1e9:.2f}" for one in np.max(peaks, axis=0)), "")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
