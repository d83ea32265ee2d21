"""The command's exit code after an evaluation: 3 where an evaluator that was set up could not run."""

import subprocess
import sys

from tests.run_case import ROOT, command_environment

SCRIPT = """
from discovr_jax import command_line, main
from discovr_jax.evaluation import evaluate

argv = command_line.parse_flags(["main", "--mode=eval", "--config=configs/phantom.py:smoke", "--workdir=unused"])
for skipped in ([], [{"set_up": False}], [{"set_up": False}, {"set_up": True}]):
    evaluate.evaluate_workdir = lambda *_: {"skipped": skipped}
    try:
        main.main(argv)
        print(0)
    except SystemExit as stop:
        print(stop.code)
"""


def test_an_evaluation_of_which_a_part_could_not_run_ends_with_3(tmp_path):
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=ROOT, env=command_environment(tmp_path), capture_output=True, text=True)
    assert done.stdout.split() == ["0", "0", "3"], done.stderr
    # A line before what takes seconds.
    assert "eval in workdir unused: loading JAX" in done.stderr.partition("device(s)")[0], done.stderr
