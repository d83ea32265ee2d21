"""Runs the configured evaluators on the pooled features (one row per video) of all encoders.

    features of every encoder, seed and split
      -> for each evaluator: predictions for each pooling -> the pooling chosen on validation, by encoder
      -> metrics, intervals and differences (`entries`) -> results.json, predictions.csv

`config.eval.evaluators` is {family: options}. The family names the module; options may hold "type" to run one
module under another name (`knn20: {"type": "knn", "k": 20}`), for a regression "field", the record field that it
predicts (`rvef: {"type": "regression", "field": "rvef"}`), and `at_end` to leave it out during training.
"""

import dataclasses
import functools
import importlib
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from discovr_jax import trees
from discovr_jax.data import mixture
from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import gather, interface, neighbours, prediction_cache, results_io
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.evaluators import labels
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.evaluation.features.extract import SPLITS
from discovr_jax.progress import Progress, doing

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1  # of results.json
# Modules of evaluators/: those that are run on pooled features, and the others, which see clips.
TYPES = ("anomaly", "classes", "knn", "labels", "mlp", "pca", "probe", "regression", "retrieval", "transfer")
TOKEN_TYPES = ("attentive", "segmentation", "finetune", "reconstruction", "robustness")
_FEW = 2000  # training videos below which the threads of linear algebra wait for each other more than they work
_LARGE = 50_000_000  # numbers above which a split's features are not copied as float64: 400 MB

Fields = Mapping[str, Mapping[str, np.ndarray]]
# {encoder: [{split: {readout: float [N, D]}}, one per seed]}
EncodersFeatures = Mapping[str, Sequence[Mapping[str, Mapping[str, np.ndarray]]]]


@dataclasses.dataclass(frozen=True)
class _Task:
    """A part with its videos: what is the same for every encoder and pooling."""

    part: interface.Part
    module: Any
    encoders: EncodersFeatures
    columns: dict[str, dict[str, np.ndarray]]  # of the videos whose target is known, by split
    known: dict[str, np.ndarray]  # bool [N] a split
    target: dict[str, np.ndarray]  # float64 [known] a split
    subsets: list[np.ndarray]  # of the training videos, one a draw: bool [known]
    rows: results_lib.Rows
    searches: neighbours.Searches  # empty; of an encoder's pooling those that its `evaluators` share are made of it

    def val_metric(self, predictions: Sequence[interface.Predictions]) -> float:
        """The metric that poolings are chosen by, averaged over seeds and draws."""
        metric, ones = self.module.METRICS[self.module.SELECT_BY], np.ones((1, len(self.target["val"])))
        return float(np.mean([metric(self.target["val"], each.val, ones)[0] for each in predictions]))


def run_evaluators(
    config,
    sources,
    encoders,
    workdir,
    share: feature_cache.Share = feature_cache.ALONE,
    everything: bool = True,
    outside: Mapping[str, Sequence[str]] | None = None,
) -> results_lib.Evaluation:
    """Extracts (or reads cached) features of all encoders and the pixel baseline, and evaluates them.

    Args:
      config: data.* (for the clips and `abnormal_rule`), eval.*, seed.
      sources: {"train": RecordSource, "val": ..., "test": ...}.
      encoders: {"discovr": [Encoder], "random": [Encoder, one per seed]}.
      workdir: cached features and head predictions go to workdir/eval/features.
      share: of this process, where several evaluate together; all of them get the same metrics.
      everything: False leaves out the evaluators that run `at_end` only.
      outside: {name: files} of further encoders, as of `outside.parse`.

    Returns:
      The evaluation, for `write`.

    Raises:
      TableError: a file of features that does not fit the records.
    """
    directory = pathlib.Path(workdir) / "eval" / "features"
    gathered = gather.gather(config, sources, encoders, directory, share, chosen(config, everything), outside or {})
    store = prediction_cache.Store(directory, feature_extraction.folder(mixture.scored(config)), share)
    evaluation = evaluate_features(
        gathered.features, gathered.fields, config, everything, gathered.transfer, store
    )
    if gathered.outside:
        evaluation.results["outside"] = {name: dict(one.about) for name, one in gathered.outside.items()}
    return evaluation


def chosen(config, everything: bool = True) -> dict[str, dict[str, Any]]:
    """The evaluators to run, {name: options}, "type" always there and "at_end" gone.

    Raises:
      ValueError: one of an unknown type.
    """
    result = {}
    for name, given in config.eval.evaluators.items():
        options = {"type": name, **given}
        if options["type"] not in TYPES + TOKEN_TYPES:
            raise ConfigError(
                f"eval.evaluators.{name}: unknown type {options['type']!r}; there are {sorted(TYPES + TOKEN_TYPES)}"
            )
        # `at_end` is the runner's own option: the evaluators do not know it.
        if everything or not options.pop("at_end", False):
            result[name] = {key: value for key, value in options.items() if key != "at_end"}
    return result


