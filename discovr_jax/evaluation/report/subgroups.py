"""The report's section about groups of the test videos: sex, age group, image quality."""

from collections.abc import Mapping, Sequence
from typing import Any

from discovr_jax.evaluation.report import display_names, scores, table
from discovr_jax.evaluation.report import html as page
from discovr_jax.evaluation.results import STUDIED

_PHASES = ("_ed", "_es")
_NOTE = (
    "The same heads, scored on the videos of each group. 'less all others': the metric of the group less that of all "
    "other videos whose group is known, in the same resamples of patients; better or worse only if the interval "
    "excludes 0. There are {count} such differences of the trained encoder below; 5 % of them exclude 0 by chance. A "
    "group can also be harder for what its patients have, whatever the encoder: look at the other encoders, and at the "
    "share of abnormal videos. A group of few patients, or of one class, has no number."
)
_MORE = "Every other metric by group: subgroups in results.json."


def section(results: Mapping[str, Any] | None) -> str:
    """A table per attribute; `results` as of results.json."""
    title, found = "Are all groups of patients scored equally well?", (results or {}).get("subgroups")
    if not found:
        reason = "no subgroups were asked for, or the records know none; eval.subgroups names them"
        return page.section(title, page.absent(reason))
    parts, count = [], 0
    for attribute, of_attribute in found.items():
        groups = of_attribute["groups"]
        keys = _keys(results, STUDIED)
        differences = (group["less_others"].get(STUDIED, {}).get(key) for group in groups.values() for key in keys)
        count += sum(bool(entry) and entry["low"] is not None for entry in differences)
        parts += [page.heading(_words(attribute)), _table(results, groups, STUDIED, keys)]
        unknown = of_attribute["unknown"]
        if unknown["videos"]:
            words = f"{_words(attribute)} is unknown of {unknown['videos']:,} test videos of {unknown['patients']:,}"
            parts.append(page.text(f"{words} patients.", "muted"))
        for encoder in (name for name, metrics in results["encoders"].items() if metrics and name != STUDIED):
            others = _table(results, groups, encoder, _keys(results, encoder))
            parts.append(page.details(f"{_words(attribute)}: {encoder}", others))
    note = _NOTE.format(count=count)
    return page.section(title, page.text(note, "muted"), *parts, page.text(_MORE, "muted"))


def _keys(results: Mapping[str, Any], encoder: str) -> list[str]:
    """The metrics that matter, and of outlines overlap and distance of every structure."""
    there = results["encoders"].get(encoder, {})
    keys = [key for key, _, _ in table.that_matter(results) if key in there]
    masks = {name for name, entry in results["readouts"].items() if entry["field"] == "masks"}
    families = {results["readouts"][name]["family"] for name in masks}
    for key in there:
        family, metric = key.split("/", 1)
        outline = metric.removeprefix("decoder_").startswith(("dice", "hausdorff95"))
        if family in families and outline and not metric.endswith(_PHASES):
            keys.append(key)
    return list(dict.fromkeys(keys))


def _table(results: Mapping[str, Any], groups: Mapping[str, Any], encoder: str, keys: Sequence[str]) -> str:
    """A column per group; per metric a row of values and one of differences."""
    rows = [
        [page.cell("patients", css="name"), page.cell(f"{results['n_test_patients']:,}")]
        + [page.cell(f"{group['patients']:,}") for group in groups.values()],
        [page.cell("videos", css="name"), page.cell(f"{results['n_test']:,}")]
        + [page.cell(f"{group['videos']:,}") for group in groups.values()],
    ]
    if labelled := [name for name, entry in results["readouts"].items() if entry["field"] == "label"]:
        rows.append([page.cell("abnormal videos", css="name"), page.cell("")])
        rows[-1] += [_abnormal(group["counts"].get(labelled[0])) for group in groups.values()]
    for key in keys:
        named = display_names.described(results, key)
        digits, larger = named.digits, named.larger_is_better
        values = [page.cell(f"{named.family}: {named.metric}", css="name")]
        values.append(scores.value_cell(results["encoders"][encoder].get(key), digits))
        less = [page.cell("less all others", css="name"), page.cell("")]
        for group in groups.values():
            entry = group["encoders"].get(encoder, {}).get(key)
            values.append(scores.value_cell(entry, digits) if entry else page.cell("n/a", _reason(results, group, key)))
            entry = group["less_others"].get(encoder, {}).get(key)
            less.append(scores.value_cell(entry, digits, larger, paired=True) if entry else page.cell(""))
        rows += [values, less]
    return page.table(["", "all", *groups], rows)


def _abnormal(counts: Mapping[str, int] | None) -> str:
    if not counts or not counts["rows"]:
        return page.cell("unknown")
    if "abnormal" not in counts:
        return page.cell("n/a", "few patients")
    return page.cell(f"{counts['abnormal']:,}", f"{100 * counts['abnormal'] / counts['rows']:.0f} %")


def _reason(results: Mapping[str, Any], group: Mapping[str, Any], key: str) -> str:
    """Why a group has no metric FAMILY/METRIC."""
    family, metric = key.split("/", 1)
    parts = (
        name for name, entry in results["readouts"].items() if entry["family"] == family and metric in entry["metrics"]
    )
    return next((group["left_out"][name] for name in parts if name in group["left_out"]), "")


def _words(name: str) -> str:
    return name[0].upper() + name[1:].replace("_", " ")
