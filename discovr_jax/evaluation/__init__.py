"""From a checkpoint to scored features and a report.

    evaluate, runner    the order of things; results, results_io, prediction_cache: what they keep
    evaluators/         one file per type: kNN, probe, regression, ...
    neighbours          the search that kNN, anomaly detection and retrieval share, and its distance (cosine)
    metrics/            F1, AUROC, MAE, Dice, ...; their intervals
    features/           made, stored, read
    cross_validation/   k-fold of small archives
    report/             HTML page, terminal's table, names of metrics for readers (`display_names`)
"""
