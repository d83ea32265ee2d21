"""A small search over recipes, judged on the validation split only.

python -m discovr_jax.search --config=configs/ablations.py --workdir=runs/search --output=docs/results/search.jsonl
    [--trials=NAME,...] [--steps=300] [--seed=0]

The config file has TRIALS, {name: overrides}. Each trial trains in its own folder (resumable), then one JSON line with
its overrides, seed, steps, commit and validation metrics is appended to the output. Trials with a line are skipped.
"""

import argparse
import csv
import importlib.util
import json
import logging
import pathlib
import sys
import time

import jax
import numpy as np

from discovr_jax import storage, train
from discovr_jax.data import mixture, pipeline, records
from discovr_jax.evaluation import evaluate, runner
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.method import experiment
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.runs import metrics_log

PENALTIES = np.logspace(0, 5, 11)
MONITORS = ("loss/", "teacher/vid/entropy", "teacher/img/entropy", "scd/", "features/rank")


def validation_metrics(splits: dict[str, dict[str, np.ndarray]], targets: dict[str, dict[str, np.ndarray]]) -> dict:
    """What linear models trained on `train` read from the features of `val`.

    Args:
      splits: {"train" | "val": {readout: float [N, D]}}.
      targets: {"train" | "val": {attribute: float [N]}}; "ef" in percent, others as they come.

    Returns:
      {readout: {attribute: R2}}, penalty chosen by leave-one-out inside `train`.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    result = {}
    for readout, train_features in feature_cache.add_all(splits)["train"].items():
        scaler = StandardScaler().fit(train_features)
        x, query = scaler.transform(train_features), scaler.transform(feature_cache.add_all(splits)["val"][readout])
        result[readout] = {}
        for name in targets["train"]:
            y, truth = targets["train"][name], targets["val"][name]
            predicted = RidgeCV(PENALTIES).fit(x, y).predict(query)
            r2 = 1 - np.square(truth - predicted).sum() / np.square(truth - truth.mean()).sum()
            result[readout][name] = round(float(r2), 4)
    return result


def run_trial(name: str, config, directory: pathlib.Path) -> dict:
    """Train one config and read its video teacher on the validation split. Returns the line for the output."""
    started = time.monotonic()
    config.eval.at_end = False
    summary = train.train_and_evaluate(config, str(directory))
    if not summary.finished:
        sys.exit("stopped by SIGTERM; the same command resumes")
    seconds = time.monotonic() - started
    sources = {split: mixture.open_source(config.data, config.data.dataset, split) for split in ("train", "val")}
    chosen = pipeline.training_records({config.data.dataset: sources["train"]}, config.data)
    built = experiment.make_experiment(config, len(chosen[config.data.dataset]))
    mesh = mesh_lib.make_mesh(config.mesh)
    embed = evaluate.make_embed(built.model, mesh, config.eval.map_side)
    params = evaluate.scored(summary.state, ())
    untrained = next(evaluate.untrained_weights(built, [config.seed + 1], mesh, ()))
    embeds = [*(lambda f, n, p=p: embed(p, f, n) for p in (params, untrained)), feature_extraction.pixels().embed]
    splits = [{}, {}, {}]
    for split, source in sources.items():
        with pipeline.eval_batches(source, config, batch_size=config.eval.batch_size) as batches:
            for slot, readouts in zip(
                splits, feature_cache.extract_features(embeds, batches, len(source)), strict=True
            ):
                slot[split] = readouts
    targets = {split: attributes(config, source) for split, source in sources.items()}
    rows = [row for row in metrics_log.read_metrics(directory) if "loss/total" in row]
    return {
        "trial": name,
        "seed": config.seed,
        "steps": built.total,
        "seconds": round(seconds),
        "commit": runner.commit_id(),
        "val_r2": validation_metrics(splits[0], targets),
        "val_r2_untrained": validation_metrics(splits[1], targets),
        "val_r2_pixels": validation_metrics(splits[2], targets),
        "monitors": {key: round(v, 4) for key, v in rows[-1].items() if key.startswith(MONITORS)},
    }


def attributes(config, source) -> dict[str, np.ndarray]:
    """EF, and for a phantom what the simulator drew (heart rate, gain, position, ...): float [N] each."""
    fields = records.record_fields(source, ["id", "ef"])
    path = pathlib.Path(config.data.data_dir) / "native" / config.data.dataset / "attributes.csv"
    result = {"ef": np.asarray(fields["ef"], np.float64)}
    if not path.exists():
        return result
    with path.open(newline="") as file:
        rows = {pathlib.Path(row["FileName"]).stem: row for row in csv.DictReader(file)}
    wanted = [rows[video] for video in fields["id"]]
    for name in wanted[0]:
        try:
            column = np.array([float(row[name]) for row in wanted])
        except ValueError:
            continue
        if np.isfinite(column).all() and column.std() > 0:
            result.setdefault(name.lower(), column)
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m discovr_jax.search", description=__doc__)
    parser.add_argument("--config", required=True, help="a config file with TRIALS")
    parser.add_argument("--workdir", required=True, help="one folder a trial goes here")
    parser.add_argument("--output", required=True, help="JSON lines, one a trial")
    parser.add_argument("--data_dir", default="", help="records; default: the config's")
    parser.add_argument("--trials", default="", help="names of trials, comma-separated; default: all")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(storage.expand_home(argv))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("absl", "jax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache" / "discovr_jax" / "xla"))
    spec = importlib.util.spec_from_file_location("ablations", experiment.config_path(args.config))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    output = pathlib.Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    done = {(row["trial"], row["steps"], row["seed"]) for row in map(json.loads, lines)}
    for name in args.trials.split(",") if args.trials else module.TRIALS:
        if (name, args.steps, args.seed) in done:
            continue
        config = module.get_config(f"trial={name},steps={args.steps}")
        config.seed = args.seed
        config.data.data_dir = args.data_dir or config.data.data_dir
        row = run_trial(name, config, pathlib.Path(args.workdir) / f"{name}-{args.steps}-{args.seed}")
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row | {"overrides": module.TRIALS[name]}) + "\n")
        best = max(row["val_r2"], key=lambda readout: row["val_r2"][readout]["ef"])
        logging.info("%s: EF R2 on validation %.3f (%s)", name, row["val_r2"][best]["ef"], best)
    return 0


if __name__ == "__main__":
    sys.exit(main())
