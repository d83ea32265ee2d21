"""What docs/quickstart.ipynb says where it does not run through; that it does: tests/test_smoke.py."""

import json

import pytest

from discovr_jax import train
from tests.run_case import ROOT

CELLS = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]


def test_it_stops_where_a_stopped_training_would_leave_nothing_to_show(monkeypatch):
    monkeypatch.setattr(train, "train_and_evaluate", lambda *arguments: train.Summary(None, {}, None, finished=False))
    (source,) = [text for cell in CELLS if "train_and_evaluate(" in (text := "".join(cell["source"]))]
    with pytest.raises(RuntimeError, match="Run this cell again"):
        exec(source, {"config": None, "workdir": ""})
