"""metrics.jsonl: one JSON object per logged step, on disk before the step's checkpoint is."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TextIO

from discovr_jax.runs.workdir import write_atomically
from discovr_jax.runs.writers import Run

METRICS_VERSION = 1  # in the first line


class Writer:
    """Lines after the step of a resume are dropped; a step that comes twice completes its line."""

    def __init__(self, run: Run):
        self._path = path(run.workdir)
        self._lines = len(run.rows)
        self._last: dict[str, Any] = {}
        self._file = self._rewrite(run.rows)

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        first = {} if self._lines else {"schema_version": METRICS_VERSION}
        new = {"step": step, **first, **row}
        if self._lines and self._last["step"] == step and "state_sha256" not in row:
            self._file.close()
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self._file = self._rewrite([*map(json.loads, lines[:-1]), {**self._last, **row}])
            return
        self._last, self._lines = new, self._lines + 1
        self._file.write(_line(new))
        self._file.flush()
        os.fsync(self._file.fileno())  # A checkpoint that survives a crash of the machine has its line.

    def close(self) -> None:
        self._file.close()

    def _rewrite(self, rows: list[dict]) -> TextIO:
        """The file, open for more, after these lines."""
        write_atomically(self._path, "".join(map(_line, rows)))
        self._last = rows[-1] if rows else {}
        return self._path.open("a", encoding="utf-8")


def path(workdir: str | os.PathLike) -> pathlib.Path:
    """Of the file."""
    return pathlib.Path(workdir) / "metrics.jsonl"


def _line(row: dict) -> str:
    """Strict JSON: numbers that are not finite become null."""
    finite = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
