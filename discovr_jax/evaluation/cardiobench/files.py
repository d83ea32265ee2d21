"""From predictions.csv of a run to prediction files of CardioBench.

    latest evaluation of a run
      -> rows of one encoder and task, per seed
      -> CardioBench's names for them, averaged where it has one row per patient
      -> checked against its own table of the test split, where there is one
      -> FOLDER/DATASET/TASK/NAME.csv, and what its script should print of it
"""

import csv
import dataclasses
import io
import math
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from discovr_jax.evaluation import compare, results_io
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.cardiobench import names, tasks, views
from discovr_jax.evaluation.cardiobench.tasks import CardioBenchError, Task
from discovr_jax.evaluation.evaluators import classes as class_evaluator
from discovr_jax.evaluation.metrics import classes as class_metrics
from discovr_jax.evaluation.metrics import videos as video_metrics

# Its scripts take a name with "_" for a view's or leave it out (echonet_pediatric.py, tmed2.py, the box plots).
_NAME = re.compile(r"[A-Za-z0-9.-]+")
_REGRESSION = {"MAE": video_metrics.mae, "RMSE": video_metrics.rmse, "R2(%)": video_metrics.r2}
_BINARY = {"Balanced_Accuracy(%)": video_metrics.balanced_accuracy, "F1(%)": video_metrics.macro_f1}
# Sets of which several videos make one prediction, their mean.
_SEVERAL = ("CAMUS/EF", "TMED2/AS")
# Of results.json, which predictions must give.
_CHECKED = {
    tasks.MEASURED: ("mae", video_metrics.mae),
    tasks.BINARY: ("macro_f1", video_metrics.macro_f1),
    tasks.VIEW: ("macro_f1", class_metrics.macro_f1),
}
# {key: float64 [1 + K], the target and what is predicted}.
_ByKey = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Predictions:
    """Of one seed, for N videos.

    Attributes:
      ids: of the videos; target: float64 [N].
      values: float64 [N], what is predicted, or [N, K], probabilities of `classes`.
    """

    ids: Sequence[str]
    target: np.ndarray
    values: np.ndarray
    classes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class PredictionFile:
    """One file.

    Attributes:
      path: below the output folder; rows: of it.
      expected: {metric as CardioBench calls it: value}, of the rows whose target is known.
      absent: test rows of CardioBench's table without a prediction, which its script leaves out; None if not checked.
    """

    path: str
    rows: int
    expected: Mapping[str, float]
    absent: int | None


def write(
    workdir: str,
    output: str | pathlib.Path,
    *,
    name: str = "",
    task: str = "",
    cardiobench: str | pathlib.Path | None = None,
) -> list[PredictionFile]:
    """Writes the files of every task that a run's latest evaluation serves.

    Args:
      workdir: of the run, or WORKDIR:ENCODER for another encoder of it, as `compare` takes them.
      output: folder; `CLONE/evaluation/example_predictions` is where CardioBench's config looks.
      name: of the model, and of its files; the encoder's by default. Several seeds are numbered.
      task: "DATASET/TASK"; all that are served by default.
      cardiobench: a clone, whose data/splits says which rows are test.

    Returns:
      What was written.

    Raises:
      WorkdirError: the run holds no evaluation.
      CardioBenchError: nothing is served, names cannot be recovered, or the videos are not of the test split.

    Example: `write("runs/adult", "predictions")` writes `predictions/EchoNet-Dynamic/EF/discovr.csv`.
    """
    run = compare.read_run(workdir)
    name = _checked(name or run.encoder)
    made: list[tuple[PredictionFile, str]] = []
    for one in _tasks(run, task):
        table = None if cardiobench is None else truth_table(one, cardiobench)
        seeds = _by_seed(run.predictions[run.encoder, one.part], one)
        _check_results(run, one, seeds)
        for seed, predictions in seeds.items():
            numbered = name + (seed if len(seeds) > 1 else "")
            for ending, by_key in _grouped(one, predictions).items():
                absent = None if table is None else _absent(one, by_key, table, ending)
                made.append(_made(one, f"{one.folder}/{numbered}{ending}.csv", by_key, absent))
    return _written(made, output)