def evaluate_features(
    encoders: EncodersFeatures,
    fields: Fields,
    config,
    everything: bool = True,
    transfer: Mapping[str, tuple[EncodersFeatures, Fields] | interface.Skip] | None = None,
    store: prediction_cache.Store = prediction_cache.NOWHERE,
) -> results_lib.Evaluation:
    """Every configured evaluator of pooled features on every encoder.

    A metric of an encoder with several seeds is the mean over the seeds, also inside each resample. An
    evaluator that cannot run is listed under "skipped" with the reason; the others go on.

    Args:
      encoders: {name: [features of a seed]}; "all" is added here.
      fields: {split: {"id", "patient_id", "label", measurements}}, arrays [N] in the order of the features.
      config: eval.dataset, eval.evaluators, eval.readouts, eval.resamples, seed, data.*.
      everything: see `run_evaluators`.
      transfer: {source dataset: (features, fields) of its splits train and val, or why there are none}.
      store: of what heads predict.

    Raises:
      ValueError: an unknown evaluator, or features and fields of different length.
    """
    gather.check_lengths(encoders, fields)
    # What a part is fitted and scored on, by the name of its source dataset; "" is the scored dataset itself.
    data: dict[str, Any] = {
        "": ({n: [feature_cache.add_all(f, store.directory) for f in group] for n, group in encoders.items()}, fields)
    }
    for dataset, given in (transfer or {}).items():
        if isinstance(given, interface.Skip):
            data[dataset] = given
            continue
        source_features, source_fields = given
        gather.check_lengths(source_features, source_fields)
        # Training and validation videos of the source, test videos of the scored dataset; only of encoders that made
        # features of both.
        joined = {
            name: [
                feature_cache.add_all({**seed, "test": own["test"]}, store.directory)
                for seed, own in zip(source_features[name], group, strict=True)
            ]
            for name, group in encoders.items()
            if name in source_features
        }
        data[dataset] = joined, {**source_fields, "test": fields["test"]}
    # Evaluator by evaluator; what one of them lacks is listed and stops no other.
    evaluation, remembered = results_lib.start(data[""][0], fields, config), {}
    searches = neighbours.Searches(config.eval.search_rows, store.directory)
    for name, options in chosen(config, everything).items():
        if options["type"] in TOKEN_TYPES:
            continue
        try:
            parts = parts_of(name, options, fields)
        except interface.Skip as skip:
            results_lib.skip(evaluation, name, skip)
            continue
        for part in parts:
            try:
                if isinstance(data[part.source_dataset], interface.Skip):
                    raise data[part.source_dataset]
                job = _prepare(part, *data[part.source_dataset], config, searches)
            except interface.Skip as skip:
                results_lib.skip(evaluation, part.name, skip)
                continue
            counts = {split: len(job.target[split]) for split in SPLITS}
            counts["train"] = round(np.mean([subset.sum() for subset in job.subsets]))
            evaluation.results["videos"][part.name] = counts
            evaluation.results["notes"] += [{"evaluator": part.name, "note": note} for note in part.notes]
            for encoder in encoders.keys() - job.encoders.keys():
                results_lib.skip(evaluation, part.name, "its file has no features of the other dataset", encoder)
            # Linear algebra in one thread where it is too small for more.
            threads = threadpool_limits(1 if len(fields["train"]["id"]) < _FEW else None)
            with threads, doing(f"scoring {part.name}", logger.info):
                _run(job, config.eval.readouts, evaluation, remembered, store)
    return evaluation


def parts_of(name: str, options: dict[str, Any], fields: Fields) -> list[interface.Part]:
    """The parts of one of the `chosen` evaluators of pooled features.

    Args:
      fields: see `evaluate_features`; what the records hold decides about the parts of some.

    Raises:
      interface.Skip: it is not set up.
      ConfigError: options that it has not, or values that cannot be.
    """
    kind = options.pop("type")
    module = importlib.import_module(f"discovr_jax.evaluation.evaluators.{kind}")
    # An evaluator of several parts says which; any other one is its own only part.
    if hasattr(module, "parts"):
        try:
            return module.parts(name, **options, **({"fields": fields} if hasattr(module, "OF_RECORDS") else {}))
        except TypeError as error:
            raise ConfigError(f"eval.evaluators.{name}: {error}") from None
    field = options.pop("field", module.TARGET) if module.TARGET in interface.MEASUREMENTS else module.TARGET
    return [interface.Part(name, name, kind, field, {metric: metric for metric in module.METRICS}, options)]


