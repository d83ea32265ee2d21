"""The same metrics within groups of the test videos (sex, age group, image quality), from predictions that exist.

    predictions of an evaluation, the groups that the records know
      -> each metric of each encoder over the videos of a group, with an interval
      -> that less the same metric over the videos of all other groups, inside the same resamples of patients

A group is compared with all others, not the best with the worst: of groups that do not differ the best is above the
worst too, and the interval of that difference never holds 0.
"""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.data import class_labels
from discovr_jax.evaluation import interface
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.metrics import bootstrap

LEAST_PATIENTS = 10  # of a group, and of all others together; of fewer the counts are listed and no metric


def add(evaluation: results_lib.Evaluation, config) -> None:
    """Enters "subgroups" into the results; nothing where `config.eval.subgroups` is empty:

        {attribute: {"unknown": {"videos", "patients"},
                     "groups": {group: {"videos", "patients",
                                        "counts": {part: {"rows", "patients", "abnormal" of a diagnosis*}},
                                        "encoders": {encoder: {FAMILY/METRIC: entry}},
                                        "less_others": {encoder: {FAMILY/METRIC: entry}},
                                        "left_out": {part: reason}}}}}

    An entry is {"value", "low", "high"}, see `bootstrap.interval`. "less_others" is the metric of the group less that
    of all other videos whose group is known. (*) Where the group has 10 patients or more. Rows are videos, or of masks
    frames. An attribute that no test video has is listed as skipped.

    Args:
      evaluation: whose evaluators have run.
      config: eval.subgroups, eval.resamples, seed.
    """
    if not config.eval.subgroups:
        return
    attributes, parts, by_attribute = _attributes(evaluation.fields["test"]), list(_parts(evaluation, config)), {}
    for name in config.eval.subgroups:
        if name in attributes:
            by_attribute[name] = _by_group(attributes[name], evaluation.fields["test"], parts)
        else:
            known = ", ".join(attributes) or "none"
            reason = f"the records know {name} of no test video, only {known}; older ones are to be prepared again"
            results_lib.skip(evaluation, f"subgroups by {name}", reason)
    evaluation.results["subgroups"] = by_attribute


@dataclasses.dataclass(frozen=True)
class _Part:
    """One of the results' "readouts" with what every encoder predicts for its rows.

    Attributes:
      name: of the part; video: number of the test video of each row, int [N].
    """

    name: str
    family: str
    field: str
    scores: results_lib.Metrics
    rows: results_lib.Rows
    video: np.ndarray
    predictions: Mapping[str, Sequence[interface.Predictions]]

    def of(self, chosen: np.ndarray) -> dict[str, results_lib.MetricValues]:
        """{encoder: metrics over some rows (bool [N]), with the resamples of all rows}."""
        rows = self.rows
        rows = results_lib.Rows(
            rows.ids[chosen], rows.patients[chosen], rows.target[chosen], rows.weights[:, np.flatnonzero(chosen)]
        )
        result = {}
        for encoder, group in self.predictions.items():
            some = [
                dataclasses.replace(
                    each,
                    test=None if each.test is None else each.test[chosen],
                    outputs={name: values[chosen] for name, values in each.outputs.items()},
                )
                for each in group
            ]
            values = results_lib.metrics_of(rows, self.scores, some)
            result[encoder] = {f"{self.family}/{name}": each for name, each in values.items()}
        return result

    def counts(self, chosen: np.ndarray) -> dict[str, int]:
        """Of some rows."""
        counts = {"rows": int(chosen.sum()), "patients": len(np.unique(self.rows.patients[chosen]))}
        if self.field != "label" or counts["patients"] < LEAST_PATIENTS:  # of so few it would say who is ill
            return counts
        return counts | {"abnormal": int((self.rows.target[chosen] == 1).sum())}

    def unfit(self, chosen: np.ndarray) -> str:
        """Why some rows have no metric; "" if they have."""
        if (patients := self.counts(chosen)["patients"]) < LEAST_PATIENTS:
            return f"{patients} patients, fewer than {LEAST_PATIENTS}"
        named = self.field == "label" or class_labels.target_name(self.field)
        return "one class only" if named and len(np.unique(self.rows.target[chosen])) < 2 else ""


