"""The report's section about groups of the test videos: counts, values, differences, and why a group has none."""

import re

import pytest

from discovr_jax.evaluation.report import subgroups


def entry(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


@pytest.fixture
def results():
    differences = {"probe/auroc": entry(-0.2, -0.3, -0.1), "segmentation/dice": entry(0.0, -0.1, 0.1)}
    female = {
        "videos": 20, "patients": 12, "counts": {"probe": {"rows": 20, "patients": 12, "abnormal": 5}},
        "encoders": {"discovr": {"probe/auroc": entry(0.7, 0.6, 0.8), "segmentation/dice": entry(0.8, 0.7, 0.9)}},
        "less_others": {"discovr": differences},
        "left_out": {},
    }  # fmt: skip
    other = {
        "videos": 4, "patients": 3, "counts": {"probe": {"rows": 4, "patients": 3, "abnormal": 1}},
        "encoders": {}, "less_others": {},
        "left_out": {"probe": "3 patients, fewer than 10", "segmentation": "3 patients, fewer than 10"},
    }  # fmt: skip
    scored = {
        "probe/auroc": entry(0.75, 0.7, 0.8), "segmentation/dice": entry(0.8, 0.7, 0.9),
        "segmentation/dice_ed": entry(0.8, 0.7, 0.9), "segmentation/hausdorff95_mm": entry(5.0, 4.0, 6.0),
        "probe/brier": entry(0.2, 0.1, 0.3),
    }  # fmt: skip
    metrics = {"dice": "dice", "hausdorff95_mm": "hausdorff95_mm"}
    return {
        "n_test": 30,
        "n_test_patients": 18,
        "encoders": {"discovr": scored, "pixels": {"probe/auroc": entry(0.5, 0.4, 0.6)}, "random": {}},
        "readouts": {
            "probe": {"family": "probe", "field": "label", "metrics": {"auroc": "auroc", "brier": "brier"}},
            "segmentation": {"family": "segmentation", "field": "masks", "metrics": metrics},
        },
        "subgroups": {"sex": {"unknown": {"videos": 6, "patients": 3}, "groups": {"female": female, "other": other}}},
    }


def test_a_column_per_group_and_two_rows_per_metric(results):
    text = subgroups.section(results)
    shown = text.split("<details>")[0]
    assert re.findall("<th>([^<]*)</th>", shown) == ["", "all", "female", "other"]
    rows = re.findall("<tr>(.*?)</tr>", shown)[1:]
    names = [re.findall('<td class="name">([^<]*)', row)[0] for row in rows]
    assert names == [
        "patients", "videos", "abnormal videos", "Linear probe: AUROC", "less all others", "Segmentation: Dice",
        "less all others", "Segmentation: Hausdorff 95 (mm)", "less all others",
    ]  # fmt: skip
    cells = [re.findall("<td[^>]*>(.*?)</td>", row)[1:] for row in rows]
    assert cells[0] == ["18", "12", "3"] and cells[1] == ["30", "20", "4"]
    assert cells[2] == ["", "5<small>25 %</small>", "1<small>25 %</small>"]
    few = "n/a<small>3 patients, fewer than 10</small>"
    assert cells[3] == ["0.750<small>0.700 to 0.800</small>", "0.700<small>0.600 to 0.800</small>", few]
    assert cells[4] == ["", "-0.200<small>-0.300 to -0.100; worse</small>", ""] and 'class="worse"' in rows[4]
    assert cells[6][1].endswith("unclear</small>") and cells[7][2] == few
    assert "Sex is unknown of 6 test videos of 3 patients." in shown
    assert "There are 2 such differences of the trained encoder below; 5 % of them exclude 0 by chance." in shown


def test_other_encoders_are_folded_away(results):
    folded = subgroups.section(results).split("<details>")[1:]
    (pixels,) = folded
    assert pixels.startswith("\n<summary>Sex: pixels</summary>") and "0.500<small>0.400 to 0.600" in pixels
    assert "Dice" not in pixels


@pytest.mark.parametrize("nothing", [None, {}, {"subgroups": {}}])
def test_what_was_not_asked_for_is_said(nothing):
    assert "Not shown: no subgroups were asked for" in subgroups.section(nothing)
