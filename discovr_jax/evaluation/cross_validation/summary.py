"""From out-of-fold predictions to metrics with intervals, paired differences, files and the terminal's tables.

A metric is computed in every repeat and averaged over repeats and seeds, in the whole archive and inside each resample
of groups: it is that of a head fitted on one training part, not of the ensemble that averaged predictions would make.
"""

import csv
import io
import itertools
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from discovr_jax.evaluation.cross_validation.archive import Archive
from discovr_jax.evaluation.cross_validation.run import HEADS, FoldOptions, OutOfFold
from discovr_jax.evaluation.metrics import bootstrap
from discovr_jax.evaluation.metrics import classes as class_metrics
from discovr_jax.evaluation.metrics import videos as video_metrics
from discovr_jax.evaluation.report import table as table_lib

SCHEMA_VERSION = 1
_CLASSES = {
    "macro_f1": class_metrics.macro_f1,
    "balanced_accuracy": class_metrics.balanced_accuracy,
    "auroc": class_metrics.auroc,
}
_MEASUREMENT = {"mae": video_metrics.mae, "r2": video_metrics.r2}
HEADINGS = {
    "macro_f1": "macro F1", "balanced_accuracy": "balanced accuracy", "auroc": "macro AUROC", "mae": "MAE", "r2": "R2"
}  # fmt: skip
_HEADS = {"probe": "linear probe", "knn": "kNN"}
WIDEST = 100  # columns of a terminal


def summarise(
    archive: Archive, options: FoldOptions, found: Mapping[tuple[str, str], OutOfFold], about: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of results.json.

    Args:
      found: of `run.predict_all`; about: what else is to be said (commit, command).
    """
    weights = bootstrap.weights_of(archive.groups, options.resamples, options.seed)
    count = len(np.unique(archive.groups))
    metrics: dict[str, bootstrap.Metric] = dict(_CLASSES if archive.classes else _MEASUREMENT)
    metrics |= {f"recall of {name}": class_metrics.Recall(k) for k, name in enumerate(archive.classes)}
    names = list(dict.fromkeys(name for name, _ in found))
    values: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    encoders: dict[str, dict[str, Any]] = {name: {} for name in names}
    confusion: dict[str, dict[str, Any]] = {name: {} for name in names}
    ones = np.ones((1, len(archive.ids)))
    for (name, head), said in found.items():
        for metric, function in metrics.items():
            each = np.array([
                [bootstrap.distribution(function, archive.target, one, weights) for one in repeats]
                for repeats in said.predictions
            ])  # fmt: skip
            values[name][f"{head}/{metric}"] = each.mean((0, 1))
            entry = bootstrap.interval(each.mean((0, 1)), count)
            spread = each[:, :, 0].mean(0).std(ddof=1) if options.repeats > 1 else None
            encoders[name][f"{head}/{metric}"] = entry | {"sd_over_repeats": spread}
        if archive.classes:
            tables = [class_metrics.confusion(archive.target, one, ones)[0] for one in _flat(said.predictions)]
            confusion[name][head] = np.mean(tables, 0)
    paired = {
        f"{one} - {two}": {key: bootstrap.interval(values[one][key] - values[two][key], count) for key in values[one]}
        for one, two in itertools.combinations(names, 2)
    }
    return {
        "schema_version": SCHEMA_VERSION,
        **about,
        "videos": len(archive.ids),
        "groups": count,
        "classes": _counts(archive),
        "folds": options.folds,
        "inner_folds": options.inner,
        "repeats": options.repeats,
        "seed": options.seed,
        "interval": f"95 % percentile bootstrap over groups, {options.resamples} resamples, of the metric's mean over "
        "repeats; sd_over_repeats is of the same predictions made again with other folds",
        "features": {name: [file.about for file in files] for name, files in archive.features.items()},
        "encoders": encoders,
        "paired": paired,
        "confusion": confusion,
        "chosen": {f"{name}: {head}": said.chosen for (name, head), said in found.items()},
        "notes": list(archive.notes),
    }


def _flat(predictions: np.ndarray) -> np.ndarray:
    """[seeds, repeats, ...] -> [seeds * repeats, ...]."""
    return predictions.reshape(-1, *predictions.shape[2:])


def _counts(archive: Archive) -> dict[str, dict[str, int]]:
    """{class: {"videos", "groups"}}; a group whose videos disagree counts in each."""
    members = {name: archive.target == k for k, name in enumerate(archive.classes)}
    return {
        name: {"videos": int(rows.sum()), "groups": len(np.unique(archive.groups[rows]))}
        for name, rows in members.items()
    }


def predictions_csv(archive: Archive, found: Mapping[tuple[str, str], OutOfFold], cuts: np.ndarray) -> str:
    """One line per video, encoder, seed, head and repeat; groups are numbers, as in the evaluation of a run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"probability of {name}" for name in archive.classes]
    writer.writerow(["id", "group", "target", "features", "seed", "head", "repeat", "fold", "prediction", *columns])
    numbers = np.unique(archive.groups, return_inverse=True)[1]
    targets = [archive.classes[int(t)] for t in archive.target] if archive.classes else archive.target.tolist()
    for (name, head), said in found.items():
        for seed, repeats in enumerate(said.predictions):
            for repeat, (rows, cut) in enumerate(zip(repeats, cuts, strict=True)):
                for key, group, target, fold, row in zip(archive.ids, numbers, targets, cut, rows, strict=True):
                    says = [archive.classes[row.argmax()], *(f"{p:.6g}" for p in row)] if archive.classes else [row]
                    writer.writerow([key, group, target, name, seed, head, repeat, fold, *says])
    return text.getvalue()


