"""Every key of configs/base.py is read by something and explained; no other key is."""

import ast
import itertools

from ml_collections import ConfigDict

from discovr_jax.configs import base
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.runs import workdir
from tests.test_configs import CASES, ROOT, load


class Recorder:
    """A config that notes which leaves are read, as "section.key"."""

    def __init__(self, config, seen, prefix=""):
        self._config, self._seen, self._prefix = config, seen, prefix

    def __getitem__(self, key):
        value, name = self._config[key], f"{self._prefix}{key}"
        if isinstance(value, ConfigDict):
            return Recorder(value, self._seen, f"{name}.")
        self._seen.add(name)
        return value

    def __getattr__(self, key):
        return self[key]

    def keys(self):
        return self._config.keys()


def keys_read_by_running():
    """What building a run reads: recorded over all shipped configs."""
    seen = set()
    for name, arg in CASES:
        config = Recorder(load(name, arg), seen)
        experiment = experiment_lib.make_experiment(config, 600)
        experiment_lib.make_train_step(experiment, config)
    mesh_lib.make_mesh(Recorder(base.get_config(), seen).mesh)
    return seen


def keys_read_in_source(path, known):
    """What a file reads as `config.KEY`, `config.SECTION.KEY`, `SECTION.KEY`, or by a local name of a section."""
    sections = {key.rpartition(".")[0] for key in known} - {""}
    aliases, found = {}, set()

    def dotted(node):
        """"a.b.c" of an attribute chain (constant subscripts too), or None."""
        if isinstance(node, ast.Name):
            return aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            inner = dotted(node.value)
            return inner and f"{inner}.{node.attr}"
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            inner = dotted(node.value)
            return inner and f"{inner}.{node.slice.value}"
        return None

    def assigned(target, value):
        if isinstance(target, ast.Name):
            chain = dotted(value)
            if chain and chain.removeprefix("config.") in sections:
                aliases[target.id] = chain
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for pair in zip(target.elts, value.elts, strict=True):
                assigned(*pair)

    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            assigned(node.targets[0], node.value)
    for node in nodes:
        chain = dotted(node) if isinstance(node, ast.Attribute | ast.Subscript) else None
        if chain and not isinstance(node.ctx, ast.Store):
            key = chain.removeprefix("config.").removeprefix("self.")
            if key in known and (chain.startswith("config.") or "." in key):
                found.add(key)
        if isinstance(node, ast.Subscript) and (dotted(node.value) or "").endswith("data.simulate"):
            found |= {key for key in known if key.startswith("data.simulate.")}  # read in a loop over splits
        if isinstance(node, ast.Call) and dotted(node.func) == "option":  # of discovr_jax/method/fidelity.py
            found |= known & {node.args[1].value}
    return found


READERS = (
    "train.py", "prepare.py", "convert/read.py", "data/mixture.py", "data/clip_reader.py", "data/pipeline.py",
    "evaluation/evaluate.py", "evaluation/runner.py", "evaluation/results.py", "evaluation/features/extract.py",
    "evaluation/cross_validation/of_evaluation.py", "evaluation/subgroups.py",
)  # fmt: skip


def unread(known):
    """Keys of `known` that neither building a run nor the readers of the config read."""
    evaluators = {key for key in known if key.startswith("eval.evaluators.")}  # read as keyword arguments
    found = keys_read_by_running()
    for path in READERS:
        found |= keys_read_in_source(ROOT / "discovr_jax" / path, known)
    return known - found - evaluators


def test_every_key_is_read():
    known = {*workdir.flatten(base.get_config().to_dict()), "data.mixture"}  # empty in base
    assert unread(known) == set()
    planted = {"data.sector_mask", "model.drop_path", "log_gradients"}
    assert unread(known | planted) == planted


def test_comments_say_what_each_key_does():
    """Every leaf of base has a comment on its line or the next."""
    lines = (ROOT / "configs" / "base.py").read_text(encoding="utf-8").splitlines()
    for line, after in itertools.pairwise(lines):
        key, equals, _ = line.strip().partition(" = ")
        if equals and key.startswith("c.") and "ConfigDict(" not in line and not key.startswith(("c.data.simulate.",)):
            assert "#" in line or after.strip().startswith("#") or key in PLAIN, f"{key} has no comment"


PLAIN = {"c.optim.b1", "c.optim.b2", "c.dino.student_temperature", "c.checkpoint.every"}
