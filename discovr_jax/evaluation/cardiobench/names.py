"""What CardioBench calls a video of ours, and its tables of what is right.

Our builders of public sets take ids from the sets' own names, so an id says the name. Any other id, the keyed hash of a
private archive say, is refused.
"""

import csv
import pathlib
import re
from collections.abc import Sequence

from discovr_jax.evaluation.cardiobench.tasks import CardioBenchError, Task

_HEXADECIMAL = re.compile(r"0X[0-9A-F]{1,16}")
_NAMED = {
    "EchoNet-Dynamic": _HEXADECIMAL,
    "EchoNet-LVH": _HEXADECIMAL,
    "EchoNet-Pediatric": re.compile(r"[^-/]+-[^-/]+-[^-/.]+"),
    "CAMUS": re.compile(r"(patient\d{4})_(2CH|4CH)"),
    "HMCQU": re.compile(r"ES\d+_A[24]C"),
    "CardiacNet": re.compile(r"(?:\d+_image|(?:Non-)?(?:ASD|PAH))_[^/]+"),
    "segRWMA": re.compile(r"(patient\d+)-(2D|LVO|MCE)-(A[234]C)"),
    "TMED2": re.compile(r"(\d+s\d+)_\d+"),
}
# File of predictions, by the ending of its name, and key of the row in it.
Places = Sequence[tuple[str, str]]


def places(task: Task, identifier: str) -> Places:
    """The rows that the prediction for one video goes to, each (ending of the file's name, key).

    The EF of CAMUS has a file for both views, averaged per patient, and one for each; segRWMA's label one per view.
    Pictures with contrast, which its script does not score, are in none.

    Raises:
      CardioBenchError: the id says no name.
    """
    match = _NAMED[task.dataset].fullmatch(identifier)
    if match is None:
        raise CardioBenchError(
            f"{task.folder}: an id of the records is no name of {task.dataset}, so CardioBench's cannot be told. "
            f"Prepare the set with its own builder, `python -m discovr_jax.prepare {task.builder.partition('/')[0]}`, "
            "which keeps names"
        )
    match task.folder:
        case "CAMUS/EF":
            return [("", match[1]), (f"_{match[2]}", match[1])]
        case "EchoNet-Pediatric/EF" | "EchoNet-Pediatric/view":
            return [("", f"{identifier}.avi")]
        case "segRWMA/rwma" | "segRWMA/view" if match[2] != "2D":
            return []
        case "segRWMA/rwma":
            return [(f"_{match[3].lower()}", match[1])]
        case "segRWMA/view":
            return [("", f"{match[1]}_{match[3]}")]
        case "TMED2/AS":
            return [("", match[1])]
        case "TMED2/view":
            return [("", f"{identifier}.png")]
    return [("", identifier)]


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

    def test_keys(self, view: str = "") -> set[str]:
        """Keys of the test rows, of one view where one is given."""
        test = [row for row in self.rows if row[self._task.truth.split] == self._task.truth.test]
        return {row[self._task.key] for row in test if not view or row["view"] == view}

    def value(self, key: str, view: str = "") -> float:
        """The measurement of a test row; of several of one key the first, as the scripts have it."""
        truth, name = self._task.truth, self._task.key
        rows = (row for row in self.rows if row[name] == key and row[truth.split] == truth.test)
        return float(next(row for row in rows if not view or row["view"] == view)[truth.column] or "nan")

    def _no_test(self, message: str) -> str:
        """With the remedy for the published table of EchoNet-Dynamic, whose splits are in upper case."""
        truth = self._task.truth
        if any(row[truth.split].lower() == truth.test for row in self.rows):
            return f"{message}, as {self._task.script} compares them: write the column in lower case"
        return message
