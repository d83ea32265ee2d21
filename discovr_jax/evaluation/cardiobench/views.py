"""Probabilities of views: from the classes of our records to the columns of CardioBench, and its metrics of them."""

from collections.abc import Sequence

import numpy as np

from discovr_jax.evaluation.cardiobench.tasks import VIEWS
from discovr_jax.evaluation.metrics import classes as class_metrics


def in_order(classes: Sequence[str], target: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Targets and probabilities of classes as those of `VIEWS`; a class that is none of them is Other.

    Args:
      target: [N], numbers in `classes`; probability: float [N, K].

    Returns:
      int [N], numbers in `VIEWS`, and float64 [N, 6]; 0 for a view that no record has.

    >>> in_order(["A4C", "SSN"], np.array([1.0]), np.array([[0.25, 0.75]]))[1].tolist()
    [[0.0, 0.0, 0.25, 0.0, 0.0, 0.75]]
    """
    number = np.array([VIEWS.index(one) if one in VIEWS else len(VIEWS) - 1 for one in classes])
    result = np.zeros((len(probability), len(VIEWS)))
    np.add.at(result, (slice(None), number), probability)
    return number[target.astype(int)], result


def cells(probability: np.ndarray) -> list[str | float]:
    """What a row has of a video's float [6]: the view and five probabilities; the scripts work out that of Other."""
    return [VIEWS[int(probability.argmax())], *probability[:-1].tolist()]


def expected(target: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """The metrics as its scripts call them, percent, of int [N] and float [N, 6]."""
    ones = np.ones((1, len(target)))
    return {
        "Accuracy(%)": 100 * float((class_metrics.named(probability) == target).mean()),
        "Balanced_Accuracy(%)": 100 * float(class_metrics.balanced_accuracy(target, probability, ones)[0]),
        "F1_macro(%)": 100 * float(class_metrics.macro_f1(target, probability, ones)[0]),
    }
