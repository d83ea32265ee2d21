"""The report's section about clips whose pixels were spoilt: how much worse each head gets."""

from collections.abc import Mapping
from typing import Any

from discovr_jax.evaluation.report import display_names, plots, scores
from discovr_jax.evaluation.report import html as page


def section(results: Mapping[str, Any] | None) -> str:
    """One chart, of the probe where there is one, and one table of all heads; `results` as of results.json."""
    title, found = "What do spoilt pictures cost?", (results or {}).get("robustness")
    if not found:
        reason = "no test clips were spoilt; eval.evaluators.robustness.perturbations asks for it"
        return page.section(title, page.absent(reason))
    names = {part: _described(results, part, entry["metric"]) for part, entry in found["heads"].items()}
    drawn = "probe" if "probe" in names else next(iter(names))
    drops = found["heads"][drawn]["drop"]
    panels = {_words(name): {encoder: each[name] for encoder, each in drops.items()} for name in found["strengths"]}
    called = f"{names[drawn].family}, {names[drawn].metric}"
    chart = page.figure(
        called,
        "Upwards is worse. Bars: 95 % intervals over patients. Strengths are those of the table.",
        (plots.drops(panels, "drop"), "png"),
    )
    note = (
        "Heads learned from clean clips; only the test clips are spoilt. The first row is the metric on clean clips; "
        "below, how much worse it gets (AUROC falls, an error rises), in the same resamples of patients. An encoder "
        "that tells little has little to lose."
    )
    return page.section(title, page.text(note, "muted"), page.grid([chart], "wide"), _table(found, names))


def _table(found: Mapping[str, Any], names: Mapping[str, display_names.Named]) -> str:
    """A row per perturbation and strength, a column per head and encoder."""
    columns = [(part, encoder) for part, entry in found["heads"].items() for encoder in entry["clean"]]
    head = ["", *(f"{names[part].family}, {names[part].metric}: {encoder}" for part, encoder in columns)]
    cells = [
        scores.value_cell(found["heads"][part]["clean"][encoder], names[part].digits) for part, encoder in columns
    ]
    rows = [[page.cell("clean", css="name"), *cells]]
    for name, strengths in found["strengths"].items():
        for level, strength in enumerate(strengths):
            entries = [(found["heads"][part]["drop"][encoder][name][level], names[part]) for part, encoder in columns]
            # Above 0 is worse, whatever the metric.
            cells = [scores.value_cell(entry, named.digits, False, paired=True) for entry, named in entries]
            rows.append([page.cell(f"{_words(name)}, {strength}", css="name"), *cells])
    return page.table(head, rows)


def _described(results: Mapping[str, Any], part: str, metric: str) -> display_names.Named:
    return display_names.described(results, f"{part}/{metric}")


def _words(name: str) -> str:
    return name.replace("_", " ")
