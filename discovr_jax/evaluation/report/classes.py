"""The report's section about classes of the dataset's own table: which are taken for which."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from discovr_jax.data import class_labels
from discovr_jax.evaluation.report import html as page
from discovr_jax.evaluation.results import STUDIED


def section(results: Mapping[str, Any] | None) -> str:
    """A confusion matrix per target; `results` as of results.json."""
    title, parts = "Which class is taken for which?", []
    for entry in (results or {}).get("readouts", {}).values():
        target = class_labels.target_name(str(entry["field"]))
        counts = entry["encoders"].get(STUDIED, {}).get("report", {}).get("confusion")
        if target and counts is not None:
            names = entry["encoders"][STUDIED]["report"]["classes"]
            parts += [page.heading(target), _table(names, np.asarray(counts))]
    if not parts:
        return page.section(title, page.absent("no classes of the dataset's own table were evaluated"))
    note = "Recorded class in rows, the likeliest one by the trained encoder's head in columns; test videos."
    return page.section(title, page.text(note, "muted"), *parts)


def _table(names, counts: np.ndarray) -> str:
    """Counts [K, K] with the share of each row; only classes that some test video has or is called."""
    there = np.flatnonzero(counts.sum(0) + counts.sum(1))
    rows = []
    for number in there:
        total = counts[number].sum()
        cells = [
            page.cell(f"{counts[number, other]:,}", f"{100 * counts[number, other] / total:.0f} %" if total else "")
            for other in there
        ]
        rows.append([page.cell(names[number], css="name"), *cells, page.cell(f"{total:,}")])
    return page.table(["recorded", *(f"called {names[other]}" for other in there), "videos"], rows)
