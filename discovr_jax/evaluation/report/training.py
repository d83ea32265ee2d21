"""The report's sections about training: losses, monitors of collapse, and whatever else was logged."""

from discovr_jax.evaluation.report import html as page
from discovr_jax.evaluation.report import plots
from discovr_jax.losses.terms import TERMS

# (title, lines, ceilings, axis, logarithmic, how to read it)
_ENTROPY = "Healthy: a gap between the two lines. Both at the dashed ceiling: the teacher says the same of every "
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
        {f"loss/{term.name}": term.label for term in TERMS.values()},
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
_SHARE = "How much of what tells clips apart in the teacher's output the student's views predict. While it lies below "
_SHARE += "the dashed line, tau_t / tau_s, and outputs are near uniform, they become more so (uniform collapse)."
_MONITORS = (
    *(
        (
            f"What the {words} student's views predict",
            {f"teacher/{name}/predicted_share": "predicted"},
            {f"teacher/{name}/needed_share": "needed, tau_t / tau_s"},
            "share (0 to 1)",
            False,
            _SHARE,
        )
        for name, words in (("vid", "video"), ("img", "image"))
    ),
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
        {"scd/position_information": "position in the picture", "scd/clip_information": "which clip"},
        {},
        "share of information (0 to 1)",
        False,
        "High 'position' with low 'clip' means that prototypes only memorise positions, not anatomy.",
    ),
    (
        "Video and image agree",
        {"scd/agreement": "same prototype", "scd/agreement_position_only": "by position alone"},
        {},
        "share of tokens (0 to 1)",
        False,
        "Agreement is worth something only as far as it lies above what position alone would give.",
    ),
    (
        "Directions of the clips' features",
        {"features/rank": "clips"},
        {},
        "effective number",
        False,
        "How many independent directions the video CLS tokens of a batch span. Near 1 means dimensional collapse: "
        "clips differ by one number only. A warning is given below 1.5.",
    ),
    (
        "Directions of the phase",
        {"phase/rank": "frames less their clip's mean"},
        {},
        "effective number",
        False,
        "How many independent directions the frames of a batch span once the mean of their clip is taken away. Near 1 "
        "is expected with few clips per batch: the one direction is how far the ventricle has contracted. It gives no "
        "warning. A collapse of the phase shows elsewhere: phase/invariance near 0 while phase/sigreg stays high.",
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
        "clips per second",
        False,
        "Throughput of the training machine.",
    ),
)


# Of the lines of metrics.jsonl: what counts, not what is measured.
NO_METRICS = {"step", "schema_version", "perf/start_time", "perf/step_seconds"}


def sections(rows) -> list[str]:
    """Losses and monitors, of the parsed lines of metrics.jsonl."""
    return [
        page.section("Training", _charts(rows, _LOSSES)),
        page.section("Is it learning anatomy? Monitors of collapse", _charts(rows, _MONITORS)),
    ]


def others(rows) -> str:
    """Every metric that no other section shows, folded away: a curve each, or a line of a table if logged once."""
    shown = {key for _, lines, ceilings, *_ in (*_LOSSES, *_MONITORS) for key in (*lines, *ceilings)}
    curves, once = [], []
    for key in sorted({key for row in rows for key in row} - shown - NO_METRICS):
        _, values = plots.series(rows, key)
        if len(values) == 1:
            once.append((page.cell(key), page.cell(f"{values[0]:.6g}")))
        elif len(values):
            curves.append(page.figure(key, "", (plots.curves(rows, {key: key}, ylabel="value"), "png")))
    parts = [page.details(f"Curves ({len(curves)})", page.grid(curves))] if curves else []
    parts += [page.details(f"Logged once ({len(once)})", page.table(("metric", "value"), once))] if once else []
    return page.section("Other measurements", *(parts or [page.absent("nothing else was logged")]))


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
