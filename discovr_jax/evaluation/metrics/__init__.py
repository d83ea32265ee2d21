"""Metrics of videos and of masks, and their confidence intervals.

    videos      two classes by a score (F1, AUROC, calibration), and measurements (MAE, R2): what most evaluators use
    classes     several classes; multilabel: any number of labels per video
    masks       segmentation
    bootstrap   intervals over patients
"""
