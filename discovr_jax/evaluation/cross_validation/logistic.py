"""Logistic regressions on the same few videos, many at once: one class against the rest, and every C.

Cross-validation fits some thousand of them, each in less time than scikit-learn takes to check its arguments (8 ms a
fit of 25 videos, measured on a busy core); all C of all classes together take about as long as one.
"""

import numpy as np

_TOLERANCE = 1e-6  # of the gradient, a video
_STEPS, _HALVINGS = 100, 40


def fit(x: np.ndarray, y: np.ndarray, weight: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Minimises sum_i weight_i log(1 + exp(-s_i (x_i w + b))) + |w|^2 / (2 C), s = 2 y - 1, by Newton's method.

    Args:
      x: float64 [N, D]; y: 0 or 1, float64 [B, N]; weight: float64 [B, N], of each video in each problem; c: [B].

    Returns:
      float64 [B, D + 1], the intercept last.

    Raises:
      FloatingPointError: it does not converge.
    """
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    penalty = np.repeat(1 / np.asarray(c, np.float64)[:, None], x.shape[1], axis=1)
    penalty[:, -1] = 0

    def objective(w):
        z = w @ x.T
        return (weight * (np.logaddexp(0, z) - y * z)).sum(1) + (penalty * w**2).sum(1) / 2

    w = np.zeros_like(penalty)
    value = objective(w)
    for _ in range(_STEPS):
        p = probability(w @ x.T)
        gradient = (weight * (p - y)) @ x + penalty * w
        if np.abs(gradient).max() < _TOLERANCE * len(x):
            return w
        hessian = (x.T * (weight * p * (1 - p))[:, None, :]) @ x
        hessian[:, np.arange(x.shape[1]), np.arange(x.shape[1])] += penalty + 1e-12
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        for _ in range(_HALVINGS):
            tried = objective(w - step)
            worse = tried > value + 1e-12 * np.abs(value)
            if not worse.any():
                break
            step[worse] /= 2
        w, value = w - step, tried
    raise FloatingPointError(f"logistic regression did not converge in {_STEPS} steps")


def probability(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), finite for every z."""
    return np.exp(-np.logaddexp(0, -z))


def probabilities(train: np.ndarray, target: np.ndarray, test: np.ndarray, classes: int, c) -> np.ndarray:
    """Probability of every class, for every C.

    Both sides of every problem weigh the same in all. Two classes are one problem; of more, the probabilities of each
    against the rest are divided by their sum. A class without a training video has probability 0.

    Args:
      train: float64 [N, D]; target: [N], 0 to classes - 1; test: float64 [M, D]; c: S values.

    Returns:
      float64 [S, M, classes].
    """
    present = np.unique(target).astype(int)
    found = np.zeros((len(c), len(test), classes))
    if len(present) == 1:
        found[:, :, present[0]] = 1
        return found
    problems = present[1:] if len(present) == 2 else present
    y = (target == problems[:, None]).astype(np.float64)
    weight = np.where(y == 1, 1 / y.sum(1, keepdims=True), 1 / (1 - y).sum(1, keepdims=True)) * y.shape[1] / 2
    count = len(problems)
    w = fit(train, np.tile(y, (len(c), 1)), np.tile(weight, (len(c), 1)), np.repeat(c, count))
    p = probability(w[:, :-1] @ test.T + w[:, -1:]).reshape(len(c), count, len(test)).transpose(0, 2, 1)
    p = np.concatenate([1 - p, p], axis=2) if count == 1 else p / p.sum(2, keepdims=True)
    found[:, :, present] = p
    return found
