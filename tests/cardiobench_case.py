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

from discovr_jax.data import class_labels
from discovr_jax.evaluation import runner
from discovr_jax.evaluation.cardiobench import files, tasks
from tests import evaluation_case

COUNTS = {"train": 30, "val": 20, "test": 40}
SPLITS = {"0": ("1", "2"), "test": ("val", "train")}  # test -> val, train of a table


@dataclasses.dataclass(frozen=True)
class Case:
    """A set: our dataset, the evaluators, and the views that its videos take in turn.

    Attributes:
      dataset: ours, as configs name it; evaluators: as of `config.eval.evaluators`; views: of records.
    """

    dataset: str
    evaluators: dict
    views: tuple[str, ...] = ("A4C",)


LVEF = {"lvef": {"type": "regression", "field": "ef"}}
WALLS = {name: {"type": "regression", "field": name} for name in ("ivsd", "lvidd", "lvpwd")}
PROBE = {"probe": {"Cs": (0.1, 1.0)}}
VIEWS = {"classes": {"targets": ("view",), "Cs": (0.1, 1.0)}}
CASES = {
    "dynamic": Case("echonet_dynamic", LVEF),
    "pediatric": Case("echonet_pediatric", LVEF | VIEWS, ("A4C", "PSAX")),
    "lvh": Case("echonet_lvh", WALLS, ("PLAX",)),
    "camus": Case("camus", LVEF | VIEWS, ("A2C", "A4C")),
    "hmc_qu": Case("hmc_qu", PROBE | VIEWS, ("A2C", "A4C")),
    "asd": Case("cardiacnet/asd", PROBE),
    "pah": Case("cardiacnet/pah", PROBE),
    "segrwma": Case("segrwma", PROBE | VIEWS, ("A2C", "A3C", "A4C")),
    "tmed2": Case("tmed2", PROBE | VIEWS, ("PLAX", "PSAX", "A2C", "A4C", "Other")),
}


def evaluate(case: Case, folder: pathlib.Path, clone: pathlib.Path) -> dict:
    """Writes a workdir and the tables of `clone`/data/splits that are not there; returns results.json."""
    fields = _fields(case, clone)
    rng = np.random.default_rng(1)

    def features(noise):
        """Of which three tell the EF and the others the view, all of them with noise."""
        result = {}
        for split, columns in fields.items():
            views = np.array(columns["view"])[:, None] == np.array(case.views)
            ef = np.repeat((columns["ef"][:, None] - 50) / 10, 3, axis=1)
            known = np.concatenate([ef, views], axis=1)
            result[split] = {"cls": known + noise * rng.normal(size=known.shape)}
        return result

    settings = {"dataset": None, "readouts": ("cls",), "resamples": 20, "search_rows": 0, "evaluators": case.evaluators}
    config = ConfigDict({"seed": 0, "data": {"abnormal_rule": None, "dataset": case.dataset}, "eval": settings})
    encoders = {"discovr": [features(0.7)], "random": [features(3.0), features(3.0)]}
    evaluation = runner.evaluate_features(encoders, fields, config)
    runner.write(evaluation, folder, 7)
    return json.loads((folder / "results.json").read_text())


def _fields(case: Case, clone: pathlib.Path) -> dict:
    """Columns of every split; ids are the set's names."""
    served = tasks.of_dataset(case.dataset)
    if case.dataset in PUBLISHED and (clone / "data" / "splits" / served[-1].truth.file).exists():
        fields = _published(case, clone / "data" / "splits" / served[-1].truth.file)
    else:
        fields = _made_up(case)
        for task in served:
            _write_truth(task, fields, clone)
    texts = {split: [class_labels.encode({"view": view}) for view in each["view"]] for split, each in fields.items()}
    for target in class_labels.decode(texts):
        for split, values in target.values.items():
            fields[split] |= {"classes": np.array(texts[split]), target.field: values}
    return fields