def tables(results: Mapping[str, Any]) -> str:
    """Markdown of at most `WIDEST` columns: per head the encoders, then the first encoder minus each other one."""
    names = [key.partition("/")[2] for key in next(iter(results["encoders"].values())) if key.startswith(HEADS[0])]
    shown = [name for name in names if name in HEADINGS]
    recalls = [name for name in names if name not in HEADINGS]
    first = next(iter(results["encoders"]))
    sizes = ", ".join(f"{name} {n['videos']} of {n['groups']}" for name, n in results["classes"].items())
    what = f"{results['videos']} videos of {results['groups']} groups" + (f" ({sizes})" if sizes else "")
    how = f"{results['repeats']} times {results['folds']}-fold, 95 % intervals over groups"
    lines = [textwrap.fill(f"{what}; {how}.", WIDEST)]
    for head in HEADS:
        top = [_HEADS[head], *(HEADINGS[name] for name in shown)]
        rows = [[name, *(_cell(e[f"{head}/{m}"]) for m in shown)] for name, e in results["encoders"].items()]
        lines += ["", table_lib.markdown([top, *rows])]
        sds = [e[f"{head}/{m}"]["sd_over_repeats"] for e in results["encoders"].values() for m in shown]
        if results["repeats"] > 1:
            lines += ["", f"Standard deviation over repeats: at most {max(sds):.3f}."]
        others = ((name, results["paired"][f"{first} - {name}"]) for name in results["encoders"] if name != first)
        rows = [[name, *(_cell(e[f"{head}/{m}"], signed=True) for m in shown)] for name, e in others]
        lines += ["", table_lib.markdown([[f"{first} minus", *top[1:]], *rows])]
        if recalls:
            top = [f"{_HEADS[head]}: recall of", *(name.removeprefix("recall of ") for name in recalls)]
            encoders = results["encoders"].items()
            rows = [[name, *(f"{e[f'{head}/{m}']['value']:.2f}" for m in recalls)] for name, e in encoders]
            table = table_lib.markdown([top, *rows])
            fits = len(table.partition("\n")[0]) <= WIDEST
            lines += ["", table if fits else f"Recall of the {len(recalls)} classes: encoders in results.json."]
    return "\n".join([*lines, *("\n" + textwrap.fill(note, WIDEST) for note in results["notes"])])


def _cell(entry: Mapping[str, Any], *, signed: bool = False) -> str:
    if entry["value"] is None:
        return "n/a"
    form = "{:+.2f}" if signed else "{:.2f}"
    value, low, high = (None if entry[key] is None else form.format(entry[key]) for key in ("value", "low", "high"))
    return value if low is None else f"{value} ({low} to {high})"

