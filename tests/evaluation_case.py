"""Made-up videos for tests of the evaluation: columns whose label follows from the EF, and splits of features."""

import numpy as np

from discovr_jax.evaluation import interface


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


def make_split(name, rng, count, share=0.5, gap=0.0, dim=16):
    """Normal features; `share` of the videos are abnormal, their first feature is higher by twice the gap."""
    target = (np.arange(count) < share * count).astype(float)
    features = rng.normal(size=(count, dim))
    features[:, 0] += gap * (2 * target - 1)
    return interface.Split(name, features, target)


def make_splits(seed=0, **options):
    """Train, val and test of `make_split`."""
    rng = np.random.default_rng(seed)
    return [make_split(name, rng, n, **options) for name, n in (("train", 120), ("val", 60), ("test", 200))]
