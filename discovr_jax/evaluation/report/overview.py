"""The report's first screen: what was trained, whether it is healthy, four metrics with their baselines, a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.evaluation import interface
from discovr_jax.evaluation.report import display_names, plots, scores, table, video_strips
from discovr_jax.evaluation.report import html as page
from discovr_jax.evaluation.results import STUDIED

SHOWN = 4  # metrics
_NAMES = {"random": "untrained", "pixels": "pixels", "mean_mask": "mean mask"}
_LEGEND = "Signed: trained minus baseline, paired over the same patients. Small: 95 % intervals over patients."
_FACTS = {"Model": "Encoder", "Data": "Training data", "Clips": "Clips"}  # {shown: name in the summary}


def section(
    step: int,
    results: Mapping[str, Any] | None,
    health: Sequence[str],
    summary: Mapping[str, object],
    metrics_rows: Sequence[Mapping[str, Any]],
    overlays: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
) -> str:
    """All arguments as of `report.write_report`."""
    facts: dict[str, object] = {shown: summary[name] for shown, name in _FACTS.items() if name in summary}
    clips = f", {results['clips_seen']:,} clips seen" if results and "clips_seen" in results else ""
    facts["Trained for"] = f"{step:,} steps{clips}"
    if results:
        patients = f" of {results['n_test_patients']:,} patients" if "n_test_patients" in results else ""
        facts["Scored on"] = f"{results['n_test']:,} test videos{patients}, {results['dataset']}"
    leaks = [page.text(line, "sick") for line in table.leak_lines(results)] if results else []
    left = page.pairs(facts) + _health(health) + "".join(leaks)
    picture = _picture(results, metrics_rows, overlays, predictions)
    names = {key: (name, digits) for key, name, digits in table.that_matter(results)} if results else {}
    cards = [_card(results, key, names) for key in headline(results)] if results else []
    below = page.absent("metrics; no evaluation was run at this step")
    if cards:
        below = page.grid(cards, "cards") + page.text(_LEGEND, "muted")
    return page.section("At a glance", page.grid([f"<div>{left}</div>", picture], "grid glance"), below)


def headline(results: Mapping[str, Any]) -> list[str]:
    """The FAMILY/METRIC keys of the first screen, at most `SHOWN`; `results` as of results.json."""
    trained = results.get("encoders", {}).get(STUDIED, {})
    # Parts of other evaluators predict measurements too, under metrics of other names.
    measured = [key.split("/")[0] for key, *_ in table.that_matter(results) if key.endswith("/mae") and key in trained]
    first = [f"{measured[0]}/{metric}" for metric in ("mae", "r2")] if measured else []
    wanted = ["probe/auroc", "knn/auroc", *first[:1], "segmentation/dice", *first[1:], "anomaly/auroc", "knn/macro_f1"]
    return [key for key in wanted if (trained.get(key) or {}).get("value") is not None][:SHOWN]


def _health(lines: Sequence[str]) -> str:
    if not lines:
        return page.absent("health; no monitor of collapse was logged")
    first, *warnings = lines
    css = "sick" if warnings else "healthy"
    return page.text(f"Health at {first}.", css) + "".join(page.text(f"Warning: {line}.", "sick") for line in warnings)


def _card(results: Mapping[str, Any], key: str, names: Mapping[str, tuple[str, int]]) -> str:
    """A metric of the trained encoder, and per baseline its value and the difference to it."""
    larger = display_names.described(results, key).larger_is_better
    (name, digits), entry = names[key], results["encoders"][STUDIED][key]
    value, interval = _parts(entry, digits)
    rows = []
    others = [name for name in table.outside(results) if results["encoders"][name].get(key)]
    for baseline in (*table.baselines(results, key), *others):
        of = results["encoders"][baseline][key]
        pair = results["paired"].get(f"{STUDIED}-{baseline}", {}).get(key)
        shown, between = _parts(of, digits)
        line = f"<b>{page.escape(_NAMES.get(baseline, baseline))} {shown}</b> <small>{between}</small>"
        if pair:
            difference, between = _parts(pair, digits, signed=True)
            verdict = scores.verdict(pair, larger)
            line += f'<br><span class="{verdict}">{difference}</span> <small>{between}; {verdict}</small>'
        rows.append(f"<p>{line}</p>")
    better = {True: "higher is better", False: "lower is better", None: ""}[larger]
    head = f'{page.heading(name)}<p class="value">{value} <small>{interval}</small></p>{page.text(better, "muted")}'
    return f'<div class="card">{head}{"".join(rows)}</div>'


def _parts(entry: Mapping[str, Any], digits: int, *, signed: bool = False) -> tuple[str, str]:
    """Value and interval, apart."""
    value, _, interval = table.with_interval(entry, digits, signed=signed).partition(" (")
    return value, interval.removesuffix(")")


def _picture(results, metrics_rows, overlays, predictions) -> str:
    """Outlines on a test video where they were made, else predictions of a measurement, else the loss."""
    for each in overlays:
        drawn = [mask for (head, encoder), mask in each["predictions"].items() if encoder == STUDIED]
        if drawn:
            picture = video_strips.outlined(
                each["frame"], (each["truth"], video_strips.EXPERT), (drawn[0], video_strips.FOUND)
            )
            caption = f"Yellow: the expert. Cyan: from frozen features. Test video {each['title']}, {each['phase']}."
            return page.figure("Outline on a test video", caption, (picture, "png"))
    for part, entry in scores.parts_with_charts(results):
        rows = scores.rows_of(predictions, part)
        if entry["field"] in interface.MEASUREMENTS and rows:
            name, unit, _ = interface.MEASUREMENTS[entry["field"]]
            target, predicted = (np.array([row[key] for row in rows], float) for key in ("target", "prediction"))
            caption = "One point per test video; perfect predictions lie on the dashed line."
            image = plots.predicted_against_true(target, predicted, f"{name} ({unit})")
            return page.figure(f"Predicted {name}", caption, (image, "png"))
    image = plots.curves(metrics_rows, {"loss/total": "total"}, ylabel="loss (nats)")
    return page.figure("Training loss", "", (image, "png")) if image else page.absent("picture; nothing was logged")
