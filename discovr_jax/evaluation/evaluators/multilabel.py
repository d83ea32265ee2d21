"""Targets of which a video can have several labels, or none: a logistic regression per label; parts of `classes`.

C is one for all labels, chosen on validation (mean AUROC over the labels). A label that no training video has, or all
have, is predicted as often as it is there in training.
"""

import numpy as np

from discovr_jax.evaluation import interface
from discovr_jax.evaluation.evaluators import classes as classes_lib
from discovr_jax.evaluation.metrics import multilabel as multilabel_metrics
from discovr_jax.evaluation.metrics.videos import OnAll

METRICS = {
    "macro_f1": OnAll(classes_lib.PROBABILITY, multilabel_metrics.macro_f1),
    "auroc": OnAll(classes_lib.PROBABILITY, multilabel_metrics.auroc),
    "average_precision": OnAll(classes_lib.PROBABILITY, multilabel_metrics.average_precision),
}
SELECT_BY, LARGER_IS_BETTER = "auroc", True


def require(train: np.ndarray, val: np.ndarray, test: np.ndarray) -> None:
    """Raises interface.Skip unless some label tells the videos of each split apart; targets as of `class_labels`."""
    for name, target in (("train", train), ("val", val), ("test", test)):
        if len(np.unique(target)) < 2:
            raise interface.Skip(f"all {len(target)} videos of split {name} with known labels have the same")


def evaluate(
    train: interface.Split,
    val: interface.Split,
    test: interface.Split,
    *,
    classes: tuple[str, ...],
    Cs: tuple[float, ...] = classes_lib.C_VALUES,
    max_iter: int = 2000,
) -> interface.Predictions:
    """Probability of every label for validation and test videos; arguments and errors as of `classes.evaluate`."""
    mean, scale = interface.scaling(train.features)
    has = multilabel_metrics.bits(train.target, len(classes))
    ones, best = np.ones((1, len(val.target))), (-np.inf, None)
    for c in interface.penalties("classes", Cs):
        models = [
            classes_lib.fit(train.features, y, c, mean, scale, max_iter) if 0 < y.mean() < 1 else float(y.mean())
            for y in has.T
        ]
        if any(model is None for model in models):
            continue
        of_val, of_test = (_probabilities(models, split.features) for split in (val, test))
        score = float(multilabel_metrics.auroc(val.target, of_val, ones)[0])
        if score > best[0]:
            best = score, (c, of_val, of_test)
    if best[1] is None:
        raise interface.Skip(f"logistic regressions: no C of {Cs} converged in {max_iter} iterations for all labels")
    c, of_val, of_test = best[1]
    videos = {s.name: multilabel_metrics.bits(s.target, len(classes)).sum(0).tolist() for s in (train, val, test)}
    details = {"C": c, "class_weight": "balanced", "classes": list(classes), "videos": videos}
    return interface.Predictions(of_val, None, details, classes_lib.outputs(classes, of_test))


def _probabilities(models, features: np.ndarray) -> np.ndarray:
    """Of each label by its model, or its share where there is none: float64 [N, K]."""
    count = len(features)
    columns = [np.full(count, m) if isinstance(m, float) else m.probability(features, 2)[:, 1] for m in models]
    return np.stack(columns, axis=1)
