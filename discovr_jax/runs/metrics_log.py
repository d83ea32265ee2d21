"""The metrics of a run: reading metrics.jsonl back, and handing each logged row to the writers."""

import json
import logging
import math
import pathlib
from collections.abc import Sequence

from discovr_jax.runs.workdir import WorkdirError, flatten
from discovr_jax.runs.writers import Run, Writer, jsonl, open_writer
from discovr_jax.runs.writers.jsonl import METRICS_VERSION

logger = logging.getLogger(__name__)

# Config keys that name folders: they stay on this machine.
PRIVATE = ("data.data_dir", "init_from", "checkpoint.copy_to", "checkpoint.local_dir")
REMOTE = ("wandb", "mlflow")  # a server that fails ends no training


def read_metrics(workdir: str | pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl, null as NaN; a last line cut short by a kill is dropped.

    Raises:
      WorkdirError: a line is damaged, or the file was written by a later version.

    >>> log = MetricsLog("runs/mine", step=0, writers=())
    >>> log.write(10, {"loss/total": 2.5})
    >>> log.close()
    >>> read_metrics("runs/mine")[-1]["loss/total"]
    2.5
    """
    path = jsonl.path(workdir)
    rows = []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row["step"], int):
                raise ValueError("step is no whole number")
            rows.append({name: math.nan if value is None else value for name, value in row.items()})
        except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
            if number < len(lines):
                raise WorkdirError(f"{path}, line {number} is damaged: {error}") from None
    version = rows[0].get("schema_version", METRICS_VERSION) if rows else METRICS_VERSION
    if not isinstance(version, int) or version > METRICS_VERSION:
        raise WorkdirError(
            f"{path} has schema version {version}, this code reads up to {METRICS_VERSION}: use the version of "
            "discovr_jax that wrote it, or another --workdir"
        )
    return rows


class MetricsLog:
    """metrics.jsonl and what `config.log.writers` names. Rows after the step of a resume are dropped and written anew.

    Args:
      step: that the run starts or resumes from.
      writes: False only knows what the process that writes has in its log.
      writers: besides metrics.jsonl, of `writers.NAMES`.
      project, config: for writers that send them to a server; `config` nested.

    Raises:
      WorkdirError: see `read_metrics`.
      ConfigError: an unknown writer, or one whose library is not installed.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        step: int,
        writes: bool = True,
        writers: Sequence[str] = ("tensorboard",),
        project: str = "discovr_jax",
        config: dict | None = None,
    ):
        rows = read_metrics(workdir)
        earlier = [row for row in rows if row["step"] <= step and "state_sha256" not in row]
        if len(earlier) < len(rows):
            logger.info("metrics.jsonl: %d lines after step %d will be written anew", len(rows) - len(earlier), step)
        self._last = earlier[-1] if earlier else {"step": -1}
        self._writers: dict[str, Writer] = {}
        if writes:
            shown = {name: value for name, value in flatten(config or {}).items() if name not in PRIVATE}
            run = Run(pathlib.Path(workdir), step + 1, earlier, project, shown)
            self._writers["jsonl"] = jsonl.Writer(run)
            try:
                for name in writers:
                    self._writers[name] = open_writer(name, run)
            except BaseException:
                self.close()
                raise

    def has(self, step: int, prefix: str) -> bool:
        """Whether the newest line is of `step` and holds metrics of that name."""
        return self._last["step"] == step and any(name.startswith(prefix) for name in self._last)

    def write(self, step: int, row: dict) -> None:
        """One line per step: where `step` has a line from before a resume, it gets what it lacks."""
        if "state_sha256" not in row and step <= self._last["step"]:
            row = {name: value for name, value in row.items() if name not in self._last}
            if step < self._last["step"] or not row:
                return
            self._last = self._last | row
        else:
            self._last = {"step": step, **row}
        for name, writer in list(self._writers.items()):
            try:
                writer.write(step, row)
            except Exception as error:
                if name not in REMOTE:
                    raise
                del self._writers[name]
                logger.warning("%s takes no more metrics (%s); metrics.jsonl has all of them", name, error)

    def close(self) -> None:
        for name, writer in self._writers.items():
            try:
                writer.close()
            except Exception as error:
                if name not in REMOTE:
                    raise
                logger.warning("%s was not closed (%s); metrics.jsonl has all metrics", name, error)
