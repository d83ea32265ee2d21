"""The direction of imports, what training never loads, and the size of files."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
OURS = ("discovr_jax", "tfds_builders")
FILES = [path for folder in (*OURS, "configs") for path in sorted((ROOT / folder).rglob("*.py"))]
PYTHON = FILES + sorted((ROOT / "tests").rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("discovr_jax", *parts) if parts[0] == "configs" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES if not path.stem.endswith("_test")}


def imports(path, lazy=True):
    """Modules that a file imports; without `lazy` only those that importing it imports (not inside functions)."""
    found = set()

    def visit(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                names = {f"{child.module}.{alias.name}" for alias in child.names}
                found.update(name if name in MODULES else child.module for name in names)
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def within(name, prefixes):
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def members(prefix):
    found = {name: path for name, path in MODULES.items() if within(name, [prefix])}
    assert found, f"no module {prefix}"
    return found


# What a part may import of ours besides itself: the direction of each arrow. A module belongs to the longest
# prefix; what is not named (the commands) may import everything but `main`.
BASE = tuple(
    f"discovr_jax.{name}" for name in ("errors", "trees", "file_lock", "renamed_keys", "storage", "progress")
)
BELOW = ("discovr_jax.data", "discovr_jax.models", "discovr_jax.losses")
METHOD = (*BELOW, "discovr_jax.method", "discovr_jax.parallel", "discovr_jax.configs")
RESULTS = tuple(
    f"discovr_jax.evaluation.{name}" for name in ("interface", "neighbours", "results", "results_io", "metrics")
)
ALLOWED = {
    **dict.fromkeys((*BASE, "discovr_jax.configs"), ()),
    **dict.fromkeys(BELOW, BASE),
    "discovr_jax.parallel": BASE,
    "discovr_jax.method": (
        *BASE, "discovr_jax.models", "discovr_jax.losses", "discovr_jax.data.mixture", "discovr_jax.data.facts",
        "discovr_jax.parallel",
        "discovr_jax.configs",
    ),
    "discovr_jax.runs": (*BASE, "discovr_jax.parallel"),
    # Evaluators get arrays or a function that predicts; what makes them knows models and meshes.
    "discovr_jax.evaluation.interface": BASE,
    "discovr_jax.evaluation.neighbours": (*BASE, "discovr_jax.evaluation.interface"),
    "discovr_jax.evaluation.metrics": BASE,
    "discovr_jax.evaluation.results": (
        *BASE, "discovr_jax.data", "discovr_jax.evaluation.interface", "discovr_jax.evaluation.metrics"
    ),
    "discovr_jax.evaluation.results_io": BASE,
    "discovr_jax.evaluation.features": (*BASE, *BELOW, "discovr_jax.evaluation.interface"),
    "discovr_jax.evaluation.evaluators": (*BASE, *BELOW, *RESULTS, "discovr_jax.evaluation.features"),
    "discovr_jax.evaluation.report": (*BASE, *BELOW, *RESULTS),
    "discovr_jax.evaluation": (*BASE, *METHOD, "discovr_jax.runs"),
    "discovr_jax.convert": (*BASE, *METHOD, "discovr_jax.runs"),
    "discovr_jax.outside_encoders": (*BASE, "discovr_jax.data"),
    "discovr_jax.planning": (*BASE, *METHOD, "discovr_jax.runs"),
    # The phantom is measured against the pixel baseline.
    "tfds_builders": (*BASE, "discovr_jax.data", "discovr_jax.evaluation.features.pixels"),
}  # fmt: skip


def part_of(name):
    return max((part for part in ALLOWED if within(name, [part])), key=len, default=None)


@pytest.mark.parametrize("part", ALLOWED)
def test_direction(part):
    for name, path in MODULES.items():
        if part_of(name) == part:
            wrong = {m for m in imports(path) if within(m, OURS) and not within(m, (part, *ALLOWED[part]))}
            assert not wrong, f"{name} imports {sorted(wrong)}"


def test_no_circles():
    """Imports inside functions count: a circle that is broken so is one all the same."""
    waiting = {name: {m for m in imports(path) if m in MODULES and m != name} for name, path in MODULES.items()}
    while free := {name for name, needs in waiting.items() if not needs & waiting.keys()}:
        waiting = {name: needs for name, needs in waiting.items() if name not in free}
    assert not waiting, f"in a circle, or above one: {sorted(waiting)}"


def test_only_prepare_imports_the_builders():
    for name, path in MODULES.items():
        inside = within(name, ["discovr_jax"]) and any(within(m, ["tfds_builders"]) for m in imports(path))
        assert not inside or name == "discovr_jax.prepare", name


def test_nothing_imports_training_but_what_is_run():
    for name, path in MODULES.items():
        found = imports(path)
        assert "discovr_jax.main" not in found, name
        command = '__name__ == "__main__"' in path.read_text(encoding="utf-8")
        runs = command or within(name, ("discovr_jax.main", "discovr_jax.benchmark"))
        assert runs or "discovr_jax.train" not in found, name


def test_readers_of_video_import_only_what_they_yield():
    """Of ours; the table of suffixes alone knows the readers, so that none imports another in a circle."""
    below = ("discovr_jax.data.io.video", "discovr_jax.data.colour")
    folder = "discovr_jax.data.io"
    for name, path in members(folder).items():
        family = f"{folder}.{name.rpartition('.')[2].partition('_')[0]}"  # dicom and dicom_pixels are one reader
        wrong = {n for n in imports(path) if within(n, OURS) and not within(n, below) and not n.startswith(family)}
        assert wrong <= {folder}, f"{name} imports {sorted(wrong)}"
    for name, path in MODULES.items():
        if name != "discovr_jax.data.read" and not within(name, (folder, "tfds_builders.camus")):
            wrong = {n for n in imports(path) if within(n, [folder]) and not within(n, below[:1])} - {folder}
            assert not wrong, f"{name} imports {sorted(wrong)}; read by discovr_jax.data.read"


STDLIB = tuple(sys.stdlib_module_names)


@pytest.mark.parametrize(
    "part,libraries",
    [
        ("discovr_jax.losses", ("jax", "jaxtyping", "flax.struct")),
        ("discovr_jax.method.masking", ("jax", "jaxtyping", "numpy")),
        ("discovr_jax.models", ("jax", "jaxtyping", "flax", "numpy")),
        ("discovr_jax.runs.workdir", ()),
        ("discovr_jax.runs.metrics_log", ()),
        ("discovr_jax.runs.writers", ("mlflow", "tensorboardX", "wandb")),
    ],
)
def test_libraries_of_the_mathematics(part, libraries):
    for name, path in members(part).items():
        wrong = {found for found in imports(path) if not within(found, (*OURS, *STDLIB, *libraries))}
        assert not wrong, f"{name} imports {sorted(wrong)}"


def test_torch_has_two_doors_and_nothing_knows_tensorflow():
    for name, path in MODULES.items():
        found = {module.split(".")[0] for module in imports(path)}
        assert "tensorflow" not in found, name
        doors = ["discovr_jax.convert", "discovr_jax.outside_encoders.torch_module"]
        assert "torch" not in found or within(name, doors), name


def test_orbax_has_one_door():
    users = {name for name, path in MODULES.items() if any(within(found, ["orbax"]) for found in imports(path))}
    assert users == {"discovr_jax.runs.checkpoint"}


def test_the_hub_has_one_door_which_is_opened_inside_functions_only():
    """Nothing else of ours connects to anything, and importing it does not load the library."""
    clients = ("huggingface_hub", "http.client", "httpx", "requests", "urllib.request", "urllib3")
    found = {name: {m for m in imports(path) if within(m, clients)} for name, path in MODULES.items()}
    assert {name for name, used in found.items() if used} == {"discovr_jax.hub"}
    assert not any(within(m, clients) for m in imports(MODULES["discovr_jax.hub"], lazy=False))


# Libraries that cost seconds or are absent on training machines.
HEAVY = ("av", "matplotlib", "nibabel", "pandas", "pyarrow", "pydicom", "sklearn", "tensorflow", "torch")


@pytest.mark.parametrize("entry", ["discovr_jax.train", "discovr_jax.data.pipeline", "discovr_jax.data.records"])
def test_training_imports_nothing_heavy(entry):
    """Followed through our modules by parsing, so that the whole chain is named."""
    chains = {entry: (entry,)}
    queue = [entry]
    while queue:
        name = queue.pop()
        for found in imports(MODULES[name], lazy=False):
            assert not within(found, HEAVY), " -> ".join((*chains[name], found))
            if found in MODULES and found not in chains:
                chains[found] = (*chains[name], found)
                queue.append(found)


def test_training_loads_nothing_heavy():
    """The same in a real process, third-party packages included."""
    script = f"import discovr_jax.train, sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_are_short_and_named_by_what_they_do():
    for path in PYTHON:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 400, f"{path.relative_to(ROOT)} has {lines} lines"
        assert path.stem not in ("util", "utils", "common", "helpers", "misc"), path


def test_public_functions_have_docstrings():
    """Of the library: the first lines of a reference."""
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not tree.body or ast.get_docstring(tree), name
        if not within(name, ["discovr_jax.losses", "discovr_jax.models", "discovr_jax.method"]):
            continue
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{name}.{node.name}"
