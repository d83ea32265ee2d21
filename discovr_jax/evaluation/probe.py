"""Linear probe: logistic regression on standardised frozen features, classes weighted to balance.

The strength C is chosen on validation AUROC alone; the model stays the one fitted on train (no refit on
train + val), so validation never leaks into the reported fit.

The fit sees both classes equally often, whatever their shares: macro F1 and balanced accuracy are at its 0.5. As
a probability that number is too high where abnormal is rare, so calibration (Brier, expected calibration error) is
measured after its odds are multiplied by the training odds, which undoes the weighting.
"""

import warnings

import numpy as np
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from discovr_jax.evaluation import metrics, task

TARGET = "label"
METRICS = {
    "macro_f1": metrics.macro_f1,
    "balanced_accuracy": metrics.balanced_accuracy,
    "auroc": metrics.auroc,
    "average_precision": metrics.average_precision,
    "brier": metrics.On("probability", metrics.brier),
    "calibration_error": metrics.On("probability", metrics.calibration_error, centred=True),
}
SELECT_BY, LARGER_IS_BETTER = "auroc", True
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


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
    share = float(train.target.mean())
    details = {"C": best.C, "class_weight": "balanced", "abnormal_share_of_train": share}
    if dropped:
        details["C_not_converged"] = dropped
    probability = unbalanced(best.decision_function(x_test), share)
    return task.Predictions(
        best.predict_proba(x_val)[:, 1],
        best.predict_proba(x_test)[:, 1],
        details,
        outputs={"probability": probability},
        report={"reliability": reliability(test.target, probability)},
    )


def unbalanced(log_odds: np.ndarray, share: float) -> np.ndarray:
    """Probability where a share of the videos is abnormal, from the log odds [N] of a fit that saw both equally."""
    return expit(log_odds + np.log(share / (1 - share)))


def reliability(target: np.ndarray, probability: np.ndarray) -> list[dict[str, float]]:
    """Bins of the reliability diagram that hold a video: {"from", "to", "videos", "probability", "abnormal"}.

    "probability" is the mean of the bin, "abnormal" the share that is.
    """
    bins = metrics.probability_bins(probability)
    return [
        {
            "from": each / metrics.BINS,
            "to": (each + 1) / metrics.BINS,
            "videos": int((bins == each).sum()),
            "probability": float(probability[bins == each].mean()),
            "abnormal": float(target[bins == each].mean()),
        }
        for each in np.unique(bins)
    ]
