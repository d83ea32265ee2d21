"""From predictions of several encoders to the entries of results.json: metrics, intervals, pairs, patients.

    predictions of every encoder and seed, for the same test rows (videos, or frames of videos)
      -> metrics with bootstrap intervals over patients, seeds averaged inside each resample; a head that was trained
     several times is resampled too
      -> differences to the studied encoder in the same resamples
      -> the same by study and by patient, where one has several rows: the mean of what is predicted for them
      -> rows of predictions.csv
"""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.data import class_labels, mixture
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.metrics import bootstrap
from discovr_jax.evaluation.metrics import videos as video_metrics

# The encoder under study: all others are baselines it is compared with.
STUDIED = "discovr"
# Levels of results.json above that of the rows, and what is counted there.
COUNTED = {"by_study": "studies", "by_patient": "patients"}

# {encoder: [predictions, one per seed; where heads have seeds of their own, those of a seed one after another]}
ByEncoder = Mapping[str, Sequence[interface.Predictions]]
Metrics = Mapping[str, bootstrap.Metric]
MetricValues = dict[str, np.ndarray]


class PredictionTable(Sequence):
    """Rows of predictions.csv, one dict each. Held as columns: a dict is made when it is read."""

    def __init__(self) -> None:
        self._parts: list[tuple[dict[str, Any], dict[str, Sequence]]] = []

    def add(self, common: Mapping[str, Any], **columns: Sequence) -> None:
        """Adds rows: what all have in common, and columns of equal length, arrays or lists."""
        self._parts.append((dict(common), columns))

    def parts(self) -> Iterator[tuple[dict[str, Any], dict[str, Sequence]]]:
        """What was added: (what the rows have in common, columns)."""
        return iter(self._parts)

    def __len__(self) -> int:
        return sum(len(next(iter(columns.values()))) for _, columns in self._parts)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for common, columns in self._parts:
            plain = (each.tolist() if isinstance(each, np.ndarray) else each for each in columns.values())
            for row in zip(*plain, strict=True):
                yield common | dict(zip(columns, row, strict=True))

    def __getitem__(self, key):
        return list(self)[key]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found; `add` and `skip` fill it.

    Attributes:
      results: the content of results.json; step and commit join when it is written.
      predictions: one dict a row of predictions.csv (test rows, chosen poolings).
      features: {encoder: [{split: {readout: float [N, D]}}, one per seed]}, "all" included.
      fields: {split: {column: [N]}}, see `features.extract.read_fields`.
      heads: {part: the studied encoder's head}, of parts that can predict for other videos.
    """

    results: dict[str, Any]
    predictions: PredictionTable
    features: Mapping[str, Sequence[Mapping[str, Mapping[str, np.ndarray]]]]
    fields: Mapping[str, Mapping[str, np.ndarray]]
    heads: dict[str, "FittedHead"] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class FittedHead:
    """A head of the studied encoder as it was scored, for `fitted_heads`.

    Attributes:
      kind: module of `evaluators`; field: "label", a measurement, or "masks".
      readout: the pooled feature that it reads, or "tokens".
      options: of its `apply`.
      predictions: for validation and test videos.
      known: {split: bool [videos]}, those whose target is known; target: {split: float64 [known]}; both empty where
        frames are predicted.
      rows: of test.
      encoders: {encoder: (the pooled feature that its head reads, its predictions, one per seed)}, this one too; empty
        where frames are predicted.
    """

    kind: str
    field: str
    readout: str
    options: Mapping[str, Any]
    predictions: interface.Predictions
    known: Mapping[str, np.ndarray]
    target: Mapping[str, np.ndarray]
    rows: "Rows"
    encoders: Mapping[str, tuple[str, Sequence[interface.Predictions]]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The test rows that are scored, the same for every encoder.

    Attributes:
      ids: str [N], unique; patients: [N].
      target: float64 [N], NaN where a metric needs none.
      weights: int [R, N], how often each counts in each resample, see `bootstrap.weights_of`.
    """

    ids: np.ndarray
    patients: np.ndarray
    target: np.ndarray
    weights: np.ndarray | bootstrap.Resamples

    @property
    def num_patients(self) -> int:
        """Patients behind them."""
        return len(np.unique(self.patients))


def make_rows(ids: np.ndarray, patients: np.ndarray, target: np.ndarray, config) -> Rows:
    """Rows with the bootstrap of `config.eval.resamples` and `config.seed`; arrays [N], see `Rows`."""
    weights = bootstrap.weights_of(patients, config.eval.resamples, config.seed)
    return Rows(np.asarray(ids, str), np.asarray(patients), np.asarray(target, np.float64), weights)


def start(features, fields, config) -> Evaluation:
    """An evaluation without metrics: what is scored, and how."""
    names, dataset = list(features), mixture.scored(config)
    results: dict[str, Any] = {
        "dataset": dataset,
        "n_test": len(fields["test"]["id"]),
        "n_test_patients": len(np.unique(patients_of(fields["test"]))),
        "label_rule": mixture.abnormal_rule(config.data, dataset),
        "interval": f"95 % percentile bootstrap over patients, {config.eval.resamples} resamples",
        "settings": config.eval.to_dict(),
        "seeds": {name: len(group) for name, group in features.items()},
        "encoders": {name: {} for name in names},
        "paired": {pair: {} for pair in _pairs(names)},
        "by_study": {},
        "by_patient": {},
        "readouts": {},
        "videos": {},
        "notes": [],
        "skipped": [],
    }
    return Evaluation(results, PredictionTable(), features, fields)


def patients_of(fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """Patient of each video; a video without one counts as its own patient."""
    patients, ids = np.asarray(fields["patient_id"], str), np.asarray(fields["id"], str)
    return np.where(patients == "", np.char.add("video ", ids), patients)


def studies_of(fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """Study of each video, apart for each patient; a video without one counts as its own study."""
    patients, ids = patients_of(fields), np.asarray(fields["id"], str)
    studies = np.asarray(fields.get("study_id", np.full(len(ids), "")), str)
    named = np.char.add(np.char.add(patients, "\n"), studies)
    return np.where(studies == "", np.char.add("video ", ids), named)


def skip(
    evaluation: Evaluation, family: str, reason: str | interface.Skip, encoder: str = "all", readout: str = ""
) -> None:
    """Lists an evaluator, or one encoder or pooling of it, as skipped."""
    where = {"evaluator": family, "encoder": encoder} | ({"readout": readout} if readout else {})
    set_up = not isinstance(reason, interface.NotSetUp)
    evaluation.results["skipped"].append({**where, "reason": str(reason), "set_up": set_up})


def metrics_of(rows: Rows, scores: Metrics, predictions: Sequence[interface.Predictions]) -> MetricValues:
    """Every metric and its resamples, averaged over the seeds of one encoder.

    A metric of an output (`video_metrics.On`) that some seed has not is left out. Where heads were trained several
    times, a metric is the mean over the trainings, and each resample draws trainings as it draws patients.

    Args:
      predictions: of the seeds; the trainings of a seed's head (`head_seed` from 0 on) one after another.

    Returns:
      {metric: float64 [1 + R]}, see `bootstrap.distribution`.
    """
    known = {name: [_values(each, metric) for each in predictions] for name, metric in scores.items()}
    known = {name: values for name, values in known.items() if all(value is not None for value in values)}
    wanted = [(scores[name], value) for name, values in known.items() for value in values]
    found = iter(bootstrap.distributions(wanted, rows.target, rows.weights))
    starts = [number for number, each in enumerate(predictions) if each.head_seed == 0]
    result = {}
    for name, values in known.items():
        by_seed = np.split(np.stack([next(found) for _ in values]), starts[1:])
        result[name] = np.mean([_over_trainings(each) for each in by_seed], 0)
    return result


def _over_trainings(values: np.ndarray) -> np.ndarray:
    """Mean over the trainings of a head, `values` [S, 1 + R]; in each resample over S - 1, drawn with replacement.

    One fewer than there are, so that the variance is that of a mean over S; of S draws it would be (S - 1) / S of
    that. All metrics and encoders get the same draws.

    Source: Rao and Wu, "Resampling inference with complex survey data", 1988.
    """
    count, resamples = len(values), values.shape[1] - 1
    if count == 1:
        return values[0]
    drawn = np.random.default_rng(count).multinomial(count - 1, np.full(count, 1 / count), resamples)
    return np.r_[values[:, 0].mean(), np.einsum("rs,sr->r", drawn / (count - 1), values[:, 1:])]


def summary(values: MetricValues, num_patients: int) -> dict[str, dict[str, Any]]:
    """{metric: {"value", "low", "high"}} of `metrics_of`."""
    return {name: bootstrap.interval(each, num_patients) for name, each in values.items()}


def difference(first: MetricValues, second: MetricValues) -> MetricValues:
    """first - second, inside each resample, of the metrics that both have."""
    return {name: first[name] - second[name] for name in first if name in second}


def add(
    evaluation: Evaluation,
    family: str,
    rows: Rows,
    scores: Metrics,
    predictions: ByEncoder,
    *,
    kind: str,
    field: str,
    readouts: Mapping[str, str],
    chosen_by: str,
    part: str = "",
    names: Mapping[str, str] | None = None,
    bootstrapped: Mapping[str, MetricValues] | None = None,
) -> None:
    """Enters one evaluator's predictions into an evaluation.

    Args:
      family: metrics go under FAMILY/METRIC.
      scores: {METRIC: function of `metrics`}, of the prediction, or of another output (`video_metrics.On`).
      predictions: for `rows`; an encoder that could not run is left out, one that has no features may join.
      kind: the module whose METRICS these are, for `--mode=compare`.
      field: what is predicted: "label", a measurement of `interface.MEASUREMENTS`, or another word.
      readouts: {encoder: the chosen one}.
      chosen_by: "validation auroc", say.
      part: name of the part, where a family has several, each with its own pooling; else the family's.
      names: {METRIC: its name in the module's METRICS} where that is another.
      bootstrapped: {encoder: `metrics_of` its predictions}, where that was computed already.
    """
    results, part = evaluation.results, part or family
    known = bootstrapped or {}
    result = {
        encoder: known[encoder] if encoder in known else metrics_of(rows, scores, group)
        for encoder, group in predictions.items()
    }
    _enter(results["encoders"], results["paired"], family, result, rows.num_patients)
    results["readouts"][part] = {
        "family": family,
        "type": kind,
        "field": field,
        "chosen_by": chosen_by,
        "metrics": dict(names or {name: name for name in scores}),
        "head_seeds": 1 + max((each.head_seed for group in predictions.values() for each in group), default=0),
        "encoders": {
            encoder: {
                "chosen": readouts[encoder],
                "details": [dict(each.details) for each in group],
                "report": dict(group[0].report),
                "table": {},
            }
            for encoder, group in predictions.items()
        },
        "paired_same_readout": {},
    }
    # Sorted, so that the same resamples can be drawn from the numbers.
    patients = np.searchsorted(np.unique(patients_of(evaluation.fields["test"])), rows.patients)
    ids = [str(row) for row in rows.ids]
    used = {name for group in predictions.values() for each in group for name in each.outputs if _is_used(name, scores)}
    for encoder, group in predictions.items():
        common = {"encoder": encoder, "family": part, "readout": readouts[encoder]}
        for seed, each in enumerate(group):
            outputs = {} if each.test is None else {"": each.test}
            for name, values in (outputs | {n: v for n, v in each.outputs.items() if n in used}).items():
                values, target = np.asarray(values, np.float64), np.asarray(rows.target, np.float64)
                mark = {**common, "output": name, "seed": seed}
                evaluation.predictions.add(mark, id=ids, target=target, prediction=values, patient=patients)
    test = evaluation.fields["test"]
    studies = dict(zip(np.asarray(test["id"], str).tolist(), studies_of(test).tolist(), strict=True))
    # (Frames of videos have ids of their own, and no study: two of one video are no two clips.)
    levels = {"by_study": np.array([studies.get(row, row) for row in ids]), "by_patient": rows.patients}
    for level, units in levels.items():
        if len(np.unique(units)) < len(units):
            _add_level(results, level, units, family, part, rows, scores, predictions, field)


def _add_level(
    results, level: str, units: np.ndarray, family, part, rows: Rows, scores: Metrics, predictions: ByEncoder, field
) -> None:
    """The same metrics by study or by patient: predictions and outputs averaged over the rows of each of `units` [N].

    Source: the mean of the predictions for the clips of a study is EchoPrime's and PanEcho's prediction for it.
    """
    names, first, index = np.unique(units, return_index=True, return_inverse=True)
    lowest, highest = (_of_unit(rows.target, index, len(names), f) for f in (np.fmin, np.fmax))
    # One whose videos disagree about the diagnosis, or another class, has none.
    named = field == "label" or class_labels.target_name(field)
    agree = (lowest == highest) | np.isnan(lowest) if named else np.ones(len(names), bool)
    if not agree.any():
        return
    target = _mean_of_unit(rows.target, index)[agree]
    averaged = Rows(names[agree], rows.patients[first[agree]], target, rows.weights[:, first[agree]])

    def average(each: interface.Predictions) -> interface.Predictions:
        test = None if each.test is None else _mean_of_unit(each.test, index)[agree]
        return interface.Predictions(
            None,
            test,
            outputs={n: _mean_of_unit(v, index)[agree] for n, v in each.outputs.items()},
            head_seed=each.head_seed,
        )

    result = {
        encoder: metrics_of(averaged, scores, [average(each) for each in group])
        for encoder, group in predictions.items()
    }
    counted = COUNTED[level]
    entry = results[level] or {
        "encoders": {name: {} for name in results["encoders"]},
        "paired": {pair: {} for pair in results["paired"]},
        counted: {},
        "labels_disagree": {},
    }
    results[level] = entry
    _enter(entry["encoders"], entry["paired"], family, result, averaged.num_patients)
    entry[counted][part] = len(averaged.ids)
    entry["labels_disagree"][part] = int((~agree).sum())


def _of_unit(values, index, count: int, choose) -> np.ndarray:
    """`choose` (np.fmin, np.fmax) over the rows of each study or patient."""
    result = np.full(count, np.nan)
    choose.at(result, index, values)
    return result


def _mean_of_unit(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Mean over the rows of each study or patient that have a value; NaN for one without."""
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        return np.bincount(index, np.where(known, values, 0)) / np.bincount(index, known)


def _enter(encoders, paired, family: str, values: Mapping[str, MetricValues], num_patients: int) -> None:
    """Puts metrics and differences under FAMILY/METRIC."""

    def flat(each):
        return {f"{family}/{name}": entry for name, entry in summary(each, num_patients).items()}

    for encoder, each in values.items():
        encoders.setdefault(encoder, {}).update(flat(each))
        if encoder != STUDIED and STUDIED in values:
            pair = paired.setdefault(f"{STUDIED}-{encoder}", {})
            pair.update(flat(difference(values[STUDIED], each)))


def _pairs(names: Sequence[str]) -> list[str]:
    return [f"{STUDIED}-{name}" for name in names if name != STUDIED and STUDIED in names]


def _is_used(output: str, scores: Metrics) -> bool:
    """Whether a metric is computed from an output."""
    on, on_all = (
        [metric for metric in scores.values() if isinstance(metric, kind)]
        for kind in (video_metrics.On, video_metrics.OnAll)
    )
    return any(output == metric.output for metric in on) or any(output.startswith(one.prefix) for one in on_all)


def _values(predictions: interface.Predictions, metric: bootstrap.Metric) -> np.ndarray | None:
    """What a metric is computed from."""
    if isinstance(metric, video_metrics.OnAll):
        columns = [values for name, values in predictions.outputs.items() if name.startswith(metric.prefix)]
        return np.stack(columns, axis=1) if columns else None
    return predictions.outputs.get(metric.output) if isinstance(metric, video_metrics.On) else predictions.test
