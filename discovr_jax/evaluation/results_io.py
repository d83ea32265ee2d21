"""Results on disk, written whole or not at all."""

import contextlib
import csv
import json
import math
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np

PREDICTION_COLUMNS = ("id", "encoder", "family", "output", "readout", "seed", "target", "prediction", "patient")


@contextlib.contextmanager
def _whole(path: pathlib.Path) -> Iterator[IO[str]]:
    """A file of text that gets its name once it is complete, and is gone if it never is; directories are made."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8", newline=""
    ) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)  # a temporary file is 0600, which would hide results from the lab
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file under its final name only once it is complete; directories are made."""
    with _whole(path) as file:
        file.write(text)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Strict JSON: NaN and infinity become null; numpy numbers and tuples become plain ones."""
    write_text(path, json.dumps(plain(content), indent=1, allow_nan=False) + "\n")


def write_csv(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows of predictions.csv, of which a few are in memory; the header is there without rows too."""
    with _whole(path) as file:
        writer = csv.DictWriter(file, PREDICTION_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def plain(value: Any) -> Any:
    """What strict JSON can hold: NaN and infinity become None; NumPy arrays and numbers and tuples become plain."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def commit_id() -> str:
    """Git commit of this code, or "unknown" outside git."""
    here = pathlib.Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
