"""Linear probe: logistic regression on standardised frozen features, classes weighted to balance.

The strength C is chosen on validation AUROC alone; the model stays the one fitted on train (no refit on
train + val), so validation never leaks into the reported fit.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from discovr_jax.evaluation import metrics, task

TARGET = "label"
METRICS = {
    "macro_f1": metrics.macro_f1,
    "balanced_accuracy": metrics.balanced_accuracy,
    "auroc": metrics.auroc,
    "average_precision": metrics.average_precision,
}
SELECT_BY, LARGER_IS_BETTER = "auroc", True
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def require(train: np.ndarray, val: np.ndarray, test: np.ndarray) -> None:
    """Raises task.Skip unless the known labels [N] of every split hold both classes."""
    for name, target in (("train", train), ("val", val), ("test", test)):
        task.require_both_classes(name, target)


def evaluate(
    train: task.Split,
    val: task.Split,
    test: task.Split,
    *,
    strengths: tuple[float, ...] = STRENGTHS,
    max_iter: int = 2000,
) -> task.Predictions:
    """Probability of "abnormal" for validation and test videos.

    Args:
      strengths: values of C tried (inverse of the penalty); ties keep the smaller, which is plainer.
      max_iter: L-BFGS iterations; a strength that has not converged by then is not a candidate.

    Raises:
      task.Skip: if no strength converged.
    """
    x_train, x_val, x_test = task.standardise(train.features, val.features, test.features)
    ones = np.ones((1, len(val.target)))
    best, best_score, dropped = None, -np.inf, []
    for strength in sorted(strengths):
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                model.fit(x_train, train.target)
            except ConvergenceWarning:
                dropped.append(strength)
                continue
        score = metrics.auroc(val.target, model.decision_function(x_val), ones)[0]
        if score > best_score:
            best, best_score = model, score
    if best is None:
        raise task.Skip(f"logistic regression: no C of {strengths} converged in {max_iter} iterations")
    details = {"C": best.C, "class_weight": "balanced"}
    if dropped:
        details["C_not_converged"] = dropped
    return task.Predictions(best.predict_proba(x_val)[:, 1], best.predict_proba(x_test)[:, 1], details)
