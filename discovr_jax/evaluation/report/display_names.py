"""Names for readers of the metrics in results.json, whose keys are FAMILY/METRIC."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from discovr_jax.data import class_labels
from discovr_jax.evaluation import interface

# In the order in which they are shown; the families that predict a measurement bear its name instead.
FAMILIES = {
    "knn": "kNN",
    "probe": "Linear probe",
    "mlp": "MLP probe",
    "attentive": "Attentive probe",
    "pca": "Linear heads, equal width",
    "anomaly": "Anomaly score",
    "labels": "Few labels",
    "finetune": "Fine-tuning",
    "segmentation": "Segmentation",
    "retrieval": "Retrieval",
    "transfer": "Transfer",
}
# metric: (name, digits, whether larger is better; None where neither is); "{unit}" of a measurement's error
_METRICS = {
    "macro_f1": ("macro F1", 3, True),
    "balanced_accuracy": ("balanced accuracy", 3, True),
    "auroc": ("AUROC", 3, True),
    "auprc": ("AUPRC", 3, True),
    "average_precision": ("average precision", 3, True),
    "quadratic_kappa": ("quadratic kappa", 3, True),
    "brier": ("Brier score", 3, False),
    "calibration_error": ("expected calibration error", 3, False),
    "sensitivity_at_90": ("sensitivity, threshold at 90 % specificity", 3, True),
    "specificity_at_90": ("specificity, threshold at 90 % on validation", 3, None),
    "sensitivity_at_95": ("sensitivity, threshold at 95 % specificity", 3, True),
    "specificity_at_95": ("specificity, threshold at 95 % on validation", 3, None),
    "precision_at_1": ("precision at 1", 3, True),
    "precision_at_5": ("precision at 5", 3, True),
    "precision_at_10": ("precision at 10", 3, True),
    "precision_by_chance": ("precision by chance", 3, None),
    "difference": ("difference to the 10 nearest ({unit})", 2, False),
    "difference_by_chance": ("difference by chance ({unit})", 2, None),
    "mae": ("mean absolute error ({unit})", 2, False),
    "rmse": ("root mean squared error ({unit})", 2, False),
    "r2": ("R² (1 = perfect, 0 = the mean)", 3, True),
    "bias": ("bias ({unit})", 2, None),
    "agreement_low": ("lower limit of agreement ({unit})", 2, None),
    "agreement_high": ("upper limit of agreement ({unit})", 2, None),
    "dice": ("Dice", 3, True),
    "iou": ("IoU", 3, True),
    "hausdorff95_mm": ("Hausdorff 95 (mm)", 2, False),
    "hausdorff95_px": ("Hausdorff 95 (pixels)", 2, False),
    "mask_ef_error": ("error of the EF by ED and ES masks (points)", 2, False),
}
_BEFORE = {"knn": "kNN", "probe": "probe", "decoder": "decoder"}
_AFTER = {
    "swept": "tuned on validation",
    "threshold": "threshold chosen on validation",
    "calibrated": "calibrated on validation",
    "myocardium": "myocardium",
    "left_atrium": "left atrium",
    "ed": "end-diastole",
    "es": "end-systole",
}
_KEY = re.compile(
    rf"(?:(last[0-9]+|whole)_)?(?:({'|'.join((*_BEFORE, *interface.MEASUREMENTS))})_)?"
    rf"({'|'.join(sorted(_METRICS, key=len, reverse=True))})"
    rf"((?:_(?:{'|'.join(_AFTER)}|[0-9.]+))*)"
)
_SUFFIX = re.compile(rf"_({'|'.join(_AFTER)}|[0-9.]+)")


@dataclasses.dataclass(frozen=True)
class Named:
    """A metric for readers.

    Attributes:
      family, metric: names, "kNN" and "macro F1"; digits: to show; larger_is_better: None where neither is.
    """

    family: str
    metric: str
    digits: int
    larger_is_better: bool | None


def ordered(keys: Iterable[str]) -> list[str]:
    """FAMILY/METRIC keys by family, in the order in which they are shown; otherwise as they come."""
    place = {family: number for number, family in enumerate(FAMILIES)}
    return sorted(keys, key=lambda key: place.get(key.split("/")[0], len(place)))


def measurement(field: str) -> str:
    """Name of a measurement as a heading."""
    name = interface.MEASUREMENTS[field][0]
    return name[0].upper() + name[1:]


def described(results: Mapping[str, Any], key: str) -> Named:
    """The names of FAMILY/METRIC, or PART/METRIC.

    Args:
      results: content of results.json, which says what was measured.
    """
    family, metric = key.split("/", 1)
    entry = _entry(results, family, metric)
    field = entry.get("field")
    measured = measurement(field) if field in interface.MEASUREMENTS else None
    family = entry.get("family", family)
    target = class_labels.target_name(str(field))
    heading = FAMILIES.get(family) or measured or (f"Classes: {target}" if target else family)
    match = _KEY.fullmatch(metric)
    if match is None:
        return Named(heading, metric, 3, None)
    tuned, before, base, after = match.groups()
    name, digits, larger = _METRICS[base]
    fields = [each for each in (before, field, _compared(entry)) if each in interface.MEASUREMENTS]
    name = name.format(unit=interface.MEASUREMENTS[fields[0]][2]) if fields else name.replace(" ({unit})", "")
    before = interface.MEASUREMENTS[before][0] if before in interface.MEASUREMENTS else _BEFORE.get(before)
    if before is None and measured and heading != measured:
        before = measured.lower()
    words = [_AFTER.get(each) or f"{each} % of the labels" for each in _SUFFIX.findall(after)]
    if tuned:
        words.append("whole encoder tuned" if tuned == "whole" else f"last {tuned.removeprefix('last')} blocks tuned")
    return Named(heading, ", ".join([f"{before}: {name}" if before else name, *words]), digits, larger)


def _compared(entry: Mapping[str, Any]) -> str | None:
    """The measurement that retrieval compares besides the label."""
    details = next((one["details"] for one in entry.get("encoders", {}).values() if one.get("details")), [{}])
    return details[0].get("field")


def _entry(results: Mapping[str, Any], family: str, metric: str) -> Mapping[str, Any]:
    """The part of `readouts` that holds a metric."""
    readouts = results["readouts"]
    if family in readouts:
        return readouts[family]
    parts = (each for each in readouts.values() if each.get("family") == family and metric in each.get("metrics", ()))
    return next(parts, {})