def _attributes(test: Mapping[str, np.ndarray]) -> dict[str, class_labels.ClassTarget]:
    """What groups of the test videos the records know, by name."""
    texts = [test[name] for name in ("classes", "described") if name in test]
    return {target.name: target for each in texts for target in class_labels.decode({"test": each})}


def _parts(evaluation: results_lib.Evaluation, config) -> Iterator[_Part]:
    """Every part that has predictions, out of the table of predictions."""
    place = {name: number for number, name in enumerate(np.asarray(evaluation.fields["test"]["id"], str).tolist())}
    by_part: dict[str, list] = {}
    for common, columns in evaluation.predictions.parts():
        by_part.setdefault(common["family"], []).append((common, columns))
    for name, tables in by_part.items():
        entry, columns = evaluation.results["readouts"][name], tables[0][1]
        metrics = importlib.import_module(f"discovr_jax.evaluation.evaluators.{entry['type']}").METRICS
        # Numbers of patients in the order of their names draw the same resamples as the names.
        patients, ids = np.asarray(columns["patient"]), np.asarray(columns["id"])
        weights = bootstrap.weights_of(patients, config.eval.resamples, config.seed)
        rows = results_lib.Rows(ids, patients, np.asarray(columns["target"], np.float64), weights)
        videos = [each.rpartition(":")[0] for each in ids.tolist()] if entry["field"] == "masks" else ids.tolist()
        yield _Part(
            name,
            entry["family"],
            entry["field"],
            {metric: metrics[of] for metric, of in entry["metrics"].items()},
            rows,
            np.array([place[video] for video in videos]),
            _predictions(tables, entry["head_seeds"]),
        )


def _predictions(tables, trainings: int) -> dict[str, list[interface.Predictions]]:
    """{encoder: one per seed and training of its head}, as they were entered."""
    outputs: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for common, columns in tables:
        of_seed = outputs.setdefault(common["encoder"], {}).setdefault(common["seed"], {})
        of_seed[common["output"]] = np.asarray(columns["prediction"], np.float64)
    return {
        encoder: [
            interface.Predictions(None, each.pop("", None), outputs=each, head_seed=seed % trainings)
            for seed, each in seeds.items()
        ]
        for encoder, seeds in outputs.items()
    }


def _by_group(
    attribute: class_labels.ClassTarget, test: Mapping[str, np.ndarray], parts: Sequence[_Part]
) -> dict[str, Any]:
    """Counts, metrics and differences of every group that a test video is of."""
    patients, known = results_lib.patients_of(test), np.isfinite(attribute.values["test"])
    groups = {name: attribute.has(number, "test") for number, name in enumerate(attribute.classes)}
    result: dict[str, Any] = {
        name: {**_counted(patients, inside), "counts": {}, "encoders": {}, "less_others": {}, "left_out": {}}
        for name, inside in groups.items()
        if inside.any()
    }
    for part in parts:
        scored: dict[bytes, dict[str, results_lib.MetricValues]] = {}  # of two groups each is the other's others
        for name, entry in result.items():
            inside = groups[name][part.video]
            others = known[part.video] & ~inside
            entry["counts"][part.name] = part.counts(inside)
            if reason := part.unfit(inside):
                entry["left_out"][part.name] = reason
                continue
            for chosen in (inside, others):
                if not part.unfit(chosen) and chosen.tobytes() not in scored:
                    scored[chosen.tobytes()] = part.of(chosen)
            mine, theirs = scored[inside.tobytes()], scored.get(others.tobytes(), {})
            for encoder, values in mine.items():
                num_patients = entry["counts"][part.name]["patients"]
                entry["encoders"].setdefault(encoder, {}).update(results_lib.summary(values, num_patients))
                if encoder in theirs:
                    difference = results_lib.difference(values, theirs[encoder])
                    difference = results_lib.summary(difference, num_patients)
                    entry["less_others"].setdefault(encoder, {}).update(difference)
    return {"unknown": _counted(patients, ~known), "groups": result}


def _counted(patients: np.ndarray, chosen: np.ndarray) -> dict[str, int]:
    return {"videos": int(chosen.sum()), "patients": len(np.unique(patients[chosen]))}
