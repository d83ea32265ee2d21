"""Evaluations of made-up videos that have the names of CardioBench's sets, and its tables of what is right.

The evaluators are the real ones; the tables hold what CardioBench's scripts read, in its layout.

python -m tests.cardiobench_case CLONE    runs CardioBench's own scripts on our files, in a clone with its data/splits;
                                          the tables that it does not publish are written there, made up
"""

import csv
import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
from ml_collections import ConfigDict

from discovr_jax.evaluation import runner
from discovr_jax.evaluation.cardiobench import files, tasks
from tests import evaluation_case

COUNTS = {"train": 30, "val": 20, "test": 40}
SPLITS = {"0": ("1", "2"), "test": ("val", "train")}  # test -> val, train of a table


@dataclasses.dataclass(frozen=True)
class Case:
    """A set: our dataset, the evaluators, CardioBench's tables, and what ours and its metrics are called.

    Attributes:
      dataset: ours; evaluators: as of `config.eval.evaluators`; task: the one that is chosen, empty for all.
    """

    dataset: str
    evaluators: dict
    task: str = ""


LVEF = {"lvef": {"type": "regression", "field": "ef"}}
WALLS = {name: {"type": "regression", "field": name} for name in ("ivsd", "lvidd", "lvpwd")}
PROBE = {"probe": {"Cs": (0.1, 1.0)}}
CASES = {
    "dynamic": Case("echonet_dynamic", LVEF),
    "pediatric": Case("echonet_pediatric", LVEF),
    "lvh": Case("echonet_lvh", WALLS),
    "camus": Case("camus", LVEF),
    "stemi": Case("echo_folder", PROBE, "HMCQU/stemi"),
    "asd": Case("echo_folder", PROBE, "CardiacNet/ASD"),
    "pah": Case("echo_folder", PROBE, "CardiacNet/PAH"),
    "rwma": Case("echo_folder", PROBE, "segRWMA/rwma"),
}


def evaluate(case: Case, folder: pathlib.Path, clone: pathlib.Path) -> dict:
    """Writes a workdir and the tables of `clone`/data/splits that are not there; returns results.json."""
    served = [tasks.named(case.task)] if case.task else tasks.of_builder(case.dataset)
    fields = _fields(case, served, clone)
    rng = np.random.default_rng(1)

    def features(noise):
        return {
            split: {"cls": (columns["ef"][:, None] - 50) / 10 + noise * rng.normal(size=(len(columns["ef"]), 6))}
            for split, columns in fields.items()
        }

    settings = {"dataset": None, "readouts": ("cls",), "resamples": 20, "search_rows": 0, "evaluators": case.evaluators}
    config = ConfigDict({"seed": 0, "data": {"abnormal_rule": None, "dataset": case.dataset}, "eval": settings})
    encoders = {"discovr": [features(0.7)], "random": [features(3.0), features(3.0)]}
    evaluation = runner.evaluate_features(encoders, fields, config)
    runner.write(evaluation, folder, 7)
    return json.loads((folder / "results.json").read_text())


