"""The wheel alone, in a fresh environment and from another directory, prepares, trains and evaluates."""

import ast
import configparser
import json
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from tests import run_case

PACKAGES = ("discovr_jax", "tfds_builders", "configs")
# Packaging does not depend on the losses: one branch compiles soonest.
OVERRIDES = {"duration": "4 steps", "checkpoint.every": "2 steps", "loss.scd": 0.0, "loss.phase": 0.0}


def execute(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that the working tree gets no build folder."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(run_case.ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(run_case.ROOT / file, source)
    execute(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source)
    (found,) = out.glob("discovr_jax-*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Interpreter of an environment with the wheel, and the libraries (not the packages) of this one."""
    folder = tmp_path_factory.mktemp("environment")
    execute(sys.executable, "-m", "venv", "--without-pip", folder)
    interpreter = folder / "bin" / "python"
    (libraries,) = folder.glob("lib/python*/site-packages")
    # Only a path: .pth files in there, of an editable install of this repository, are not read.
    (libraries / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ("install", "--no-deps", "--no-index", "--ignore-installed", "--disable-pip-version-check")
    execute(sys.executable, "-m", "pip", "--python", interpreter, *install, wheel)
    return interpreter


def test_the_wheel_holds_the_packages_and_what_describes_the_builders(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = [name for name in archive.namelist() if name.endswith("LICENSE")]
        (entries,) = (archive.read(name) for name in archive.namelist() if name.endswith("entry_points.txt"))
    wanted = {
        path.relative_to(run_case.ROOT).as_posix().replace("configs/", "discovr_jax/configs/", 1)
        if package == "configs"
        else path.relative_to(run_case.ROOT).as_posix()
        for package in PACKAGES
        for path in (run_case.ROOT / package).rglob("*")
        if path.suffix == ".py"
        or path.name in ("README.md", "CITATIONS.bib", "TAGS.txt", "facts.toml", "page.html")
        or ("pretrained" in path.parts and path.is_file() and "__pycache__" not in path.parts)
    }
    assert held == wanted and metadata
    commands = configparser.ConfigParser()
    commands.read_string(entries.decode())
    assert "discovr-train" in commands["console_scripts"]
    for target in commands["console_scripts"].values():
        module, _, function = target.partition(":")
        source = ast.parse((run_case.ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        assert function in {node.name for node in source.body if isinstance(node, ast.FunctionDef)}, target
    for builder in ("echonet_dynamic", "echo_phantom"):
        assert any(name.startswith(f"tfds_builders/{builder}/README") for name in held)


@pytest.mark.long  # CI installs from the checkout; the test above says what the wheel holds
def test_the_wheel_prepares_trains_and_evaluates_from_another_directory(python, tmp_path, tmp_path_factory):
    shared = run_case.session_folder(tmp_path_factory)
    native = run_case.simulated(shared) / "native" / "echonet_dynamic"
    environment = run_case.command_environment(shared)
    del environment["PYTHONPATH"]
    environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("device_count=8", "device_count=1")

    def run(*command):
        return execute(python, "-m", *command, cwd=tmp_path, env=environment)

    where = (
        "import discovr_jax.configs.adult as c, discovr_jax.main as m, tfds_builders as t; "
        "print(c.__file__, m.__file__, t.__path__[0])"
    )
    for place in execute(python, "-c", where, cwd=tmp_path, env=environment).split():
        assert pathlib.Path(place).is_relative_to(python.parent.parent)

    said = run("discovr_jax.prepare", "echonet_dynamic", f"--manual_dir={native}", "--data_dir=data")
    assert "train: 10 records" in said
    command = ["discovr_jax.main", *run_case.command_flags("data", OVERRIDES), "--workdir=runs/here"]
    run(*command, "--config.eval.at_end=False")
    directory = tmp_path / "runs" / "here"
    assert run_case.rows(directory)[-1]["step"] == 4
    assert not (directory / "results.json").exists()

    said = run(*command, "--mode=eval")
    assert "evaluation of step 4" in said and "report: " in said
    results = json.loads((directory / "results.json").read_text())
    assert results["step"] == 4 and results["commit"] == "unknown" and results["encoders"]["discovr"]
    assert (directory / "report.html").stat().st_size > 10_000
