"""Every example in a docstring runs and gives what it says; what users call has one."""

import ast
import doctest
import importlib
import pathlib

import jax
import pytest

from discovr_jax.method import experiment
from discovr_jax.runs.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).parent.parent.parent
# What users call from Python: each has an example.
CALLED = """
discovr_jax.inference: load_encoder VideoEncoder.embed
discovr_jax.export.write: export
discovr_jax.prepare: build datasets
discovr_jax.data.labels: normal_label
discovr_jax.data.letterbox: letterbox
discovr_jax.data.read: read_video
discovr_jax.data.records: make_record
discovr_jax.data.transforms: clip_indices even_starts
discovr_jax.evaluation.neighbours: nearest
discovr_jax.evaluation.metrics.bootstrap: patient_weights interval
discovr_jax.evaluation.metrics.masks: dice hausdorff95 disc_volume
discovr_jax.evaluation.metrics.videos: macro_f1 auroc brier calibration_error mae r2
discovr_jax.losses.dino: teacher_targets cross_entropy update_center weighted_mean
discovr_jax.losses.jepa: invariance sigreg
discovr_jax.losses.monitors: entropy teacher_entropies feature_rank
discovr_jax.losses.pixel: pixel_targets pixel_loss
discovr_jax.losses.scd: standardise prototype_cross_entropy hard_labels signal_weights
discovr_jax.losses.sinkhorn: sinkhorn
discovr_jax.losses.terms: outputs
discovr_jax.method.masking: num_visible visible_positions tube
discovr_jax.method.schedules: duration_steps should_run Schedules
discovr_jax.models.patches: patchify
discovr_jax.models.positions: sinusoid
discovr_jax.planning.chips: parse_topology
discovr_jax.runs.metrics_log: read_metrics
tfds_builders.echo_phantom.layouts: write
tfds_builders.echo_phantom.parameters: draw_heart
tfds_builders.echo_phantom.simulator: simulate
tfds_builders.splits: hashed_split
"""


def examples(path):
    """{qualified name: docstring with an example} of a file; "" is the module."""

    def visit(node, name):
        text = ast.get_docstring(node) or ""
        if ">>>" in text:
            found[name] = text
        for child in node.body:
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                visit(child, f"{name}.{child.name}".lstrip("."))

    found = {}
    visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


FILES = [path for folder in ("discovr_jax", "tfds_builders") for path in sorted((ROOT / folder).rglob("*.py"))]
EXAMPLES = {module_of(path): found for path in FILES if (found := examples(path))}


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """Where examples run: a run "runs/adult" is there."""
    folder = tmp_path_factory.mktemp("examples")
    checkpoints = Checkpoints(folder / "runs" / "adult")
    config = experiment.config_dict(tiny.config)
    checkpoints.save(5, jax.tree.map(lambda leaf: leaf, tiny.state), {}, config)
    checkpoints.close()
    (folder / "runs" / "mine").mkdir()
    return folder


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_give_what_they_say(module, folder, monkeypatch):
    monkeypatch.chdir(folder)
    loaded, parser, told = importlib.import_module(module), doctest.DocTestParser(), []
    for name, text in EXAMPLES[module].items():
        test = parser.get_doctest(text, dict(vars(loaded)), f"{module}.{name}", loaded.__file__, 0)
        result = doctest.DocTestRunner().run(test, out=told.append)
        assert result.attempted and not result.failed, "".join(told)


def test_what_users_call_has_an_example():
    for line in CALLED.strip().splitlines():
        module, _, names = line.partition(": ")
        for name in names.split():
            assert name in EXAMPLES.get(module, ()), f"{module}.{name} has no example"
