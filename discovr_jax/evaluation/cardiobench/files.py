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
from discovr_jax.evaluation.cardiobench import names, tasks
from discovr_jax.evaluation.cardiobench.tasks import CardioBenchError, Task
from discovr_jax.evaluation.metrics import videos as video_metrics

# Its scripts take a name with "_" for a view's or leave it out (echonet_pediatric.py, tmed2.py, the box plots).
_NAME = re.compile(r"[A-Za-z0-9.-]+")
_REGRESSION = {"MAE": video_metrics.mae, "RMSE": video_metrics.rmse, "R2(%)": video_metrics.r2}
_CLASSES = {"Balanced_Accuracy(%)": video_metrics.balanced_accuracy, "F1(%)": video_metrics.macro_f1}


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
    private_dir: str | pathlib.Path | None = None,
) -> list[PredictionFile]:
    """Writes the files of every task that a run's latest evaluation serves.

    Args:
      workdir: of the run, or WORKDIR:ENCODER for another encoder of it, as `compare` takes them.
      output: folder; `CLONE/evaluation/example_predictions` is where CardioBench's config looks.
      name: of the model, and of its files; the encoder's by default. Several seeds are numbered.
      task: "DATASET/TASK"; needed for videos that echo_folder read.
      cardiobench: a clone, whose data/splits says which rows are test; needed for the same.
      private_dir: of `prepare echo_folder`, where ids are keyed hashes.

    Returns:
      What was written.

    Raises:
      WorkdirError: the run holds no evaluation.
      CardioBenchError: nothing is served, names cannot be recovered, or the videos are not of the test split.

    Example: `write("runs/adult", "predictions")` writes `predictions/EchoNet-Dynamic/EF/discovr.csv`.
    """
    run = compare.read_run(workdir)
    name = _checked(name or run.encoder)
    id_map = None if private_dir is None else names.read_id_map(private_dir)
    made: list[tuple[PredictionFile, str]] = []
    for one in _tasks(run, task):
        table = None if cardiobench is None else truth_table(one, cardiobench)
        seeds = _by_seed(run.predictions[run.encoder, one.part], one)
        _check_results(run, one, seeds)
        for seed, rows in seeds.items():
            numbered = name + (seed if len(seeds) > 1 else "")
            for ending, by_key in _grouped(one, rows, table, id_map).items():
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
    if one.binary or one.part not in known:
        raise CardioBenchError(f"{table} has no column {one.part} for {task}; classes are served by a run alone")
    columns = pq.read_table(table, columns=["id", one.part]).to_pydict()
    rows = [(names.of_file(one, path), math.nan, value) for path, value in zip(*columns.values(), strict=True)]
    wanted = truth.test_keys()
    chosen = [row for row in rows if {key for _, key in names.places(one, row[0], truth)} & wanted]
    if not chosen:
        raise CardioBenchError(f"{table}: none of {len(rows)} files is of the test split of {truth.path}")
    if withheld := sum(value is None for _, _, value in chosen):
        raise CardioBenchError(
            f"{table}: {withheld} of {len(chosen)} test videos have no {one.part}: predict --show_out_of_distribution"
        )
    made = []
    for ending, by_key in _grouped(one, chosen, truth, None).items():
        view = ending.removeprefix("_").upper()
        pairs = {key: (truth.value(key, view), prediction) for key, (_, prediction) in by_key.items()}
        made.append(_made(one, f"{one.folder}/{name}{ending}.csv", pairs, _absent(one, pairs, truth, ending)))
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
    builder = run.results["dataset"].partition("/")[0]
    found = [tasks.named(chosen)] if chosen else tasks.of_builder(builder)
    if chosen and found[0].status != tasks.SERVED:
        raise CardioBenchError(f"{chosen} is not served: {found[0].status} ({found[0].missing})")
    if chosen and found[0].builder != builder:
        raise CardioBenchError(f"{chosen} needs records of {found[0].builder}; the run was scored on {builder}")
    if not chosen and builder == "echo_folder":
        raise CardioBenchError(f"say which of {', '.join(one.folder for one in found)} the folder holds: --task")
    usable = [one for one in found if (run.encoder, one.part) in run.predictions]
    if not usable:
        parts = ", ".join(one.part for one in found) or "nothing"
        raise CardioBenchError(
            f"{run.name}: no prediction of {run.encoder} for {builder} that CardioBench asks for ({parts} of "
            "predictions.csv). See the evaluation's `skipped`, and `python -m discovr_jax.evaluation.cardiobench tasks`"
        )
    return usable


