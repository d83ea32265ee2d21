"""Whose video it is and how good the picture, for results by subgroup: kept in records as classes (`class_labels`).

Of each a coarse group only, so that a record says no more of a person than a table of a paper does.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from discovr_jax.data import class_labels
from tfds_builders.echo_builder import Clip

NAMES = SEX, AGE_GROUP, IMAGE_QUALITY = "sex", "age_group", "image_quality"
_SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}
# Years from which on the next group begins, and the group's name.
_AGES = ((2, "under 2"), (12, "2-11"), (18, "12-17"), (41, "18-40"), (66, "41-65"), (130, "over 65"))


def age_group(years: float) -> dict[str, Any] | None:
    """The group of an age as a grade of `class_labels`; None of NaN and of what is no age.

    Source: children as ICH E11(R1) divides them, newborns with the infants, as tables give whole years; adults as the
    World Alliance Societies of Echocardiography study of normal values. Ages over 89, by which a person could be told,
    are in the last group.

    >>> age_group(41.5), age_group(95)["name"], age_group(float("nan"))
    ({'grade': 4, 'name': '41-65'}, 'over 65', None)
    """
    if not 0 <= years < _AGES[-1][0]:
        return None
    grade = next(number for number, (end, _) in enumerate(_AGES) if years < end)
    return {"grade": grade, "name": _AGES[grade][1]}


def values(sex: str = "", age: str = "", quality: str = "", qualities: Sequence[str] = ()) -> dict[str, Any]:
    """What the cells of a table say, for `class_labels.encode`; a cell that says nothing that is known is left out.

    Args:
      sex: F, M, female or male; age: in years.
      quality: one of `qualities`, which are words in small letters, the worst first, whatever the case.

    >>> values("F", "56", "Good", ("poor", "medium", "good"))
    {'sex': 'female', 'age_group': {'grade': 4, 'name': '41-65'}, 'image_quality': {'grade': 2, 'name': 'good'}}
    >>> values("", "unknown")
    {}
    """
    try:
        years = float(age)
    except ValueError:
        years = math.nan
    word = quality.lower()
    found = {
        SEX: _SEXES.get(sex.lower()),
        AGE_GROUP: age_group(years),
        IMAGE_QUALITY: {"grade": qualities.index(word), "name": word} if word in qualities else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def unknown(clips: Iterable[Clip], names: Sequence[str]) -> dict[str, int]:
    """{"NAME_unknown": clips whose field `classes` lacks it}, for the notes of a listing."""
    known = [class_labels.parse(clip.fields["classes"]) for clip in clips]
    return {f"{name}_unknown": sum(name not in each for each in known) for name in names}