def write_table(
    table: str | pathlib.Path,
    output: str | pathlib.Path,
    task: str,
    cardiobench: str | pathlib.Path,
    name: str = results_lib.STUDIED,
) -> list[PredictionFile]:
    """The same of a table that `discovr_jax.predict` wrote for the set's files: measurements of test videos.

    Ids must be the files' paths, as they are unless --hide_paths was given. Videos of other splits are left out.

    Raises:
      CardioBenchError: the task is of classes, a number is withheld, or no file is of the test split.
    """
    import pyarrow.parquet as pq

    one, name = tasks.named(task), _checked(name)
    truth = truth_table(one, cardiobench)
    known = pq.read_schema(table).names
    if one.kind != tasks.MEASURED or one.part not in known:
        raise CardioBenchError(f"{table} has no column {one.part} for {task}; classes are served by a run alone")
    columns = pq.read_table(table, columns=["id", one.part]).to_pydict()
    rows = [(names.of_file(one, path), value) for path, value in zip(*columns.values(), strict=True)]
    wanted = truth.test_keys()
    chosen = [row for row in rows if {key for _, key in names.places(one, row[0])} & wanted]
    if not chosen:
        raise CardioBenchError(f"{table}: none of {len(rows)} files is of the test split of {truth.path}")
    if withheld := sum(value is None for _, value in chosen):
        raise CardioBenchError(
            f"{table}: {withheld} of {len(chosen)} test videos have no {one.part}: predict --show_out_of_distribution"
        )
    ids, values = zip(*chosen, strict=True)
    made = []
    for ending, by_key in _grouped(one, _Predictions(ids, np.full(len(ids), np.nan), np.array(values, float))).items():
        view = ending.removeprefix("_").upper()
        known_too = {key: np.array([truth.value(key, view), *each[1:]]) for key, each in by_key.items()}
        made.append(_made(one, f"{one.folder}/{name}{ending}.csv", known_too, _absent(one, known_too, truth, ending)))
    return _written(made, output)


def _written(made: Sequence[tuple[PredictionFile, str]], output: str | pathlib.Path) -> list[PredictionFile]:
    for file, text in made:
        results_io.write_text(pathlib.Path(output) / file.path, text)
    return [file for file, _ in made]


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise CardioBenchError(f"name '{name}': letters, digits, '.' and '-' alone; its scripts read '_' as a view")
    return name


def _tasks(run: compare.Run, chosen: str) -> list[Task]:
    """Those that the run's predictions serve."""
    dataset = run.results["dataset"]
    found = [tasks.named(chosen)] if chosen else tasks.of_dataset(dataset)
    if chosen and found[0].status != tasks.SERVED:
        raise CardioBenchError(f"{chosen} is not served: {found[0].missing}")
    if chosen and found[0] not in tasks.of_dataset(dataset):
        raise CardioBenchError(f"{chosen} needs records of {found[0].builder}; the run was scored on {dataset}")
    usable = [one for one in found if (run.encoder, one.part) in run.predictions]
    if not usable:
        parts = ", ".join(one.part for one in found) or "nothing"
        raise CardioBenchError(
            f"{run.name}: no prediction of {run.encoder} for {dataset} that CardioBench asks for ({parts} of "
            "predictions.csv). See the evaluation's `skipped`, and `python -m discovr_jax.evaluation.cardiobench tasks`"
        )
    return usable


def truth_table(task: Task, cardiobench: str | pathlib.Path) -> names.TruthTable:
    """What a clone of CardioBench says of a task.

    Raises:
      CardioBenchError: the task is not served, or the table is missing or unusable.
    """
    if task.status != tasks.SERVED:
        raise CardioBenchError(f"{task.folder} is not served: {task.missing}")
    path = pathlib.Path(cardiobench) / "data" / "splits" / task.truth.file
    if not path.is_file():
        raise CardioBenchError(f"{path}: no such file, which {task.script} reads; see CardioBench's docs/downloads.md")
    return names.TruthTable(task, path)


