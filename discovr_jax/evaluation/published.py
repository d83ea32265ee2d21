"""Figures of the DISCOVR paper (NeurIPS 2025, arXiv 2506.11777), to stand beside ours; shares of 1, not percent.

Its splits and its rule for abnormal videos are not published: a difference to these is no paired comparison.
"""

# {dataset: {FAMILY/METRIC: value}}; lvef by a probe, finetune with the last three blocks
FIGURES = {
    "camus": {"segmentation/dice": 0.844},
    "echonet_dynamic": {
        "knn/macro_f1": 0.6145,
        "knn/balanced_accuracy": 0.6320,
        "probe/macro_f1": 0.7763,
        "lvef/mae": 7.79,
        "finetune/last3_ef_mae": 6.32,
    },
    "rvenet": {"knn/macro_f1": 0.5388, "probe/macro_f1": 0.6265},
}


def figures(dataset: str) -> dict[str, float]:
    """What the paper reports on a dataset, {FAMILY/METRIC: value}; empty where it does not."""
    return FIGURES.get(dataset.partition("/")[0], {})
