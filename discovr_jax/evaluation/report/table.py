"""The metrics that matter, with their baselines: the table that goes to the terminal and the log."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from discovr_jax.data import class_labels
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.results import STUDIED

WIDTH = 100  # characters of a line
# (family/metric, name, digits); measurements stand before segmentation, by the names that the config gives them
_CLASSES = (
    ("knn/macro_f1", "kNN macro F1", 3),
    ("knn/auroc", "kNN AUROC", 3),
    ("probe/macro_f1", "probe macro F1", 3),
    ("probe/auroc", "probe AUROC", 3),
    ("labels/auroc_10", "10 % labels AUROC", 3),
    ("mlp/auroc", "MLP AUROC", 3),
    ("attentive/auroc", "attentive AUROC", 3),
    ("anomaly/auroc", "anomaly AUROC", 3),
)
_MASKS = (("segmentation/dice", "LV Dice", 3), ("segmentation/decoder_dice", "LV Dice, decoder", 3))
_SHOWN = 3  # differences of subgroups
UNTRAINED = "random"
OTHERS = ("pixels", "mean_mask")  # the baseline without an encoder: of each metric the one that there is


def with_interval(entry: Mapping[str, Any] | None, digits: int = 3, *, signed: bool = False) -> str:
    """ "0.812 (0.770 to 0.850)", "+0.10 (-0.02 to +0.21)" if signed, "n/a" without a value."""
    if not entry or entry["value"] is None:
        return "n/a"
    form = f"{{:{'+' if signed else ''}z.{digits}f}}"  # z: no "-0.000"
    value, low, high = (None if entry[k] is None else form.format(entry[k]) for k in ("value", "low", "high"))
    return f"{value} (no interval)" if low is None else f"{value} ({low} to {high})"


def baselines(results: Mapping[str, Any], key: str) -> list[str]:
    """Encoders that a FAMILY/METRIC of the trained one is compared with: untrained, and without an encoder."""
    others = [name for name in OTHERS if results["encoders"].get(name, {}).get(key)]
    return [name for name in (UNTRAINED, *others[:1]) if results["encoders"].get(name, {}).get(key)]


def that_matter(results: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """(FAMILY/METRIC, short name, digits) of the metrics that stand in the terminal, whether they are there or not."""
    return [*_CLASSES, *_measurements(results), *_targets(results), *_MASKS]


def metrics_table(results: Mapping[str, Any], where: str = "") -> str:
    """A row per metric that matters: the trained encoder, its baselines, and the paired differences with intervals.

    Args:
      results: the content of results.json.
      where: the workdir, to say where all metrics are.

    Returns:
      Lines of at most `WIDTH` characters without a final newline. Metrics whose evaluator did not run are left out; the
      reason follows.
    """
    trained, rows = results["encoders"].get(STUDIED, {}), []
    for key, name, digits in that_matter(results):
        if key not in trained:
            continue
        values, differences = [with_interval(trained[key], digits).split(" (")[0]], []
        compared = baselines(results, key)
        for baseline in (UNTRAINED, next((each for each in compared if each != UNTRAINED), "")):
            entry = results["encoders"].get(baseline, {}).get(key)
            values.append(with_interval(entry, digits).split(" (")[0] if entry else "")
            pair = results["paired"].get(f"{STUDIED}-{baseline}", {}).get(key)
            differences.append(with_interval(pair, digits, signed=True) if pair else "")
        rows.append([name, *values, *differences])
    lines = []
    if rows:
        lines = _aligned(["", STUDIED, UNTRAINED, "other", f"{STUDIED} - {UNTRAINED}", f"{STUDIED} - other"], rows)
        lines += ["", "random: the same network untrained; other: pixels, or for masks the mean training mask."]
    for name in outside(results):
        lines += ["", *_beside(results, name)]
    notes = [
        *leak_lines(results), standing(results), *subgroup_lines(results), *outside_lines(results),
        *note_lines(results), *skipped_lines(results),
    ]  # fmt: skip
    if where and any(results["encoders"].values()):
        notes.append(f"All metrics with their intervals: {where}/report.html and {where}/results.json")
    elif where:
        notes.append(f"Next, features of each video: python -m discovr_jax.extract --checkpoint={where}")
    wrapped = (line for note in notes for line in textwrap.wrap(note, WIDTH, break_long_words=False))
    return "\n".join([*lines, *wrapped])


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, *rows))
    return ["  ".join(cells).rstrip() for cells in lines]


def outside(results: Mapping[str, Any]) -> list[str]:
    """Encoders whose features came from files."""
    return list(results.get("outside", {}))


def outside_lines(results: Mapping[str, Any]) -> list[str]:
    """A line for each of them, and one for each thing that was noticed of its files."""
    lines = []
    for name, about in results.get("outside", {}).items():
        lines += [f"{name}: features of {', '.join(file['file'] for file in about['files'])}.", *about["notes"]]
    return lines


def _beside(results: Mapping[str, Any], name: str) -> list[str]:
    """The trained encoder and one whose features came from a file: metrics of both and their difference."""
    trained, other, rows = results["encoders"].get(STUDIED, {}), results["encoders"][name], []
    for key, shown, digits in that_matter(results):
        if key in trained and key in other:
            pair = results["paired"][f"{STUDIED}-{name}"][key]
            rows.append([
                shown, with_interval(trained[key], digits).split(" (")[0], with_interval(other[key], digits),
                with_interval(pair, digits, signed=True),
            ])  # fmt: skip
    return _aligned(["", STUDIED, name, f"{STUDIED} - {name}"], rows) if rows else []


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Markdown of rows of cells, the head first; the columns as wide as their widest cell."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _measurements(results: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Rows of the measurements that were predicted."""
    rows = []
    for family, entry in results["readouts"].items():
        if entry["field"] in interface.MEASUREMENTS:
            name, unit = family.upper(), interface.MEASUREMENTS[entry["field"]][2]
            digits = 1 if unit == "mL" else 2
            rows += [(f"{family}/mae", f"{name} MAE ({unit})", digits), (f"{family}/r2", f"{name} R2", 3)]
    return rows


