"""Config keys and trials that messages of the program and the documents name exist."""

import ast
import re

import pytest

from discovr_jax.configs import ablations, base
from discovr_jax.runs import workdir
from tests.test_configs import ROOT

KNOWN = {*workdir.flatten(base.get_config().to_dict()), "data.mixture"}
SECTIONS = sorted({key.split(".")[0] for key in KNOWN if "." in key})
PARTS = {key.rsplit(".", count)[0] for key in KNOWN for count in range(1, key.count(".") + 1)}
# "eval.batch_size", not the end of a longer name or of a path, nor a file ("eval.py") or a call ("data.open(").
NAMED = re.compile(rf"(?<![\w./-])(?:config\.)?((?:{'|'.join(SECTIONS)})(?:\.[a-zA-Z_]\w*)+)(?!\w*[(/])")
FILES = ("py", "md", "json", "jsonl", "csv", "txt", "log", "html", "npz", "pth", "diff")


def named(text):
    """Keys that a text names, in its order."""
    return [key for key in NAMED.findall(text) if key.rsplit(".", 1)[1] not in FILES]


def exists(key):
    """Also a whole section, and what the configs may add: an evaluator under another name, a mixture's datasets."""
    *section, name = key.split(".")
    added = section[:2] == ["eval", "evaluators"] or section == ["data", "mixture"]
    return key in KNOWN | PARTS or added


def messages(source):
    """(line, text) of every string of a program but docstrings; holes of f-strings are left out."""
    nodes = list(ast.walk(ast.parse(source)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    inside = set()
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = [part for part in node.values if isinstance(part, ast.Constant)]
            inside |= {id(part) for part in parts}
            yield node.lineno, "\0".join(part.value for part in parts)
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | inside:
            yield node.lineno, node.value


FOLDERS = ("discovr_jax", "configs", "tfds_builders")
TENSORS = ROOT / "discovr_jax" / "convert" / "names.py"  # a table of PyTorch's names: "head.weight"
OLD_KEYS = ROOT / "discovr_jax" / "renamed_keys.py"
PROGRAMS = sorted({path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")} - {TENSORS, OLD_KEYS})
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "launch").iterdir()])


def test_keys_in_messages_exist():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {key}"
        for path in PROGRAMS
        for line, text in messages(path.read_text(encoding="utf-8"))
        for key in named(text)
        if not exists(key)
    ]
    assert wrong == []


def prose(text):
    """Without code shown as a diff, whose names are modules' and no keys."""
    return re.sub(r"^```diff$.*?^```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.M | re.S)


def test_keys_in_documents_exist():
    wrong = [
        f"{path.relative_to(ROOT)}:{number} {key}"
        for path in DOCUMENTS
        for number, line in enumerate(prose(path.read_text(encoding="utf-8")).splitlines(), 1)
        for key in named(line)
        if not exists(key)
    ]
    assert wrong == []


def test_trials_that_documents_name_exist():
    """As "trial `NAME`" or "trial=NAME"."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"trial(?:=| `)(\w+)", text):
            assert name in ablations.TRIALS, f"{path.name}: {name}"


@pytest.mark.parametrize("path", ["README.md", "docs", "launch", *FOLDERS])
def test_nothing_cites_a_page_that_is_not_here(path):
    start = ROOT / path
    for file in [start] if start.is_file() else start.rglob("*.*"):
        if file.suffix in (".py", ".md", ".sh", ".yaml"):
            assert not re.search(r"\bDESIGN\b", file.read_text(encoding="utf-8")), file


def test_the_test_sees_what_is_wrong():
    source = '''
"""Docstring of model.no_such."""
raise ValueError(f"set model.head.init to {x}, or model.depth, data.{name}; see data/io.py, eval.json, model.apply()")
print("optim.base_lr" "=1 or config.optim.rate")
'''
    found = [key for _, text in messages(source) for key in named(text)]
    assert found == ["model.head.init", "model.depth", "optim.base_lr", "optim.rate"]
    assert [key for key in found if not exists(key)] == ["model.head.init", "optim.rate"]
    assert named(prose("model.depth\n```diff\n jepa.term,\n```\nloss.no_such")) == ["model.depth", "loss.no_such"]
    assert exists("eval.evaluators.rvef.field") and exists("data.simulate") and not exists("eval.no_such")
