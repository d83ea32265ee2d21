"""Cross-validation of an archive, as text for the terminal and as the report's section."""

import textwrap
from collections.abc import Mapping
from typing import Any

from discovr_jax.evaluation.report import html as page
from discovr_jax.evaluation.report import scores
from discovr_jax.evaluation.report import table as table_lib

WIDEST = 100  # columns of a terminal
HEADINGS = {
    "macro_f1": "macro F1", "balanced_accuracy": "balanced accuracy", "auroc": "macro AUROC", "mae": "MAE", "r2": "R2"
}  # fmt: skip
HEADS = {"probe": "linear probe", "knn": "kNN"}
_SMALLER_IS_BETTER = ("mae",)


def tables(results: Mapping[str, Any]) -> str:
    """Markdown of at most `WIDEST` columns: per head the encoders, then the first encoder minus each other one."""
    names = [key.partition("/")[2] for key in next(iter(results["encoders"].values())) if key.startswith("probe/")]
    shown = [name for name in names if name in HEADINGS]
    recalls = [name for name in names if name not in HEADINGS]
    first = next(iter(results["encoders"]))
    sizes = _sizes(results)
    what = f"{results['videos']} videos of {results['groups']} groups" + (f" ({sizes})" if sizes else "")
    how = f"{results['repeats']} times {results['folds']}-fold, 95 % intervals over groups"
    lines = [textwrap.fill(f"{what}; {how}.", WIDEST)]
    for head, called in HEADS.items():
        top = [called, *(HEADINGS[name] for name in shown)]
        rows = [[name, *(_cell(e[f"{head}/{m}"]) for m in shown)] for name, e in results["encoders"].items()]
        lines += ["", table_lib.markdown([top, *rows])]
        sds = [e[f"{head}/{m}"]["sd_over_repeats"] for e in results["encoders"].values() for m in shown]
        if results["repeats"] > 1:
            lines += ["", f"Standard deviation over repeats: at most {max(sds):.3f}."]
        others = ((name, results["paired"][f"{first} - {name}"]) for name in results["encoders"] if name != first)
        rows = [[name, *(_cell(e[f"{head}/{m}"], signed=True) for m in shown)] for name, e in others]
        lines += ["", table_lib.markdown([[f"{first} minus", *top[1:]], *rows])]
        if recalls:
            top = [f"{called}: recall of", *(name.removeprefix("recall of ") for name in recalls)]
            encoders = results["encoders"].items()
            rows = [[name, *(f"{e[f'{head}/{m}']['value']:.2f}" for m in recalls)] for name, e in encoders]
            table = table_lib.markdown([top, *rows])
            fits = len(table.partition("\n")[0]) <= WIDEST
            lines += ["", table if fits else f"Recall of the {len(recalls)} classes: encoders in results.json."]
    return "\n".join([*lines, *("\n" + textwrap.fill(note, WIDEST) for note in results["notes"])])


def _sizes(results: Mapping[str, Any]) -> str:
    """Videos and groups of each class; empty for a measurement."""
    return ", ".join(f"{name} {n['videos']} of {n['groups']}" for name, n in results["classes"].items())


def _cell(entry: Mapping[str, Any], *, signed: bool = False) -> str:
    if entry["value"] is None:
        return "n/a"
    form = "{:+z.2f}" if signed else "{:z.2f}"
    value, low, high = (None if entry[key] is None else form.format(entry[key]) for key in ("value", "low", "high"))
    return value if low is None else f"{value} ({low} to {high})"


def told(results: Mapping[str, Any]) -> list[str]:
    """Of an evaluation's results.json: a paragraph and `tables` per target; none without cross-validation."""
    found = results.get("cross_validation")
    if not found:
        return []
    lines = [textwrap.fill(line, WIDEST) for line in seen_lines(found)]
    return [*lines, *(f"cross-validation of {name}\n{tables(one)}" for name, one in found["targets"].items())]


def seen_lines(found: Mapping[str, Any]) -> list[str]:
    """One line if the encoder was trained on some of the videos that are scored, or if it is not known."""
    counts, where = found["trained_on"], f"Cross-validation on the videos of {', '.join(found['splits'])}: "
    if counts is None:
        return [f"{where}whether the encoder was trained on some of them is not known (a run of an older version)."]
    if not counts["patients_trained_on"]:
        return []
    return [
        f"{where}the encoder was trained on {counts['trained_on']} of these {counts['videos']} videos, without labels; "
        f"{counts['patients_trained_on']} are of patients that it was trained on. Heads are tested on patients that "
        "they did not see, but for the encoder these are not new: eval.cross_validation.splits leaves the "
        "split that it was trained on out."
    ]


def section(results: Mapping[str, Any] | None) -> str:
    """Per target and head: every encoder, and the first minus each other."""
    title, found = "Cross-validation", (results or {}).get("cross_validation")
    if not found or not found["targets"]:
        return page.section(title, page.absent("no folds; eval.cross_validation.folds asks for them"))
    parts = [page.text(line, "muted") for line in seen_lines(found)]
    for name, one in found["targets"].items():
        what = f"{one['videos']:,} videos of {one['groups']:,} patients"
        sizes = f"Videos of patients: {_sizes(one)}. " if one["classes"] else ""
        parts += [
            page.heading(f"{name}: {what}"),
            page.text(f"{sizes}{one['repeats']} times {one['folds']}-fold. {one['interval']}.", "muted"),
        ]
        first = next(iter(one["encoders"]))
        for head, called in HEADS.items():
            shown = [metric for metric in HEADINGS if f"{head}/{metric}" in one["encoders"][first]]
            rows = []
            for encoder, values in one["encoders"].items():
                pair = one["paired"].get(f"{first} - {encoder}", {})
                row = [page.cell(encoder, css="name")]
                for metric in shown:
                    row.append(scores.value_cell(values[f"{head}/{metric}"], 3))
                    better = metric not in _SMALLER_IS_BETTER
                    difference = pair.get(f"{head}/{metric}")
                    row.append(scores.value_cell(difference, 3, better, paired=True) if pair else page.cell(""))
                rows.append(row)
            columns = [column for metric in shown for column in (HEADINGS[metric], f"{first} minus it")]
            parts.append(page.table([called, *columns], rows))
    return page.section(title, *parts)
