"""The report's first screen."""

import numpy as np
import pytest

from discovr_jax.evaluation.report import overview, plots, video_strips
from tests.evaluation.report.test_table import results

SUMMARY = {"Encoder": "ViT, width 192", "Training data": "echonet_dynamic (1)", "Seed": "0"}
LOSS = [{"step": step, "loss/total": 3.0 - step} for step in (1, 2)]


@pytest.fixture(autouse=True)
def pictures(monkeypatch):
    """Which picture was drawn last."""
    names = []

    def draws(name):
        return lambda *_, **__: names.append(name) or b"picture"

    monkeypatch.setattr(plots, "png", lambda figure: b"chart")
    monkeypatch.setattr(plots, "predicted_against_true", draws("scatter"))
    monkeypatch.setattr(plots, "curves", draws("loss"))
    monkeypatch.setattr(video_strips, "outlined", draws("outline"))
    return names


def _section(found, health=(), overlays=(), predictions=()):
    return overview.section(600, found, health, SUMMARY, LOSS, overlays, predictions)


def _scored():
    found = results()
    found["clips_seen"] = 9600
    # Label efficiency predicts the measurement too, and comes first here.
    found["readouts"] = {"labels_ef_10": {"field": "ef"}} | found["readouts"]
    for part, each in found["readouts"].items():
        each |= {"encoders": {"discovr": {}}, "type": "regression", "family": part}
    return found


def test_says_what_was_trained_and_four_metrics_with_their_baselines():
    text = _section(_scored(), ["step 600: effective rank 9.7; no warnings"])
    for fact in ("ViT, width 192", "echonet_dynamic (1)", "600 steps, 9,600 clips", "40 test videos, echonet_dynamic"):
        assert fact in text
    assert '<p class="healthy">Health at step 600: effective rank 9.7; no warnings.</p>' in text and "Seed" not in text
    assert text.count('class="card"') == overview.SHOWN
    assert overview.headline(_scored()) == ["probe/auroc", "knn/auroc", "lvef/mae", "segmentation/dice"]
    # Of the error a negative difference is the better one; each has two baselines, the last the mean mask.
    assert text.count("; better") == 2 and text.count("; worse") == 6
    assert text.count("untrained") == 4 and text.count("<b>pixels") == 3 and text.count("mean mask") == 1


def test_warnings_stand_below_the_health():
    text = _section(_scored(), ["step 600: effective rank 1.0; 1 warning", "clip features; try: lower <optim.lr>"])
    assert text.count('class="sick"') == 2 and "Warning: clip features; try: lower &lt;optim.lr&gt;." in text
    assert "Not shown: health" in _section(_scored())


def test_the_picture_is_the_best_that_there_is(pictures):
    mask = np.zeros((8, 8), np.uint8)
    row = {"encoder": "discovr", "family": "lvef", "output": "", "seed": 0, "target": 50.0, "prediction": 51.0}
    outlines = {("none", "mean_mask"): mask, ("linear", "discovr"): mask}
    overlay = {"title": "v", "phase": "ED", "frame": mask, "truth": mask, "predictions": outlines}
    assert "Predicted ejection fraction" in _section(_scored(), predictions=[row])
    assert "Outline on a test video" in _section(_scored(), overlays=[overlay], predictions=[row])
    assert "Training loss" in _section(_scored())
    assert pictures == ["scatter", "outline", "loss"]


def test_without_an_evaluation_the_rest_stands():
    text = _section(None)
    assert "no evaluation was run at this step" in text and "Training loss" in text and "ViT, width 192" in text


def test_test_videos_that_were_trained_on_stand_on_the_first_screen():
    found = _scored() | {"trained_on": {"test_videos": 40, "trained_on": 3, "patients_trained_on": 5}}
    assert '<p class="sick">LEAK: of 40 test videos' in _section(found) and "LEAK" not in _section(_scored())