def truth_table(task: Task, cardiobench: str | pathlib.Path) -> names.TruthTable:
    """What a clone of CardioBench says of a task.

    Raises:
      CardioBenchError: the task is not served, or the table is missing or unusable.
    """
    if task.status != tasks.SERVED:
        raise CardioBenchError(f"{task.folder} is not served: {task.status} ({task.missing})")
    path = pathlib.Path(cardiobench) / "data" / "splits" / task.truth.file
    if not path.is_file():
        raise CardioBenchError(f"{path}: no such file, which {task.script} reads; see CardioBench's docs/downloads.md")
    return names.TruthTable(task, path)


def _by_seed(rows: Sequence[Mapping[str, str]], task: Task) -> dict[str, list[tuple[str, float, float]]]:
    """{seed: [(id, target, prediction)]}."""
    seeds: dict[str, list[tuple[str, float, float]]] = {}
    for row in rows:
        if row["output"] == "":  # others are further outputs of the evaluator
            seeds.setdefault(row["seed"], []).append((row["id"], float(row["target"]), float(row["prediction"])))
    for each in seeds.values():
        if len({identifier for identifier, _, _ in each}) < len(each):
            raise CardioBenchError(f"{task.folder}: a video is twice in predictions.csv, which is damaged")
        if not all(math.isfinite(number) for _, *numbers in each for number in numbers):
            raise CardioBenchError(f"{task.folder}: a prediction is not a number; its script would leave the video out")
    return seeds


def _check_results(run: compare.Run, task: Task, seeds: Mapping[str, Sequence[tuple[str, float, float]]]) -> None:
    """Refuses predictions that do not give the metric of results.json: they are edited, or of another evaluation."""
    name, metric = ("macro_f1", video_metrics.macro_f1) if task.binary else ("mae", video_metrics.mae)
    values = []
    for rows in seeds.values():
        target, prediction = np.array([numbers for _, *numbers in rows]).T
        values.append(float(metric(target, prediction, np.ones((1, len(rows))))[0]))
    said = run.results["encoders"][run.encoder][f"{task.part}/{name}"]["value"]
    if said is None or not math.isclose(said, np.mean(values), rel_tol=1e-9):
        raise CardioBenchError(
            f"{task.folder}: predictions.csv of {run.name} gives another {task.part}/{name} than results.json. One "
            "of them was changed or is of another evaluation: score it again, with --mode=eval"
        )


def _grouped(task: Task, rows, table, id_map) -> dict[str, dict[str, tuple[float, float]]]:
    """{ending of the file's name: {key: (target, prediction)}}, means where several videos share a key."""
    gathered: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for identifier, *numbers in rows:
        for ending, key in names.places(task, identifier, table, id_map):
            gathered.setdefault(ending, {}).setdefault(key, []).append(tuple(numbers))
    several = task.dataset == "CAMUS"
    for by_key in gathered.values():
        if not several and max(map(len, by_key.values())) > 1:
            raise CardioBenchError(f"{task.folder}: two videos have the same name for CardioBench")
    return {
        ending: {key: tuple(np.mean(pairs, axis=0)) for key, pairs in by_key.items()}
        for ending, by_key in gathered.items()
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


def _made(task: Task, path: str, by_key, absent: int | None) -> tuple[PredictionFile, str]:
    """A file and its text."""
    target, prediction = np.array(list(by_key.values())).T
    known = np.isfinite(target)  # rows without a target do not count there either
    ones, expected = np.ones((1, known.sum())), {}
    for metric, function in (_CLASSES if task.binary else _REGRESSION).items():
        value = float(function(target[known], prediction[known], ones)[0])
        expected[metric] = 100 * value if metric.endswith("(%)") else value
    if task.binary:
        prediction = (prediction > video_metrics.THRESHOLD).astype(int)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((task.key, task.column))
    writer.writerows(zip(by_key, prediction.tolist(), strict=True))
    return PredictionFile(path, len(by_key), expected, absent), text.getvalue()
