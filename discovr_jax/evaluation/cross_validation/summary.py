"""From out-of-fold predictions to metrics with intervals, paired differences and files.

A metric is computed in every repeat and averaged over repeats and seeds, in the whole archive and inside each resample
of groups: it is that of a head fitted on one training part, not of the ensemble that averaged predictions would make.
"""

import csv
import io
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from discovr_jax.evaluation.cross_validation.archive import Archive
from discovr_jax.evaluation.cross_validation.run import FoldOptions, OutOfFold
from discovr_jax.evaluation.metrics import bootstrap
from discovr_jax.evaluation.metrics import classes as class_metrics
from discovr_jax.evaluation.metrics import videos as video_metrics

SCHEMA_VERSION = 1
_CLASSES = {
    "macro_f1": class_metrics.macro_f1,
    "balanced_accuracy": class_metrics.balanced_accuracy,
    "auroc": class_metrics.auroc,
}
_MEASUREMENT = {"mae": video_metrics.mae, "r2": video_metrics.r2}
_BOUNDS = {"mae": (0.0, math.inf), "r2": (-math.inf, 1.0)}  # of all others 0 and 1


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
            entry = interval(each.mean((0, 1)), count, options.folds, _BOUNDS.get(metric, (0.0, 1.0)))
            spread = each[:, :, 0].mean(0).std(ddof=1) if options.repeats > 1 else None
            encoders[name][f"{head}/{metric}"] = entry | {"sd_over_repeats": spread}
        if archive.classes:
            tables = [class_metrics.confusion(archive.target, one, ones)[0] for one in _flat(said.predictions)]
            confusion[name][head] = np.mean(tables, 0)
    paired = {
        f"{one} - {two}": {
            key: interval(values[one][key] - values[two][key], count, options.folds) for key in values[one]
        }
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
        f"repeats, {widening(options.folds):.3g} times as wide for the variance of training parts; sd_over_repeats is "
        "of the same predictions made again with other folds",
        "features": {name: [file.about for file in files] for name, files in archive.features.items()},
        "encoders": encoders,
        "paired": paired,
        "confusion": confusion,
        "chosen": {f"{name}: {head}": said.chosen for (name, head), said in found.items()},
        "notes": list(archive.notes),
    }


def interval(values: np.ndarray, groups: int, folds: int, bounds=(-math.inf, math.inf)) -> dict[str, Any]:
    """`bootstrap.interval` of a metric or a difference, widened for the choice of the training videos.

    The bootstrap over groups takes heads as they were fitted. Another archive would also fit others, and the training
    parts of one archive overlap, so that their spread does not say how much. Nadeau and Bengio add n_test / n_train
    times the variance of one part to the variance of the mean over parts: 1 + folds / (folds - 1) times that.

    Source: Nadeau and Bengio, Machine Learning 2003, 52, 239-281, eq. 6.

    Args:
      values: float64 [1 + R], see `bootstrap.distribution`; groups: how many; bounds: of the metric.
    """
    entry = bootstrap.interval(values, groups)
    if entry["low"] is not None:
        for end in ("low", "high"):
            wide = entry["value"] + widening(folds) * (entry[end] - entry["value"])
            entry[end] = min(max(wide, bounds[0]), bounds[1])
    return entry


def widening(folds: int) -> float:
    """How much wider than the bootstrap's an interval is: 1.5 of five folds."""
    return math.sqrt(1 + folds / (folds - 1))


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
