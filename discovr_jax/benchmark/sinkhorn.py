"""Sinkhorn-Knopp on the scores of one batch: iterated logarithms beside products of the exponentiated scores."""

import argparse

import jax
import numpy as np

from discovr_jax.benchmark import machine
from discovr_jax.losses.sinkhorn import sinkhorn
from discovr_jax.method import experiment as experiment_lib

HELP = "the assignment of tokens to prototypes"
FORMS = {"logarithms (any scores)": None, "products (cosines)": 1.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a config file or its name, with :arguments")
    parser.add_argument("--repeats", type=int, default=10, help="calls timed")


def run(given: argparse.Namespace) -> None:
    """Prints the table: time, rate of reading the scores (twice an iteration), difference of the assignments."""
    config = given.config
    model, options = experiment_lib.make_model(config), experiment_lib.make_options(config)
    shape = config.batch_size * model.grid.tokens, model.num_prototypes
    scores = jax.numpy.asarray(np.random.default_rng(0).uniform(-0.9, 0.9, shape), "float32")
    print(machine.description())
    print(f"{shape[0]} x {shape[1]} scores, epsilon {options.scd_epsilon}, {options.scd_iterations} iterations\n")
    rows, first = [], None
    for name, bound in FORMS.items():
        form = jax.jit(
            lambda scores, bound=bound: sinkhorn(scores, options.scd_epsilon, options.scd_iterations, bound=bound)
        )
        result = form(scores)
        first = result if first is None else first
        times = machine.timed(lambda form=form: jax.block_until_ready(form(scores)), given.repeats, 1)
        reading = 2 * options.scd_iterations * scores.nbytes / times.median
        difference = float(abs(result - first).max())
        rows.append((name, f"{1e3 * times.median:.1f}", f"{reading / 1e9:.1f}", f"{difference:.1e}"))
    print(machine.table(("form", "ms", "GB/s of scores read", "largest difference"), rows))
