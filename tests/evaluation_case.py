"""Columns of made-up videos whose label follows from the EF, for tests of the evaluation."""

import numpy as np


def make_fields(counts, patient_of, seed=0):
    """{split: columns}: EF uniform from 30 to 70, abnormal below 50; `patient_of` a row gives its patient's number."""
    rng, fields = np.random.default_rng(seed), {}
    for split, count in counts.items():
        ef = rng.uniform(30, 70, count).astype(np.float32)
        fields[split] = {
            "id": np.array([f"{split}{row}" for row in range(count)]),
            "patient_id": np.array([f"{split}-p{patient_of(row)}" for row in range(count)]),
            "ef": ef,
            "label": (ef < 50).astype(np.float32),
        }
    return fields
