"""Feature extraction of an evaluation: clips per second of the video encoder, all poolings.

With --rows=N instead: every configured evaluator of pooled features on N made-up videos, in seconds and memory.
"""

import argparse
import time
from collections.abc import Iterator

import jax
import numpy as np

from discovr_jax import train
from discovr_jax.benchmark import machine
from discovr_jax.benchmark.step import NUM_TRAIN, noise
from discovr_jax.evaluation import evaluate, runner
from discovr_jax.evaluation import results as results_lib
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.parallel import mesh as mesh_lib

HELP = "the frozen encoder, as evaluation runs it, or (--rows) the evaluators"
_SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
_WIDTH = 768  # features per video, of ViT-B


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a config file or its name, with :arguments")
    parser.add_argument("--repeats", type=int, default=5, help="batches timed")
    parser.add_argument("--rows", type=int, default=0, help="videos of the evaluators; 0 times the encoder")


def run(given: argparse.Namespace) -> None:
    """Prints the table."""
    config = given.config
    if given.rows:
        print(f"{machine.description()}; numpy {np.__version__}\n{given.rows} videos of {_WIDTH} float32\n")
        print(machine.table(("evaluator", "its metric", "s", "CPU s", "peak MB"), []))
        for row in evaluator_rows(config, given.rows):
            print(machine.row(row), flush=True)
        return
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


def evaluator_rows(config, rows: int) -> Iterator[tuple[str, ...]]:
    """One line per evaluator of pooled features, its bootstrap included, as they are done.

    Peak memory is the whole process's, the features included.
    """
    features, fields = made_up(rows)
    encoders = {results_lib.STUDIED: [{split: {"mean": each} for split, each in features.items()}]}
    for name, options in runner.chosen(config).items():
        if options["type"] not in ("knn", "anomaly", "probe", "regression", "retrieval"):
            continue
        alone = config.copy_and_resolve_references()
        alone.eval.evaluators, alone.eval.readouts = {name: options}, ("mean",)
        machine.reset_peak_memory()
        wall, cpu = time.perf_counter(), time.process_time()
        found = runner.evaluate_features(encoders, fields, alone)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        metric, entry = next(iter(found.results["encoders"][results_lib.STUDIED].items()))
        value = f"{metric} {entry['value']:.5f} [{entry['low']:.5f}, {entry['high']:.5f}]"
        yield name, value, f"{wall:.1f}", f"{cpu:.1f}", f"{machine.peak_memory() / 1e6:.0f}"


def made_up(rows: int) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """Features {split: float32 [N, 768]} and columns: EF, and a label (EF below 50), both linear in the features."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=_WIDTH).astype(np.float32) / 10
    features, fields = {}, {}
    for split, share in _SHARES.items():
        count = round(share * rows)
        ef = rng.normal(55, 8, count).astype(np.float32)
        features[split] = rng.standard_normal((count, _WIDTH), np.float32)
        for start in range(0, count, 10_000):
            features[split][start : start + 10_000] += 1 + np.outer((ef[start : start + 10_000] - 55) / 8, direction)
        names = np.array([f"{split}{row}" for row in range(count)])
        fields[split] = {"id": names, "patient_id": names, "ef": ef, "label": (ef < 50).astype(np.float32)}
    return features, fields
