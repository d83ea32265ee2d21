"""Classes, grades and labels as records keep them."""

import numpy as np
import pytest

from discovr_jax.data import class_labels


def grade(number, name):
    return {"grade": number, "name": name}


def test_targets_of_several_splits():
    rows = {
        "train": [{"view": "A4C", "mr": grade(3, "severe"), "finding": ["b", "a"]}, {"view": "A2C", "finding": []}, {}],
        "test": [{"view": "PLAX", "mr": grade(1, "mild"), "finding": ["c"]}],
    }
    texts = {split: np.array([class_labels.encode(one) for one in column]) for split, column in rows.items()}
    finding, mr, view = class_labels.decode(texts)
    assert (view.name, view.kind, view.classes) == ("view", class_labels.CLASS, ("A2C", "A4C", "PLAX"))
    np.testing.assert_array_equal(view.values["train"], [1, 0, np.nan])
    assert view.values["test"].tolist() == [2] and view.counts("train") == {"A2C": 1, "A4C": 1, "PLAX": 0, "": 1}
    # A grade that nobody has keeps its place.
    assert mr.kind == class_labels.GRADE and mr.classes == ("mild", "2", "severe")
    np.testing.assert_array_equal(mr.values["train"], [2, np.nan, np.nan])
    assert mr.values["test"].tolist() == [0]
    assert finding.kind == class_labels.MULTILABEL and finding.classes == ("a", "b", "c")
    np.testing.assert_array_equal(finding.values["train"], [3, 0, np.nan])  # bits of a and b; known to have none
    assert finding.counts("train") == {"a": 1, "b": 1, "c": 0, "": 1} and finding.has(2, "test").tolist() == [True]
    assert class_labels.target_name(view.field) == "view" and class_labels.target_name("ef") == ""


def test_views_of_records_are_a_target():
    texts = {"train": ["", '{"mr":"mild"}', ""], "test": ["", ""]}
    views = {"train": np.array(["A4C", "A2C", ""]), "test": np.array(["A2C", "PLAX"])}
    mr, view = class_labels.decode(class_labels.with_views(texts, views))
    assert (mr.name, view.name, view.classes) == ("mr", "view", ("A2C", "A4C", "PLAX"))
    np.testing.assert_array_equal(view.values["train"], [1, 0, np.nan])
    one = {"train": ["A4C"] * 3, "test": ["A4C", ""]}
    own = {**texts, "test": ['{"view":"SSN"}', ""]}
    many = {"train": [str(number) for number in range(51)]}
    assert class_labels.with_views(texts, one) == texts and class_labels.with_views(own, views) == own
    assert class_labels.with_views({"train": [""] * 51}, many) == {"train": [""] * 51}


def test_nothing_known_is_no_target():
    assert class_labels.encode({}) == "" and class_labels.decode({"train": ["", ""]}) == []


def test_fifty_labels_are_told_apart():
    names = [f"{number:02}" for number in range(class_labels.MOST)]
    (target,) = class_labels.decode({"train": [class_labels.encode({"x": [name]}) for name in names]})
    for number in range(class_labels.MOST):
        assert np.flatnonzero(target.has(number, "train")).tolist() == [number]
    with pytest.raises(ValueError, match="x has 51 classes; at most 50"):
        class_labels.decode({"train": [class_labels.encode({"x": [*names, "y"]})]})


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"x": 1}', '{"x": ""}', '{"x": [1]}', '{"x": {"grade": "DOE", "name": "a"}}']
)
def test_a_damaged_text_is_not_quoted(text):
    with pytest.raises(ValueError, match="^classes is no [a-zA-Z, ]+$"):
        class_labels.parse(text)


def test_records_that_contradict_each_other():
    one, two = class_labels.encode({"x": "a"}), class_labels.encode({"x": ["a"]})
    with pytest.raises(ValueError, match="x is a class and a multilabel"):
        class_labels.decode({"train": [one], "test": [two]})
    mild, severe = (class_labels.encode({"x": grade(1, name)}) for name in ("mild", "severe"))
    with pytest.raises(ValueError, match="grade 1 of x has two names"):
        class_labels.decode({"train": [mild, severe]})
    with pytest.raises(ValueError, match="two grades of x have one name"):
        class_labels.decode({"train": [mild, class_labels.encode({"x": grade(2, "mild")})]})
