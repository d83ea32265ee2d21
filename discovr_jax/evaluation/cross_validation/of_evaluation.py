"""The encoders of an evaluation on the videos of all splits, by repeated grouped k-fold: for archives of some hundred.

Features, targets and patients are those of the evaluation, heads and intervals those of the command `cross_validate`.
Each label, measurement or class that an evaluator of pooled features predicts is a target of its own.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from discovr_jax.data import class_labels
from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface, runner
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.cross_validation import folds, run, summary
from discovr_jax.evaluation.cross_validation.archive import Archive
from discovr_jax.evaluation.features.extract import SPLITS, poolings
from discovr_jax.evaluation.features.feature_files import FeatureFile
from discovr_jax.progress import Progress, doing

logger = logging.getLogger(__name__)

_UNSAFE = re.compile(r"[^\w.-]")  # in the name of a file; targets are columns of a user's table
LABELS = ("normal", "abnormal")
_KINDS = ("knn", "probe", "regression", "classes")  # of evaluators whose targets are taken


def check(options: Mapping[str, Any]) -> None:
    """Raises ConfigError for options, `config.eval.cross_validation`, that cannot be."""
    where = "eval.cross_validation"
    if options["folds"] and min(options["folds"], options["inner_folds"]) < 2 or options["folds"] < 0:
        raise ConfigError(f"{where}.folds and inner_folds are at least 2 (folds = 0 leaves it out), got {options}")
    if options["repeats"] < 1:
        raise ConfigError(f"{where}.repeats = {options['repeats']} must be at least 1")
    if not options["splits"] or (unknown := sorted(set(options["splits"]) - set(SPLITS))):
        raise ConfigError(f"{where}.splits: {unknown or 'none'}; name some of {SPLITS}")


def add(
    evaluation: results_lib.Evaluation, config, trained_on: Callable[[str], Mapping[str, int] | None]
) -> dict[str, str]:
    """Enters "cross_validation" into the results; nothing where `config.eval.cross_validation.folds` is 0.

    A target that cannot be cut is listed as skipped. The encoder may have been trained on some of these videos, without
    labels: `trained_on` says on how many.

    Args:
      config: eval.*, seed.
      trained_on: of a split, as `training_videos.among_test` says it.

    Returns:
      {name of a CSV: its text, the predictions for one target}.
    """
    if not config.eval.cross_validation.folds:
        return {}
    splits = [split for split in SPLITS if split in config.eval.cross_validation.splits]
    count = sum(len(evaluation.fields[split]["id"]) for split in splits)
    most = config.eval.cross_validation.max_videos
    if count > most:
        reason = interface.NotSetUp(
            f"{count} videos, eval.cross_validation.max_videos = {most}: so many need no folds, or days"
        )
        results_lib.skip(evaluation, "cross_validation", reason)
        return {}
    how = run.FoldOptions(
        config.eval.cross_validation.folds,
        config.eval.cross_validation.repeats,
        config.eval.cross_validation.inner_folds,
        config.seed,
        config.eval.resamples,
    )
    found: dict[str, Any] = {"splits": splits, "trained_on": _total([trained_on(split) for split in splits])}
    found["targets"], tables = {}, {}
    for name, field, classes in _targets(evaluation, config):
        try:
            archive = _archive(evaluation, config, splits, field, classes)
            progress = Progress(f"repeats of cross-validation, {name}", how.repeats, logger.info, always=False)
            with doing(f"cross-validation of {name}", logger.info):
                made, cuts = run.predict_all(archive, how, progress)
                summarised = summary.summarise(archive, how, made, {})
        except (interface.Skip, folds.FoldsError) as error:
            results_lib.skip(evaluation, f"cross_validation of {name}", str(error))
            continue
        found["targets"][name] = {"field": field, **summarised}
        tables[f"cross_validation_{_UNSAFE.sub('_', name)}.csv"] = summary.predictions_csv(archive, made, cuts)
    evaluation.results["cross_validation"] = found
    return tables


def _targets(evaluation: results_lib.Evaluation, config) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(name, field, its classes; none of a measurement) of every target that an evaluator predicts, each once."""
    seen = set()
    for evaluator, given in runner.chosen(config).items():
        if given["type"] not in _KINDS:
            continue
        try:
            parts = runner.parts_of(evaluator, given, evaluation.fields)
        except interface.Skip:
            continue  # listed by the runner
        for part in parts:
            if part.field in seen or part.kind not in _KINDS:  # labels of which a video has several have no folds
                continue
            seen.add(part.field)
            if part.field == "label":
                yield "label", "label", LABELS
            else:  # named as its metrics are: a column of an archive may be called "label" too
                classes = part.options["classes"] if class_labels.target_name(part.field) else ()
                yield part.name, part.field, tuple(classes)


def _archive(evaluation, config, splits, field: str, classes: tuple[str, ...]) -> Archive:
    """The videos of some splits whose target is known. Raises interface.Skip if there are none."""
    fields = evaluation.fields
    columns = {
        name: np.concatenate([np.asarray(fields[split][name]) for split in splits]) for name in ("id", field)
    }
    groups = np.concatenate([results_lib.patients_of(fields[split]) for split in splits])
    known = interface.known_target(" + ".join(splits), columns[field], field)
    target = columns[field][known].astype(np.float64)
    there = np.unique(target) if classes else ()
    if classes and len(there) < 2:
        raise interface.Skip(f"one class only: all {len(target)} videos with a known {field} have it")
    target = np.searchsorted(there, target).astype(np.float64) if classes else target
    features = {}
    for name, group in evaluation.features.items():
        asked = poolings(group, config.eval.readouts)
        files = []
        for seed in group:
            readouts = {one: np.concatenate([seed[split][one] for split in splits])[known] for one in asked}
            readouts = {one: np.asarray(x, np.float64) for one, x in readouts.items() if np.isfinite(x).all()}
            files.append(FeatureFile(readouts, {"readouts": {one: x.shape[1] for one, x in readouts.items()}}))
        if files and all(file.readouts for file in files):
            features[name] = files
    named = tuple(classes[int(number)] for number in there)
    return Archive(columns["id"][known].astype(str), groups[known], target, named, features, [])


def _total(counts) -> dict[str, int] | None:
    """Of all splits; None if it is not known."""
    if any(one is None for one in counts):
        return None
    names = {"test_videos": "videos", "trained_on": "trained_on", "patients_trained_on": "patients_trained_on"}
    return {name: sum(one[key] for one in counts) for key, name in names.items()}
