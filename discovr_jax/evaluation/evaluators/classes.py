"""Classes and grades of the dataset's own table, by multinomial logistic regression on standardised frozen features.

A part per target, each with its own pooling. C is chosen on validation (mean one-vs-rest AUROC); the model stays the
one fitted on train, classes weighted to balance, as in `probe`. A class that no training video has cannot be called:
its test videos count as errors, and a note says how many. Labels of which a video can have several: `multilabel`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit, log_softmax, softmax

from discovr_jax.data import class_labels
from discovr_jax.evaluation import interface
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.evaluators import probe
from discovr_jax.evaluation.metrics import classes as class_metrics
from discovr_jax.evaluation.metrics.videos import OnAll

OF_RECORDS = True  # which parts there are, the records say
TARGET = "classes"
PROBABILITY = "probability of "  # outputs, in the order of the classes
METRICS = {
    "macro_f1": OnAll(PROBABILITY, class_metrics.macro_f1),
    "balanced_accuracy": OnAll(PROBABILITY, class_metrics.balanced_accuracy),
    "auroc": OnAll(PROBABILITY, class_metrics.auroc),
    "quadratic_kappa": OnAll(PROBABILITY, class_metrics.quadratic_kappa),
}
SELECT_BY, LARGER_IS_BETTER = "auroc", True
C_VALUES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_OF_KIND = {
    class_labels.CLASS: ("classes", ("macro_f1", "balanced_accuracy", "auroc")),
    class_labels.GRADE: ("classes", ("macro_f1", "balanced_accuracy", "auroc", "quadratic_kappa")),
    class_labels.MULTILABEL: ("multilabel", ("macro_f1", "auroc", "average_precision")),
}


def parts(
    name: str,
    *,
    fields: Mapping[str, Mapping[str, np.ndarray]],
    targets: tuple[str, ...] = (),
    Cs: tuple[float, ...] = C_VALUES,
    max_iter: int = 2000,
) -> list[interface.Part]:
    """A part NAME_TARGET for each target of the records.

    Args:
      fields: {split: columns}, see `features.extract.read_fields`.
      targets: names of those that are scored; empty for all.
      Cs, max_iter: see `evaluate`.

    Raises:
      interface.Skip: the records have not one of `targets`.
    """
    texts = {split: columns["classes"] for split, columns in fields.items() if "classes" in columns}
    there = {target.name: target for target in class_labels.decode(texts)}
    if missing := [one for one in targets if one not in there]:
        raise interface.Skip(
            f"no target {', '.join(missing)} in the records, only {', '.join(there) or 'none'}: prepare echo_folder "
            "--class_columns, --grade_columns or --multilabel_columns"
        )
    patients = {split: results_lib.patients_of(fields[split]) for split in texts}
    result = []
    for target in (there[one] for one in targets or there):
        kind, metrics = _OF_KIND[target.kind]
        options = {"classes": target.classes, "Cs": tuple(Cs), "max_iter": max_iter}
        full = f"{name}_{target.name.replace(' ', '_')}"
        scores = {metric: metric for metric in metrics}
        result.append(interface.Part(full, full, kind, target.field, scores, options, notes=_notes(target, patients)))
    return result


def _notes(target: class_labels.ClassTarget, patients: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """What of a target's classes a reader of its metrics must know."""
    notes = []
    unknown = {split: int(np.isnan(values).sum()) for split, values in target.values.items()}
    if any(unknown.values()):
        notes.append("unknown for " + ", ".join(f"{n} videos of {split}" for split, n in unknown.items() if n))
    for number, one in enumerate(target.classes):
        owners = {split: patients[split][target.has(number, split)] for split in target.values}
        count = {split: len(each) for split, each in owners.items()}
        people = {split: len(np.unique(each)) for split, each in owners.items()}
        if count["test"] and not count["train"]:
            notes.append(f"{one}: no training video, so its {count['test']} test videos count as errors")
        elif count["train"] and not count["test"] and target.kind != class_labels.MULTILABEL:
            notes.append(f"{one}: no test video, so it is not among the classes that are averaged")
        for split in ("train", "test"):
            if people.get(split) == 1:
                notes.append(f"{one}: one patient in {split}")
    return tuple(notes)


def require(train: np.ndarray, val: np.ndarray, test: np.ndarray) -> None:
    """Raises interface.Skip unless the known classes [N] of every split are two or more."""
    for name, target in (("train", train), ("val", val), ("test", test)):
        if len(np.unique(target)) < 2:
            raise interface.Skip(f"one class only: all {len(target)} videos of split {name} with a known one have it")


