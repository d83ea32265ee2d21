"""Rules for normal and abnormal, with every unknown value spelt out."""

import numpy as np
import pytest

from discovr_jax.data import labels

NAN = np.nan


def _floats(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    "rule, fields, expected",
    [
        ("ef < 50", {"ef": _floats(49.9, 50, 60, NAN)}, [1, 0, 0, NAN]),
        ("ef <= 50", {"ef": _floats(49.9, 50, 60, NAN)}, [1, 1, 0, NAN]),
        ("rvef <= 45", {"rvef": _floats(45, 45.1, NAN)}, [1, 0, NAN]),
        ("  rvef<=45.5 ", {"rvef": _floats(45.5, 45.6)}, [1, 0]),
        ("source_label", {"source_label": np.array([0, 1, -1], np.int32)}, [0, 1, NAN]),
        # Either wall makes a heart abnormal; a normal one needs both.
        (
            "wall_cm >= 1.3",
            {"ivsd": _floats(1.3, 1.0, 1.0, NAN, NAN, 1.0), "lvpwd": _floats(1.0, 1.4, 1.0, 1.5, 1.0, NAN)},
            [1, 1, 0, 1, NAN, NAN],
        ),
        ("wall_cm > 1.3", {"ivsd": _floats(1.3, 1.31), "lvpwd": _floats(1.0, 1.0)}, [0, 1]),
    ],
)
def test_labels(rule, fields, expected):
    found = labels.normal_label(fields, rule)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    assert set(labels.rule_fields(rule)) == set(fields)


def test_thresholds_compare_in_float32_whatever_the_column():
    stored = np.float64(np.float32(1.3))  # 1.2999999523
    fields = {"ivsd": np.array([stored]), "lvpwd": np.array([1.0])}
    np.testing.assert_array_equal(labels.normal_label(fields, "wall_cm >= 1.3"), [1])


@pytest.mark.parametrize(
    "rule",
    ["", "ef", "ef > 50", "wall_cm < 1.3", "lvef < 50", "ef < fifty", "ef < 50 or rvef < 45", "ef < -5"],
)
def test_unknown_rules_list_the_forms(rule):
    with pytest.raises(ValueError, match="'ef < 50', 'rvef <= 45', 'wall_cm >= 1.3' and 'source_label'"):
        labels.normal_label({"ef": _floats(1)}, rule)


def test_missing_columns_and_strange_source_labels_are_errors():
    with pytest.raises(KeyError, match="lvpwd"):
        labels.normal_label({"ivsd": _floats(1)}, "wall_cm >= 1.3")
    with pytest.raises(ValueError, match="source_label must be -1, 0 or 1"):
        labels.normal_label({"source_label": np.array([0, 2])}, "source_label")
