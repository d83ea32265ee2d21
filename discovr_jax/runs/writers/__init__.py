"""Where logged metrics go: one file per writer, all with the interface of `Writer`.

metrics.jsonl is always written; `config.log.writers` names the others. A new writer is a module of this folder with a
class `Writer`, and its name in `NAMES`.
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

from discovr_jax.errors import ConfigError

NAMES = ("tensorboard", "wandb", "mlflow")  # the last two send what they get to a server


@dataclasses.dataclass(frozen=True)
class Run:
    """What a writer is told when it is opened.

    Attributes:
      workdir: folder of the run.
      first: step after the one that the run starts, or resumes, from. What an earlier start wrote of it is void.
      rows: lines of metrics.jsonl up to there.
      project: `config.log.project`.
      config: plain values by dotted key, without folders and other paths; may be empty.
    """

    workdir: pathlib.Path
    first: int
    rows: list[dict]
    project: str
    config: dict[str, Any]


class Writer(Protocol):
    """`Writer(run)` opens it."""

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Metrics of a step; a step may come twice, the second time with other names. Values that are no numbers
        (`state_sha256`, the last row) are not for every writer."""

    def close(self) -> None:
        """Called once, when the run ends or fails."""


def open_writer(name: str, run: Run) -> Writer:
    """Opens a writer of `NAMES`.

    Raises:
      ConfigError: no such writer, or its library is not installed.
    """
    if name not in NAMES:
        raise ConfigError(f"log.writers must be of {NAMES}, not {name!r}")
    module = importlib.import_module(f"discovr_jax.runs.writers.{name}")
    try:
        return module.Writer(run)
    except ImportError as error:
        raise ConfigError(
            f"log.writers asks for {name}, which is not installed ({error}): pip install 'discovr_jax[{name}]'"
        ) from None


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Those values of a row that are numbers."""
    return {name: value for name, value in row.items() if isinstance(value, int | float)}
