"""The report's section about clips whose pixels were spoilt: how much worse each head gets."""

from collections.abc import Mapping
from typing import Any

from discovr_jax.evaluation.report import display_names, plots, scores
from discovr_jax.evaluation.report import html as page
from discovr_jax.evaluation.results import STUDIED


def section(results: Mapping[str, Any] | None) -> str:
    """Charts of the probe where there is one, and one table of all heads; `results` as of results.json."""
    title, found = "What do spoilt pictures cost?", (results or {}).get("robustness")
    if not found:
        reason = "no test clips were spoilt; eval.evaluators.robustness.perturbations asks for it"
        return page.section(title, page.absent(reason))
    names = {part: _described(results, part, entry["metric"]) for part, entry in found["heads"].items()}
    drawn = "probe" if "probe" in names else next(iter(names))
    of_drawn = found["heads"][drawn]
    called = f"{names[drawn].family}, {names[drawn].metric}"
    charts = [_chart(found, of_drawn["drop"], called, "drop", "Upwards is worse.")]
    if pairs := _pairs(of_drawn):
        reading = f"Below 0, {STUDIED} loses less than the other encoder."
        charts.append(_chart(found, pairs, f"{called}: differences of the drops", "difference", reading))
    note = (
        "Heads learned from clean clips; only the test clips are spoilt. The first row is the metric on clean clips; "
        "below, how much worse it gets (AUROC falls, an error rises), in the same resamples of patients, and by how "
        f"much more {STUDIED} loses than another encoder. An encoder that tells little has little to lose."
    )
    return page.section(title, page.text(note, "muted"), page.grid(charts, "wide"), _table(found, names))


def _chart(found: Mapping[str, Any], lines: Mapping[str, Any], title: str, ylabel: str, reading: str) -> str:
    """A panel per perturbation, with `lines`: {encoder or pair: {perturbation: entries}}."""
    panels = {_words(name): {each: entries[name] for each, entries in lines.items()} for name in found["strengths"]}
    caption = f"{reading} Bars: 95 % intervals over patients. Strengths are those of the table."
    return page.figure(title, caption, (plots.drops(panels, ylabel), "png"))


def _pairs(entry: Mapping[str, Any]) -> dict[str, Any]:
    """{"discovr - ENCODER": {perturbation: entries}} of a head; none in a results.json that is older than they are."""
    return {pair.replace("-", " - ", 1): entries for pair, entries in entry.get("paired", {}).items()}


def _table(found: Mapping[str, Any], names: Mapping[str, display_names.Named]) -> str:
    """A row per perturbation and strength, a column per head and encoder, or pair of encoders."""
    head, clean, columns = [""], [], []
    for part, of_part in found["heads"].items():
        named = names[part]
        for each, entries in {**of_part["drop"], **_pairs(of_part)}.items():
            head.append(f"{named.family}, {named.metric}: {each}")
            on_clean = of_part["clean"].get(each)
            clean.append(scores.value_cell(on_clean, named.digits) if on_clean else page.cell(""))
            columns.append((entries, named))
    rows = [[page.cell("clean", css="name"), *clean]]
    for name, strengths in found["strengths"].items():
        for level, strength in enumerate(strengths):
            entries = [(each[name][level], named) for each, named in columns]
            # Above 0 is worse, whatever the metric.
            cells = [scores.value_cell(entry, named.digits, False, paired=True) for entry, named in entries]
            rows.append([page.cell(f"{_words(name)}, {strength}", css="name"), *cells])
    return page.table(head, rows)


def _described(results: Mapping[str, Any], part: str, metric: str) -> display_names.Named:
    return display_names.described(results, f"{part}/{metric}")


def _words(name: str) -> str:
    return name.replace("_", " ")
