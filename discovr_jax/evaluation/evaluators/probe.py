"""Linear probe: logistic regression on standardised frozen features, classes weighted to balance.

C is chosen on validation AUROC alone; the model stays the one fitted on train (no refit on
train + val), so validation never leaks into the reported fit.

The fit sees both classes equally often, whatever their shares: macro F1 and balanced accuracy are at its 0.5. That
number is no probability: it is too high where abnormal is rare, and a strong penalty draws it to 0.5. So calibration
(Brier, expected calibration error) is that of the probability which Platt's method makes of it on validation.

Source: Platt, "Probabilistic outputs for support vector machines", 1999.
"""

from collections.abc import Mapping

import numpy as np
import scipy.optimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from discovr_jax.evaluation import interface
from discovr_jax.evaluation.evaluators import principal
from discovr_jax.evaluation.metrics import videos as video_metrics

TARGET = "label"
METRICS = {
    "macro_f1": video_metrics.macro_f1,
    "macro_f1_threshold": video_metrics.On("at_threshold", video_metrics.macro_f1),
    "balanced_accuracy": video_metrics.balanced_accuracy,
    "auroc": video_metrics.auroc,
    "average_precision": video_metrics.average_precision,
    "brier": video_metrics.On("probability", video_metrics.brier),
    "calibration_error": video_metrics.On("probability", video_metrics.calibration_error, centred=True),
}
SELECT_BY, LARGER_IS_BETTER = "auroc", True
C_VALUES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


def require(train: np.ndarray, val: np.ndarray, test: np.ndarray) -> None:
    """Raises interface.Skip unless the known labels [N] of every split hold both classes."""
    for name, target in (("train", train), ("val", val), ("test", test)):
        interface.require_both_classes(name, target)


def evaluate(
    train: interface.Split,
    val: interface.Split,
    test: interface.Split,
    *,
    Cs: tuple[float, ...] = C_VALUES,
    max_iter: int = 2000,
    components: int = 0,
) -> interface.Predictions:
    """Probability of "abnormal" for validation and test videos.

    Args:
      Cs: values of C (inverse of the L2 penalty) that are tried; ties keep the smaller, which is plainer.
      max_iter: L-BFGS iterations; a C that has not converged by then is not a candidate.
      components: of the standardised features only so many principal components are read; 0: all.

    Raises:
      ConfigError: if a C is not positive.
      interface.Skip: if no C converged.
    """
    candidates = interface.penalties("a probe", Cs)
    mean, scale = interface.scaling(train.features)
    vectors, _ = principal.directions(train.features, mean, scale, components)
    read, shift, unit = train.features, mean, scale
    if components:
        read = interface.project(read, mean, scale, vectors.T)
        shift, unit = np.zeros(len(vectors)), np.ones(len(vectors))  # components keep their variances
    ones = np.ones((1, len(val.target)))
    best, best_score, dropped = None, -np.inf, []
    for c in candidates:
        weights = logistic(read, train.target, c, shift, unit, max_iter)
        if weights is None:
            dropped.append(c)
            continue
        if components:  # as weights of the features
            weights = np.append(weights[:-1] @ vectors, weights[-1])
        found = interface.project(val.features, mean, scale, weights[:-1]) + weights[-1]
        score = video_metrics.auroc(val.target, found, ones)[0]
        if score > best_score:
            best, best_score, val_score, chosen = weights, score, found, c
    if best is None:
        raise interface.Skip(f"logistic regression: no C of {Cs} converged in {max_iter} iterations")
    details = {"C": chosen, "class_weight": "balanced", "abnormal_share_of_train": float(train.target.mean())}
    if dropped:
        details["C_not_converged"] = dropped
    test_score = interface.project(test.features, mean, scale, best[:-1]) + best[-1]
    curve = platt(val_score, val.target)
    probability = calibrated(curve, test_score)
    return interface.Predictions(
        expit(val_score),
        expit(test_score),
        details,
        outputs={
            "probability": probability,
            "at_threshold": video_metrics.at_best_f1(val.target, expit(val_score), expit(test_score)),
        },
        report={"reliability": reliability(test.target, probability)},
        fitted={"mean": mean, "scale": scale, "weights": best[:-1], "intercept": best[-1:], "platt": curve},
    )


