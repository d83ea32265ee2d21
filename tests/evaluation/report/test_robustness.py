"""The report's section about spoilt clips: every head, encoder and strength, and one chart."""

import re

import pytest

from discovr_jax.evaluation.report import plots, robustness

STRENGTHS = {"gain": ["+5 dB", "+10 dB", "+20 dB"], "frame_rate": ["1 in 2 frames", "1 in 4 frames", "1 in 8 frames"]}


def entry(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


@pytest.fixture
def results():
    heads = {}
    for part, metric, field in (("lvef", "mae", "ef"), ("probe", "auroc", "label")):
        drops = {name: [entry(0.1 * level, -0.05, 0.2 * level) for level in (1, 2, 3)] for name in STRENGTHS}
        drops["gain"][2] = entry(0.3, 0.25, 0.35)
        both = {"discovr": drops, "pixels": drops}
        clean = {encoder: entry(0.9, 0.8, 0.95) for encoder in both}
        less = {name: [entry(-0.2, -0.3, -0.1)] * 3 for name in STRENGTHS}
        heads[part] = {"metric": metric, "field": field, "clean": clean, "spoilt": {}, "drop": both}
        heads[part]["paired"] = {"discovr-pixels": less}
    readouts = {"lvef": {"family": "lvef", "field": "ef"}, "probe": {"family": "probe", "field": "label"}}
    return {"readouts": readouts, "robustness": {"strengths": STRENGTHS, "heads": heads}}


def test_every_strength_has_a_row_and_every_encoder_a_column(results):
    text = robustness.section(results)
    columns = re.findall("<th>([^<]*)</th>", text)[1:]
    assert columns == [
        "Ejection fraction, mean absolute error (points): discovr",
        "Ejection fraction, mean absolute error (points): pixels",
        "Ejection fraction, mean absolute error (points): discovr - pixels",
        "Linear probe, AUROC: discovr",
        "Linear probe, AUROC: pixels",
        "Linear probe, AUROC: discovr - pixels",
    ]
    rows = re.findall('<td class="name">([^<]*)</td>', text)
    assert rows == ["clean", *(f"gain, {s}" for s in STRENGTHS["gain"]), *(
        f"frame rate, {s}" for s in STRENGTHS["frame_rate"]
    )]  # fmt: skip
    assert text.count('class="worse"') == 4  # the strongest gain, in each column of an encoder
    assert text.count('class="better"') == 2 * 6  # discovr loses less, always
    assert text.count("+0.25 to +0.35; worse") == 2 and text.count("+0.250 to +0.350; worse") == 2
    assert re.findall("<h3>([^<]*)</h3>", text) == [
        "Linear probe, AUROC", "Linear probe, AUROC: differences of the drops"
    ]  # fmt: skip
    assert text.count("<img") == 2


def test_what_was_not_evaluated_is_said(results, monkeypatch):
    monkeypatch.setattr(plots, "png", lambda figure: b"chart")
    for nothing in (None, {"readouts": {}}):
        assert "Not shown: no test clips were spoilt; eval.evaluators.robustness.perturbations" in robustness.section(
            nothing
        )
    del results["robustness"]["heads"]["probe"]
    del results["robustness"]["heads"]["lvef"]["paired"]  # as an older evaluation wrote it
    text = robustness.section(results)
    assert "<h3>Ejection fraction, mean absolute error (points)</h3>" in text and "discovr - pixels" not in text


def test_the_chart_has_a_panel_per_perturbation_and_a_line_per_encoder(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "png", lambda figure: drawn.append(figure) or b"")
    entries = [entry(0.1, 0.0, 0.2), entry(0.2, 0.1, 0.3), entry(0.5)]  # the last without an interval
    plots.drops({name: {"discovr": entries, "random": entries} for name in "abcd"}, "drop")
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", "d"]
    for axes in figure.axes:
        lines = [line for line in axes.lines if len(line.get_ydata()) == 3]
        assert [line.get_ydata().tolist() for line in lines] == [[0.1, 0.2, 0.5]] * 2
