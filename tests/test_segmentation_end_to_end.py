"""examples/segmentation_end_to_end.py: trains on the masks, from scratch and from a checkpoint, and compares."""

import argparse
import importlib.util

import numpy as np
import pytest

from tests import run_case

PATH = run_case.ROOT / "examples" / "segmentation_end_to_end.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("segmentation_end_to_end", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_ways_score_each_labelled_test_frame(example, tiny, tmp_path_factory, tmp_path, capsys):
    config = tiny.config.copy_and_resolve_references()
    data_dir = run_case.simulated(run_case.session_folder(tmp_path_factory))
    config.update_from_flattened_dict(run_case.EVALUATION | {"data.data_dir": str(data_dir)})
    workdir = run_case.saved(tiny, tmp_path / "run")
    given = {"workdir": workdir, "steps": 2, "batch": 4, "learning_rate": 1e-3, "seed": 0}
    files = [tmp_path / "scratch.npz", tmp_path / "tuned.npz"]
    for file, pretrained in zip(files, (False, True), strict=True):
        example.run(config, argparse.Namespace(**given, output=file, pretrained=pretrained))
    scratch, tuned = (np.load(file) for file in files)
    assert scratch["dice"].shape == scratch["patient"].shape and scratch["patient"].dtype.kind == "i"
    assert np.isfinite(scratch["dice"]).all() and (scratch["dice"] != tuned["dice"]).any()
    capsys.readouterr()
    example.compare(files)
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["dice"].startswith(f"scratch {scratch['dice'].mean():.3f}; tuned {tuned['dice'].mean():.3f};")
