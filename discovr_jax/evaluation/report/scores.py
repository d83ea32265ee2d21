"""The report's sections about what the features know: tables of metrics, and charts of single evaluators."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.evaluation import interface
from discovr_jax.evaluation.metrics import videos as metrics
from discovr_jax.evaluation.report import display_names, plots, table
from discovr_jax.evaluation.report import html as page
from discovr_jax.evaluation.results import COUNTED, STUDIED

_INTRODUCTION = (
    "'discovr' is the trained network, 'random' the same network untrained, 'pixels' the brightness of the clip, "
    "'mean_mask' the average expert outline: what training adds is the difference to them. In small type: 95 % "
    "intervals over patients; a difference is called better or worse only if its interval excludes 0."
)
_ABOUT = {
    "knn": "Each test video gets the diagnosis of the most similar training videos. Nothing is trained.",
    "probe": "A logistic regression on frozen features. Brier score and calibration error: 0 is best.",
    "mlp": "A network with one hidden layer on frozen features.",
    "attentive": "A small head that chooses where to look, and sees what moves there; the encoder stays frozen.",
    "pca": "Linear heads on equally many principal components of every encoder.",
    "anomaly": "How unlike the normal training videos a test video is; no abnormal video is learned from.",
    "labels": "The same heads with a share of the training labels.",
    "finetune": "The encoder itself is trained further on the labels.",
    "segmentation": "Outlines drawn from frozen features. Dice and IoU: 1 is best. Hausdorff 95: 95 % of an outline's "
    "points lie at most so far from the other outline.",
    "retrieval": "Of the most similar training videos: how many share the diagnosis, how near is the measurement.",
    "transfer": "Heads that learned from another dataset.",
    "classes": "A multinomial logistic regression on frozen features, all classes weighing the same; AUROC is the mean "
    "of one class against the rest.",
    "multilabel": "A logistic regression per label on frozen features; means over the labels.",
}
_REGRESSION = "A linear (ridge) regression on frozen features."
_HEADS = {"knn": "kNN", "probe": "Linear probe", "regression": "Linear (ridge) head"}
_HEADS |= {"attentive": "Attentive probe", "finetune": "Fine-tuned encoder"}
_HEADS |= {"mlp_probe": "MLP probe", "mlp_regression": "MLP probe"}
_DRAWN = 5000  # points of a map at most: more are a blot, and their plane takes memory
_APART = ("labels", "pca", "transfer")  # families whose parts have no charts of their own


def results_section(results) -> str:
    """Every metric of every encoder, by family; by patient and by pooling folded away."""
    title = "How good are the features?"
    if not results:
        return page.section(title, page.absent("no evaluation was run at this step"))
    parts = [page.text(line, "sick") for line in table.leak_lines(results)]
    parts.append(page.text(table.standing(results)))
    tables = _tables(results, results)
    if tables:
        parts += [page.text(_INTRODUCTION), *tables]
    if "label_rule" in results:
        parts.append(page.text(f"A video counts as abnormal by the rule: {results['label_rule']}.", "muted"))
    parts += [page.text(line, "muted") for line in (*table.outside_lines(results), *table.note_lines(results))]
    parts += [page.text(line, "absent") for line in table.skipped_lines(results)]
    parts += [_by_level(results, level) for level in COUNTED]
    if tables := [html for name in results["readouts"] for html in _readout_table(results, name)]:
        parts.append(page.details("Every pooling", *tables))
    return page.section(title, *parts)


def _tables(results, scores) -> list[str]:
    """A heading, a line and a table for each family; `scores` holds "encoders" and "paired"."""
    keys = display_names.ordered(dict.fromkeys(key for each in scores["encoders"].values() for key in each))
    families = dict.fromkeys(key.split("/")[0] for key in keys)
    parts = []
    for family in families:
        rows = [key for key in keys if key.split("/")[0] == family]
        encoders = [name for name, each in scores["encoders"].items() if any(key in each for key in rows)]
        pairs = [name for name, each in scores["paired"].items() if any(key in each for key in rows)]
        head = ["", *encoders, *(pair.replace("-", " - ", 1) for pair in pairs)]
        body = []
        for key in rows:
            named = display_names.described(results, key)
            digits, larger = named.digits, named.larger_is_better
            row = [page.cell(named.metric, css="name")]
            row += [value_cell(scores["encoders"][name].get(key), digits) for name in encoders]
            row += [value_cell(scores["paired"][pair].get(key), digits, larger, paired=True) for pair in pairs]
            body.append(row)
        entry = results["readouts"].get(family, {})
        about = _ABOUT.get(
            entry.get("type", family), _REGRESSION if entry.get("field") in interface.MEASUREMENTS else ""
        )
        parts += [
            page.heading(display_names.described(results, rows[0]).family),
            page.text(f"{about} {_counted(results, family)}".strip(), "muted"),
            page.table(head, body),
        ]
    return parts


def _counted(results, family: str) -> str:
    """ "Of 48 test videos.", where that is known."""
    parts = [part for part, entry in results["readouts"].items() if entry.get("family") == family]
    counts = {results.get("videos", {}).get(part, {}).get("test") for part in (family, *parts)} - {None}
    return f"Of {max(counts):,} test videos." if counts else ""


def _by_level(results, level: str) -> str:
    """The metrics of outputs averaged over the videos of each study or patient, folded away."""
    result, many = results.get(level), COUNTED[level]
    one = level.removeprefix("by_")
    if not result:
        return page.absent(f"metrics by {one}; no {one} has several test videos")
    counts = [f"{part}: {count:,}" for part, count in result[many].items()]
    note = f"What is said of a {one}'s videos is averaged first. {many.capitalize()}: {', '.join(counts)}. "
    torn = [f"{part}: {count:,}" for part, count in result["labels_disagree"].items() if count]
    note += f"Left out, because their videos differ in diagnosis: {', '.join(torn)}." if torn else ""
    return page.details(f"The same metrics by {one}", page.text(note, "muted"), *_tables(results, result))


def value_cell(entry, digits: int, larger: bool | None = None, *, paired: bool = False) -> str:
    """A cell of a metric with its interval; `paired`: a difference, called better, worse or unclear."""
    if not entry or entry["value"] is None:
        return page.cell("n/a", (entry or {}).get("note", ""))
    sign = "+z" if paired else "z"  # no "-0.000"
    value = f"{entry['value']:{sign}.{digits}f}"
    if entry["low"] is None:
        return page.cell(value, entry.get("note", "no interval"))
    interval = f"{entry['low']:{sign}.{digits}f} to {entry['high']:{sign}.{digits}f}"
    if not paired or larger is None:
        return page.cell(value, interval)
    said = verdict(entry, larger)
    return page.cell(value, f"{interval}; {said}", "" if said == "unclear" else said)


def verdict(difference: Mapping[str, Any], larger: bool | None) -> str:
    """ "better" or "worse" where the interval of a difference excludes 0, else "unclear"; `larger` is better."""
    if larger is None or difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return "unclear"
    return "better" if (difference["low"] > 0) == larger else "worse"


def _readout_table(results: Mapping[str, Any], name: str) -> list[str]:
    """Every encoder and pooling of one evaluator; the chosen one is marked."""
    entry, rows, metrics = results["readouts"][name], [], []
    for encoder, one in entry["encoders"].items():
        for readout, line in one["table"].items():
            metrics = list(line["test"])
            mark = "chosen" if readout == one["chosen"] else ""
            described = [display_names.described(results, f"{name}/{metric}") for metric in metrics]
            cells = [value_cell(line["test"][m], d.digits) for m, d in zip(metrics, described, strict=True)]
            rows.append([page.cell(encoder), page.cell(readout, mark), page.cell(f"{line['val']:.3f}"), *cells])
    if not rows:
        return []
    described = [display_names.described(results, f"{name}/{metric}") for metric in metrics]
    head = ["encoder", "pooling", entry["chosen_by"], *(columns.metric for columns in described)]
    part = "" if name == entry["family"] else f" ({name})"
    return [page.heading(f"{described[0].family}{part}"), page.table(head, rows)]


def diagnosis_section(results, predictions) -> str:
    """Confusion matrices of heads that call normal or abnormal, reliability, and the sweep of kNN."""
    title = "Calling normal or abnormal"
    parts, figures, tables = [], [], []
    for part, entry in parts_with_charts(results):
        rows = rows_of(predictions, part)
        if entry["field"] != "label" or not rows:
            continue
        target, prediction = (np.array([row[key] for row in rows], float) for key in ("target", "prediction"))
        parts += [page.heading(f"{_head_name(part, entry)}: {_how_many(rows)}"), _confusion_table(target, prediction)]
        report = entry["encoders"][STUDIED]["report"]
        if bins := report.get("reliability"):
            figures.append(
                page.figure(
                    f"Is the probability true? {_head_name(part, entry)}, {_how_many(rows)}",
                    "Of videos called 30 % likely abnormal, 30 % should be: points on the dashed line. Below: the "
                    "videos behind each point; a point of few videos says little.",
                    (plots.reliability(bins), "png"),
                )
            )
        if sweep := report.get("sweep"):
            tables.append(_sweep_table(sweep))
    if not parts:
        return page.section(title, page.absent("no head that calls a video normal or abnormal was evaluated"))
    note = page.text(
        "Recorded diagnosis in rows, what the trained encoder's head says at its threshold of 0.5 in columns.", "muted"
    )
    charts = page.grid(figures) if figures else page.absent("calibration; no evaluator gave a probability")
    return page.section(title, note, *parts, charts, *tables)


def confusion(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Videos by recorded (row) and predicted (column) class, normal then abnormal: int [2, 2].

    Args:
      target: float [N], 0 or 1; prediction: float [N], abnormal above `metrics.THRESHOLD`.
    """
    called = prediction > metrics.THRESHOLD
    return np.array([[((target == i) & (called == j)).sum() for j in (0, 1)] for i in (0, 1)])


