"""Columns of the CSV that hold classes, grades or labels; no message quotes a cell (see `listing`)."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from discovr_jax.data import class_labels
from tfds_builders.tables import SourceError

_NAME = re.compile(r"\w[\w -]{0,39}")
# Classes are kept in the records, in clear: no free text, which could name somebody.
_VALUE = re.compile(r"[^\W_][\w .,+/()<>=%-]{0,39}")
_NOT_CLASSES = ("path", "patient_id", "split")
_UNKNOWN = ("", "nan", "na", "n/a", "null")  # not "none", which is a grade and a class
_NONE = "|"  # a cell that knows that there is no label


@dataclasses.dataclass(frozen=True)
class ClassColumn:
    """One target.

    Attributes:
      name: of the column, in small letters as `listing` compares them; kind: of `class_labels`.
      grades: words of a GRADE from the lowest, each in small letters; empty where cells are whole numbers.
    """

    name: str
    kind: str
    grades: tuple[str, ...] = ()

    def value(self, text: str, where: str) -> Any:
        """What a cell says, for `class_labels.encode`; None if it is unknown.

        Raises:
          SourceError: it is no class, or none of the grades.
        """
        if text.lower() in _UNKNOWN and text.lower() not in self.grades:
            return None
        if self.kind == class_labels.GRADE:
            return self._grade(text, where)
        labels = sorted({each.strip() for each in text.split("|") if each.strip()})
        if self.kind == class_labels.MULTILABEL:
            if not labels and text != _NONE:
                raise SourceError(f"{where}: {self.name} must be labels with | between them, or | alone for none.")
            return [self._checked(each, where) for each in labels]
        return self._checked(text, where)

    def _checked(self, text: str, where: str) -> str:
        if not _VALUE.fullmatch(text):
            raise SourceError(
                f"{where}: {self.name} must be a class of at most 40 letters, digits, spaces and .,+/()<>=%-; several "
                "labels of a video, with | between them, are those of --multilabel_columns."
            )
        return text

    def _grade(self, text: str, where: str) -> dict[str, Any]:
        if self.grades:
            if text.lower() not in self.grades:
                raise SourceError(f"{where}: {self.name} must be {', '.join(self.grades)}, or empty.")
            grade = self.grades.index(text.lower())
            return {"grade": grade, "name": self.grades[grade]}
        number = re.sub(r"\.0+$", "", text)
        if not number.isascii() or not number.isdecimal() or int(number) >= class_labels.MOST:
            raise SourceError(
                f"{where}: {self.name} must be a whole number from 0 to {class_labels.MOST - 1}; words are given with "
                f"their order: --grade_columns={self.name}=LOWEST/.../HIGHEST."
            )
        return {"grade": int(number), "name": str(int(number))}


def parse(classes: str | None, grades: str | None, multilabel: str | None) -> list[ClassColumn]:
    """Of the options: names with commas between them, a grade's words after "=" with "/" between them.

    >>> parse("view", "mr=none/mild/severe,as", None)[1:]  # doctest: +NORMALIZE_WHITESPACE
    [ClassColumn(name='mr', kind='grade', grades=('none', 'mild', 'severe')),
     ClassColumn(name='as', kind='grade', grades=())]

    Raises:
      SourceError: a name that cannot be, or one twice.
    """
    columns = []
    kinds = (classes, class_labels.CLASS), (grades, class_labels.GRADE), (multilabel, class_labels.MULTILABEL)
    for text, kind in kinds:
        for item in filter(None, (each.strip() for each in (text or "").split(","))):
            name, equals, order = item.partition("=")
            words = tuple(word.strip().lower() for word in order.split("/")) if equals else ()
            if equals and (kind != class_labels.GRADE or len(words) < 2 or len(set(words)) < len(words) or "" in words):
                raise SourceError(f"{item}: only --grade_columns take an order, NAME=LOWEST/.../HIGHEST, each once.")
            columns.append(ClassColumn(name.strip().lower(), kind, words))
    names = [column.name for column in columns]
    for name in names:
        if not _NAME.fullmatch(name) or name in _NOT_CLASSES or names.count(name) > 1:
            raise SourceError(
                f"--class_columns, --grade_columns and --multilabel_columns: {name} is named twice, or holds no "
                "classes, or is no name of letters, digits, spaces and -."
            )
    return columns


class Cells:
    """Reads the cells of all rows, and looks at each column as a whole in the end."""

    def __init__(self, columns: list[ClassColumn]):
        self.columns = columns
        self._found: dict[str, set[str]] = {column.name: set() for column in columns}
        self.unknown = dict.fromkeys(self._found, 0)

    def read(self, cells: Mapping[str, str], where: str) -> str:
        """The text of `class_labels` for one row."""
        values = {}
        for column in self.columns:
            value = column.value(cells[column.name], where)
            if value is None:
                self.unknown[column.name] += 1
                continue
            values[column.name] = value
            if column.kind != class_labels.GRADE:
                self._found[column.name].update([value] if isinstance(value, str) else value)
        return class_labels.encode(values)

    def check(self) -> None:
        """Raises SourceError for a column of so many classes that it must hold something else."""
        for name, found in self._found.items():
            if len(found) > class_labels.MOST:
                raise SourceError(
                    f"The CSV's column {name} holds {len(found)} classes, at most {class_labels.MOST} are taken: names "
                    "and other free text do not belong into records. Group rare classes."
                )
