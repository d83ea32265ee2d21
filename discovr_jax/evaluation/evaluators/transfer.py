"""Transfer across datasets: heads fitted and chosen on another dataset (the source), scored on this one's test videos.

Nothing is fitted or chosen on the scored dataset: training and validation videos are the source dataset's, labelled by
its own rule unless `data.abnormal_rule` names one for all.
"""

from discovr_jax.evaluation import interface


def parts(name: str, *, source_dataset: str = "", field: str = "ef") -> list[interface.Part]:
    """kNN, probe and regression: metrics knn_METRIC, probe_METRIC and FIELD_METRIC.

    Args:
      source_dataset: the other dataset, as in `eval.dataset`; field: the measurement of the regression.

    Raises:
      interface.NotSetUp: without a source dataset.
    """
    if not source_dataset:
        raise interface.NotSetUp(f"no other dataset to learn from: name one in eval.evaluators.{name}.source_dataset")
    classes = ("macro_f1", "balanced_accuracy", "auroc")
    heads = (
        ("knn", "knn", "label", classes),
        ("probe", "probe", "label", classes),
        (field, "regression", field, ("mae", "rmse", "r2")),
    )
    return [
        interface.Part(
            f"{name}_{head}",
            name,
            kind,
            target,
            {f"{head}_{metric}": metric for metric in metrics},
            source_dataset=source_dataset,
        )
        for head, kind, target, metrics in heads
    ]
