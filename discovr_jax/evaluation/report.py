"""WORKDIR/report.html: what was trained, how it went, and what the features know, for a clinical reader."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.evaluation import names, output, page, paint, plots, table, task

STUDIED = "discovr"
_MOST_FACTS = 12  # a longer summary is folded away
# (title, lines, ceilings, axis, logarithmic, how to read it)
_ENTROPY = (
    "Healthy: a gap between the two lines. Both at the dashed ceiling: the teacher says the same of every "
)
_ENTROPY += "clip (uniform collapse). Both near 0: it always picks one answer (constant collapse)."
_LOSSES = (
    (
        "Total loss",
        {"loss/total": "total"},
        {},
        "loss (nats)",
        False,
        "The weighted sum that training minimises. It should fall, then level off.",
    ),
    (
        "Loss by part",
        {
            "loss/vid": "video distillation",
            "loss/img": "image distillation",
            "loss/scd": "semantic clusters",
            "loss/pix": "pixels",
        },
        {},
        "loss (nats)",
        False,
        "One line for each task. A part that never moves learns nothing.",
    ),
    (
        "Video teacher",
        {"teacher/vid/entropy": "one clip", "teacher/vid/entropy_of_mean": "mean over clips"},
        {"teacher/vid/entropy_max": "ceiling, ln K"},
        "entropy (nats)",
        False,
        _ENTROPY,
    ),
    (
        "Image teacher",
        {"teacher/img/entropy": "one frame", "teacher/img/entropy_of_mean": "mean over frames"},
        {"teacher/img/entropy_max": "ceiling, ln K"},
        "entropy (nats)",
        False,
        _ENTROPY,
    ),
)
_MONITORS = (
    (
        "Prototypes in use",
        {"scd/perplexity": "prototypes"},
        {},
        "effective number",
        False,
        "How many prototypes share the tokens. A handful means that the clusters have collapsed.",
    ),
    (
        "What a prototype tells",
        {"scd/position_information": "place in the picture", "scd/clip_information": "which clip"},
        {},
        "share of information (0 to 1)",
        False,
        "High 'place' with low 'clip' means that prototypes only memorise positions, not anatomy.",
    ),
    (
        "Video and image agree",
        {"scd/agreement": "same prototype", "scd/agreement_position_only": "reachable from place alone"},
        {},
        "share of tokens (0 to 1)",
        False,
        "Agreement is worth something only as far as it lies above what place alone would give.",
    ),
    (
        "Directions in use",
        {"features/rank": "effective rank"},
        {},
        "number of directions",
        False,
        "How many independent directions the clip features span; near 1 means that all clips look alike.",
    ),
    (
        "Gradient norm",
        {"optim/grad_norm": "gradient norm"},
        {},
        "norm",
        True,
        "Size of the updates asked for, before clipping. Spikes point to unstable steps.",
    ),
    ("Learning rate", {"optim/lr": "learning rate"}, {}, "rate", False, "The planned schedule."),
    (
        "Speed",
        {"perf/clips_per_second": "clips"},
        {},
        "clips a second",
        False,
        "Throughput of the training machine.",
    ),
)


def write_report(
    workdir,
    step: int,
    results: Mapping[str, Any] | None,
    metrics_rows: Sequence[Mapping[str, Any]],
    *,
    features=None,
    fields=None,
    predictions: Sequence[Mapping[str, Any]] = (),
    prototype_maps: Sequence[Mapping[str, Any]] | None = None,
    summary: Mapping[str, object] | None = None,
) -> pathlib.Path:
    """Writes the report as one self-contained file.

    Everything but `step` may be missing; the section then says so.

    Args:
      workdir: report.html goes here.
      step: training steps behind the weights.
      results: content of results.json, or None without an evaluation.
      metrics_rows: parsed lines of metrics.jsonl.
      features: `Evaluation.features`, {encoder: [{split: {readout: [N, D]}}]}; the test split is drawn.
      fields: `Evaluation.fields`, {split: {"label", measurements}}.
      predictions: `Evaluation.predictions`.
      prototype_maps: clips with the prototype of each token: {"frames": uint8 [t, H, W], "assignments": int
        [t, gh, gw], "title": str}.
      summary: facts about the run for the first section (dataset, model, ...); a long list, such as the whole
        config, is folded away.

    Returns:
      The path of the file.
    """
    sections = [
        _trained_section(step, results, summary or {}),
        _results_section(results),
        page.section("Training", _charts(metrics_rows, _LOSSES)),
        page.section("Is it learning anatomy? Monitors of collapse", _charts(metrics_rows, _MONITORS)),
        _projection_section(results, features, fields),
        *_measurement_sections(results, predictions),
        _prototype_section(prototype_maps),
        _other_section(metrics_rows),
    ]
    lead = (
        f"Self-supervised pre-training on echocardiography video, {step:,} steps. For research; not a "
        "medical device, and nothing here is meant for the care of a patient."
    )
    path = pathlib.Path(workdir) / "report.html"
    output.write_text(path, page.page("DISCOVR: training report", lead, sections))
    return path


def _trained_section(step: int, results, summary: Mapping[str, object]) -> str:
    facts = {"Training steps": f"{step:,}"}
    if results and "clips_seen" in results:
        facts["Clips seen"] = f"{results['clips_seen']:,}"
    if results:
        facts |= {"Test videos": f"{results['n_test']:,}", "Code (git commit)": results.get("commit", "unknown")}
    if results and results.get("manifest_sha256"):
        facts["Records and splits (SHA-256 of manifest.csv)"] = results["manifest_sha256"]
    if len(summary) <= _MOST_FACTS:
        return page.section("What was trained", page.pairs(facts | dict(summary)))
    folded = page.details(f"All {len(summary)} settings", page.pairs(summary))
    return page.section("What was trained", page.pairs(facts), folded)


def _results_section(results) -> str:
    title = "How good are the features?"
    if not results:
        return page.section(title, page.absent("no evaluation was run at this step"))
    parts = [page.text(table.standing(results))]
    keys = names.ordered(dict.fromkeys(key for figures in results["encoders"].values() for key in figures))
    if keys:
        head = ["", *results["encoders"], *(pair.replace("-", " - ", 1) for pair in results["paired"])]
        parts += [
            page.text(
                "Frozen features, the same simple heads for every encoder. 'random' is the same network "
                "untrained, 'pixels' the brightness of the clip itself: what training adds is the difference "
                "to them. In small type: 95 % intervals over patients; a difference is called better or "
                "worse only if its interval excludes 0."
            ),
            page.table(head, [_metric_row(results, key) for key in keys]),
        ]
    if "label_rule" in results:
        parts.append(page.text(f"A video counts as abnormal by the rule: {results['label_rule']}.", "muted"))
    parts += [page.text(line, "absent") for line in table.skipped_lines(results)]
    if results["readouts"]:
        tables = [html for name in results["readouts"] for html in _readout_table(results, name)]
        parts.append(page.details("Every way of reading the features out (readouts)", *tables))
    return page.section(title, *parts)


def _figure_cell(entry, digits: int, larger: bool | None = None, *, paired: bool = False) -> str:
    if not entry or entry["value"] is None:
        return page.cell("n/a", (entry or {}).get("note", ""))
    sign = "+" if paired else ""
    value = f"{entry['value']:{sign}.{digits}f}"
    if entry["low"] is None:
        return page.cell(value, entry.get("note", "no interval"))
    interval = f"{entry['low']:{sign}.{digits}f} to {entry['high']:{sign}.{digits}f}"
    if not paired or larger is None:
        return page.cell(value, interval)
    if entry["low"] <= 0 <= entry["high"]:
        return page.cell(value, f"{interval}; unclear")
    verdict = "better" if (entry["low"] > 0) == larger else "worse"
    return page.cell(value, f"{interval}; {verdict}", verdict)


def _metric_row(results, key: str) -> list[str]:
    named = names.described(results, key)
    row = [page.cell(named.family, named.metric, "name")]
    row += [_figure_cell(figures.get(key), named.digits) for figures in results["encoders"].values()]
    pairs = results["paired"].values()
    return row + [
        _figure_cell(figures.get(key), named.digits, named.larger_is_better, paired=True) for figures in pairs
    ]


def _readout_table(results: Mapping[str, Any], name: str) -> list[str]:
    """Every encoder and readout of one evaluator; the chosen one is marked."""
    entry, rows, metrics = results["readouts"][name], [], []
    for encoder, one in entry["encoders"].items():
        for readout, line in one["table"].items():
            metrics = list(line["test"])
            mark = "chosen" if readout == one["chosen"] else ""
            described = [names.described(results, f"{name}/{metric}") for metric in metrics]
            cells = [_figure_cell(line["test"][m], d.digits) for m, d in zip(metrics, described, strict=True)]
            rows.append(
                [page.cell(encoder), page.cell(readout, mark), page.cell(f"{line['val']:.3f}"), *cells]
            )
    if not rows:
        return []
    described = [names.described(results, f"{name}/{metric}") for metric in metrics]
    head = ["encoder", "readout", entry["chosen_by"], *(columns.metric for columns in described)]
    return [f"<h3>{page.escape(described[0].family)}</h3>", page.table(head, rows)]


def _charts(rows, wanted) -> str:
    figures, missing = [], []
    for title, lines, ceilings, axis, log, caption in wanted:
        image = plots.curves(rows, lines, ylabel=axis, ceilings=ceilings, log=log)
        if image is None:
            missing.append(title.lower())
        else:
            figures.append(page.figure(title, caption, (image, "png")))
    html = page.grid(figures) if figures else ""
    return html + (page.absent(f"{', '.join(missing)}; not logged in this run") if missing else "")


def _projection_section(results, features, fields) -> str:
    title = "A map of the test videos"
    if not features or STUDIED not in features or not fields:
        return page.section(title, page.absent("no features were extracted"))
    readouts, values = features[STUDIED][0]["test"], fields["test"]
    chosen = [
        entry["encoders"][STUDIED]["chosen"]
        for entry in (results or {}).get("readouts", {}).values()
        if STUDIED in entry["encoders"]
    ]
    readout = chosen[0] if chosen else next(iter(readouts))
    array = np.asarray(readouts[readout], np.float64)
    finite = np.isfinite(array).all(1)
    if finite.sum() < 3:
        return page.section(title, page.absent(f"finite features for {finite.sum()} test videos only"))
    coordinates, share = plots.principal_plane(array[finite])
    figures, parts = [], []
    caption = "One point a video; close points have similar features. "
    label = np.asarray(values["label"], np.float64)[finite]
    if np.isfinite(label).any():
        figures.append(
            page.figure(
                "By label",
                f"{caption}The closer to two separate clouds, the easier the diagnosis.",
                (plots.projection(coordinates, share, labels=label), "png"),
            )
        )
    else:
        parts.append(page.absent("colours by label; no labels in this dataset"))
    for field in _predicted(results):
        name, unit, _ = task.MEASUREMENTS[field]
        measured = np.asarray(values[field], np.float64)[finite]
        image = plots.projection(coordinates, share, measured=measured, name=f"{name} ({unit})")
        note = f"{caption}A smooth change of colour means that it is encoded."
        figures.append(page.figure(f"By {name}", note, (image, "png")))
    if not figures:
        image = plots.projection(coordinates, share, labels=np.full(len(coordinates), np.nan))
        figures.append(page.figure("All videos", caption, (image, "png")))
    note = f"Readout '{readout}', projected on its two directions of largest spread."
    return page.section(title, page.text(note, "muted"), page.grid(figures), *parts)


def _predicted(results) -> list[str]:
    """The measurements that were predicted."""
    fields = (entry["field"] for entry in (results or {}).get("readouts", {}).values())
    return [field for field in dict.fromkeys(fields) if field in task.MEASUREMENTS]


def _measurement_sections(results, predictions) -> list[str]:
    """For each regression: predictions against truth, and their difference."""
    if not results:
        return []
    sections = []
    for family, entry in results["readouts"].items():
        rows = [r for r in predictions if (r["encoder"], r["family"], r["output"]) == (STUDIED, family, "")]
        if entry["field"] not in task.MEASUREMENTS or entry["family"] != family or not rows:
            continue
        name, unit, error_unit = task.MEASUREMENTS[entry["field"]]
        target, prediction = (np.array([row[key] for row in rows], float) for key in ("target", "prediction"))
        figures = [
            page.figure(
                "Predicted and recorded",
                "Perfect predictions lie on the dashed line.",
                (plots.predicted_against_true(target, prediction, f"{name} ({unit})"), "png"),
            ),
            page.figure(
                "Bland-Altman",
                "Solid: mean error (bias). Dashed: 95 % limits of agreement. A slope means that "
                "extremes are pulled to the middle.",
                (plots.bland_altman(target, prediction, f"{name} ({unit})", error_unit), "png"),
            ),
        ]
        note = page.text(f"{len(rows)} test videos, linear (ridge) head.", "muted")
        title = f"{names.measurement(entry['field'])} from frozen features"
        sections.append(page.section(title, note, page.grid(figures)))
    return sections or [page.section("Measurements", page.absent("no measurement was evaluated"))]


def _prototype_section(clips) -> str:
    title = "What the prototypes mark"
    if not clips:
        return page.section(
            title, page.absent("no prototype maps were made (semantic clusters off, or not asked)")
        )
    order = paint.ranks([clip["assignments"] for clip in clips])
    shown = [
        page.figure(
            str(clip["title"]), "", (paint.strip(clip, order), "png"), (paint.animation(clip, order), "gif")
        )
        for clip in clips
    ]
    note = (
        "Each square is one token, coloured by the prototype it is assigned to; a colour is the same "
        "prototype in every clip (grey: rare ones). Useful prototypes follow tissue as it moves; a fixed "
        f"mosaic that ignores the picture is a position code. {len(order)} prototypes occur in these clips."
    )
    return page.section(title, page.text(note), page.grid(shown, "wide"))


def _other_section(rows) -> str:
    shown = {key for _, lines, ceilings, *_ in (*_LOSSES, *_MONITORS) for key in (*lines, *ceilings)}
    others = sorted({key for row in rows for key in row} - shown - {"step"})
    figures = [
        page.figure(key, "", (image, "png"))
        for key in others
        if (image := plots.curves(rows, {key: key}, ylabel="value")) is not None
    ]
    if not figures:
        return page.section("Other measurements", page.absent("nothing else was logged"))
    return page.section("Other measurements", page.details(f"Show all {len(figures)}", page.grid(figures)))