def _targets(results: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Rows of the classes of the dataset's own table."""
    rows = []
    for family, entry in results["readouts"].items():
        if name := class_labels.target_name(str(entry["field"])):
            shown = {"macro_f1": "macro F1", "auroc": "macro AUROC", "quadratic_kappa": "kappa"}
            metrics = [metric for metric in shown if metric in entry["metrics"]]
            rows += [(f"{family}/{metric}", f"{name[:16]} {shown[metric]}", 3) for metric in metrics]
    return rows


def note_lines(results: Mapping[str, Any]) -> list[str]:
    """One line for each thing that must be known to read a metric."""
    return [f"{note['evaluator']}: {note['note']}" for note in results.get("notes", ())]


def standing(results: Mapping[str, Any]) -> str:
    """One line: what these metrics stand for."""
    return (
        f"{results['step']} training steps; {results['n_test']} test videos of {results['dataset']}; "
        "95 % intervals over patients. "
        "A demo run shows that the machinery works; it is no clinical result and not the paper's value."
    )


def leak_lines(results: Mapping[str, Any]) -> list[str]:
    """One line if test videos, or others of their patients, were trained on; none if not, or if it is not known."""
    counts = results.get("trained_on") or {}
    if not counts.get("patients_trained_on"):
        return []
    return [
        f"LEAK: of {counts['test_videos']} test videos the encoder was trained on {counts['trained_on']}, and on "
        f"patients of {counts['patients_trained_on']}. Training saw no labels, but these metrics, and the differences "
        "to encoders that saw none of these videos, are not those of new patients. Keep the splits of training "
        "(a column split in the CSV), or train again on these."
    ]


def subgroup_lines(results: Mapping[str, Any]) -> list[str]:
    """One line where subgroups were asked for: in which of them the trained encoder differs from all others."""
    found = results.get("subgroups", {})
    differences = [
        (f"{name}, {attribute} {group}", entry, digits)
        for attribute, of_attribute in found.items()
        for group, of_group in of_attribute["groups"].items()
        for key, name, digits in that_matter(results)
        if (entry := of_group["less_others"].get(STUDIED, {}).get(key)) and entry["low"] is not None
    ]
    off = [one for one in differences if not one[1]["low"] <= 0 <= one[1]["high"]]
    if not found:
        return []
    shown = "; ".join(f"{name} {with_interval(entry, digits, signed=True)}" for name, entry, digits in off[:_SHOWN])
    shown += f"; {len(off) - _SHOWN} more" if len(off) > _SHOWN else ""
    return [
        f"By {', '.join(found)}: of {len(differences)} differences of a group to all others, in the metrics above, the "
        f"intervals of {len(off)} exclude 0 (5 % of them do by chance)"
        + (f": {shown}." if shown else ".")
    ]


def skipped_lines(results: Mapping[str, Any]) -> list[str]:
    """One line for each evaluator (or pooling of one) that could not run, with the reason; one for all of them if
    nothing is labelled."""
    keys = ("evaluator", "encoder", "readout")
    skips = results["skipped"]
    unlabelled = [skip["evaluator"] for skip in skips if skip["reason"].startswith("no labels")]
    others = [skip for skip in skips if skip["evaluator"] not in unlabelled and skip.get("set_up")]
    if unlabelled and not others and not any(results["encoders"].values()):
        return [f"No labels: nothing to score ({', '.join(dict.fromkeys(unlabelled))})."]
    return [f"skipped {'/'.join(skip[k] for k in keys if k in skip)}: {skip['reason']}" for skip in skips]
