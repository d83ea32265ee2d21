"""Weights & Biases (extra `wandb`): metrics and config, to its server, or to disk with WANDB_MODE=offline.

Switched on by `log.writers=("wandb",)`. Nothing else is sent: no code, no terminal output, no names of machines and
folders.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from discovr_jax.runs.workdir import write_atomically
from discovr_jax.runs.writers import Run, numbers


class Writer:
    """A run that resumes in its workdir goes on as the same run there; steps that it has already stay as they were."""

    def __init__(self, run: Run):
        import wandb

        saved = run.workdir / "wandb_id"
        self._run = wandb.init(
            project=run.project,
            name=pathlib.Path(run.workdir).name,
            id=saved.read_text(encoding="utf-8").strip() if saved.exists() else None,
            resume="allow",
            dir=str(run.workdir),
            config=run.config,
            settings=wandb.Settings(
                console="off", disable_code=True, disable_git=True, x_disable_meta=True, x_disable_stats=True
            ),
        )
        write_atomically(saved, self._run.id + "\n")

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        if result := numbers(row):
            self._run.log(result, step=step)

    def close(self) -> None:
        self._run.finish()