def _confusion_table(target: np.ndarray, prediction: np.ndarray) -> str:
    body = []
    for name, row in zip(("normal", "abnormal"), confusion(target, prediction), strict=True):
        total = row.sum()
        shares = [f"{100 * count / total:.0f} % of the {name}" if total else "" for count in row]
        shown = [page.cell(f"{count:,}", share) for count, share in zip(row, shares, strict=True)]
        body.append([page.cell(f"recorded {name}", css="name"), *shown, page.cell(f"{total:,}")])
    return page.table(["", "called normal", "called abnormal", "videos"], body)


def _sweep_table(sweep: Sequence[Mapping[str, float]]) -> str:
    space = max(sweep, key=lambda one: one["val_auroc"]).get("space", "raw")  # older results have one
    sweep = [one for one in sweep if one.get("space", "raw") == space]
    temperatures = list(dict.fromkeys(one["temperature"] for one in sweep))
    result = {(one["k"], one["temperature"]): one["val_auroc"] for one in sweep}
    best = max(result, key=result.get)
    body = [
        [page.cell(k), *(page.cell(f"{result[k, t]:.3f}", "best" if (k, t) == best else "") for t in temperatures)]
        for k in dict.fromkeys(one["k"] for one in sweep)
    ]
    features = {"raw": "as they are", "centred": "centred"}.get(space) or f"PCA-{space.replace('_', ', ')} components"
    note = "AUROC on validation videos by number of neighbours (rows) and temperature (columns). "
    note += f"Features {features}, which is best of all that were tried."
    head = ["neighbours", *(f"{t:g}" for t in temperatures)]
    return page.details("kNN: other numbers of neighbours", page.text(note, "muted"), page.table(head, body))


