"""How far long work is: rate and time left, lines that are far enough apart, and an end that is told once."""

import threading
import time

import pytest

from discovr_jax.progress import Progress, doing


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


def test_what_has_just_begun_is_not_told_of(clock):
    """After the seconds that imports take, the first file was told of with a rate of thousands."""
    lines = []
    left = "10 of 20 files (50 %), 2.0 per second, 0 min 5 s left"
    for total, told in ((None, "10 files, 2.0 per second"), (20, left)):
        clock(20.0, 20.001, 20.002, 25.0)
        progress = Progress("files", total, lines.append)
        progress.add()
        progress.add()
        assert not lines
        progress.add(8)
        assert lines == [told]
        lines.clear()


def test_many_short_works_in_a_row_are_told_of(clock):
    lines = []
    clock(0.0, 3.0, 3.0, 6.0)
    for what in ("poolings of a", "poolings of b"):
        Progress(what, 2, lines.append, always=False)(1)
    assert lines == ["1 of 2 poolings of b (50 %), 0.3 per second, 0 min 3 s left"]


def wait_for(lines, count):
    for _ in range(10_000):
        if len(lines) >= count:
            return
        time.sleep(0.001)


def test_work_without_a_count_is_told_of_by_its_innermost_name():
    lines = []
    with doing("evaluation", lines.append, every=0.01):
        wait_for(lines, 1)
        with doing("drawing", lines.append, every=0.01):
            told = len(lines)
            wait_for(lines, told + 2)  # the first may have been begun before
        told = len(lines)
        wait_for(lines, told + 2)
    assert {line.partition(":")[0] for line in lines} == {"evaluation", "drawing"}
    assert lines[0] == "evaluation: 0 s so far" and lines[-1].startswith("evaluation: ")


def test_a_count_is_told_of_though_it_goes_on_slowly():
    """What is told of the work around it does not take its turn."""
    lines = []
    with doing("evaluation", lines.append, every=0.01):
        progress = Progress("videos", 1000, lines.append, every=0.03)
        told = time.monotonic()
        while time.monotonic() - told < 5 and not any("videos" in line for line in lines):
            time.sleep(0.02)
            progress.add()
    assert any("videos" in line for line in lines)


def test_what_ends_soon_is_not_told_of():
    lines = []
    with doing("evaluation", lines.append, every=60):
        pass
    assert not lines


def test_it_ends_with_the_work_also_where_that_fails():
    lines = []
    with pytest.raises(ValueError, match="damaged"), doing("reading", lines.append, every=0.01):
        raise ValueError("damaged")
    assert "progress" not in [thread.name for thread in threading.enumerate()]
    told = len(lines)
    time.sleep(0.05)
    assert len(lines) == told
