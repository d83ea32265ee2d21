"""A run that lost devices goes on in place with those that are left: the same command, batches and losses."""

import os
import subprocess
import sys

import pytest

from tests import run_case

STEPS = {"checkpoint.every": "2 steps", "mesh.data": -1}
CASES = {"half of them": (4, 2, 1), "one is left, parameters were cut": (4, 1, 2)}


@pytest.mark.long
@pytest.mark.parametrize(("before", "after", "fsdp"), CASES.values(), ids=CASES)
def test_a_killed_run_goes_on_with_fewer_devices(tmp_path_factory, before, after, fsdp):
    base = run_case.session_folder(tmp_path_factory)
    data_dir, folder = run_case.simulated(base), tmp_path_factory.mktemp("fewer")

    def command(name, devices, kill_at, axis):
        flags = run_case.command_flags(data_dir, STEPS | {"mesh.fsdp": axis})
        return subprocess.run(
            [sys.executable, "-m", "tests.parallel.test_processes", str(kill_at), f"--workdir={folder / name}", *flags],
            env=run_case.command_environment(base)
            | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")},
            cwd=run_case.ROOT,
            capture_output=True,
            text=True,
        )

    killed = command("run", before, 5, fsdp)
    assert killed.returncode == -9, killed.stderr
    rest = command("run", after, -1, min(fsdp, after))
    assert rest.returncode == 0 and "resumed from step" in rest.stderr, rest.stderr
    whole = command("whole", before, -1, fsdp)
    assert whole.returncode == 0, whole.stderr
    found, expected = run_case.rows(folder / "run"), run_case.rows(folder / "whole")
    assert [row["step"] for row in found] == [row["step"] for row in expected] == [2, 4, 6, 8, 9, 9]
    for row, other in zip(found[:-1], expected[:-1], strict=True):
        assert row["loss/total"] == pytest.approx(other["loss/total"], rel=1e-6), row["step"]
