"""The table of metrics that goes to the terminal, the log and the README."""

from collections.abc import Mapping, Sequence
from typing import Any

from discovr_jax.evaluation import interface

# (family/metric, heading, digits); regressions follow, by the names that the config gives them
COLUMNS = (
    ("knn/macro_f1", "kNN macro F1", 3),
    ("knn/balanced_accuracy", "kNN balanced acc.", 3),
    ("knn/auroc", "kNN AUROC", 3),
    ("probe/macro_f1", "probe macro F1", 3),
    ("probe/auroc", "probe AUROC", 3),
    ("labels/auroc_10", "probe AUROC, 10 % of labels", 3),
    ("anomaly/auroc", "anomaly AUROC", 3),
    ("anomaly/sensitivity_at_90", "sensitivity at 90 %", 3),
    ("retrieval/precision_at_10", "precision at 10", 3),
    ("attentive/auroc", "attentive AUROC", 3),
    ("segmentation/dice", "LV Dice", 3),
    ("segmentation/decoder_dice", "LV Dice, decoder", 3),
)


def with_interval(entry: Mapping[str, Any] | None, digits: int = 3, *, signed: bool = False) -> str:
    """ "0.812 (0.770-0.850)", "+0.10 (-0.02 to +0.21)" if signed, "n/a" without a value."""
    if not entry or entry["value"] is None:
        return "n/a"
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    value, low, high = (None if entry[k] is None else form.format(entry[k]) for k in ("value", "low", "high"))
    return f"{value} (no interval)" if low is None else f"{value} ({low} to {high})"


def metrics_table(results: Mapping[str, Any]) -> str:
    """Markdown table, encoder x metric with 95 % intervals, differences below, and what it stands for.

    Args:
      results: the content of results.json.

    Returns:
      Lines without a final newline. Columns whose evaluator did not run are left out; the reason follows.
    """
    rows = [*results["encoders"].items(), *results["paired"].items()]
    columns = [*COLUMNS, *_regressions(results)]
    columns = [column for column in columns if any(column[0] in metrics for _, metrics in rows)]
    cells = [["encoder", *(heading for _, heading, _ in columns)]]
    for name, metrics in results["encoders"].items():
        cells.append([name, *(with_interval(metrics.get(key), digits) for key, _, digits in columns)])
    for name, metrics in results["paired"].items():
        differences = (with_interval(metrics.get(key), digits, signed=True) for key, _, digits in columns)
        cells.append([name.replace("-", " - ", 1), *differences])
    return "\n".join([markdown(cells), "", standing(results), *skipped_lines(results)])


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Markdown of rows of cells, the head first; the columns as wide as their widest cell."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _regressions(results: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Columns of the measurements that were predicted."""
    columns = []
    for family, entry in results["readouts"].items():
        if entry["field"] in interface.MEASUREMENTS:
            name, unit = family.upper(), interface.MEASUREMENTS[entry["field"]][2]
            columns += [(f"{family}/mae", f"{name} MAE ({unit})", 2), (f"{family}/r2", f"{name} R2", 3)]
    return columns


def standing(results: Mapping[str, Any]) -> str:
    """One line: what these metrics stand for."""
    return (
        f"{results['step']} training steps; {results['n_test']} test videos of {results['dataset']}; "
        "95 % intervals over patients. "
        "A demo run shows that the machinery works; it is no clinical result and not the paper's value."
    )


def skipped_lines(results: Mapping[str, Any]) -> list[str]:
    """One line for each evaluator (or readout) that could not run, with the reason."""
    keys = ("evaluator", "encoder", "readout")
    skips = results["skipped"]
    return [f"skipped {'/'.join(skip[k] for k in keys if k in skip)}: {skip['reason']}" for skip in skips]
