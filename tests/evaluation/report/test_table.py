"""The terminal's table: the metrics that matter with their baselines, in a terminal's width."""

import pytest

from discovr_jax.evaluation.report import table


def entry(value, spread=0.05):
    return {"value": value, "low": value - spread, "high": value + spread}


def results(**changes):
    """What an evaluation with long values on echoes of several kinds would give."""
    classes = {"knn/auroc": entry(0.71), "knn/macro_f1": entry(0.6), "probe/auroc": entry(0.8)}
    classes["probe/brier"] = entry(0.2)  # not among those that matter
    values = classes | {"lvef/mae": entry(12.34, 1.1), "lvef/r2": entry(-0.123), "edv/mae": entry(123.4, 21)}
    masks = {"segmentation/dice": entry(0.81), "segmentation/decoder_dice": entry(0.83)}
    parts = {"lvef": {"field": "ef"}, "edv": {"field": "edv"}, "knn": {"field": "label"}}
    difference = {key: entry(-each["value"], 0.9 * each["value"]) for key, each in (values | masks).items()}
    return {
        "step": 120,
        "n_test": 40,
        "dataset": "echonet_dynamic",
        "encoders": {"discovr": values | masks, "random": values | masks, "pixels": values, "mean_mask": masks},
        "paired": {f"discovr-{name}": difference for name in ("random", "pixels", "mean_mask")},
        "readouts": parts,
        "skipped": [{"evaluator": "transfer", "encoder": "all", "reason": " ".join(["no other dataset"] * 12)}],
    } | changes


def test_a_row_per_metric_in_a_hundred_columns():
    text = table.metrics_table(results(), "runs/demo")
    lines = text.splitlines()
    assert max(map(len, lines)) <= table.WIDTH == 100
    assert lines[0].split() == ["discovr", "random", "other", "discovr", "-", "random", "discovr", "-", "other"]
    assert [line[:17].strip() for line in lines[1:10]] == [
        "kNN macro F1", "kNN AUROC", "probe AUROC", "LVEF MAE (points)", "LVEF R2", "EDV MAE (mL)", "LV Dice",
        "LV Dice, decoder", "",
    ]  # fmt: skip
    (probe,) = [line for line in lines if line.startswith("probe AUROC")]
    assert probe.split()[2:] == ["0.800"] * 3 + "-0.800 (-1.520 to -0.080)".split() * 2
    assert "120 training steps" in text and "demo" in text and "skipped transfer/all: no other dataset" in text
    assert lines[-1] == "All metrics with their intervals: runs/demo/report.html and runs/demo/results.json"


def test_baselines_that_did_not_run_leave_their_cells_empty():
    alone = results(paired={}, skipped=[])
    alone["encoders"] = {"discovr": {"knn/auroc": entry(0.7)}, "random": {}}
    lines = table.metrics_table(alone).splitlines()
    assert lines[1] == "kNN AUROC  0.700"
    assert "All metrics" not in "\n".join(lines)
    nothing = table.metrics_table(alone | {"encoders": {"discovr": {}}})
    assert nothing.startswith("120 training steps")


@pytest.mark.parametrize(
    "given,signed,text",
    [
        (entry(0.5, 0.25), False, "0.500 (0.250 to 0.750)"),
        (entry(0.5, 0.25), True, "+0.500 (+0.250 to +0.750)"),
        ({"value": 0.5, "low": None, "high": None}, False, "0.500 (no interval)"),
        ({"value": None, "low": None, "high": None}, False, "n/a"),
        (None, False, "n/a"),
    ],
)
def test_a_value_with_its_interval(given, signed, text):
    assert table.with_interval(given, signed=signed) == text


def test_test_videos_that_were_trained_on_come_first():
    counts = {"test_videos": 40, "trained_on": 3, "patients_trained_on": 5}
    text = " ".join(table.metrics_table(results(trained_on=counts)).split("\n\n")[1].splitlines()[1:])
    assert text.startswith("LEAK: of 40 test videos the encoder was trained on 3, and on patients of 5. Training")
    for harmless in (None, dict.fromkeys(counts, 0)):
        assert "LEAK" not in table.metrics_table(results(trained_on=harmless))


def test_subgroups_have_one_line_if_asked_for():
    groups = {
        "female": {"less_others": {"discovr": {"probe/auroc": entry(-0.1), "lvef/mae": entry(0.01)}}},
        "male": {"less_others": {"discovr": {"probe/auroc": entry(0.1), "lvef/mae": {"value": 1, "low": None}}}},
        "other": {"less_others": {}},
    }
    found = {"sex": {"groups": groups, "unknown": {"videos": 0, "patients": 0}}}
    (line,) = table.subgroup_lines(results(subgroups=found))
    assert line == (
        "By sex: of 3 differences of a group to all others, in the metrics above, the intervals of 2 exclude 0 (5 % of "
        "them do by chance): probe AUROC, sex female -0.100 (-0.150 to -0.050); probe AUROC, sex male +0.100 (+0.050 "
        "to +0.150)."
    )
    many = {"sex": {"groups": {str(number): groups["male"] for number in range(5)}, "unknown": {}}}
    assert table.subgroup_lines(results(subgroups=many))[0].endswith("; 2 more.")
    text = " ".join(table.metrics_table(results(subgroups=found)).split())
    assert line in text
    assert table.subgroup_lines(results()) == table.subgroup_lines(results(subgroups={})) == []


def test_without_labels_one_line_says_so_and_what_comes_next():
    skipped = [
        {"evaluator": name, "encoder": "all", "reason": f"no labels: {field} unknown for all 14 videos of split train"}
        for name, field in (("knn", "label"), ("probe", "label"), ("lvef", "ef"), ("lvef", "ef"))
    ]
    skipped.append({"evaluator": "transfer", "encoder": "all", "reason": "no other dataset"})
    empty = results(encoders={"discovr": {}, "random": {}}, skipped=skipped)
    lines = table.metrics_table(empty, "runs/a").splitlines()
    assert lines[-2:] == [
        "No labels: nothing to score (knn, probe, lvef).",
        "Next, features of each video: python -m discovr_jax.extract --checkpoint=runs/a",
    ]
    assert "skipped" not in "\n".join(lines)
    assert table.metrics_table(results(skipped=skipped)).count("skipped") == 5
