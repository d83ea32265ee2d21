"""Runs the configured evaluators on the features of all encoders, with intervals and paired differences.

    features of every encoder, seed and split
      -> for each evaluator: predictions for each readout -> the readout chosen on validation, by encoder
      -> test figures with bootstrap intervals over patients, differences in the same resamples
      -> results.json, predictions.csv

`config.eval.evaluators` is {family: options}. The family names the module; options may hold "type" to run one
module under another name (`knn20: {"type": "knn", "k": 20}`), and for a regression "field", the record field that it
predicts (`rvef: {"type": "regression", "field": "rvef"}`).
"""

import contextlib
import dataclasses
import importlib
import pathlib
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.data import labels, mixture
from discovr_jax.evaluation import bootstrap, features, output, task

SCHEMA_VERSION = 1  # of results.json
SPLITS = ("train", "val", "test")
TYPES = ("anomaly", "knn", "probe", "regression")  # modules of this folder
# The encoder under study: all others are baselines it is compared with.
STUDIED = "discovr"
# What decides which pixels an encoder sees; part of the cache key.
_CLIP_KEYS = ("frame_size", "image_size", "num_frames", "stride", "target_fps")
ALONE = features.Share()
_FIELDS = ("id", "patient_id", "num_frames", *task.MEASUREMENTS)

