"""docs/extending.md: its worked examples apply to this code and run, and what it shows and names is there."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "extending.md"
DIFFS = sorted((ROOT / "docs" / "extending").glob("*.diff"))
COPIED = ("configs", "discovr_jax", "tests", "tfds_builders")
# Tests of the house that a contribution of each kind has to pass.
HOUSE = (
    "tests/test_configs.py::test_every_config_and_argument_is_listed_here_and_in_its_header",
    "tests/data/test_facts.py::test_every_builder_has_facts_and_a_config_that_names_it",
    "tests/losses/test_terms.py::test_every_term_has_a_weight_and_reads_what_the_model_gives",
    "tests/test_imports.py::test_no_circles",
    "tests/test_imports.py::test_direction",
    "tests/test_imports.py::test_libraries_of_the_mathematics",
    "tests/test_imports.py::test_public_functions_have_docstrings",
)


def files_of(diff: pathlib.Path) -> list[str]:
    """Paths that a diff adds or changes."""
    return re.findall(r"^\+\+\+ b/(\S+)$", diff.read_text(encoding="utf-8"), flags=re.M)


def apply(diff: pathlib.Path, tree: pathlib.Path) -> None:
    """As the page says; no repository is needed. Where git is missing, by patch."""
    command = ["git", "apply"] if shutil.which("git") else ["patch", "-p1", "--fuzz=0", "-i"]
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)}
    done = subprocess.run([*command, str(diff)], cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{diff.name} does not fit this code any more: {done.stderr}{done.stdout}"


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the code with all examples applied."""
    tree = tmp_path_factory.mktemp("extended") / "tree"
    for name in COPIED:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    for diff in DIFFS:
        apply(diff, tree)
        for name in files_of(diff):
            assert (tree / name).is_file(), f"{diff.name}: {name}"
    return tree


@pytest.mark.long  # runs other tests in a copy of the repository
def test_the_examples_work_and_pass_the_tests_of_the_house(extended):
    own = [name for diff in DIFFS for name in files_of(diff) if not (ROOT / name).exists()]
    own = [name for name in own if re.search(r"(/test_\w+|_test)\.py$", name)]
    assert len(own) == len(DIFFS) == 5
    environment = os.environ | {"PYTHONPATH": str(extended), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", *own, *HOUSE]
    done = subprocess.run(command, cwd=extended, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in own:
        assert f"{name}::" in done.stdout, f"{name} was not run"


def test_the_page_shows_what_the_diffs_hold():
    blocks = re.findall(r"^```diff\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
    texts = {diff.stem: diff.read_text(encoding="utf-8") for diff in DIFFS}
    shown = {stem for block in blocks for stem, text in texts.items() if block in text}
    assert shown == texts.keys()
    for block in blocks:
        assert any(block in text for text in texts.values()), f"docs/extending.md shows what no diff holds:\n{block}"


def test_files_that_the_page_names_exist():
    text = PAGE.read_text(encoding="utf-8")
    added = {name for diff in DIFFS for name in files_of(diff)}
    names = re.findall(r"`((?:configs|discovr_jax|docs|tests|tfds_builders)/[\w./]+)`", text)
    assert len(names) > 20
    for name in names:
        assert (ROOT / name).exists() or any(each.startswith(name) for each in added), name
    for diff in DIFFS:
        assert f"(extending/{diff.name})" in text
