"""Rates and goodput of a run, by a clock that a test sets."""

import types

import pytest

from discovr_jax.runs import clock as clock_lib


@pytest.fixture
def now(monkeypatch):
    """`now(seconds)` lets time pass."""
    at = {"time": 1000.0}
    monkeypatch.setattr(
        clock_lib, "time", types.SimpleNamespace(time=lambda: 5e8 + at["time"], monotonic=lambda: at["time"])
    )

    def passes(seconds):
        at["time"] += seconds

    return passes


def steps(clock, now, first, count, seconds=1.0):
    for step in range(first + 1, first + count + 1):
        now(seconds)
        clock.tick(step)


def test_rates_leave_out_compilation_saving_and_evaluation(now):
    clock = clock_lib.Clock(batch_size=4, step=0, total=100)
    steps(clock, now, 0, 1, seconds=60.0)
    steps(clock, now, 1, 10, seconds=2.0)
    with pytest.raises(OSError), clock.paused():
        now(30.0)
        raise OSError
    row = clock.read(11)
    assert row["perf/clips_per_second"] == pytest.approx(4 * 10 / 20.0)
    assert row["perf/eta_seconds"] == pytest.approx(89 * 2.0)
    assert row["perf/goodput"] == pytest.approx(20.0 / 110.0)
    steps(clock, now, 11, 10)
    row = clock.read(21)
    assert row["perf/clips_per_second"] == pytest.approx(4.0)
    assert row["perf/goodput"] == pytest.approx(30.0 / 120.0)


def test_goodput_counts_the_wait_between_starts_and_steps_that_are_done_again(now):
    clock = clock_lib.Clock(4, 0, 100)
    steps(clock, now, 0, 11)
    rows = [{"step": 11, **clock.read(11)}]
    steps(clock, now, 11, 10)
    rows.append({"step": 21, **clock.read(21)})
    assert rows[-1]["perf/goodput"] == pytest.approx(20 / 21)
    now(79.0)
    again = clock_lib.Clock(4, 11, 100, rows)  # the newest checkpoint is of step 11
    steps(again, now, 11, 21)
    assert again.read(32)["perf/goodput"] == pytest.approx((10 + 20) / (21 + 79 + 21))


def test_steps_between_the_last_line_and_a_checkpoint_count(now):
    """Whose lines stand at other steps: SIGTERM saves anywhere."""
    clock = clock_lib.Clock(4, 0, 100)
    steps(clock, now, 0, 11)
    rows = [{"step": 11, **clock.read(11)}]
    steps(clock, now, 11, 7)
    with clock.paused():
        now(5.0)
    saved = clock.so_far(18)
    assert saved == {"perf/step_seconds": pytest.approx(17.0), "perf/start_time": rows[0]["perf/start_time"]}
    assert clock.so_far(18) == saved, "asking changes nothing"
    now(77.0)
    for before in (rows, []):  # metrics.jsonl may be lost
        again = clock_lib.Clock(4, 18, 100, before, saved)
        steps(again, now, 18, 3)
        assert again.read(21)["perf/step_seconds"] == pytest.approx(17 + 2)
    assert again.read(21)["perf/goodput"] == pytest.approx(19 / (18 + 5 + 77 + 3 + 3))


def test_a_start_that_reads_at_once_counts_nothing(now):
    """Nor do rows without goodput, of an earlier version."""
    clock = clock_lib.Clock(4, 7, 100, [{"step": 5, "perf/clips_per_second": 3.0}])
    steps(clock, now, 7, 1, seconds=9.0)
    row = clock.read(8)
    assert (row["perf/goodput"], row["perf/eta_seconds"], row["perf/clips_per_second"]) == (0.0, 0.0, 0.0)
