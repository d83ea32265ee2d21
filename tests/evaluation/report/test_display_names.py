"""Names for readers."""

import pytest

from discovr_jax.evaluation.evaluators import anomaly, knn, probe, regression, retrieval
from discovr_jax.evaluation.report import display_names

EF = "ejection fraction: mean absolute error (points)"
RESULTS = {
    "readouts": {
        "knn": {"family": "knn", "field": "label", "encoders": {}},
        "lvef": {"family": "lvef", "field": "ef", "encoders": {}},
        "ivsd": {"family": "ivsd", "field": "ivsd", "encoders": {}},
        "retrieval": {"field": "label", "encoders": {"discovr": {"details": [{"field": "rvef"}]}}},
        "labels_label_10": {"family": "labels", "field": "label", "metrics": {"auroc_10": "auroc"}},
        "labels_ef_1": {"family": "labels", "field": "ef", "metrics": {"mae_1": "mae"}},
        "transfer_knn": {"family": "transfer", "field": "label", "metrics": {"knn_macro_f1": "macro_f1"}},
        "segmentation_decoder": {"family": "segmentation", "field": "masks", "metrics": {"decoder_dice_ed": ""}},
        "finetune_ef": {"family": "finetune", "field": "ef", "metrics": {"ef_mae": "ef_mae"}},
    }
}
MASK_EF = "error of the EF by ED and ES masks (points)"


@pytest.mark.parametrize(
    "key,family,metric,digits,larger",
    [
        ("knn/macro_f1", "kNN", "macro F1", 3, True),
        ("knn/auroc_swept", "kNN", "AUROC, tuned on validation", 3, True),
        ("lvef/mae", "Ejection fraction", "mean absolute error (points)", 2, False),
        ("ivsd/bias", "Septal thickness", "bias (cm)", 2, None),
        ("retrieval/difference", "Retrieval", "difference to the 10 nearest (points)", 2, False),
        ("labels/auroc_10", "Few labels", "AUROC, 10 % of the labels", 3, True),
        ("labels/mae_1", "Few labels", f"{EF}, 1 % of the labels", 2, False),
        ("labels_ef_1/mae_1", "Few labels", f"{EF}, 1 % of the labels", 2, False),
        ("transfer/knn_macro_f1", "Transfer", "kNN: macro F1", 3, True),
        ("segmentation/decoder_dice_ed", "Segmentation", "decoder: Dice, end-diastole", 3, True),
        ("segmentation/mask_ef_error", "Segmentation", MASK_EF, 2, False),
        ("segmentation/mask_ef_error_calibrated", "Segmentation", f"{MASK_EF}, calibrated on validation", 2, False),
        ("segmentation/decoder_mask_ef_error", "Segmentation", f"decoder: {MASK_EF}", 2, False),
        ("finetune/ef_mae", "Fine-tuning", EF, 2, False),
        ("finetune/last3_ef_mae", "Fine-tuning", f"{EF}, last 3 blocks tuned", 2, False),
        ("finetune/whole_auroc", "Fine-tuning", "AUROC, whole encoder tuned", 3, True),
        ("something/new", "something", "new", 3, None),
    ],
)
def test_names(key, family, metric, digits, larger):
    assert display_names.described(RESULTS, key) == display_names.Named(family, metric, digits, larger)


def test_every_metric_has_a_name():
    for module in (anomaly, knn, probe, regression, retrieval):
        for metric in module.METRICS:
            assert display_names._KEY.fullmatch(metric), metric
