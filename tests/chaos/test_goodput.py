"""What a run says of its goodput, against what is seen from outside while it is killed again and again."""

import pytest

from tests.chaos import goodput, laboratory


@pytest.mark.long
def test_goodput_of_a_run_that_is_killed_is_what_outside_sees(tmp_path_factory, tmp_path):
    """SIGKILL after 22 steps (two checkpoints), SIGTERM after 14 (not at a line of the log), SIGKILL after 14.

    By a clock of the test's own: a step takes 0.25 s, a kill costs 9 s, the machine's speed nothing.
    """
    overrides = goodput.OVERRIDES | {"duration": "60 steps", "checkpoint.every": "10 steps"}
    lab = laboratory.Laboratory(tmp_path_factory.getbasetemp(), overrides, heads={})
    kills = {0: 22, 1: 14, 2: 14}

    def enough(number, began):
        return number in kills and len(began) >= kills[number]

    started, parts = goodput.run(lab, tmp_path / "run", 0.25, enough, between=9.0)
    assert [part.end for part in parts] == ["SIGKILL", "SIGTERM", "SIGKILL", "end"]
    seen = goodput.seen(started, parts, 60, 10)
    assert seen["counted"] < seen["made"] and seen["goodput"] < 1
    assert goodput.told(tmp_path / "run") == pytest.approx(seen["goodput"], rel=1e-6)
