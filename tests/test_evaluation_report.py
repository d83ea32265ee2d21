"""The HTML report: every section with data and without, self-contained, escaped."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from discovr_jax.evaluation import paint, plots, report

PICTURE = re.compile(r'src="data:image/(png|gif);base64,([^"]+)"')


def _entry(value, low, high):
    return {"value": value, "low": low, "high": high}


def _results():
    figures = {"knn/auroc": _entry(0.8, 0.7, 0.9), "lvef/mae": _entry(6.0, 5.0, 7.0)}
    readout = {"val": 6.1, "test": {"mae": _entry(6.0, 5.0, 7.0)}, "details": [{}]}
    encoders = {"discovr": {"chosen": "cls", "table": {"cls": readout, "mean": readout}}}
    entry = {"family": "lvef", "field": "ef", "chosen_by": "validation mae", "encoders": encoders}
    pair = {"knn/auroc": _entry(0.1, -0.05, 0.2), "lvef/mae": _entry(-2.0, -3.0, -1.0)}
    return {
        "step": 7,
        "dataset": "echonet_dynamic",
        "n_test": 6,
        "label_rule": "ef < 50",
        "encoders": {"discovr": figures, "random": {}},
        "paired": {"discovr-random": pair},
        "readouts": {"lvef": entry},
        "skipped": [{"evaluator": "probe", "encoder": "all", "reason": "one <class> only"}],
    }


def _write(tmp_path, **changes):
    rng = np.random.default_rng(0)
    features = {"discovr": [{"test": {"cls": rng.normal(size=(6, 4))}}]}
    ef = np.array([30.0, 40, 50, 60, 70, np.nan])
    fields = {"test": {"ef": ef, "label": np.where(np.isnan(ef), np.nan, ef < 50)}}
    common = {"encoder": "discovr", "family": "lvef", "output": ""}
    predictions = [common | {"target": value, "prediction": value + 1} for value in ef[:5]]
    rows = [{"step": s, "loss/total": 9.0 - s, "scd/perplexity": 40.0, "surprise": 1.0} for s in (1, 2, 3)]
    rows += [{"step": 3, "loss/total": float("nan")}, {"step": 3, "state_sha256": "ab"}]
    clip = {
        "frames": rng.integers(0, 255, (8, 32, 32)).astype(np.uint8),
        "assignments": rng.integers(0, 40, (8, 2, 2)),
        "title": "clip <1>",
    }
    inputs = {
        "features": features,
        "fields": fields,
        "predictions": predictions,
        "prototype_maps": [clip],
        "summary": {"Data": "a & b"},
        **changes,
    }
    return report.write_report(tmp_path, 7, inputs.pop("results", _results()), rows, **inputs).read_text()


def test_report_with_everything(tmp_path):
    text = _write(tmp_path)
    pictures = [
        (kind, Image.open(io.BytesIO(base64.b64decode(data)))) for kind, data in PICTURE.findall(text)
    ]
    # total loss, prototypes, two projections, two of EF, painted strip and animation, one other
    assert len(pictures) == 9 and [kind for kind, _ in pictures].count("gif") == 1
    assert next(image for kind, image in pictures if kind == "gif").n_frames == 8
    assert not re.search(r'(src|href)="(?!data:)', text) and "<script" not in text and "url(" not in text
    assert "clip &lt;1&gt;" in text and "a &amp; b" in text and "one &lt;class&gt; only" in text
    assert "-3.00 to -1.00; better" in text  # less error
    assert "-0.050 to +0.200; unclear" in text
    assert "By ejection fraction" in text and "mean absolute error (points)" in text
    assert "viewport" in text and "chosen" in text and "surprise" in text
    assert "Not shown: loss by part, video teacher, image teacher; not logged in this run." in text


@pytest.mark.parametrize("missing", ["results", "features", "predictions", "prototype_maps"])
def test_sections_without_data_say_why(tmp_path, missing):
    text = _write(tmp_path, **{missing: () if missing == "predictions" else None})
    reasons = {
        "results": "no evaluation was run at this step",
        "features": "no features were extracted",
        "predictions": "no measurement was evaluated",
        "prototype_maps": "no prototype maps were made",
    }
    for name, reason in reasons.items():
        assert (f"Not shown: {reason}" in text) == (name == missing)


def test_data_without_labels(tmp_path):
    unknown = {"test": {"ef": np.full(6, np.nan), "label": np.full(6, np.nan)}}
    text = _write(tmp_path, fields=unknown, results=_results() | {"readouts": {}})
    assert "no labels in this dataset" in text and "no measurement was evaluated" in text
    assert text.count("All videos") >= 1


def test_long_settings_are_folded(tmp_path):
    assert "<summary>All 30 settings" in _write(tmp_path, summary={f"key{i}": i for i in range(30)})
    assert " settings</summary>" not in _write(tmp_path)


def test_one_prototype_keeps_its_colour_in_every_clip():
    order = paint.ranks([np.array([[5, 5], [9, 5]]), np.array([[9, 2]])])
    assert order.tolist() == [5, 9, 2]
    frames = np.full((2, 8, 8), 100, np.uint8)
    maps = np.array([[[5, 9], [9, 9]], [[9, 5], [5, 5]]])
    painted = paint.paint(frames, maps, order)
    corner, middle = painted[:, 2, 2], painted[:, 2, -2]
    np.testing.assert_array_equal(corner[0], middle[1])
    np.testing.assert_array_equal(corner[1], middle[0])
    assert (corner[0] != corner[1]).any()
    with pytest.raises(ValueError, match="one map a frame"):
        paint.paint(frames, maps[:1], order)


def test_palette_colours_differ():
    palette = plots.prototype_palette(24).astype(int)
    distance = np.abs(palette[:, None] - palette[None]).sum(-1) + 999 * np.eye(25, dtype=int)
    assert distance.min() > 25


def test_principal_plane_of_a_line_and_of_nothing():
    line = np.outer(np.arange(5.0), [3, 4])
    coordinates, share = plots.principal_plane(line)
    assert share == pytest.approx([1, 0], abs=1e-12)
    assert np.abs(np.diff(coordinates[:, 0])) == pytest.approx([5] * 4)
    same, share = plots.principal_plane(np.ones((4, 3)))
    assert not same.any() and not share.any()
