"""Sex, age group and image quality as records keep them."""

import pytest

from discovr_jax.data import class_labels
from tfds_builders import described


@pytest.mark.parametrize(
    "years, group",
    [
        (0, "under 2"), (1.9, "under 2"), (2, "2-11"), (11, "2-11"), (12, "12-17"), (17.5, "12-17"), (18, "18-40"),
        (40, "18-40"), (41, "41-65"), (65.9, "41-65"), (66, "over 65"), (89, "over 65"), (90, "over 65"),
        (104, "over 65"), (-1, None), (130, None), (float("nan"), None),
    ],
)  # fmt: skip
def test_an_age_becomes_a_group(years, group):
    found = described.age_group(years)
    assert (found and found["name"]) == group


def test_groups_of_ages_are_grades_in_their_order():
    groups = [described.age_group(years) for years in (1, 5, 15, 30, 50, 95)]
    assert [each["grade"] for each in groups] == list(range(6))
    texts = [class_labels.encode({described.AGE_GROUP: each}) for each in (groups[5], groups[3])]
    (target,) = class_labels.decode({"test": texts})
    assert target.classes[0] == "18-40" and target.classes[-1] == "over 65" and target.values["test"].tolist() == [2, 0]


@pytest.mark.parametrize(
    "cells, known",
    [
        (("F", "7", "GOOD"), {"sex": "female", "age_group": "2-11", "image_quality": "good"}),
        (("male", "56.0", "Poor"), {"sex": "male", "age_group": "41-65", "image_quality": "poor"}),
        (("", "", ""), {}),
        (("O", "nan", "excellent"), {}),  # no other sex or word is guessed at
        (("?", "ninety", "nan"), {}),
    ],
)
def test_cells_of_a_table(cells, known):
    found = described.values(*cells, ("poor", "medium", "good"))
    assert {name: value if isinstance(value, str) else value["name"] for name, value in found.items()} == known


def test_no_age_is_kept():
    text = class_labels.encode(described.values("F", "57"))
    assert text == '{"age_group":{"grade":4,"name":"41-65"},"sex":"female"}'
