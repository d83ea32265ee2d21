"""Several runs on the same test videos in one table, their differences paired, the paper's metrics beside.

python -m discovr_jax.main --mode=compare --workdirs=A,B,C [--workdir=OUT]

An item of --workdirs is a folder; several seeds of one recipe go into one column, NAME=SEED0+SEED1+SEED2, and are
averaged inside each resample. FOLDER:ENCODER is another encoder of that run, A:random say. Only results.json,
predictions.csv and config.json of the runs are read. OUT gets compare.md, compare.csv and compare.html.
"""

import csv
import dataclasses
import importlib
import io
import itertools
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.evaluation import interface, published, results_io, runner
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.evaluation.metrics import bootstrap
from discovr_jax.evaluation.report import display_names, html, table
from discovr_jax.runs.workdir import WorkdirError, flatten

logger = logging.getLogger(__name__)

RESAMPLES = 1000
# What must agree before two runs can be compared: key of results.json, what it is.
_SAME = {
    "schema_version": "schema version",
    "dataset": "dataset",
    "label_rule": "rule for abnormal videos",
    "manifest_sha256": "records or splits (manifest)",
}
# Metrics that mean something else than in older results: module, in what its newer entries differ, what changed.
_CHANGED = {
    "attentive": (
        lambda entry: ("head_seeds" in entry, entry["encoders"].get(results_lib.STUDIED, {}).get("chosen")),
        "the head, or the tokens that it reads, are others",
    ),
    "knn": (lambda entry: "head_seeds" in entry, "metrics named swept choose among more spaces"),
    "segmentation": (
        lambda entry: any(name.endswith("mask_ef_error_calibrated") for name in entry["metrics"]),
        "of each class the largest region alone counts",
    ),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What a workdir holds of its latest evaluation.

    Attributes:
      name: as given; encoder: of the run, "discovr" for the trained one; results: content of results.json.
      predictions: {(encoder, family): [row of predictions.csv]}.
      simulated: whether its videos are a phantom's.
    """

    name: str
    encoder: str
    results: dict[str, Any]
    predictions: dict[tuple[str, str], list[dict[str, str]]]
    simulated: bool


def compare_runs(workdirs: Sequence[str], directory: str | pathlib.Path) -> dict[str, Any]:
    """Compares the latest evaluations of runs and writes the table.

    Args:
      workdirs: items as in the module's header, at least two.
      directory: compare.md, compare.csv and compare.html go here.

    Returns:
      {"columns": {NAME: {FAMILY/METRIC: {"value", "low", "high"}}}, "paired": {"B - A": {...}}, "paper": {...},
      "notes": [...]}; the columns "NAME: ENCODER" are the baselines of the first run that no item names.

    Raises:
      WorkdirError: a run without an evaluation, or runs that cannot be compared; says what differs.
    """
    groups = {name: [read_run(path) for path in paths] for name, paths in parse(workdirs).items()}
    runs = [run for group in groups.values() for run in group]
    check_comparable(runs)
    first = runs[0].results
    comparison: dict[str, Any] = {"columns": {name: {} for name in groups}, "paired": {}, "notes": []}
    scored = [{name for name, e in run.results["readouts"].items() if run.encoder in e["encoders"]} for run in runs]
    families = [family for family in first["readouts"] if all(family in each for each in scored)]
    for run, each in zip(runs, scored, strict=True):
        if others := sorted(each - set(families)):
            comparison["notes"].append(f"Not in every run, so left out: {', '.join(others)} (of {run.name}).")
    for family in families:
        _score(family, groups, comparison)
    name, leader = next((name, group[0]) for name, group in groups.items())
    named = {results_lib.STUDIED, *(run.encoder for run in runs)}
    for encoder, metrics in leader.results["encoders"].items():
        if encoder not in named:
            comparison["columns"][f"{name}: {encoder}"] = metrics
    comparison["paper"] = published.published_metrics(first["dataset"])
    comparison["notes"] += _notes(runs)
    _write(comparison, first, pathlib.Path(directory))
    return comparison


def parse(workdirs: Sequence[str]) -> dict[str, list[str]]:
    """{column: folders} of items FOLDER, FOLDER+FOLDER or NAME=FOLDER+FOLDER.

    Raises:
      WorkdirError: fewer than two, or two of the same name.
    """
    groups: dict[str, list[str]] = {}
    for item in filter(None, workdirs):
        name, _, folders = item.rpartition("=")
        name = name or folders.rstrip("/")
        if name in groups:
            raise WorkdirError(f"--workdirs names {name} twice: give each column its own name, NAME=FOLDER")
        groups[name] = folders.split("+")
    if len(groups) < 2:
        raise WorkdirError(f"--workdirs needs two or more runs, separated by commas, got {len(groups)}")
    short = [pathlib.Path(name).name for name in groups]
    return dict(zip(short, groups.values(), strict=True)) if len(set(short)) == len(short) else groups


def read_run(item: str) -> Run:
    """The latest evaluation of a workdir; `item` is FOLDER or FOLDER:ENCODER.

    Raises:
      WorkdirError: there is none, it is damaged, or it was written by another version.
    """
    folder, _, encoder = item.rpartition(":")
    if not folder or "/" in encoder:  # gs://bucket/run
        folder, encoder = item, results_lib.STUDIED
    path = pathlib.Path(folder)
    again = f"score it again: --mode=eval --workdir={folder} with its --config"
    try:
        results = json.loads((path / "results.json").read_text(encoding="utf-8"))
        version = results["schema_version"]
        if version != runner.SCHEMA_VERSION:
            raise WorkdirError(
                f"{path / 'results.json'} has schema version {version}, this code reads "
                f"{runner.SCHEMA_VERSION}: {again}"
            )
        if encoder not in results["encoders"]:
            raise WorkdirError(f"{folder} has no encoder {encoder!r}; there are {', '.join(results['encoders'])}")
        below = path / "eval" / str(results["step"])
        places = (below / feature_extraction.folder(results["dataset"]), below)
        place = next(each for each in places if _same_results(each, results))
        with (place / "predictions.csv").open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        config = path / "config.json"
        data = json.loads(config.read_text(encoding="utf-8"))["data"] if config.exists() else {}
        if reader.fieldnames != list(results_io.PREDICTION_COLUMNS) or not _complete(rows):
            raise WorkdirError(f"{place / 'predictions.csv'} has other columns than this version writes: {again}")
    except FileNotFoundError as error:
        raise WorkdirError(f"{folder} holds no evaluation ({error.filename} is missing): {again}") from None
    except StopIteration:
        raise WorkdirError(f"{folder}: no folder below {below} holds the evaluation of results.json: {again}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkdirError(f"{folder}: its evaluation is damaged ({type(error).__name__}: {error}): {again}") from None
    grouped: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        grouped.setdefault((row["encoder"], row["family"]), []).append(row)
    simulated = any(data.get("simulate", {}).get(split) for split in feature_extraction.SPLITS)
    return Run(item, encoder, results, grouped, simulated)


def _same_results(folder: pathlib.Path, results: Mapping[str, Any]) -> bool:
    path = folder / "results.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8")) == results


def _complete(rows: Sequence[Mapping[str, str | None]]) -> bool:
    """Whether no line was cut short."""
    return all(None not in row and None not in row.values() for row in rows)


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuses runs that were not scored on the same videos by the same rule.

    Raises:
      WorkdirError: names what differs, and in which run.
    """
    first = runs[0]
    for run in runs[1:]:
        for key, what in _SAME.items():
            mine, theirs = first.results.get(key), run.results.get(key)
            if mine != theirs:
                raise WorkdirError(
                    f"{first.name} and {run.name} cannot be compared: another {what} ({mine} and {theirs}). Score both "
                    "on the same, with --mode=eval"
                )
        for family, entry in first.results["readouts"].items():
            other = run.results["readouts"].get(family, entry)
            if entry.get("bank") != other.get("bank"):
                raise WorkdirError(
                    f"{first.name} and {run.name} cannot be compared: {family} learned on {entry.get('bank')} and on "
                    f"{other.get('bank')}"
                )
            if (entry["type"], entry["field"]) != (other["type"], other["field"]):
                raise WorkdirError(
                    f"{first.name} and {run.name} cannot be compared: evaluator {family} is another "
                    f"({entry['type']} of {entry['field']} and {other['type']} of {other['field']})"
                )


def _score(family: str, groups: Mapping[str, Sequence[Run]], comparison: dict[str, Any]) -> None:
    """Metrics of one family for every column, and differences of every two, into `comparison`."""
    first = next(iter(groups.values()))[0]
    entry = first.results["readouts"][family]
    module = importlib.import_module(f"discovr_jax.evaluation.evaluators.{entry['type']}")
    scores = {f"{entry['family']}/{name}": module.METRICS[metric] for name, metric in entry["metrics"].items()}
    entries = [run.results["readouts"].get(family, {}) for group in groups.values() for run in group]
    newer, changed = _CHANGED.get(entry["type"], (bool, ""))
    if len({newer(each) for each in entries if each}) > 1:
        comparison["notes"].append(f"{family}: {changed} since the older of these evaluations. Score both again.")
    rows, bootstrapped = None, {}
    for name, group in groups.items():
        predictions = []
        for run in group:
            mine = run.predictions.get((run.encoder, family), [])
            if not mine:
                comparison["notes"].append(f"{family}: no predictions of {run.encoder} in {run.name}.")
                return
            try:
                trainings = run.results["readouts"][family].get("head_seeds", 1)  # older results: 1
                ids, patients, target, per_seed = _tabulate(mine, run.name, family, trainings)
            except ValueError as error:
                raise WorkdirError(f"{run.name}: predictions.csv is damaged ({family}: {error})") from None
            if rows is None:
                weights = bootstrap.weights_of(patients, RESAMPLES)
                rows = results_lib.Rows(ids, patients, target, weights)
            _check_rows(rows, ids, patients, target, f"{first.name} and {run.name}: {family}")
            predictions += per_seed
        bootstrapped[name] = results_lib.metrics_of(rows, scores, predictions)
        comparison["columns"][name] |= results_lib.summary(bootstrapped[name], rows.num_patients)
    for one, two in itertools.combinations(groups, 2):
        pair = results_lib.summary(results_lib.difference(bootstrapped[two], bootstrapped[one]), rows.num_patients)
        comparison["paired"].setdefault(f"{two} - {one}", {}).update(pair)


def _tabulate(lines: Sequence[Mapping[str, str]], name: str, family: str, trainings: int):
    """Rows of predictions.csv of one encoder and family -> ids, patients, target [N], [Predictions, one per seed].

    Seeds of an encoder have so many `trainings` of a head each, one after another.
    """
    seeds: dict[str, dict[str, list[Mapping[str, str]]]] = {}
    for line in lines:
        seeds.setdefault(line["seed"], {}).setdefault(line["output"], []).append(line)
    every = [part for outputs in seeds.values() for part in outputs.values()]
    ids = [line["id"] for line in every[0]]
    if any([line["id"] for line in part] != ids for part in every) or len(set(ids)) < len(ids):
        raise WorkdirError(f"{name}: predictions.csv does not list the same videos for every seed of {family}")
    per_seed = []
    for number, outputs in enumerate(seeds.values()):
        values = {key: np.array([float(line["prediction"]) for line in part]) for key, part in outputs.items()}
        test = values.pop("", None)
        per_seed.append(interface.Predictions(None, test, outputs=values, head_seed=number % trainings))
    target = np.array([float(line["target"]) for line in every[0]])
    return np.array(ids), np.array([int(line["patient"]) for line in every[0]]), target, per_seed


def _check_rows(rows: results_lib.Rows, ids, patients, target, where: str) -> None:
    """Raises WorkdirError unless the test rows are those of the first run, in the same order."""
    if len(ids) != len(rows.ids) or (ids != rows.ids).any():
        only = len(set(rows.ids) - set(ids)), len(set(ids) - set(rows.ids))
        raise WorkdirError(
            f"{where} were scored on other test videos ({only[0]} only in the first, {only[1]} only in the second, or "
            "in another order): score both on the same records, with --mode=eval"
        )
    if not np.array_equal(target, rows.target, equal_nan=True) or (patients != rows.patients).any():
        raise WorkdirError(f"{where} have other targets or patients for the same videos: score both on the same ones")


def _notes(runs: Sequence[Run]) -> list[str]:
    first = runs[0].results
    trained = [run for run in runs if run.encoder == results_lib.STUDIED]
    notes = [
        f"{first['n_test']} test videos of {first['n_test_patients']} patients, {first['dataset']}; abnormal: "
        f"{first['label_rule']}. In brackets: 95 % intervals, {RESAMPLES} resamples of patients; differences in the "
        "same resamples.",
    ]
    if trained:
        steps = (f"{pathlib.Path(run.name).name} {run.results['step']}" for run in trained)
        notes.append(f"Training steps: {', '.join(steps)}.")
    notes += [
        f"Other evaluation settings in {run.name}: {'; '.join(different)}."
        for run in runs[1:]
        if (different := _other_settings(run.results, first))
    ]
    if published.published_metrics(first["dataset"]):
        notes.append(
            "The paper's values are on its own splits with its own rule, neither of them published: read them beside, "
            "not against."
        )
    if any(run.simulated for run in runs):
        notes.append("These videos are simulated: the paper's values, of real ones, only show the order of magnitude.")
    return notes


def _other_settings(results: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    """What differs of the keys of config.eval that both have; results of before the keys were kept have none."""
    here, there = flatten(results.get("settings", {})), flatten(first.get("settings", {}))
    both = sorted(here.keys() & there.keys())
    return [f"eval.{key} {here[key]}, in the first {there[key]}" for key in both if here[key] != there[key]]


def _cells(comparison: Mapping[str, Any], first: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table: a metric a line, columns, differences and the paper."""
    head = ["metric", *comparison["columns"], *comparison["paired"], *(["paper"] if comparison["paper"] else [])]
    keys = display_names.ordered(dict.fromkeys(key for metrics in comparison["columns"].values() for key in metrics))
    lines = []
    for key in keys:
        named = display_names.described(first, key)
        line = [f"{named.family}: {named.metric}"]
        columns, paired, paper = (comparison[part] for part in ("columns", "paired", "paper"))
        line += [table.with_interval(each.get(key), named.digits) for each in columns.values()]
        line += [table.with_interval(each.get(key), named.digits, signed=True) for each in paired.values()]
        lines.append(line + ([f"{paper[key]:g}" if key in paper else ""] if paper else []))
    return head, lines


def markdown(comparison: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """The table and its notes, without a final newline; `first` is the content of a run's results.json."""
    head, lines = _cells(comparison, first)
    return "\n".join([table.markdown([head, *lines]), "", *(f"- {note}" for note in comparison["notes"])])


def _write(comparison: Mapping[str, Any], first: Mapping[str, Any], directory: pathlib.Path) -> None:
    results_io.write_text(directory / "compare.md", markdown(comparison, first) + "\n")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("kind", "name", "metric", "value", "low", "high"))
    for kind, group in (("run", comparison["columns"]), ("difference", comparison["paired"])):
        for name, metrics in group.items():
            for key, entry in metrics.items():
                numbers = ("" if entry[part] is None else entry[part] for part in ("value", "low", "high"))
                writer.writerow((kind, name, key, *numbers))
    for key, value in comparison["paper"].items():
        writer.writerow(("paper", "paper", key, value, "", ""))
    results_io.write_text(directory / "compare.csv", text.getvalue())
    head, lines = _cells(comparison, first)
    cells = [
        [html.cell(*line[0].split(": ", 1), css="name")]
        + [html.cell(value, interval.removesuffix(")")) for value, _, interval in (c.partition(" (") for c in line[1:])]
        for line in lines
    ]
    notes = (html.text(note, "muted") for note in comparison["notes"])
    body = html.section("All metrics", html.table(head, cells), *notes)
    lead = f"The same test videos of {first['dataset']} for every run. For research; not a medical device."
    results_io.write_text(directory / "compare.html", html.page("Runs compared", lead, [body]))
    logger.info("compared\n%s\nwritten to %s", markdown(comparison, first), directory)
