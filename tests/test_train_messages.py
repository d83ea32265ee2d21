"""What a training says of itself: the terms of its loss, and that it has few videos."""

import re

import pytest

from discovr_jax import train


def test_terms_of_the_log_add_up_to_the_loss():
    row = {"loss/total": 7.674, "loss/scd": 6.872, "loss/phase": 0.127, "loss/amplitude": 0.225}
    terms = train.loss_terms(row, {"scd": 1.0, "phase": 1.0, "amplitude": 3.0})
    assert terms == "scd 6.872 phase 0.127 amplitude 3 x 0.225"


@pytest.mark.parametrize(
    "videos, told",
    [(5, "5, with 8 clips .* holds a video several times"), (63, "63, .* 7.9 batches per epoch"), (64, "")],
)
def test_few_training_videos_are_warned_of_once(videos, told, caplog):
    train.warn_of_few(videos, 8)
    assert len(caplog.records) == bool(told)
    assert re.search(told, caplog.text)
