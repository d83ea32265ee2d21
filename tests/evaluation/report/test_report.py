"""The HTML report: every section with data and without, self-contained, escaped."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from discovr_jax.evaluation.metrics import masks as mask_metrics
from discovr_jax.evaluation.report import plots, report, video_strips
from discovr_jax.evaluation.report import scores as report_scores
from discovr_jax.evaluation.report import training as report_training


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes longer than all the rest; one test draws."""
    monkeypatch.setattr(plots, "png", lambda figure: b"chart")
    monkeypatch.setattr(video_strips, "tile", lambda picture: b"picture")
    monkeypatch.setattr(video_strips, "animation", lambda clip, order: b"animation")


PICTURE = re.compile(r'src="data:image/(png|webp);base64,([^"]+)"')


def _entry(value, low, high):
    return {"value": value, "low": low, "high": high}


def _results():
    metrics = {"knn/auroc": _entry(0.8, 0.7, 0.9), "lvef/mae": _entry(6.0, 5.0, 7.0)}
    metrics |= {f"labels/auroc_{share}": _entry(0.6, None, None) for share in (1, 10, 100)}
    readout = {"val": 6.1, "test": {"mae": _entry(6.0, 5.0, 7.0)}, "details": [{}]}
    encoders = {"discovr": {"chosen": "cls", "report": {}, "table": {"cls": readout, "mean": readout}}}
    one = {"chosen": "cls", "details": [{}], "report": {}, "table": {}}
    bins = [
        {"from": 0.0, "to": 0.1, "videos": 3, "probability": 0.05, "abnormal": 0.0},
        {"from": 0.7, "to": 0.8, "videos": 2, "probability": 0.75, "abnormal": 1.0},
    ]
    sweep = [{"k": k, "temperature": t, "val_auroc": 0.5 + k / 100 + t} for k in (5, 1) for t in (0.2, 0.07)]

    def part(family, kind, field, report=(), **metrics):
        return {
            "family": family, "type": kind, "field": field, "chosen_by": "validation mae", "metrics": metrics,
            "encoders": {"discovr": one | {"report": dict(report)}},
        }  # fmt: skip

    pair = {"knn/auroc": _entry(0.1, -0.05, 0.2), "lvef/mae": _entry(-2.0, -3.0, -1.0)}
    return {
        "step": 7,
        "dataset": "echonet_dynamic",
        "n_test": 6,
        "label_rule": "ef < 50",
        "encoders": {"discovr": metrics, "random": {}},
        "paired": {"discovr-random": pair},
        "by_patient": {},
        "videos": {"lvef": {"train": 9, "val": 3, "test": 5}},
        "readouts": {
            "lvef": part("lvef", "regression", "ef", mae="mae") | {"encoders": encoders},
            "knn": part("knn", "knn", "label", {"sweep": sweep}, auroc="auroc"),
            "probe": part("probe", "probe", "label", {"reliability": bins}),
            **{
                f"labels_label_{share}": part("labels", "probe", "label", **{f"auroc_{share}": "auroc"})
                for share in (10, 1, 100)
            },
        },
        "skipped": [{"evaluator": "probe", "encoder": "all", "reason": "one <class> only"}],
    }