def labels_section(results) -> str:
    """Metrics with few labels against their share."""
    title = "How many labels are needed?"
    shares: dict[str, dict[float, str]] = {}
    for entry in (results or {}).get("readouts", {}).values():
        if entry["family"] == "labels":
            for name, metric in entry["metrics"].items():
                shares.setdefault(metric, {})[float(name.rpartition("_")[2])] = f"labels/{name}"
    figures = []
    for keys in shares.values():
        places = sorted(keys)
        encoders = {
            encoder: [each.get(keys[share]) for share in places]
            for encoder, each in results["encoders"].items()
            if any(key in each for key in keys.values())
        }
        name = display_names.described(results, keys[places[0]]).metric.split(",")[0]
        image = plots.shares(encoders, [f"{share:g} %" for share in places], name.rpartition(": ")[2])
        caption = "Bars: 95 % intervals over patients. Below 100 % the mean of several draws of patients."
        figures.append(page.figure(name[0].upper() + name[1:], caption, (image, "png")))
    if not figures:
        return page.section(title, page.absent("no heads were trained on shares of the labels"))
    return page.section(title, page.grid(figures))


def projection_section(results, features, fields) -> str:
    """The test videos on the two directions of largest spread."""
    title = "A map of the test videos"
    if not features or STUDIED not in features or not fields:
        return page.section(title, page.absent("no features were extracted"))
    readouts, values = features[STUDIED][0]["test"], fields["test"]
    chosen = [
        entry["encoders"][STUDIED]["chosen"]
        for entry in (results or {}).get("readouts", {}).values()
        if STUDIED in entry["encoders"] and entry["encoders"][STUDIED]["chosen"] in readouts
    ]
    readout = chosen[0] if chosen else next(iter(readouts))
    count = len(readouts[readout])
    some = np.linspace(0, count - 1, min(count, _DRAWN)).round().astype(int)
    array = np.asarray(readouts[readout][some], np.float64)
    finite = np.isfinite(array).all(1)
    if finite.sum() < 3:
        return page.section(title, page.absent(f"finite features for {finite.sum()} test videos only"))
    coordinates, share = plots.principal_plane(array[finite])
    figures, parts = [], []
    caption = "One point per video; close points have similar features. "
    label = np.asarray(values["label"], np.float64)[some][finite]
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
        name, unit, _ = interface.MEASUREMENTS[field]
        measured = np.asarray(values[field], np.float64)[some][finite]
        image = plots.projection(coordinates, share, measured=measured, name=f"{name} ({unit})")
        note = f"{caption}A smooth change of colour means that it is encoded."
        figures.append(page.figure(f"By {name}", note, (image, "png")))
    if not figures:
        image = plots.projection(coordinates, share, labels=np.full(len(coordinates), np.nan))
        figures.append(page.figure("All videos", caption, (image, "png")))
    drawn = "" if len(some) == count else f" {len(some)} of {count} test videos."
    note = f"Pooling '{readout}', projected on its two directions of largest spread.{drawn}"
    return page.section(title, page.text(note, "muted"), page.grid(figures), *parts)