def _prepare(
    part: interface.Part, encoders: EncodersFeatures, fields: Fields, config, searches: neighbours.Searches
) -> _Task:
    """Picks the videos whose target is known. Raises interface.Skip if the part cannot run."""
    module = importlib.import_module(f"discovr_jax.evaluation.evaluators.{part.kind}")
    if part.field not in fields["train"]:
        known = list(interface.MEASUREMENTS)
        raise ConfigError(f"eval.evaluators.{part.family}: no field {part.field!r}; there are {known}")
    # Only videos whose target is known, in every split.
    known = {split: interface.known_target(split, fields[split][part.field], part.field) for split in SPLITS}
    columns = {split: {n: np.asarray(c)[known[split]] for n, c in fields[split].items()} for split in SPLITS}
    target = {split: np.asarray(columns[split][part.field], np.float64) for split in SPLITS}
    # All training videos, or so many draws of a share of the patients.
    subsets = [np.ones(len(target["train"]), bool)]
    if part.fraction < 1:
        patients = results_lib.patients_of(fields["train"])
        of_all = labels.draws(patients, fields["train"]["label"], part.fraction, part.draws, config.seed)
        subsets = [each[known["train"]] for each in of_all]
    for subset in subsets:
        module.require(target["train"][subset], target["val"], target["test"])
    patients = results_lib.patients_of(fields["test"])[known["test"]]
    rows = results_lib.make_rows(columns["test"]["id"], patients, target["test"], config)
    return _Task(part, module, encoders, columns, known, target, subsets, rows, searches)


def _run(
    job: _Task,
    readouts: Sequence[str],
    evaluation: results_lib.Evaluation,
    remembered: dict,
    store: prediction_cache.Store,
) -> None:
    """One part on every encoder and pooling, into `evaluation`.

    What heads predict is `remembered` for a part that asks the same (label efficiency with all labels, the probe), and
    in `store` for another evaluation.
    """
    part, module, tables, samples = job.part, job.module, {}, {}
    options = {**(module.evaluate.__kwdefaults__ or {}), **part.options}
    draws = part.draws if part.fraction < 1 else 1
    head = [part.kind, part.field, part.source_dataset, part.fraction, draws, options]
    head += [job.searches.search_rows] if 0 < job.searches.search_rows < len(job.target["train"]) else []
    scores = {name: module.METRICS[metric] for name, metric in part.scores.items()}
    for encoder, group in job.encoders.items():
        # Fit, or take what an earlier part or evaluation has fitted: the key names head, inputs and targets.
        names, asked = feature_extraction.poolings(group, readouts), (repr(head), encoder)
        inputs = ("features", part.source_dataset, encoder)
        if not names:
            results_lib.skip(evaluation, part.name, f"has none of eval.readouts = {tuple(readouts)}", encoder)
            continue
        if asked not in remembered:
            if inputs not in remembered:
                remembered[inputs] = trees.fingerprint(group)
            data = [remembered[inputs], job.columns, job.known, job.target, job.subsets]
            make = functools.partial(_table, job, encoder, group, names, remembered)
            remembered[asked] = store.table(f"{encoder}-{part.name}", [head, names], data, make)
        table = {}
        # A pooled feature that cannot be used is listed; the others go on.
        for readout, predictions in remembered[asked].items():
            if isinstance(predictions, interface.Skip):
                results_lib.skip(evaluation, part.name, predictions, encoder, readout)
            else:
                table[readout] = predictions
        if table:
            tables[encoder] = table
            samples[encoder] = {name: results_lib.metrics_of(job.rows, scores, each) for name, each in table.items()}
    # Each encoder's pooled feature is chosen on validation; test metrics play no part in it.
    val = {encoder: {name: job.val_metric(each) for name, each in table.items()} for encoder, table in tables.items()}
    sign = 1 if module.LARGER_IS_BETTER else -1
    best = {encoder: max(row, key=lambda name, row=row: sign * row[name]) for encoder, row in val.items()}
    # The chosen one becomes the encoder's metrics, intervals and predictions; all of them stay in its table.
    chosen_ones = {encoder: table[best[encoder]] for encoder, table in tables.items()}
    results_lib.add(
        evaluation, part.family, job.rows, scores, chosen_ones, kind=part.kind, field=part.field, readouts=best,
        chosen_by=f"validation {module.SELECT_BY}", part=part.name, names=part.scores,
        bootstrapped={encoder: samples[encoder][best[encoder]] for encoder in tables},
    )  # fmt: skip
    evaluation.results["notes"] += neighbours.notes(part.name, {e: one[0].details for e, one in chosen_ones.items()})
    # Not of shares of the labels, nor of another dataset.
    if part.name == part.family and hasattr(module, "apply") and results_lib.STUDIED in tables:
        evaluation.heads[part.name] = results_lib.FittedHead(
            part.kind, part.field, best[results_lib.STUDIED], options, chosen_ones[results_lib.STUDIED][0],
            job.known, job.target, job.rows, {encoder: (best[encoder], one) for encoder, one in chosen_ones.items()},
        )  # fmt: skip
    entry, patients = evaluation.results["readouts"][part.name], job.rows.num_patients
    if part.source_dataset:
        entry["bank"] = part.source_dataset
    for encoder, table in tables.items():
        entry["encoders"][encoder]["table"] = {
            name: {
                "val": val[encoder][name],
                "test": results_lib.summary(samples[encoder][name], patients),
                "details": [dict(each.details) for each in predictions],
            }
            for name, predictions in table.items()
        }
        if encoder == results_lib.STUDIED or results_lib.STUDIED not in tables:
            continue
        # A gain over other weights is a gain of the weights only with the same pooling.
        mine, theirs = samples[results_lib.STUDIED], samples[encoder]
        entry["paired_same_readout"][f"{results_lib.STUDIED}-{encoder}"] = {
            name: results_lib.summary(results_lib.difference(mine[name], theirs[name]), patients)
            for name in mine
            if name in theirs
        }