def _write(tmp_path, **changes):
    rng = np.random.default_rng(0)
    features = {"discovr": [{"test": {"cls": rng.normal(size=(6, 4))}}]}
    ef = np.array([30.0, 40, 50, 60, 70, np.nan])
    fields = {"test": {"ef": ef, "label": np.where(np.isnan(ef), np.nan, ef < 50)}}
    common = {"encoder": "discovr", "output": "", "seed": 0}
    predictions = [
        common | {"family": "lvef", "target": value, "prediction": value + 1, "patient": i // 2}
        for i, value in enumerate(ef[:5])
    ]
    predictions += [
        common | {"family": family, "target": float(value < 50), "prediction": value / 100, "patient": i}
        for family in ("knn", "probe", "labels_label_10")
        for i, value in enumerate(ef[:5])
    ]
    rows = [{"step": s, "loss/total": 9.0 - s, "scd/perplexity": 40.0, "surprise": 1.0} for s in (1, 2, 3)]
    rows += [{"step": 3, "loss/total": float("nan"), "eval/knn/auroc": 0.8125}, {"step": 3, "state_sha256": "ab"}]
    clip = {
        "frames": rng.integers(0, 255, (8, 32, 32)).astype(np.uint8),
        "assignments": rng.integers(0, 40, (8, 2, 2)),
        "attention": rng.uniform(0, 0.01, (3, 8, 2, 2)),
        "title": "clip <1>",
    }
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 1
    outlines = {("linear", "discovr"): np.roll(mask, 3, 0), ("linear", "random"): 0 * mask, ("none", "mean_mask"): mask}
    overlay = {"title": "v<1>", "phase": "ED", "frame": clip["frames"][0], "truth": mask, "predictions": outlines}
    video = {"id": "t<1>", "frame": clip["frames"][0], "is_ed": True, "label": 1.0, "measured": 41.4}
    other = {"id": "n<1>", "frame": clip["frames"][1], "is_ed": False, "label": np.nan, "measured": np.nan}
    near = {"field": "ef", "query": video, "neighbours": [other | {"similarity": 0.987}]}
    inputs = {
        "features": features,
        "fields": fields,
        "predictions": predictions,
        "clips": [clip],
        "usage": {"assigned": np.array([4, 4, 0, 0]), "nearest": np.array([8, 0, 0, 0])},
        "overlays": [overlay, overlay | {"phase": "ES"}],
        "neighbours": [near],
        "summary": {"Data": "a & b"},
        **changes,
    }
    return report.write_report(tmp_path, 7, inputs.pop("results", _results()), rows, **inputs).read_text()


def test_report_with_everything(tmp_path):
    text = _write(tmp_path)
    pictures = [(kind, Image.open(io.BytesIO(base64.b64decode(data)))) for kind, data in PICTURE.findall(text)]
    # First screen: one outline.
    # Charts: total loss, prototypes in use, two projections, two of EF, reliability, labels, usage, one other.
    # Pictures: painted strip and animation; two frames, plain and with outlines of the expert and of three encoders;
    # the first frame, four moments and three heads; a video and its neighbour.
    assert len(pictures) == 1 + 10 + 2 + 2 * 5 + 8 + 2 and [kind for kind, _ in pictures].count("webp") == 2
    assert [image.n_frames for kind, image in pictures if kind == "webp"] == [1, 8]
    assert not re.search(r'(src|href)="(?!data:)', text) and "<script" not in text and "url(" not in text
    assert "<1>" not in text and text.count("clip &lt;1&gt;") > 1 and "v&lt;1&gt;" in text
    assert "t&lt;1&gt;" in text and "n&lt;1&gt;" in text and "a &amp; b" in text and "one &lt;class&gt; only" in text
    assert "-3.00 to -1.00; better" in text  # less error
    assert "-0.050 to +0.200; unclear" in text
    assert "By ejection fraction" in text and "mean absolute error (points)" in text
    assert (
        "Ejection fraction: Linear (ridge) head" in text
        and "5 test videos of 3 patients." in text
        and "Of 5 test videos." in text
    )
    assert "viewport" in text and "chosen" in text and "surprise" in text and "<summary>Curves (1)" in text
    assert "<summary>Logged once (1)" in text and "0.8125" in text
    assert "Not shown: loss by part, video teacher, image teacher; not logged in this run." in text
    assert "ejection fraction 41 %<br>abnormal<br>t&lt;1&gt;" in text
    assert "<b>similarity 0.987</b><br>n&lt;1&gt;" in text
    assert "discovr, linear<br>Dice 0.75" in text and "random, linear<br>Dice 0.00" in text
    assert "mean_mask<br>Dice 1.00" in text
    assert "2 (balanced, as in training), 1 (most similar), of 4" in text
    assert "end-diastole, or the first frame" in text


@pytest.mark.parametrize("missing", ["results", "features", "predictions", "clips", "overlays", "neighbours"])
def test_sections_without_data_say_why(tmp_path, undrawn, missing):
    text = _write(tmp_path, **{missing: None if missing in ("results", "features") else ()})
    reasons = {
        "no evaluation was run at this step": ("results",),
        "metrics; no evaluation was run": ("results",),
        "no features were extracted": ("features",),
        "no measurement was evaluated": ("results", "predictions"),
        "no head that calls a video normal or abnormal was evaluated": ("results", "predictions"),
        "no heads were trained on shares of the labels": ("results",),
        "no prototype maps were made": ("clips",),
        "no attention maps were made": ("clips",),
        "nothing was segmented": ("overlays",),
        "retrieval was not evaluated": ("neighbours",),
    }
    for reason, without in reasons.items():
        assert (f"Not shown: {reason}" in text) == (missing in without), reason


def test_clips_without_prototypes(tmp_path, undrawn):
    clip = {"title": "one", "frames": np.zeros((2, 8, 8), np.uint8), "attention": np.full((1, 2, 1, 1), 0.3)}
    text = _write(tmp_path, clips=[clip], usage=None)
    assert "no prototype maps were made" in text
    assert "Brightest position, mean of all heads: 0.9 times an even share" in text


def test_metrics_by_patient(tmp_path, undrawn):
    by_video = {"encoders": {"discovr": {"lvef/mae": _entry(5.5, 5.0, 6.0)}, "random": {}}, "paired": {}}
    by_patient = by_video | {"patients": {"lvef": 3, "knn": 2}, "labels_disagree": {"lvef": 0, "knn": 1}}
    text = _write(tmp_path, results=_results() | {"by_patient": by_patient})
    assert "Patients: lvef: 3, knn: 2." in text and "differ in diagnosis: knn: 1." in text and "5.50" in text
    assert "no patient has several test videos" not in text
    assert "no study has several test videos" in text
    by_study = {name: each for name, each in by_patient.items() if name != "patients"} | {"studies": {"lvef": 4}}
    assert "Studies: lvef: 4." in _write(tmp_path, results=_results() | {"by_study": by_study})
    assert "no patient has several test videos" in _write(tmp_path)


def test_confusion_by_hand(tmp_path, undrawn):
    target, prediction = np.array([0, 0, 0, 1, 1.0]), np.array([0.1, 0.5, 0.9, 0.2, 0.6])
    assert report_scores.confusion(target, prediction).tolist() == [[2, 1], [1, 1]]
    text = _write(tmp_path)
    # Recorded abnormal below 50 %, called abnormal above 0.5: all are called wrong, except the one at 50 %.
    assert "1<small>33 % of the normal</small>" in text and "2<small>67 % of the normal</small>" in text
    assert "2<small>100 % of the abnormal</small>" in text
    assert text.count("kNN: 5 test videos of 5 patients") == 1 and "labels_label_10" not in text
    assert "0.750<small>best</small>" in text  # k = 5, temperature 0.2


def test_data_without_labels(tmp_path, undrawn):
    unknown = {"test": {"ef": np.full(6, np.nan), "label": np.full(6, np.nan)}}
    text = _write(tmp_path, fields=unknown, results=_results() | {"readouts": {}})
    assert "no labels in this dataset" in text and "no measurement was evaluated" in text
    assert text.count("All videos") >= 1


def test_long_settings_are_folded(tmp_path, undrawn):
    assert "<summary>All 30 settings" in _write(tmp_path, summary={f"key{i}": i for i in range(30)})
    assert " settings</summary>" not in _write(tmp_path)


def test_one_prototype_keeps_its_colour_in_every_clip():
    order = video_strips.ranks([np.array([[5, 5], [9, 5]]), np.array([[9, 2]])])
    assert order.tolist() == [5, 9, 2]
    frames = np.full((2, 8, 8), 100, np.uint8)
    maps = np.array([[[5, 9], [9, 9]], [[9, 5], [5, 5]]])
    painted = video_strips.paint(frames, maps, order)
    corner, middle = painted[:, 2, 2], painted[:, 2, -2]
    np.testing.assert_array_equal(corner[0], middle[1])
    np.testing.assert_array_equal(corner[1], middle[0])
    assert (corner[0] != corner[1]).any()
    with pytest.raises(ValueError, match="one map a frame"):
        video_strips.paint(frames, maps[:1], order)


def test_palette_colours_differ():
    palette = plots.prototype_palette(48).astype(int)
    distance = np.abs(palette[:, None] - palette[None]).sum(-1) + 999 * np.eye(49, dtype=int)
    assert distance.min() > 25


def test_outline_by_hand():
    mask = np.zeros((5, 6), bool)
    mask[1:4, 1:4] = True
    ring = mask.copy()
    ring[2, 2] = False
    np.testing.assert_array_equal(mask_metrics.outline(mask), ring)
    assert mask_metrics.outline(np.ones((4, 4), bool)).sum() == 12  # beyond the frame is outside
    assert not mask_metrics.outline(np.zeros((4, 4), bool)).any()


def test_outlines_lie_on_the_border_of_each_class():
    classes = np.zeros((112, 112), np.uint8)
    classes[28:84, 28:56], classes[28:84, 56:84] = 1, 2
    picture = Image.open(
        io.BytesIO(video_strips.outlined(np.full((112, 112), 90, np.uint8), (classes, video_strips.FOUND)))
    )
    coloured = (np.asarray(picture.convert("RGB")) == video_strips.FOUND).all(-1)
    assert coloured.shape == (224, 224)
    row = np.flatnonzero(coloured[112])
    assert row.tolist() == [56, 57, 110, 111, 112, 113, 166, 167]
    assert not coloured[:56].any() and coloured[56:58, 60:160].all() and not coloured[58:160, 60:108].any()


def test_attention_glows_where_it_is_more_than_even():
    frame, weights = np.full((8, 8), 100, np.uint8), np.full((4, 4), 0.05)
    weights[0, 0], weights[3, 0] = 0.2, 0.1
    picture = video_strips.attended(frame, weights, 0.05, 0.2)
    assert picture.shape == (224, 224, 3) and (picture[:, 112:] == 100).all()
    most, third = (np.abs(picture[row, 10].astype(int) - 100).sum() for row in (10, -10))
    assert most > third > 0
    even = video_strips.attended(frame, np.full((4, 4), 0.05), 0.05, 0.15)
    assert (even == 100).all()


def test_principal_plane_of_a_line_and_of_nothing():
    line = np.outer(np.arange(5.0), [3, 4])
    coordinates, share = plots.principal_plane(line)
    assert share == pytest.approx([1, 0], abs=1e-12)
    assert np.abs(np.diff(coordinates[:, 0])) == pytest.approx([5] * 4)
    same, share = plots.principal_plane(np.ones((4, 3)))
    assert not same.any() and not share.any()


def test_videos_are_projected_where_only_heads_on_tokens_ran(tmp_path):
    results = _results()
    lvef = results["readouts"]["lvef"]
    lvef["encoders"] = {"discovr": lvef["encoders"]["discovr"] | {"chosen": "tokens"}}
    text = _write(tmp_path, results=results | {"readouts": {"lvef": lvef}}, predictions=[])
    assert "cls&#x27;, projected on its two directions" in text


@pytest.mark.parametrize(
    ("metric", "words"),
    [("features/rank", "Near 1 means dimensional collapse"), ("phase/rank", "Near 1 is expected with few clips per")],
)
def test_each_rank_is_plotted_with_what_it_means(undrawn, metric, words):
    """A low rank of the phase is no collapse, of clips it is: neither caption may speak of the other."""
    _, monitors = report_training.sections([{"step": step, metric: 1.0} for step in (1, 2)])
    captions = re.findall(r"Near 1[^.:]*", monitors)
    assert len(captions) == 1 and captions[0].startswith(words)


def test_a_head_that_was_trained_several_times_counts_each_video_once():
    rows = [
        {"encoder": "discovr", "family": "mlp", "output": "", "seed": seed, "id": name, "prediction": seed}
        for seed in (0, 1, 2)
        for name in "ab"
    ]
    found = report_scores.rows_of([*rows, rows[0] | {"encoder": "random"}], "mlp")
    assert [(row["id"], row["prediction"]) for row in found] == [("a", 0), ("b", 0)]
    assert report_scores.rows_of(rows, "knn") == []


def test_a_map_of_many_videos_shows_some_of_them(tmp_path, monkeypatch):
    whole = _write(tmp_path)
    assert "test videos.</p>" not in whole.split("A map of the test videos")[1]
    seen = []
    monkeypatch.setattr(report_scores, "_DRAWN", 4)
    monkeypatch.setattr(plots, "projection", lambda coordinates, share, **_: seen.append(coordinates) or b"")
    assert "directions of largest spread. 4 of 6 test videos." in _write(tmp_path)
    assert {len(coordinates) for coordinates in seen} == {4}