def _made_up(case: Case) -> dict:
    fields = evaluation_case.make_fields(COUNTS, lambda row: row // 2)
    start = 0
    for columns in fields.values():
        numbers = np.arange(start, start + len(columns["ef"]))
        columns["ef"] = columns["ef"].round(2)
        columns |= {name: (columns["ef"] / ten).round(2) for name, ten in (("ivsd", 50), ("lvidd", 10), ("lvpwd", 60))}
        columns["view"] = np.array([case.views[number % len(case.views)] for number in numbers])
        named = zip(numbers, columns["view"], strict=True)
        columns["id"] = np.array([NAMES[case.dataset](number, view) for number, view in named])
        if case.dataset in ("camus", "tmed2"):  # both videos of a patient, all stills of a study, have its EF
            columns["ef"] = columns["ef"][numbers // 2 * 2 - start]
            columns["label"] = (columns["ef"] < 50).astype(np.float32)
        start += len(numbers)
    return fields


NAMES = {
    "echonet_dynamic": lambda number, view: f"0X{number + 2**60:X}",
    "echonet_lvh": lambda number, view: f"0X{number + 2**61:X}",
    "echonet_pediatric": lambda number, view: f"CR{number // 2}-S{number}-{number:06d}",
    "camus": lambda number, view: f"patient{number // 2 + 1:04d}_{view[1]}CH",
    "hmc_qu": lambda number, view: f"ES{number // 2:05d}_{view}",
    "cardiacnet/asd": lambda number, view: f"{number:03d}_image_patient-{number // 2}-4",
    "cardiacnet/pah": lambda number, view: f"PAH_{number:03d}",
    "segrwma": lambda number, view: f"patient{number // 3}-2D-{view}",
    "tmed2": lambda number, view: f"{number // 2}s1_{number % 2}",
}
# Of the rows that CardioBench publishes: the id of our records, and the column of the label.
PUBLISHED = {
    "hmc_qu": (lambda row: row["unique_id"], "STEMI"),
    "cardiacnet/asd": (lambda row: row["unique_id"], "ASD"),
    "cardiacnet/pah": (lambda row: row["unique_id"], "PAH"),
    "segrwma": (lambda row: f"{row['patient_id']}-{row['modality']}-{row['view']}", "abnormal"),
    "tmed2": (lambda row: row["query_key"].removesuffix(".png"), "diagnosis_label"),
}


def _published(case: Case, path: pathlib.Path) -> dict:
    """Columns of the videos of a table that CardioBench publishes."""
    identifier, column = PUBLISHED[case.dataset]
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("modality", "2D") == "2D"]
    fields, rng = {}, np.random.default_rng(2)
    for split in ("train", "val", "test"):
        chosen = [row for row in rows if row["split"] == split]
        label = np.array([float(row[column]) for row in chosen], np.float32)
        names = [identifier(row) for row in chosen]
        fields[split] = {
            "id": np.array(names),
            "patient_id": np.array([row.get("patient_id", name) for row, name in zip(chosen, names, strict=True)]),
            "ef": (52 - 4 * label + 2 * rng.normal(size=len(label))).astype(np.float32),
            "label": label,
            "view": np.array([row.get("view", "A4C").replace("A4CorA2CorOther", "Other") for row in chosen]),
        }
    return fields


def _write_truth(task: tasks.Task, fields: dict, clone: pathlib.Path) -> None:
    """The table that a task's script reads, all splits; of several tasks with one table each adds its columns."""
    val, train = SPLITS[task.truth.test]
    names = {"train": train, "val": val, "test": task.truth.test}
    rows = []
    for split, columns in fields.items():
        for number, (identifier, patient) in enumerate(zip(columns["id"], columns["patient_id"], strict=True)):
            row = {task.truth.split: names[split], "patient_id": str(patient), "Sex": "FM"[number % 2]}
            row |= {"Age": number % 90, "view": columns["view"][number]} | dict(task.truth.where)
            if task.kind != tasks.VIEW:
                part = {"lvef": "ef", "probe": "label"}.get(task.part, task.part)
                row[task.truth.column] = f"{columns[part][number]:g}"
            rows.append(row | _names(task, str(identifier), str(columns["view"][number])))
    path = clone / "data" / "splits" / task.truth.file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        with path.open(newline="") as file:
            rows = [before | row for before, row in zip(csv.DictReader(file), rows, strict=True)]
    if task.folder == "TMED2/AS":  # a row a study
        rows = list({row["study_id"]: row for row in rows}.values())
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _names(task: tasks.Task, identifier: str, view: str) -> dict:
    """Columns that name a video, as CardioBench's split scripts make them; written apart from `names.places`."""
    patient = identifier.partition("-" if task.dataset == "segRWMA" else "_")[0]
    return {
        "CAMUS": {
            "patient_id": patient, "view": identifier[-3:], "unique_id": identifier, "ImageQuality": "Good",
        },
        "EchoNet-Pediatric": {"FileName": f"{identifier}.avi", "Weight": 20, "Height": 110},
        "segRWMA": {"patient_id": patient, "patient_view_id": f"{patient}_{view}"},
        "TMED2": {
            "study_id": patient, "query_key": f"{identifier}.png", "view": view.replace("Other", "A4CorA2CorOther"),
        },
    }.get(task.dataset, {task.key: identifier})  # fmt: skip


def main() -> None:
    clone = pathlib.Path(sys.argv[1])
    predictions = clone / "evaluation" / "example_predictions"
    for name, case in CASES.items():
        if name == "dynamic" and (clone / "data" / "splits" / "EchoNet-Dynamic").exists():
            continue
        workdir = clone / "runs" / name
        evaluate(case, workdir, clone)
        for file in files.write(str(workdir), predictions, name="modelname", cardiobench=clone):
            print(name, file, flush=True)
    for script in sys.argv[2:]:
        subprocess.run([sys.executable, f"evaluation/{script}.py"], cwd=clone, check=True)


if __name__ == "__main__":
    main()