def _by_seed(rows: Sequence[Mapping[str, str]], task: Task) -> dict[str, _Predictions]:
    """{seed: its predictions}."""
    of_views, marker = task.kind == tasks.VIEW, class_evaluator.PROBABILITY
    # {seed: {output: {id: (target, prediction)}}}; of a measurement or a label the only output has no name.
    seeds: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}
    for row in rows:
        if row["output"].startswith(marker) if of_views else row["output"] == "":  # others are further outputs
            of_output = seeds.setdefault(row["seed"], {}).setdefault(row["output"], {})
            if row["id"] in of_output:
                raise CardioBenchError(f"{task.folder}: a video is twice in predictions.csv, which is damaged")
            of_output[row["id"]] = float(row["target"]), float(row["prediction"])
    result = {}
    for seed, outputs in seeds.items():
        first, *others = outputs.values()
        if any(each.keys() != first.keys() for each in others):
            raise CardioBenchError(f"{task.folder}: a video lacks a probability in predictions.csv, which is damaged")
        target = np.array([pair[0] for pair in first.values()])
        values = np.array([[each[video][1] for each in outputs.values()] for video in first])
        if not (np.isfinite(target).all() and np.isfinite(values).all()):
            raise CardioBenchError(f"{task.folder}: a prediction is not a number; its script would leave the video out")
        classes = [name.removeprefix(marker) for name in outputs] if of_views else ()
        result[seed] = _Predictions(list(first), target, values if of_views else values[:, 0], classes)
    return result


def _check_results(run: compare.Run, task: Task, seeds: Mapping[str, _Predictions]) -> None:
    """Refuses predictions that do not give the metric of results.json: they are edited, or of another evaluation."""
    name, metric = _CHECKED[task.kind]
    values = [float(metric(one.target, one.values, np.ones((1, len(one.ids))))[0]) for one in seeds.values()]
    said = run.results["encoders"][run.encoder][f"{task.part}/{name}"]["value"]
    if said is None or not math.isclose(said, np.mean(values), rel_tol=1e-9):
        raise CardioBenchError(
            f"{task.folder}: predictions.csv of {run.name} gives another {task.part}/{name} than results.json. One "
            "of them was changed or is of another evaluation: score it again, with --mode=eval"
        )


def _grouped(task: Task, predictions: _Predictions) -> dict[str, _ByKey]:
    """By the ending of the file's name, the row of each key; means where several videos share a key."""
    target, values = predictions.target, predictions.values
    if predictions.classes:
        target, values = views.in_order(predictions.classes, target, values)
    gathered: dict[str, dict[str, list[np.ndarray]]] = {}
    for identifier, row in zip(predictions.ids, np.column_stack([target, values]), strict=True):
        for ending, key in names.places(task, identifier):
            gathered.setdefault(ending, {}).setdefault(key, []).append(row)
    for by_key in gathered.values():
        if task.folder not in _SEVERAL and max(map(len, by_key.values())) > 1:
            raise CardioBenchError(f"{task.folder}: two videos have the same name for CardioBench")
    return {
        ending: {key: np.mean(rows, axis=0) for key, rows in by_key.items()} for ending, by_key in gathered.items()
    }


def _absent(task: Task, by_key, table: names.TruthTable, ending: str) -> int:
    """How many test rows have no prediction. Raises where predictions are for other videos."""
    wanted = table.test_keys(ending.removeprefix("_").upper())
    if others := len(by_key.keys() - wanted):
        hint = ""
        if task.dataset == "EchoNet-Pediatric":
            hint = ": fold 0 is its test split, so prepare with --test_fold=0 --val_fold=1"
        raise CardioBenchError(
            f"{task.folder}: {others} of {len(by_key)} predictions are not for videos of its test split ({table.path})"
            f"{hint}. Its script would leave them out, and the run may have been trained on its test videos"
        )
    return len(wanted - by_key.keys())


def _made(task: Task, path: str, by_key: _ByKey, absent: int | None) -> tuple[PredictionFile, str]:
    """A file and its text."""
    rows = np.array(list(by_key.values()))
    rows_known = rows[np.isfinite(rows[:, 0])]  # rows without a target do not count there either
    target, values = rows_known[:, 0], rows_known[:, 1]
    cells: list[list[str | float]]
    if task.kind == tasks.VIEW:
        expected = views.expected(target.astype(int), rows_known[:, 1:])
        cells = [views.cells(row[1:]) for row in rows]
    else:
        expected, ones = {}, np.ones((1, len(target)))
        for metric, function in (_BINARY if task.kind == tasks.BINARY else _REGRESSION).items():
            value = float(function(target, values, ones)[0])
            expected[metric] = 100 * value if metric.endswith("(%)") else value
        predicted = rows[:, 1] if task.kind == tasks.MEASURED else (rows[:, 1] > video_metrics.THRESHOLD).astype(int)
        cells = [[each] for each in predicted.tolist()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((task.key, *task.columns))
    writer.writerows([key, *row] for key, row in zip(by_key, cells, strict=True))
    return PredictionFile(path, len(by_key), expected, absent), text.getvalue()