Fields = Mapping[str, Mapping[str, np.ndarray]]
# {encoder: [{split: {readout: float [N, D]}}, one a seed]}
EncodersFeatures = Mapping[str, Sequence[Mapping[str, Mapping[str, np.ndarray]]]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      results: the content of results.json; step and commit join when it is written.
      predictions: one dict a row of predictions.csv (test videos, chosen readouts).
      features, fields: what it was computed from, "all" included; for the report.
    """

    results: dict[str, Any]
    predictions: list[dict[str, Any]]
    features: EncodersFeatures
    fields: Fields


@dataclasses.dataclass(frozen=True)
class _Family:
    """One evaluator with its videos: what is the same for every encoder and readout."""

    name: str
    module: Any
    field: str  # column that is predicted: "label", or a measurement
    options: dict[str, Any]
    known: dict[str, np.ndarray]  # bool [N] a split
    target: dict[str, np.ndarray]  # float64 [known] a split
    weights: np.ndarray  # int16 [R, known test videos]
    num_patients: int


def run(
    config, sources, encoders, workdir, step: int, share: features.Share = ALONE, **extra
) -> Evaluation:
    """Extracts (or reads cached) features of all encoders, evaluates them and writes the results.

    The pixel baseline is added here: it needs the same clips and no weights.

    Args:
      config: data.* (for the clips and `abnormal_rule`), eval.*, seed.
      sources: {"train": RecordSource, "val": ..., "test": ...}.
      encoders: {"discovr": [Encoder], "random": [Encoder, one a seed]}.
      workdir: results go to workdir/eval/STEP (workdir/eval/STEP/DATASET where eval.dataset names one), cached
        features to workdir/eval/features.
      step: training steps behind the "discovr" weights.
      share: of this process, where several evaluate together; all of them get the same figures.
      **extra: JSON values for the top level of results.json (clips_seen, commit, ...).

    Returns:
      The evaluation; its results are the content of results.json.
    """
    from discovr_jax.evaluation import baselines

    def pixels(frames, num_valid):
        clips = zip(frames, num_valid, strict=True)
        rows = np.stack([baselines.pixel_features(clip, int(valid)) for clip, valid in clips])
        return share.gather({"pixels": rows})

    everyone = {**encoders, "pixels": [features.Encoder(pixels, "pixels: mean and std frame, 28 x 28")]}
    fields = read_fields(sources, config)
    directory = pathlib.Path(workdir) / "eval" / "features"
    found = {name: [{} for _ in group] for name, group in everyone.items()}
    for split in SPLITS:
        for (name, seed), readouts in _split_features(config, sources, everyone, fields, split, directory, share):
            found[name][seed][split] = readouts
    evaluation = evaluate(found, fields, config)
    folder = _folder(config.eval.dataset) if config.eval.dataset else ""
    written = write(evaluation, workdir, step, folder, share.writes, **extra)
    return dataclasses.replace(evaluation, results=written)


def read_fields(sources, config) -> dict[str, dict[str, np.ndarray]]:
    """Columns of every split: id, patient_id, num_frames, all measurements and the label of the dataset's rule."""
    from discovr_jax.data import records

    rule = mixture.abnormal_rule(config.data, mixture.scored(config))
    columns = {}
    for split in SPLITS:
        names = dict.fromkeys((*_FIELDS, *labels.rule_fields(rule)))
        columns[split] = dict(records.record_fields(sources[split], list(names)))
        columns[split]["label"] = labels.normal_label(columns[split], rule)
    return columns


def _split_features(config, sources, encoders, fields, split, directory, share):
    """((name, seed), readouts) of every encoder on one split: cached ones read, the others in one pass."""
    from discovr_jax.data import pipeline

    members = [(name, seed) for name, group in encoders.items() for seed in range(len(group))]
    preprocessing = {"records": str(sources[split].path), "clips": config.eval.clips}
    preprocessing |= {key: config.data[key] for key in _CLIP_KEYS}
    videos = list(zip(fields[split]["id"], fields[split]["num_frames"], strict=True))
    keys = [features.cache_key(encoders[name][seed].key, preprocessing, videos) for name, seed in members]

    def make(indices):
        embeds = [encoders[members[index][0]][members[index][1]].embed for index in indices]
        batches = pipeline.eval_batches(
            sources[split],
            config,
            batch_size=config.eval.batch_size,
            process_index=share.index,
            process_count=share.count,
        )
        with contextlib.closing(batches):
            whole = (b | share.gather({name: b[name] for name in ("record", "weight")}) for b in batches)
            return features.extract(embeds, whole, len(videos))

    names = [f"{_folder(mixture.scored(config))}-{name}-{seed}-{split}" for name, seed in members]
    return zip(members, features.cached(directory, names, keys, make, share.writes), strict=True)


def evaluate(encoders: EncodersFeatures, fields: Fields, config) -> Evaluation:
    """Every configured evaluator on every encoder.

    A figure of an encoder with several seeds is the mean over the seeds, also inside each resample. An
    evaluator that cannot run is listed under "skipped" with the reason; the others go on.

    Args:
      encoders: {name: [features of a seed]}; "all" is added here.
      fields: {split: {"id", "patient_id", "label", measurements}}, arrays [N] in the order of the features.
      config: eval.dataset, eval.evaluators, eval.readouts, eval.resamples, seed, data.*.

    Raises:
      ValueError: an unknown evaluator, or features and fields of different length.
    """
    _check_lengths(encoders, fields)
    encoders = {name: [features.add_all(seed) for seed in group] for name, group in encoders.items()}
    names = list(encoders)
    others = [name for name in names if name != STUDIED and STUDIED in encoders]
    dataset = mixture.scored(config)
    results: dict[str, Any] = {
        "dataset": dataset,
        "n_test": len(fields["test"]["id"]),
        "n_test_patients": len(np.unique(_patients(fields["test"]))),
        "label_rule": mixture.abnormal_rule(config.data, dataset),
        "interval": f"95 % percentile bootstrap over patients, {config.eval.resamples} resamples",
        "seeds": {name: len(group) for name, group in encoders.items()},
        "encoders": {name: {} for name in names},
        "paired": {f"{STUDIED}-{name}": {} for name in others},
        "readouts": {},
        "videos": {},
        "skipped": [],
    }
    predictions: list[dict[str, Any]] = []
    for name, options in config.eval.evaluators.items():
        try:
            family = _prepare(name, dict(options), fields, config)
        except task.Skip as skip:
            results["skipped"].append({"evaluator": name, "encoder": "all", "reason": str(skip)})
            continue
        results["videos"][name] = {split: int(known.sum()) for split, known in family.known.items()}
        _evaluate_family(family, encoders, others, fields, config.eval.readouts, results, predictions)
    return Evaluation(results, predictions, encoders, fields)


def _prepare(name: str, options: dict[str, Any], fields: Fields, config) -> _Family:
    """Loads the module and picks the videos whose target is known. Raises task.Skip if it cannot run."""
    kind = options.pop("type", name)
    if kind not in TYPES:
        raise ValueError(f"eval.evaluators.{name}: unknown type {kind!r}; there are {list(TYPES)}")
    module = importlib.import_module(f"discovr_jax.evaluation.{kind}")
    field = options.pop("field", module.TARGET) if module.TARGET in task.MEASUREMENTS else module.TARGET
    if field not in fields["train"]:
        raise ValueError(f"eval.evaluators.{name}: no field {field!r}; there are {list(task.MEASUREMENTS)}")
    known = {split: task.known_target(split, fields[split][field], field) for split in SPLITS}
    target = {split: np.asarray(fields[split][field], np.float64)[known[split]] for split in SPLITS}
    module.require(*(target[split] for split in SPLITS))
    patients = _patients(fields["test"])[known["test"]]
    weights = bootstrap.patient_weights(patients, config.eval.resamples, config.seed)
    return _Family(name, module, field, options, known, target, weights, len(np.unique(patients)))


def _evaluate_family(family, encoders, others, fields, readouts, results, predictions) -> None:
    """Fills `results` and `predictions` for one evaluator."""
    module, chosen, tables = family.module, {}, {}
    for encoder, group in encoders.items():
        table = {}
        for readout in _candidates(group, readouts):
            try:
                table[readout] = _run_readout(family, encoder, group, readout)
            except task.Skip as skip:
                where = {"evaluator": family.name, "encoder": encoder, "readout": readout}
                results["skipped"].append({**where, "reason": str(skip)})
        if table:
            sign = 1 if module.LARGER_IS_BETTER else -1
            chosen[encoder] = max(table, key=lambda readout: sign * table[readout]["val"])
            tables[encoder] = table

    def summary(figures):
        return {metric: bootstrap.interval(f, family.num_patients) for metric, f in figures.items()}

    def difference(encoder, mine, theirs):
        first, second = tables[STUDIED][mine]["test"], tables[encoder][theirs]["test"]
        return summary({metric: first[metric] - second[metric] for metric in first})

    def flat(figures):
        return {f"{family.name}/{metric}": value for metric, value in figures.items()}

    entry = results["readouts"][family.name] = {
        "field": family.field,
        "chosen_by": f"validation {module.SELECT_BY}",
        "encoders": {},
        "paired_same_readout": {},
    }
    for encoder, table in tables.items():
        results["encoders"][encoder] |= flat(summary(table[chosen[encoder]]["test"]))
        entry["encoders"][encoder] = {
            "chosen": chosen[encoder],
            "table": {
                readout: {"val": row["val"], "test": summary(row["test"]), "details": row["details"]}
                for readout, row in table.items()
            },
        }
        predictions += _rows(family, encoder, chosen[encoder], table[chosen[encoder]], fields)
    for encoder in others:
        if encoder not in tables or STUDIED not in tables:
            continue
        pair = f"{STUDIED}-{encoder}"
        results["paired"][pair] |= flat(difference(encoder, chosen[STUDIED], chosen[encoder]))
        # A gain over other weights is a gain of the weights only in the same readout.
        shared = [readout for readout in tables[STUDIED] if readout in tables[encoder]]
        entry["paired_same_readout"][pair] = {name: difference(encoder, name, name) for name in shared}


def _candidates(group, readouts: Sequence[str]) -> list[str]:
    """Readouts to choose from: the configured ones this encoder has, or its single one (pixels)."""
    available = list(group[0]["train"])
    return [name for name in readouts if name in available] if len(available) > 1 else available


def _run_readout(family: _Family, encoder: str, group, readout: str) -> dict[str, Any]:
    """Predictions and figures of one readout of one encoder, over its seeds.

    Returns:
      {"val": mean main figure, "test": {metric: float [1 + R]}, "predictions": [...], "details": [...]}.
    """
    module, made = family.module, []
    for seed, splits in enumerate(group):
        inputs = []
        for split in SPLITS:
            rows = np.asarray(splits[split][readout], np.float64)[family.known[split]]
            bad = int((~np.isfinite(rows).all(1)).sum())
            if bad:
                raise task.Skip(
                    f"features not finite: {bad} of {len(rows)} videos of split {split} (seed {seed})"
                )
            inputs.append(task.Split(split, rows, family.target[split]))
        try:
            made.append(module.evaluate(*inputs, **family.options))
        except task.Skip:
            raise
        except Exception as error:
            where = f"evaluator {family.name!r} on {encoder}/{readout}, seed {seed}"
            raise RuntimeError(f"{where}: {type(error).__name__}: {error}") from error
    main = module.METRICS[module.SELECT_BY]
    ones = np.ones((1, len(family.target["val"])))
    val = np.mean([main(family.target["val"], each.val, ones)[0] for each in made])
    test = {
        metric: np.mean(
            [bootstrap.distribution(f, family.target["test"], each.test, family.weights) for each in made], 0
        )
        for metric, f in module.METRICS.items()
    }
    return {"val": float(val), "test": test, "predictions": made, "details": [dict(p.details) for p in made]}


def _rows(family, encoder, readout, row, fields) -> list[dict[str, Any]]:
    """Rows of predictions.csv."""
    ids = np.asarray(fields["test"]["id"])[family.known["test"]]
    common = {"encoder": encoder, "family": family.name, "readout": readout}
    return [
        {"id": str(video), **common, "seed": seed, "target": float(target), "prediction": float(prediction)}
        for seed, made in enumerate(row["predictions"])
        for video, target, prediction in zip(ids, family.target["test"], made.test, strict=True)
    ]


def _folder(dataset: str) -> str:
    """Folder of a dataset's results; a variant's name holds a slash."""
    return dataset.replace("/", "-")


def _patients(fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """Patient of each video; a video without one counts as its own patient."""
    patients, ids = np.asarray(fields["patient_id"], str), np.asarray(fields["id"], str)
    return np.where(patients == "", np.char.add("video ", ids), patients)


def _check_lengths(encoders: EncodersFeatures, fields: Fields) -> None:
    for name, group in encoders.items():
        for seed, splits in enumerate(group):
            for split in SPLITS:
                expected = len(fields[split]["id"])
                for readout, array in splits[split].items():
                    if len(array) != expected:
                        raise ValueError(
                            f"features {name} (seed {seed}) {split}/{readout} have {len(array)} rows, "
                            f"the split has {expected} videos; delete WORKDIR/eval/features if they are old"
                        )


def write(
    evaluation: Evaluation, workdir, step: int, folder: str = "", writes: bool = True, **extra
) -> dict[str, Any]:
    """Writes results.json and predictions.csv to WORKDIR/eval/STEP/`folder`, then WORKDIR/results.json.

    Returns the content, which is all without `writes`. `extra` joins the top level;
    "commit" defaults to the git commit of this code, or
    "unknown" outside git.
    """
    commit = extra.pop("commit", None) or commit_id()
    results = {"schema_version": SCHEMA_VERSION, "step": int(step), "commit": commit, **extra, **evaluation.results}
    if not writes:
        return results
    directory = pathlib.Path(workdir) / "eval" / str(int(step)) / folder
    output.write_csv(directory / "predictions.csv", evaluation.predictions)
    output.write_json(directory / "results.json", results)
    output.write_json(pathlib.Path(workdir) / "results.json", results)
    return results


def commit_id() -> str:
    """Git commit of this code, or "unknown" outside git."""
    here = pathlib.Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
