"""Feature extraction of an evaluation: clips per second of the video encoder, all poolings.

With --rows=N instead: every configured evaluator of pooled features on N made-up videos, in seconds and memory.
"""

import argparse
import dataclasses
import sys
import time

import jax
import numpy as np

from discovr_jax import train
from discovr_jax.benchmark import machine
from discovr_jax.benchmark.step import NUM_TRAIN, noise
from discovr_jax.evaluation import evaluate, prediction_cache, runner
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.parallel import mesh as mesh_lib

HELP = "the frozen encoder, as evaluation runs it, or (--rows) the evaluators"
_SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
_TYPES = ("anomaly", "knn", "probe", "regression", "retrieval")
_WIDTH = 768  # features per video, of ViT-B


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a config file or its name, with :arguments")
    parser.add_argument("--repeats", type=int, default=5, help="batches timed")
    parser.add_argument("--rows", type=int, default=0, help="videos of the evaluators; 0 times the encoder")


def run(given: argparse.Namespace) -> None:
    """Prints the table."""
    config = given.config
    if given.rows:
        print(f"{machine.description()}; numpy {np.__version__}\n{given.rows} videos of {_WIDTH} features\n")
        heads = ("evaluator", "its metric", "recall", "s", "CPU s, fit", "CPU s, intervals", "peak MB")
        print(machine.table(heads, evaluator_rows(config, given.rows)))
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


@dataclasses.dataclass(frozen=True)
class _Meter(prediction_cache.Store):
    """Caches nothing, and notes what each evaluator takes: from its fit to that of the next one, intervals included."""

    since: list = dataclasses.field(default_factory=list)
    rows: list = dataclasses.field(default_factory=list)

    def table(self, name: str, head, data, make):
        del head, data
        self.close()
        machine.reset_peak_memory()
        self.since[:] = name.partition("-")[2], time.perf_counter(), time.process_time()
        result = make()
        self.since.append(time.process_time())
        return result

    def close(self) -> None:
        """Ends the last evaluator's time."""
        if not self.since:
            return
        name, wall, start, fitted = self.since
        now = time.process_time()
        memory = f"{machine.peak_memory() / 1e6:.0f}"
        times = (f"{each:.1f}" for each in (time.perf_counter() - wall, fitted - start, now - fitted))
        self.rows.append((name, *times, memory))
        print(machine.row(self.rows[-1]), file=sys.stderr, flush=True)


def evaluator_rows(config, rows: int) -> list[tuple[str, ...]]:
    """One line per evaluator of pooled features, its bootstrap included. They run in one evaluation, so the search for
    neighbours counts for the first that asks.

    Peak memory is the whole process's; memory-mapped features that were read count in it.
    """
    config = config.copy_and_resolve_references()
    config.eval.readouts = ("mean",)
    config.eval.evaluators = {n: o for n, o in runner.chosen(config).items() if o["type"] in _TYPES}
    meter = _Meter()
    features, fields = made_up(rows)
    encoders = {results_lib.STUDIED: [{split: {"mean": each} for split, each in features.items()}]}
    results = runner.evaluate_features(encoders, fields, config, store=meter).results
    meter.close()
    table = []
    for name, *measured in meter.rows:
        metric, entry = next(
            each for each in results["encoders"][results_lib.STUDIED].items() if each[0].startswith(f"{name}/")
        )
        details = results["readouts"][name]["encoders"][results_lib.STUDIED]["details"][0]
        recall = f"{details['neighbour_recall']:.3f}" if "neighbour_recall" in details else ""
        value = f"{metric} {entry['value']:.5f} [{entry['low']:.5f}, {entry['high']:.5f}]"
        table.append((name, value, recall, *measured))
    return table


def made_up(rows: int) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """Features {split: float [N, 768]} and columns: EF, and a label (EF below 50), both linear in the features.

    As cached features are, they are float32, and of many videos float16 and memory-mapped.
    """
    rng = np.random.default_rng(0)
    direction = rng.normal(size=_WIDTH).astype(np.float32) / 10
    features, fields = {}, {}
    for split, share in _SHARES.items():
        count = round(share * rows)
        ef = rng.normal(55, 8, count).astype(np.float32)
        features[split] = feature_cache.room((count, _WIDTH), np.float32)
        for start in range(0, count, 10_000):
            part = slice(start, start + 10_000)
            noise = rng.standard_normal(features[split][part].shape, np.float32)
            features[split][part] = noise + (1 + np.outer((ef[part] - 55) / 8, direction))
        names = np.array([f"{split}{row}" for row in range(count)])
        fields[split] = {"id": names, "patient_id": names, "ef": ef, "label": (ef < 50).astype(np.float32)}
    return features, fields
