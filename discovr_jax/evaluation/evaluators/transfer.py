"""Transfer across datasets: heads fitted and chosen on another dataset (`bank`), scored on this one's test videos.

Nothing is fitted or chosen on the scored dataset: training and validation videos are the bank's, labelled by the
bank's own rule unless `data.abnormal_rule` names one for all.
"""

from discovr_jax.evaluation import interface


def parts(name: str, *, bank: str = "", field: str = "ef") -> list[interface.Part]:
    """kNN, probe and regression: metrics knn_METRIC, probe_METRIC and FIELD_METRIC.

    Args:
      bank: the other dataset, as in `eval.dataset`; field: the measurement of the regression.

    Raises:
      interface.NotSetUp: without a bank.
    """
    if not bank:
        raise interface.NotSetUp(f"no other dataset to learn from: name one in eval.evaluators.{name}.bank")
    classes = ("macro_f1", "balanced_accuracy", "auroc")
    heads = (
        ("knn", "knn", "label", classes),
        ("probe", "probe", "label", classes),
        (field, "regression", field, ("mae", "rmse", "r2")),
    )
    return [
        interface.Part(
            f"{name}_{head}", name, kind, target, {f"{head}_{metric}": metric for metric in metrics}, bank=bank
        )
        for head, kind, target, metrics in heads
    ]