def _table(job: _Task, encoder: str, group, readouts: Sequence[str], remembered: dict) -> prediction_cache.Table:
    """Predictions from every pooling of one encoder, or why one has none; searches are `remembered`."""
    table: prediction_cache.Table = {}
    progress = Progress(f"poolings of {encoder} for {job.part.name}", len(readouts), logger.info, always=False)
    for done, readout in enumerate(readouts):
        progress(done)
        try:
            table[readout] = _run_readout(job, encoder, group, readout, remembered)
        except interface.Skip as skip:
            table[readout] = skip
    return table


def _run_readout(job: _Task, encoder: str, group, readout: str, remembered: dict) -> list[interface.Predictions]:
    """Predictions from one pooling of one encoder: seed by seed, of each all draws."""
    predictions = []
    for seed, splits in enumerate(group):
        asked = ("searches", job.part.source_dataset, job.part.field, encoder, seed, readout)
        searches = remembered.setdefault(asked, job.searches.fresh())
        inputs = []
        for split in SPLITS:
            rows, known = splits[split][readout], job.known[split]
            rows = rows if known.all() else rows[known]
            rows = np.asarray(rows, np.float64 if rows.size <= _LARGE else None)
            bad = sum(int((~np.isfinite(block).all(1)).sum()) for _, block in interface.blocks(rows))
            if bad:
                raise interface.Skip(
                    f"features not finite: {bad} of {len(rows)} videos of split {split} (seed {seed})"
                )
            inputs.append(interface.Split(split, rows, job.target[split], job.columns[split], searches))
        train, val, test = inputs
        for subset in job.subsets:
            try:
                made = job.module.evaluate(train.take(subset), val, test, **job.part.options)
                predictions += made if isinstance(made, list) else [made]  # a list: of several trainings of a head
            except (interface.Skip, ConfigError):
                raise
            except Exception as error:
                where = f"evaluator {job.part.name!r} on {encoder}/{readout}, seed {seed}"
                raise RuntimeError(f"{where}: {type(error).__name__}: {error}") from error
    return predictions


def write(
    evaluation: results_lib.Evaluation, workdir, step: int, dataset: str | None = None, writes: bool = True, **extra
) -> dict[str, Any]:
    """Writes results.json and predictions.csv to WORKDIR/eval/STEP, then WORKDIR/results.json.

    Args:
      dataset: name of a folder below STEP (`eval.dataset`); None for none.
      writes: False on all processes but one.
      **extra: JSON values for the top level (clips_seen, ...); "commit" is by default that of this code.

    Returns:
      The content of results.json.
    """
    commit = extra.pop("commit", None) or results_io.commit_id()
    results = {"schema_version": SCHEMA_VERSION, "step": int(step), "commit": commit, **extra, **evaluation.results}
    if writes:
        directory = results_dir(workdir, step, dataset)
        results_io.write_csv(directory / "predictions.csv", evaluation.predictions)
        results_io.write_json(directory / "results.json", results)
        results_io.write_json(pathlib.Path(workdir) / "results.json", results)
    return results


def results_dir(workdir, step: int, dataset: str | None = None) -> pathlib.Path:
    """WORKDIR/eval/STEP, with `eval.dataset` a folder below it."""
    return pathlib.Path(workdir) / "eval" / str(int(step)) / feature_extraction.folder(dataset or "")
