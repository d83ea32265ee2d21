"""Feature extraction of an evaluation: clips per second of the video encoder, all poolings."""

import argparse

import jax

from discovr_jax import train
from discovr_jax.benchmark import machine
from discovr_jax.benchmark.step import NUM_TRAIN, noise
from discovr_jax.evaluation import evaluate
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.parallel import mesh as mesh_lib

HELP = "the frozen encoder, as evaluation runs it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a config file or its name, with :arguments")
    parser.add_argument("--repeats", type=int, default=5, help="batches timed")


def run(given: argparse.Namespace) -> None:
    """Prints the table."""
    config = given.config
    experiment = experiment_lib.make_experiment(config, NUM_TRAIN)
    mesh = mesh_lib.make_mesh(config.mesh)
    params = evaluate.scored(train.init_state(experiment, mesh, config.seed), config.eval.readouts)
    embed = evaluate.make_embed(experiment.model, mesh, config.eval.map_side)
    batch = noise(config, config.eval.batch_size)
    times = machine.timed(
        lambda: jax.block_until_ready(embed(params, batch["frames"], batch["num_valid"])), given.repeats, 1
    )
    low, high = times.quartiles
    print(f"{machine.description()}; jax {jax.__version__}, {jax.device_count()} x {jax.devices()[0].device_kind}")
    print(f"{config.model.variant}, {config.model.dtype}, batch {config.eval.batch_size}\n")
    rows = [
        ("batch, median (quartiles)", f"{times.median:.3f} s ({low:.3f} to {high:.3f})"),
        ("clips per second", f"{config.eval.batch_size / times.median:.3g}"),
    ]
    print(machine.table(("", "value"), rows))