def logistic(features: np.ndarray, target: np.ndarray, c: float, mean, scale, max_iter: int) -> np.ndarray | None:
    """Fits as scikit-learn's LogisticRegression(C=c, class_weight="balanced") on standardised features.

    Objective, start and stopping rule of L-BFGS are scikit-learn's; it would hold a float64 copy of the features.

    Args:
      features: float [N, D]; target: 0 or 1, [N]; mean, scale: [D], of the features.

    Returns:
      float64 [D + 1], the intercept last; None if it does not converge.
    """
    abnormal = target.mean()
    importance = np.where(target == 1, 0.5 / abnormal, 0.5 / (1 - abnormal))
    count, penalty = len(target), np.append(np.full(features.shape[1], 1 / (c * len(target))), 0.0)

    def objective(weights):
        loss, gradient, slope = 0.0, np.zeros(len(mean)), weights[:-1] / scale
        shift, total = weights[-1] - mean @ slope, 0.0
        for rows, block in interface.blocks(features):
            z, y, each = block @ slope + shift, target[rows], importance[rows]
            loss += each @ (np.logaddexp(0, z) - y * z)
            error = each * (expit(z) - y)
            gradient, total = gradient + error @ block, total + error.sum()
        gradient = np.append((gradient - total * mean) / scale, total) / count
        return loss / count + penalty @ weights**2 / 2, gradient + penalty * weights

    return minimise(objective, len(mean) + 1, max_iter)


def minimise(objective, size: int, max_iter: int) -> np.ndarray | None:
    """Where `objective`, which gives value and gradient, is least: float64 [size]; None if L-BFGS does not converge."""
    stop = {"maxiter": max_iter, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps}
    found = scipy.optimize.minimize(objective, np.zeros(size), jac=True, method="L-BFGS-B", options=stop)
    return found.x if found.success else None


def apply(fitted: Mapping[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Calibrated probability of "abnormal" [N] of features [N, D]: output "probability" of `evaluate`.

    Arrays are of NumPy or JAX (`interface.project`).
    """
    return calibrated(fitted["platt"], log_odds(fitted, features))


def log_odds(fitted: Mapping[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Of "abnormal", both classes equally frequent, [N] of features [N, D]: the logit of what `evaluate` predicts."""
    return interface.project(features, fitted["mean"], fitted["scale"], fitted["weights"]) + fitted["intercept"]


def platt(val_score: np.ndarray, val_target: np.ndarray) -> np.ndarray:
    """Platt's method (1999): the logistic curve through the scores [N] of validation videos, for `calibrated`.

    His targets are a little inside 0 and 1, so that classes which the score separates give no infinite slope.
    """
    abnormal = val_target == 1
    inside = np.where(abnormal, (abnormal.sum() + 1) / (abnormal.sum() + 2), 1 / ((~abnormal).sum() + 2))
    mean, std = val_score.mean(), val_score.std() or 1.0
    x = (np.r_[val_score, val_score] - mean)[:, None] / std
    model = LogisticRegression(C=np.inf)  # each video is abnormal with weight `inside`, and normal with the rest
    model.fit(x, np.repeat([1, 0], len(inside)), sample_weight=np.r_[inside, 1 - inside])
    return np.array([mean, std, model.coef_[0, 0], model.intercept_[0]])


def calibrated(curve: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Probabilities [N] of scores [N], arrays of NumPy or JAX, by the curve of `platt`."""
    mean, std, slope, intercept = curve
    # The logistic function: NumPy has none, and exp overflows.
    return 0.5 + 0.5 * score.__array_namespace__().tanh(0.5 * (slope * ((score - mean) / std) + intercept))


def reliability(target: np.ndarray, probability: np.ndarray) -> list[dict[str, float]]:
    """Bins of the reliability diagram that hold a video: {"from", "to", "videos", "probability", "abnormal"}.

    "probability" is the mean of the bin, "abnormal" the share that is.
    """
    bins = video_metrics.probability_bins(probability)
    return [
        {
            "from": each / video_metrics.BINS,
            "to": (each + 1) / video_metrics.BINS,
            "videos": int((bins == each).sum()),
            "probability": float(probability[bins == each].mean()),
            "abnormal": float(target[bins == each].mean()),
        }
        for each in np.unique(bins)
    ]
