"""Classes, grades and labels of a video from its dataset's table, as a record keeps them: one JSON object.

    {"view": "A4C", "mr": {"grade": 2, "name": "moderate"}, "findings": ["effusion", "thrombus"]}

A string is one of several classes. A grade has an order. A list holds any number of labels, none too (multi-label).
What is not there is unknown.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

CLASS, GRADE, MULTILABEL = "class", "grade", "multilabel"
MOST = 50  # classes of a target; the labels of a video are bits of a float64
VIEW = "view"  # name of the target of views
_FIELD = "classes:"  # before a target's name, among the columns of an evaluation


@dataclasses.dataclass(frozen=True)
class ClassTarget:
    """One target of several splits.

    Attributes:
      name: of the column; kind: CLASS, GRADE or MULTILABEL.
      classes: names in the order of their numbers: sorted, or by grade without gaps.
      values: {split: float64 [N]}, the number of the class, or of a MULTILABEL target the sum of 2^number of each
        label; NaN where unknown.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    values: Mapping[str, np.ndarray]

    @property
    def field(self) -> str:
        """What its column is called among those of an evaluation."""
        return f"{_FIELD}{self.name}"

    def has(self, number: int, split: str) -> np.ndarray:
        """Whether each video is of that class, or has that label: bool [N]."""
        values = self.values[split]
        known = np.isfinite(values)
        if self.kind != MULTILABEL:
            return known & (values == number)
        return known & (np.where(known, values, 0).astype(np.int64) >> number & 1 == 1)

    def counts(self, split: str) -> dict[str, int]:
        """Videos by class or label, in the order of `classes`; those unknown last, under ""."""
        result = {each: int(self.has(number, split).sum()) for number, each in enumerate(self.classes)}
        return result | {"": int(np.isnan(self.values[split]).sum())}


def target_name(field: str) -> str:
    """The name of a `ClassTarget.field`; "" for any other field."""
    return field.removeprefix(_FIELD) if field.startswith(_FIELD) else ""


def encode(values: Mapping[str, Any]) -> str:
    """The text of a record; "" where nothing is known.

    >>> encode({"view": "A4C", "findings": []})
    '{"findings":[],"view":"A4C"}'
    """
    return json.dumps(dict(values), sort_keys=True, separators=(",", ":"), ensure_ascii=False) if values else ""


def with_views(texts: Mapping[str, Sequence[str]], views: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The texts, with the view of each record as the class VIEW.

    Args:
      texts: {split: the field `classes` of its records}; views: the same of the field `view`, "" where unknown.

    Returns:
      {split: texts}; as they are where there is one view, or so many that they must be something else, or where the
      dataset's own table has that target.

    >>> with_views({"test": ["", '{"mr":"mild"}']}, {"test": ["A2C", "A4C"]})["test"]
    ['{"view":"A2C"}', '{"mr":"mild","view":"A4C"}']
    """
    pairs = {split: list(zip(map(str, column), map(str, views[split]), strict=True)) for split, column in texts.items()}
    distinct = {pair for column in pairs.values() for pair in column}
    added = 1 < len({view for _, view in distinct if view}) <= MOST
    if not added or any(VIEW in parse(text) for text, _ in distinct):
        return {split: [text for text, _ in column] for split, column in pairs.items()}
    made = {(text, view): encode(parse(text) | {VIEW: view}) if view else text for text, view in distinct}
    return {split: [made[pair] for pair in column] for split, column in pairs.items()}


def apart(texts: Mapping[str, Sequence[str]], names: Collection[str]) -> tuple[dict[str, list[str]], ...]:
    """The texts without some targets, and with these alone.

    Raises:
      ValueError: a text that is none.

    >>> apart({"test": ['{"sex":"female","view":"A4C"}', ""]}, ["sex"])
    ({'test': ['{"view":"A4C"}', '']}, {'test': ['{"sex":"female"}', '']})
    """
    pairs = {}
    for text in {str(text) for column in texts.values() for text in column}:
        values = parse(text)
        taken = {name: value for name, value in values.items() if name in names}
        pairs[text] = encode({name: value for name, value in values.items() if name not in taken}), encode(taken)
    return tuple({split: [pairs[str(text)][i] for text in column] for split, column in texts.items()} for i in (0, 1))


def parse(text: str) -> dict[str, Any]:
    """The values in the text of a record.

    Raises:
      ValueError: it is no such text; nothing of it is quoted.
    """
    try:
        values = json.loads(text) if text else {}
    except ValueError:
        raise ValueError("classes is no JSON") from None
    if not isinstance(values, dict) or not all(_kind(value) for value in values.values()):
        raise ValueError("classes is no object of classes, grades and labels")
    return values


def _kind(value: Any) -> str:
    """CLASS, GRADE or MULTILABEL; "" for none of them."""
    if isinstance(value, str) and value:
        return CLASS
    if isinstance(value, list) and all(isinstance(each, str) and each for each in value):
        return MULTILABEL
    if isinstance(value, dict) and set(value) == {"grade", "name"}:
        grade = value["grade"]
        return GRADE if isinstance(grade, int) and 0 <= grade < MOST and isinstance(value["name"], str) else ""
    return ""


def decode(texts: Mapping[str, Sequence[str]]) -> list[ClassTarget]:
    """Every target of some records, sorted by name.

    Args:
      texts: {split: the field `classes` of its records}.

    Raises:
      ValueError: a text that is none, a target of two kinds, a grade of two names, or more than `MOST` classes.

    >>> (view,) = decode({"train": ['{"view":"A4C"}', '{"view":"A2C"}'], "test": ['{"view":"A4C"}', ""]})
    >>> view.classes, view.values["train"].tolist(), view.values["test"].tolist()
    (('A2C', 'A4C'), [1.0, 0.0], [1.0, nan])
    """
    parsed = {text: parse(str(text)) for text in {str(text) for column in texts.values() for text in column}}
    targets = []
    for name in sorted({name for values in parsed.values() for name in values}):
        given = [values[name] for values in parsed.values() if name in values]
        kinds = {_kind(value) for value in given}
        if len(kinds) > 1:
            raise ValueError(f"{name} is a {' and a '.join(sorted(kinds))} in records of one dataset")
        (kind,) = kinds
        classes = _classes(name, kind, given)
        number = {each: index for index, each in enumerate(classes)}
        numbers = {text: _number(kind, values[name], number) for text, values in parsed.items() if name in values}
        columns = {
            split: np.array([numbers.get(str(text), np.nan) for text in column], np.float64)
            for split, column in texts.items()
        }
        targets.append(ClassTarget(name, kind, classes, columns))
    return targets


def _classes(name: str, kind: str, given: Sequence[Any]) -> tuple[str, ...]:
    if kind == GRADE:
        names: dict[int, str] = {}
        for value in given:
            if names.setdefault(value["grade"], value["name"]) != value["name"]:
                raise ValueError(f"grade {value['grade']} of {name} has two names")
        # Grades that nobody has keep their place: the distance between grades counts.
        result = tuple(names.get(grade, str(grade)) for grade in range(min(names), max(names) + 1))
        if len(set(result)) < len(result):
            raise ValueError(f"two grades of {name} have one name")
        return result
    found = {each for value in given for each in ([value] if kind == CLASS else value)}
    if len(found) > MOST:
        raise ValueError(f"{name} has {len(found)} classes; at most {MOST} are taken")
    return tuple(sorted(found))


def _number(kind: str, value: Any, number: Mapping[str, int]) -> float:
    if kind == MULTILABEL:
        return float(sum(2 ** number[each] for each in set(value)))
    return float(number[value if kind == CLASS else value["name"]])
