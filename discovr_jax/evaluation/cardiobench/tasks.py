"""The sets and tasks of CardioBench, what each reads, and whether we serve it: the one list of them.

Folders, columns and files are those of its `evaluation/config.py` and `evaluation/*.py`.
"""

import dataclasses
from collections.abc import Mapping

SERVED, NO_BUILDER, NOT_WRITTEN = "served", "builder missing", "not written yet"


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
    """One task: a folder of prediction files, FOLDER/NAME.csv with the columns `key` and `column`.

    Attributes:
      dataset, name: CardioBench's; folder: "DATASET/TASK", of the prediction files.
      script: file of its `evaluation/`.
      key: column that names a row; column: of the prediction.
      builder: ours that reads the set; empty if none does.
      part: of our predictions.csv; empty if no evaluator predicts it.
      truth: empty where nothing is served.
      missing: what is missing, for a task that is not served.
    """

    dataset: str
    name: str
    script: str
    key: str
    column: str
    builder: str = ""
    part: str = ""
    truth: Truth = Truth()
    missing: str = ""

    @property
    def folder(self) -> str:
        """Where its prediction files lie, below `evaluation/example_predictions`."""
        return f"{self.dataset}/{self.name}"

    @property
    def binary(self) -> bool:
        """Whether 0 or 1 is predicted, instead of a measurement."""
        return self.part == "probe"

    @property
    def status(self) -> str:
        """SERVED, NO_BUILDER or NOT_WRITTEN."""
        return NO_BUILDER if not self.builder else SERVED if self.part else NOT_WRITTEN


def _measured(dataset: str, name: str, script: str, key: str, builder: str, part: str, truth: Truth) -> Task:
    return Task(dataset, name, script, key, f"{name}_pred", builder, part, truth)


def _diagnosis(dataset: str, name: str, script: str, key: str, truth: Truth) -> Task:
    """A label of two classes; the files are read by echo_folder, with the list that `listing` writes."""
    return Task(dataset, name, script, key, f"{name.lower()}_pred", "echo_folder", "probe", truth)


def _view(dataset: str, script: str, key: str, builder: str) -> Task:
    missing = "stills; a builder of pictures" if not builder else "files of the evaluator `classes`"
    return Task(dataset, "view", script, key, "view_pred, prob_VIEW", builder, missing=missing)


_RWMA = Truth("segrwma_split.csv", "abnormal", where={"modality": "2D"})
TASKS = (
    _measured(
        "EchoNet-Dynamic", "EF", "echonet_dynamic.py", "FileName", "echonet_dynamic", "lvef",
        Truth("EchoNet-Dynamic/FileList.csv", "EF", split="Split"),
    ),
    _view("EchoNet-Dynamic", "echonet_dynamic.py", "FileName", "echonet_dynamic"),
    _measured(
        "EchoNet-Pediatric", "EF", "echonet_pediatric.py", "FileName", "echonet_pediatric", "lvef",
        Truth("echonet_pediatric_filelist.csv", "EF", split="Split", test="0"),
    ),
    _view("EchoNet-Pediatric", "echonet_pediatric.py", "FileName", "echonet_pediatric"),
    *(
        _measured(
            "EchoNet-LVH", name, "echonet_lvh.py", "HashedFileName", "echonet_lvh", name.lower(),
            Truth(f"echonet_lvh/{name}_split.csv", "CalcValue"),
        )
        for name in ("IVSd", "LVIDd", "LVPWd")
    ),
    _view("EchoNet-LVH", "echonet_lvh.py", "HashedFileName", "echonet_lvh"),
    _measured("CAMUS", "EF", "camus.py", "patient_id", "camus", "lvef", Truth("camus_split.csv", "EF")),
    _view("CAMUS", "camus.py", "unique_id", "camus"),
    _diagnosis("HMCQU", "stemi", "hmcqu.py", "unique_id", Truth("hmcqu_split.csv", "STEMI")),
    _view("HMCQU", "hmcqu.py", "unique_id", "echo_folder"),
    _diagnosis("CardiacNet", "ASD", "cardiacnet.py", "unique_id", Truth("cardiacnet/cardiacnet_asd_split.csv", "ASD")),
    _diagnosis("CardiacNet", "PAH", "cardiacnet.py", "unique_id", Truth("cardiacnet/cardiacnet_pah_split.csv", "PAH")),
    _view("CardiacNet", "cardiacnet.py", "unique_id", "echo_folder"),
    _diagnosis("segRWMA", "rwma", "rwma.py", "patient_id", _RWMA),
    _view("segRWMA", "rwma.py", "patient_view_id", "echo_folder"),
    Task("TMED2", "AS", "tmed2.py", "study_id", "as_pred", missing="stills; a builder of pictures, and three classes"),
    _view("TMED2", "tmed2.py", "query_key", ""),
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


def of_builder(builder: str) -> list[Task]:
    """The tasks that predictions for videos of one of our builders serve."""
    return [task for task in TASKS if task.builder == builder and task.status == SERVED]


def table() -> list[list[str]]:
    """Head and lines: every set and task, its columns, what of ours serves it, and whether."""
    lines = [["set/task", "script", "columns", "builder", "part of predictions.csv", "status"]]
    for task in TASKS:
        status = task.status + (f": {task.missing}" if task.missing else "")
        lines.append(
            [task.folder, task.script, f"{task.key}, {task.column}", task.builder or "-", task.part or "-", status]
        )
    return lines
