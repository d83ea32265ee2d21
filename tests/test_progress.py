"""How far long work is: rate and time left, lines that are far enough apart, and an end that is told once."""

import time

import pytest

from discovr_jax.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Sets the seconds that pass before each look at the clock."""

    def at(*seconds):
        times = iter(seconds)
        monkeypatch.setattr(Progress, "_last", 0.0)
        monkeypatch.setattr(time, "monotonic", lambda: next(times))

    return at


def test_rate_and_time_left(clock, capsys):
    clock(0.0, 1.0, 10.0, 11.0, 40.0)
    progress = Progress("videos", every=5)
    for done in (10, 20, 30, 80):
        progress(done, 80)
    # 20 in 10 s leave 60 for 30 s; the third call comes too early to be told.
    assert capsys.readouterr().err.splitlines() == [
        "20 of 80 videos (25 %), 2.0 per second, 0 min 30 s left",
        "80 of 80 videos (100 %), 2.0 per second, 0 min 0 s left",
    ]


def test_short_work_says_nothing_where_it_is_part_of_something(clock):
    lines = []
    for always, told in ((True, 1), (False, 0)):
        clock(0.0, 1.0, 2.0)
        progress = Progress("videos", 2, lines.append, always=always)
        progress.add()
        progress.add()
        assert len(lines) == told
        lines.clear()


def test_nothing_done_yet_has_no_rate(clock):
    lines = []
    clock(0.0, 6.0)
    Progress("videos", 2, lines.append)(0)
    assert lines == ["0 of 2 videos (0 %), 0.0 per second, time left unknown"]


def test_without_a_total_it_says_what_it_knows(clock):
    lines = []
    clock(0.0, 2.0, 10.0)
    progress = Progress("files looked at", say=lines.append)
    progress.add(100)
    progress.add(100)
    assert lines == ["200 files looked at, 20.0 per second"]


def test_many_short_works_in_a_row_are_told_of(clock):
    lines = []
    clock(0.0, 3.0, 3.0, 6.0)
    for what in ("poolings of a", "poolings of b"):
        Progress(what, 2, lines.append, always=False)(1)
    assert lines == ["1 of 2 poolings of b (50 %), 0.3 per second, 0 min 3 s left"]