def _fields(case: Case, served: list[tasks.Task], clone: pathlib.Path) -> dict:
    """Columns of every split; ids are the set's names."""
    published = clone / "data" / "splits" / served[0].truth.file
    if case.task and published.exists():
        return _published(served[0], published)
    fields = evaluation_case.make_fields(COUNTS, lambda row: row // 2)
    start = 0
    for columns in fields.values():
        numbers = np.arange(start, start + len(columns["ef"]))
        columns["ef"] = columns["ef"].round(2)
        columns |= {name: (columns["ef"] / ten).round(2) for name, ten in (("ivsd", 50), ("lvidd", 10), ("lvpwd", 60))}
        columns["id"] = np.array([NAMES[case.task or case.dataset](number) for number in numbers])
        if case.dataset == "camus":  # both views of a patient have its EF
            columns["ef"] = columns["ef"][numbers // 2 * 2 - start]
            columns["label"] = (columns["ef"] < 50).astype(np.float32)
        start += len(numbers)
    for task in served:
        _write_truth(task, fields, clone)
    return fields


NAMES = {
    "echonet_dynamic": lambda number: f"0X{number + 2**60:X}",
    "echonet_lvh": lambda number: f"0X{number + 2**61:X}",
    "echonet_pediatric": lambda number: f"CR{number // 2}-S{number}-{number:06d}",
    "camus": lambda number: f"patient{number // 2 + 1:04d}_{2 + 2 * (number % 2)}CH",
    "HMCQU/stemi": lambda number: f"A{2 + 2 * (number % 2)}C/ES{number // 2}_CH_{number}.avi",
    "CardiacNet/ASD": lambda number: f"ASD/{number:03d}_image.nii/patient-{number // 2}-4_image.nii",
    "CardiacNet/PAH": lambda number: f"PAH/{number:03d}_image.nii/P{number // 2}-4_image.nii",
    "segRWMA/rwma": lambda number: f"patient{number // 2}-2D-A{2 + number % 2}C_image.nii.gz",
}


def _published(task: tasks.Task, path: pathlib.Path) -> dict:
    """Columns of the videos of a table that CardioBench publishes; ids are paths."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row[k] == v for k, v in task.truth.where.items())]
    fields, rng = {}, np.random.default_rng(2)
    for split in ("train", "val", "test"):
        chosen = [row for row in rows if row["split"] == split]
        label = np.array([float(row[task.truth.column]) for row in chosen], np.float32)
        fields[split] = {
            "id": np.array([row["path"] for row in chosen]),
            "patient_id": np.array([row["patient_id"] for row in chosen]),
            "ef": (52 - 4 * label + 2 * rng.normal(size=len(label))).astype(np.float32),
            "label": label,
        }
    return fields


def _write_truth(task: tasks.Task, fields: dict, clone: pathlib.Path) -> None:
    """The table that a task's script reads, all splits."""
    val, train = SPLITS[task.truth.test]
    names = {"train": train, "val": val, "test": task.truth.test}
    rows = []
    for split, columns in fields.items():
        for number, (identifier, patient) in enumerate(zip(columns["id"], columns["patient_id"], strict=True)):
            value = columns["label" if task.binary else {"lvef": "ef"}.get(task.part, task.part)][number]
            row = {task.truth.split: names[split], task.truth.column: f"{value:g}", "patient_id": str(patient)}
            row |= {"Sex": "FM"[number % 2], "Age": number % 90, "view": "A4C"} | dict(task.truth.where)
            rows.append(row | _names(task, str(identifier)))
    path = clone / "data" / "splits" / task.truth.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _names(task: tasks.Task, identifier: str) -> dict:
    """Columns that name a video, as CardioBench's split scripts make them; written apart from `names.places`."""
    stem = identifier.rpartition("/")[2]
    if task.dataset == "CAMUS":
        patient, _, view = identifier.partition("_")
        return {"patient_id": patient, "view": view, "unique_id": identifier, "ImageQuality": "Good"}
    if task.dataset == "EchoNet-Pediatric":
        return {"FileName": f"{identifier}.avi", "Weight": 20, "Height": 110}
    if task.dataset == "HMCQU":
        view = identifier[:3]
        return {"path": f"data/raw/HMC_QU/videos/{identifier}", "unique_id": f"{stem.partition('_')[0]}_{view}"}
    if task.dataset == "CardiacNet":
        unique = "_".join(part.partition(".")[0] for part in identifier.split("/")[1:]).removesuffix("_image")
        return {"path": f"data/raw/CardiacNet/{identifier}", "unique_id": unique}
    if task.dataset == "segRWMA":
        patient, _, view = stem.partition("_")[0].split("-")
        return {"path": f"data/raw/wallMotion/{identifier}", "patient_id": patient, "view": view}
    return {task.key: identifier}


def main() -> None:
    clone = pathlib.Path(sys.argv[1])
    predictions = clone / "evaluation" / "example_predictions"
    for name, case in CASES.items():
        if name == "dynamic" and (clone / "data" / "splits" / "EchoNet-Dynamic").exists():
            continue
        workdir = clone / "runs" / name
        evaluate(case, workdir, clone)
        for file in files.write(str(workdir), predictions, name="modelname", task=case.task, cardiobench=clone):
            print(name, file, flush=True)
    for script in sys.argv[2:]:
        subprocess.run([sys.executable, f"evaluation/{script}.py"], cwd=clone, check=True)


if __name__ == "__main__":
    main()
