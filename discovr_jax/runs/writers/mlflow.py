"""MLflow (extra `mlflow`): metrics and config, to MLFLOW_TRACKING_URI or, without it, where MLflow keeps them."""

import pathlib
from collections.abc import Mapping
from typing import Any

from discovr_jax.runs.workdir import write_atomically
from discovr_jax.runs.writers import Run, numbers


class Writer:
    """A run that resumes in its workdir goes on as the same run there."""

    def __init__(self, run: Run):
        import mlflow

        self._mlflow, saved = mlflow, run.workdir / "mlflow_id"
        mlflow.set_experiment(run.project)
        known = saved.read_text(encoding="utf-8").strip() if saved.exists() else None
        name = None if known else pathlib.Path(run.workdir).name
        active = mlflow.start_run(run_id=known, run_name=name, log_system_metrics=False)
        if known is None:
            mlflow.log_params(run.config)
        write_atomically(saved, active.info.run_id + "\n")

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        if result := numbers(row):
            self._mlflow.log_metrics(result, step=step)

    def close(self) -> None:
        self._mlflow.end_run()
