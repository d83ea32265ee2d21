"""Predictions as DICOM objects: `files` writes them, `report` and `segmentation` make them."""
