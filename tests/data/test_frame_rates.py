"""The frame rate that a checkpoint's training videos have in common, if they have one."""

import pytest
from ml_collections import ConfigDict

from discovr_jax.data import frame_rates
from tests.data.test_pipeline import NAN, make_source


def of(rates):
    source = make_source([4] * len(rates), fps=rates)
    return frame_rates.of_training({"echo_folder": source}, {"echo_folder": range(len(rates))})


@pytest.mark.parametrize(
    ("rates", "wanted"),
    [
        ([50.0] * 20, 50.0),
        ([50.0] * 20 + [25.0], 50.0),  # one of 21 is an odd one
        ([48.0, 50.0, 52.0] * 7, 50.0),
        ([25.0, 50.0, 60.0] * 7, None),
        ([50.0] * 20 + [NAN], 50.0),
        ([50.0] * 18 + [NAN] * 2, None),
        ([NAN], None),
    ],
)
def test_a_rate_in_common(rates, wanted):
    assert frame_rates.common(of(rates)) == wanted


def test_only_what_is_trained_on_counts_over_all_datasets():
    sources = {name: make_source([4, 4], fps=[rate, 10.0]) for name, rate in (("camus", 50.0), ("rvenet", 51.0))}
    found = frame_rates.of_training(sources, {"camus": [0], "rvenet": [0]})
    assert found == [50.0, 50.0, 51.0] and frame_rates.common(found) == 50.0
    assert frame_rates.in_words(of([25.0, 60.0])) == "; its training videos have 25 to 60"
    assert frame_rates.in_words(None) == ""


@pytest.mark.parametrize(
    ("rates", "target_fps", "told"),
    [
        ([25.0] * 20, None, True),  # at the stride of the training half as fast
        ([100.0] * 20, None, True),
        ([48.0] * 20, None, False),
        ([25.0] * 20, 12.5, False),
        ([50.0] * 20, 25.0, True),  # asked for, and not what the encoder has seen
        ([NAN] * 20, None, False),
    ],
)
def test_clips_at_another_rate_than_in_training_are_told_of(rates, target_fps, told):
    trained = ConfigDict({"dataset": "echonet_dynamic", "stride": 4, "target_fps": None})
    fps = frame_rates.of_clips(trained, None)
    assert fps == 12.5
    source, data = make_source([4] * len(rates), fps=rates), ConfigDict({"stride": 4, "target_fps": target_fps})
    line = frame_rates.of_others(fps, data, source, "echo_folder")
    assert bool(line) == told and ("--config.data.target_fps=12.5 " in line) == told
    assert frame_rates.of_others(None, trained, source, "echo_folder") == ""
