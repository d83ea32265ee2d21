"""The evaluation at the end of a training comes after the last checkpoint."""

import pytest

from discovr_jax import train
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.runs import checkpoint
from tests import run_case


def test_a_last_evaluation_that_fails_costs_no_training(tmp_path_factory, tmp_path, monkeypatch):
    config = run_case.make_config(run_case.simulated(run_case.session_folder(tmp_path_factory)))
    monkeypatch.setattr(mesh_lib, "make_mesh", run_case.one_device)

    def breaks(*_):
        raise RuntimeError("the evaluator broke")

    with run_case.compiled_programs(run_case.session_folder(tmp_path_factory)):
        run_case.traced_once(monkeypatch)
        with pytest.raises(RuntimeError, match="the evaluator broke"):
            train.train_and_evaluate(config, str(tmp_path), breaks)
        assert checkpoint.Checkpoints(tmp_path).steps() == [3, 6, 9]
        before = run_case.rows(tmp_path)
        monkeypatch.setattr(train.feed, "device_batches", run_case.cut_short(0, lambda: pytest.fail("trained again")))
        assert train.train_and_evaluate(config, str(tmp_path), run_case.weight_metrics).finished
    # The last line gets the metrics, and the hash follows; nothing else has changed.
    after = run_case.rows(tmp_path)
    assert after[:-2] == before[:-1] and after[-2].items() > before[-1].items()
    assert "eval/weights/sum" in after[-2] and after[-1].keys() == {"step", "state_sha256"}
