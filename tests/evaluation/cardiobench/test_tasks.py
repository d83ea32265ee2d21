"""The table of sets and tasks: the documentation has it, and our names in it exist."""

import importlib
import pathlib

from discovr_jax.data import facts
from discovr_jax.evaluation.cardiobench import tasks
from discovr_jax.evaluation.report import table

ROOT = pathlib.Path(__file__).parents[3]


def test_the_page_has_the_table():
    assert table.markdown(tasks.table()) in (ROOT / "docs" / "how-to" / "cardiobench.md").read_text(encoding="utf-8")


def test_eight_sets_and_our_names_exist():
    assert len({task.dataset for task in tasks.TASKS}) == 8
    assert len({task.folder for task in tasks.TASKS}) == len(tasks.TASKS)
    for task in tasks.TASKS:
        assert (task.status == tasks.SERVED) == bool(task.truth.file) == (not task.missing), task
        known = facts.known()[task.builder.partition("/")[0]]
        config = importlib.import_module(f"discovr_jax.configs.{known.config}").get_config()
        assert task.part.removesuffix("_view") in config.eval.evaluators, task
