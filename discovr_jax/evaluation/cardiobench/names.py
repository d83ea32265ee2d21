"""What CardioBench calls a video of ours.

Our builders of public sets take ids from the sets' own names, so an id says the name: EchoNet-Dynamic and -LVH
(0X and hexadecimal digits), -Pediatric (PATIENT-STUDY-NUMBER), CAMUS (patient0001_2CH). What `echo_folder` reads has
its path for an id (--show_paths), or a keyed hash that `id_map.csv` of the private folder resolves; the path is looked
up in CardioBench's own split table. Any other id is refused.
"""

import csv
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from discovr_jax.data import private
from discovr_jax.evaluation.cardiobench.tasks import CardioBenchError, Task

_HEXADECIMAL = re.compile(r"0X[0-9A-F]{1,16}")
_NAMED = {
    "EchoNet-Dynamic": _HEXADECIMAL,
    "EchoNet-LVH": _HEXADECIMAL,
    "EchoNet-Pediatric": re.compile(r"[^-/]+-[^-/]+-[^-/.]+"),
    "CAMUS": re.compile(r"(patient\d{4})_(2CH|4CH)"),
}
# File of predictions, by the ending of its name, and key of the row in it.
Places = Sequence[tuple[str, str]]


def places(task: Task, identifier: str, table: "TruthTable | None", id_map: Mapping[str, str] | None = None) -> Places:
    """The rows that the prediction for one video goes to, each (ending of the file's name, key).

    CAMUS has a file for both views, averaged per patient, and one for each; segRWMA one for each view.

    Raises:
      CardioBenchError: the id says no name, or the table does not know it.
    """
    if task.dataset not in _NAMED:
        if table is None:
            raise CardioBenchError(f"{task.folder}: names of these files are in {task.truth.file}: give --cardiobench")
        row = table.row_of((id_map or {}).get(identifier, identifier))
        ending = f"_{row['view'].lower()}" if task.dataset == "segRWMA" else ""
        return [(ending, row[task.key])]
    match = _NAMED[task.dataset].fullmatch(identifier)
    if match is None:
        raise CardioBenchError(
            f"{task.folder}: an id of the records is no name of {task.dataset}, so CardioBench's cannot be told. "
            f"Prepare the set with its own builder, `python -m discovr_jax.prepare {task.builder}`, which keeps names"
        )
    if task.dataset == "CAMUS":
        return [("", match[1]), (f"_{match[2]}", match[1])]
    return [("", f"{identifier}.avi" if task.dataset == "EchoNet-Pediatric" else identifier)]


def of_file(task: Task, path: str) -> str:
    """The id that our builder of a set gives a file of it.

    CAMUS' patient0001_2CH_half_sequence.nii.gz is patient0001_2CH.
    """
    stem = path.rpartition("/")[2].partition(".")[0]
    return stem.removesuffix("_half_sequence") if task.dataset == "CAMUS" else stem


class TruthTable:
    """A table of CardioBench's `data/splits`.

    Attributes:
      rows: those of the task, of every split; path: of the file.

    Raises:
      CardioBenchError: it lacks a column, or has no test row.
    """

    def __init__(self, task: Task, path: pathlib.Path):
        self.path, self._task, truth = path, task, task.truth
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [{name: (cell or "").strip() for name, cell in row.items() if name} for row in reader]
        if missing := sorted({task.key, truth.split, truth.column, *truth.where} - set(reader.fieldnames or ())):
            raise CardioBenchError(f"{path} lacks the columns {', '.join(missing)}, which {task.script} reads")
        self.rows = [row for row in rows if all(row[name] == value for name, value in truth.where.items())]
        if not self.test_keys():
            raise CardioBenchError(self._no_test(f"{path}: no row has {truth.split} '{truth.test}'"))
        self._by_name: dict[str, list[dict[str, str]]] = {}
        for row in self.rows:
            self._by_name.setdefault(row.get("path", "").rpartition("/")[2], []).append(row)

    def test_keys(self, view: str = "") -> set[str]:
        """Keys of the test rows, of one view where one is given."""
        test = [row for row in self.rows if row[self._task.truth.split] == self._task.truth.test]
        return {row[self._task.key] for row in test if not view or row["view"] == view}

    def value(self, key: str, view: str = "") -> float:
        """The measurement of a test row; of several of one key the first, as the scripts have it."""
        truth, name = self._task.truth, self._task.key
        rows = (row for row in self.rows if row[name] == key and row[truth.split] == truth.test)
        return float(next(row for row in rows if not view or row["view"] == view)[truth.column] or "nan")

    def row_of(self, path: str) -> dict[str, str]:
        """The row of a file: of those with its name the one that shares most of its folders.

        Raises:
          CardioBenchError: there is none, or more than one.
        """
        parts = path.split("/")
        rows = self._by_name.get(parts[-1], [])
        shared = [_shared_ending(parts, row["path"].split("/")) for row in rows]
        best = [row for row, count in zip(rows, shared, strict=True) if count == max(shared)]
        if len(best) == 1:
            return best[0]
        what = "in several rows of" if best else "not in"
        raise CardioBenchError(
            f"{self._task.folder}: a test video is {what} {self.path.name}. Ids must be paths (prepare with "
            "--show_paths), or keyed hashes that id_map.csv resolves (--private_dir), of the files that `listing` lists"
        )

    def _no_test(self, message: str) -> str:
        """With the remedy for the published table of EchoNet-Dynamic, whose splits are in upper case."""
        truth = self._task.truth
        if any(row[truth.split].lower() == truth.test for row in self.rows):
            return f"{message}, as {self._task.script} compares them: write the column in lower case"
        return message


def _shared_ending(one: Sequence[str], other: Sequence[str]) -> int:
    return len(os.path.commonprefix([list(reversed(one)), list(reversed(other))]))


def read_id_map(private_dir: str | os.PathLike) -> dict[str, str]:
    """{id: path} of the private folder of `prepare echo_folder`.

    Raises:
      CardioBenchError: there is none.
    """
    path = pathlib.Path(private_dir) / private.ID_MAP
    if not path.is_file():
        raise CardioBenchError(f"{path}: no such file; --private_dir is the one that `prepare echo_folder` had")
    with path.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row["path"] for row in csv.DictReader(file)}


def listing(task: Task, table: TruthTable) -> tuple[str, list[dict[str, str]]]:
    """The CSV that `prepare echo_folder --csv` takes, of the files, labels and splits of a table.

    Returns:
      The folder that the paths are below, as the table has it, and a row per file: Path, class, patient_id, split and
      view.

    Raises:
      CardioBenchError: the task's set has a builder of its own.
    """
    if task.builder != "echo_folder":
        raise CardioBenchError(f"{task.folder} needs no list: `python -m discovr_jax.prepare {task.builder}` reads it")
    root = os.path.commonpath([os.path.dirname(row["path"]) for row in table.rows])
    classes = {"0": "Normal", "1": "Abnormal"}
    return root, [
        {
            "Path": os.path.relpath(row["path"], root),
            "class": classes[row[task.truth.column]],
            "patient_id": row["patient_id"],
            "split": row[task.truth.split],
            "view": row.get("view", ""),
        }
        for row in table.rows
    ]
