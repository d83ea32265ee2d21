"""Transfer across datasets: heads fitted and chosen on another dataset (`bank`), scored on this one's test videos.

Nothing is fitted or chosen on the scored dataset: training and validation videos are the bank's, labelled by the
bank's own rule.
"""

from discovr_jax.evaluation import knn, metrics, task


def parts(name: str, *, bank: str = "", field: str = "ef") -> list[task.Part]:
    """kNN, probe and regression: figures knn_METRIC, probe_METRIC and FIELD_METRIC.

    Args:
      bank: the other dataset, as in `eval.dataset`; field: the measurement of the regression.

    Raises:
      task.Skip: without a bank.
    """
    if not bank:
        raise task.Skip(f"no other dataset to learn from: name one in eval.evaluators.{name}.bank")
    heads = (
        ("knn", "knn", "label", knn.HEADLINE),
        ("probe", "probe", "label", knn.HEADLINE),
        (field, "regression", field, {"mae": metrics.mae, "rmse": metrics.rmse, "r2": metrics.r2}),
    )
    return [
        task.Part(
            f"{name}_{head}", name, kind, target, {f"{head}_{key}": each for key, each in scores.items()}, bank=bank
        )
        for head, kind, target, scores in heads
    ]
