"""The sets and tasks of CardioBench, what each reads, and whether we serve it: the one list of them.

Folders, columns and files are those of its `evaluation/config.py` and `evaluation/*.py`.
"""

import dataclasses
from collections.abc import Mapping

SERVED, NOT_SERVED = "served", "not served"
# In the order of its scripts' columns; what is none of the others is the last, which the scripts work out.
VIEWS = ("A2C", "A3C", "A4C", "PSAX", "PLAX", "Other")
MEASURED, BINARY, VIEW = "measurement", "0 or 1", "view"


class CardioBenchError(ValueError):
    """No file of CardioBench can be made of these predictions; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Truth:
    """A table of CardioBench's `data/splits`, which says what is right and which rows are the test split.

    Attributes:
      file: below data/splits; column: of the label or measurement.
      split, test: column of the split, and its value for test, as the script compares it.
      where: {column: value} of the rows that the script keeps.
    """

    file: str = ""
    column: str = ""
    split: str = "split"
    test: str = "test"
    where: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
    """One task: a folder of prediction files, FOLDER/NAME.csv with the columns `key` and those of the prediction.

    Attributes:
      dataset, name: CardioBench's; folder: "DATASET/TASK", of the prediction files.
      script: file of its `evaluation/`.
      key: column that names a row.
      kind: MEASURED, BINARY or VIEW.
      builder: ours that reads the set, with the variant after a slash where there are some.
      part: of our predictions.csv.
      truth: empty where nothing is served.
      missing: what is missing, for a task that is not served.
    """

    dataset: str
    name: str
    script: str
    key: str
    kind: str
    builder: str
    part: str
    truth: Truth = Truth()
    missing: str = ""

    @property
    def folder(self) -> str:
        """Where its prediction files lie, below `evaluation/example_predictions`."""
        return f"{self.dataset}/{self.name}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the prediction."""
        if self.kind == VIEW:
            return ("view_pred", *(f"prob_{view}" for view in VIEWS[:-1]))
        return (f"{self.name if self.kind == MEASURED else self.name.lower()}_pred",)

    @property
    def status(self) -> str:
        """SERVED or NOT_SERVED."""
        return NOT_SERVED if self.missing else SERVED


def _measured(dataset: str, name: str, script: str, key: str, builder: str, part: str, truth: Truth) -> Task:
    return Task(dataset, name, script, key, MEASURED, builder, part, truth)


def _diagnosis(dataset: str, name: str, script: str, key: str, builder: str, truth: Truth) -> Task:
    """A label of two classes, by the linear probe."""
    return Task(dataset, name, script, key, BINARY, builder, "probe", truth)


def _views(dataset: str, script: str, key: str, builder: str, truth: Truth) -> Task:
    """The views, by the evaluator `classes`."""
    return Task(dataset, "view", script, key, VIEW, builder, "classes_view", truth)


def _one_view(dataset: str, script: str, key: str, builder: str) -> Task:
    missing = "all videos are of one view, so no head can be fitted"
    return Task(dataset, "view", script, key, VIEW, builder, "classes_view", missing=missing)


_RWMA = {"file": "segrwma_split.csv", "where": {"modality": "2D"}}
_PEDIATRIC = {"file": "echonet_pediatric_filelist.csv", "split": "Split", "test": "0"}
TASKS = (
    _measured(
        "EchoNet-Dynamic", "EF", "echonet_dynamic.py", "FileName", "echonet_dynamic", "lvef",
        Truth("EchoNet-Dynamic/FileList.csv", "EF", split="Split"),
    ),
    _one_view("EchoNet-Dynamic", "echonet_dynamic.py", "FileName", "echonet_dynamic"),
    _measured(
        "EchoNet-Pediatric", "EF", "echonet_pediatric.py", "FileName", "echonet_pediatric", "lvef",
        Truth(column="EF", **_PEDIATRIC),
    ),
    _views(
        "EchoNet-Pediatric", "echonet_pediatric.py", "FileName", "echonet_pediatric", Truth(column="view", **_PEDIATRIC)
    ),
    *(
        _measured(
            "EchoNet-LVH", name, "echonet_lvh.py", "HashedFileName", "echonet_lvh", name.lower(),
            Truth(f"echonet_lvh/{name}_split.csv", "CalcValue"),
        )
        for name in ("IVSd", "LVIDd", "LVPWd")
    ),
    _one_view("EchoNet-LVH", "echonet_lvh.py", "HashedFileName", "echonet_lvh"),
    _measured("CAMUS", "EF", "camus.py", "patient_id", "camus", "lvef", Truth("camus_split.csv", "EF")),
    _views("CAMUS", "camus.py", "unique_id", "camus", Truth("camus_split.csv", "view")),
    _diagnosis("HMCQU", "stemi", "hmcqu.py", "unique_id", "hmc_qu", Truth("hmcqu_split.csv", "STEMI")),
    _views("HMCQU", "hmcqu.py", "unique_id", "hmc_qu", Truth("hmcqu_split.csv", "view")),
    *(
        _diagnosis(
            "CardiacNet", name, "cardiacnet.py", "unique_id", f"cardiacnet/{name.lower()}",
            Truth(f"cardiacnet/cardiacnet_{name.lower()}_split.csv", name),
        )
        for name in ("ASD", "PAH")
    ),
    _one_view("CardiacNet", "cardiacnet.py", "unique_id", "cardiacnet"),
    _diagnosis("segRWMA", "rwma", "rwma.py", "patient_id", "segrwma", Truth(column="abnormal", **_RWMA)),
    _views("segRWMA", "rwma.py", "patient_view_id", "segrwma", Truth(column="view", **_RWMA)),
    _diagnosis("TMED2", "AS", "tmed2.py", "study_id", "tmed2", Truth("tmed2/per_study.csv", "diagnosis_label")),
    _views("TMED2", "tmed2.py", "query_key", "tmed2", Truth("tmed2/per_image.csv", "view")),
)  # fmt: skip


def named(folder: str) -> Task:
    """The task "DATASET/TASK".

    >>> named("EchoNet-LVH/IVSd").part
    'ivsd'

    Raises:
      CardioBenchError: there is none of that name.
    """
    for task in TASKS:
        if task.folder == folder:
            return task
    raise CardioBenchError(f"no task {folder!r}; there are {', '.join(task.folder for task in TASKS)}")


def of_dataset(dataset: str) -> list[Task]:
    """The tasks that predictions for the videos of a dataset, as configs name it, serve.

    >>> [task.folder for task in of_dataset("hmc_qu")]
    ['HMCQU/stemi', 'HMCQU/view']
    """
    names = (dataset, dataset.partition("/")[0])
    return [task for task in TASKS if task.builder in names and task.status == SERVED]


def table() -> list[list[str]]:
    """Head and lines: every set and task, its columns, what of ours serves it, and whether."""
    lines = [["set/task", "script", "columns", "builder", "part of predictions.csv", "status"]]
    for task in TASKS:
        columns = ", ".join((task.key, *(("view_pred", "prob_VIEW") if task.kind == VIEW else task.columns)))
        status = task.status + (f": {task.missing}" if task.missing else "")
        lines.append([task.folder, task.script, columns, task.builder, "-" if task.missing else task.part, status])
    return lines