def evaluate(
    train: interface.Split,
    val: interface.Split,
    test: interface.Split,
    *,
    classes: tuple[str, ...],
    Cs: tuple[float, ...] = C_VALUES,
    max_iter: int = 2000,
) -> interface.Predictions:
    """Probability of every class for validation and test videos; targets are numbers in `classes`.

    Args:
      Cs: values of C (inverse of the L2 penalty) that are tried; ties keep the smaller, which is plainer.
      max_iter: L-BFGS iterations; a C that has not converged by then is not a candidate.

    Raises:
      ConfigError: if a C is not positive.
      interface.Skip: if no C converged.
    """
    mean, scale = interface.scaling(train.features)
    best: tuple[float, Any] = (-np.inf, None)
    ones, dropped = np.ones((1, len(val.target))), []
    for c in interface.penalties("classes", Cs):
        model = fit(train.features, train.target, c, mean, scale, max_iter)
        if model is None:
            dropped.append(c)
            continue
        probability = model.probability(val.features, len(classes))
        score = float(class_metrics.auroc(val.target, probability, ones)[0])
        if score > best[0]:
            best = score, (c, probability, model.probability(test.features, len(classes)))
    if best[1] is None:
        raise interface.Skip(f"logistic regression: no C of {Cs} converged in {max_iter} iterations")
    c, of_val, of_test = best[1]
    details = {"C": c, "class_weight": "balanced", "classes": list(classes)}
    details["videos"] = {
        each.name: np.bincount(each.target.astype(int), minlength=len(classes)).tolist() for each in (train, val, test)
    }
    if dropped:
        details["C_not_converged"] = dropped
    counts = class_metrics.confusion(test.target, of_test, np.ones((1, len(test.target))))[0]
    report = {"confusion": counts.astype(int).tolist(), "classes": list(classes)}
    return interface.Predictions(of_val, None, details, outputs(classes, of_test), report)


@dataclasses.dataclass(frozen=True)
class Model:
    """A logistic regression on standardised features.

    Attributes:
      present: float [K], classes of the training videos, by number.
      mean, scale: [D], of their features; weights: float64 [D + 1, K], of two classes [D + 1, 1]; the intercept last.
    """

    present: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    def probability(self, features: np.ndarray, count: int) -> np.ndarray:
        """Of `count` classes for features [N, D]: float64 [N, count]; 0 of a class that the model has not seen."""
        z = interface.project(features, self.mean, self.scale, self.weights[:-1]) + self.weights[-1]
        result = np.zeros((len(z), count))
        both = np.concatenate([1 - expit(z), expit(z)], axis=1)
        result[:, self.present.astype(int)] = both if z.shape[1] == 1 else softmax(z, axis=1)
        return result


def fit(features: np.ndarray, target: np.ndarray, c: float, mean, scale, max_iter: int) -> Model | None:
    """Balanced logistic regression, of more than two classes multinomial; None if it does not converge.

    As scikit-learn's on standardised features, see `probe.logistic`.

    Args:
      features: float [N, D]; target: [N], two classes or more; mean, scale: [D], of the features.
    """
    present, number = np.unique(target, return_inverse=True)
    if len(present) == 2:
        weights = probe.logistic(features, number, c, mean, scale, max_iter)
        return None if weights is None else Model(present, mean, scale, weights[:, None])
    count = len(present)
    importance = len(target) / (count * np.bincount(number))[number]

    def objective(flat):
        weights = flat.reshape(-1, count)
        loss, gradient, slope = 0.0, np.zeros((len(mean), count)), weights[:-1] / scale[:, None]
        shift, total = weights[-1] - mean @ slope, np.zeros(count)
        for rows, block in interface.blocks(features):
            each, log_p = importance[rows], log_softmax(block @ slope + shift, axis=1)
            own = np.arange(len(block)), number[rows]
            loss -= each @ log_p[own]
            error = np.exp(log_p)
            error[own] -= 1
            error *= each[:, None]
            gradient, total = gradient + block.T @ error, total + error.sum(0)
        gradient = np.r_[(gradient - np.outer(mean, total)) / scale[:, None], total[None]] / len(target)
        penalty = weights / (c * len(target))
        penalty[-1] = 0
        return loss / len(target) + (penalty * weights).sum() / 2, (gradient + penalty).ravel()

    weights = probe.minimise(objective, (len(mean) + 1) * count, max_iter)
    return None if weights is None else Model(present, mean, scale, weights.reshape(-1, count))


def outputs(classes: Sequence[str], probability: np.ndarray) -> dict[str, np.ndarray]:
    """One output per class of probabilities [N, K]."""
    return {f"{PROBABILITY}{one}": probability[:, number] for number, one in enumerate(classes)}