def _predicted(results) -> list[str]:
    """The measurements that were predicted."""
    fields = (entry["field"] for entry in (results or {}).get("readouts", {}).values())
    return [field for field in dict.fromkeys(fields) if field in interface.MEASUREMENTS]


def measurement_sections(results, predictions) -> list[str]:
    """For each head that predicts a measurement: predictions against truth, and their difference."""
    sections = []
    for part, entry in parts_with_charts(results):
        rows = rows_of(predictions, part)
        if entry["field"] not in interface.MEASUREMENTS or not rows:
            continue
        name, unit, error_unit = interface.MEASUREMENTS[entry["field"]]
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
        title, note = f"{display_names.measurement(entry['field'])}: {_head_name(part, entry)}", f"{_how_many(rows)}."
        sections.append(page.section(title, page.text(note, "muted"), page.grid(figures)))
    return sections or [page.section("Measurements", page.absent("no measurement was evaluated"))]


def parts_with_charts(results) -> list[tuple[str, Mapping[str, Any]]]:
    """(part, entry) of the heads that the studied encoder was evaluated with and that have charts of their own."""
    entries = (results or {}).get("readouts", {}).items()
    return [
        (p, e) for p, e in entries if STUDIED in e["encoders"] and e["type"] in _HEADS and e["family"] not in _APART
    ]


def rows_of(predictions, part: str) -> list[Mapping[str, Any]]:
    """The studied encoder's predictions of a part, one row per test video: of a head's trainings the first."""
    rows = [row for row in predictions if (row["encoder"], row["family"], row["output"]) == (STUDIED, part, "")]
    return [row for row in rows if row["seed"] == rows[0]["seed"]]


def _how_many(rows) -> str:
    return f"{len(rows):,} test videos of {len({row['patient'] for row in rows}):,} patients"


def _head_name(part: str, entry: Mapping[str, Any]) -> str:
    """ "kNN (knn20)", the name in brackets where it tells more than the head does."""
    head = _HEADS[entry["type"]]
    return head if part in (entry["type"], entry["family"]) else f"{head} ({part})"
