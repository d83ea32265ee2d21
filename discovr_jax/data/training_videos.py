"""Which videos an encoder was trained on, kept beside it as hashes: so that an evaluation sees when it scores them.

Records made anew (labels came later, another split) may put into the test split what was a training video. Such metrics
are not those of new patients, though no label was seen in training.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from discovr_jax.data import manifest, records

FILE = "training_videos.json"
KINDS = ("videos", "patients", "frames")


def hashed(
    sources: Mapping[str, records.RecordSource],
    chosen: Mapping[str, Sequence[int]],
    earlier: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, list[str]]:
    """What names the training videos.

    Args:
      sources: the training split of each dataset; chosen: its records that are trained on.
      earlier: of `read`, from an earlier start, whose records may have been others: they stay.

    Returns:
      {"videos", "patients", "frames"}: sorted hashes, 16 hexadecimal digits each, of ids and patients (with their
      dataset) and of the frames as they are stored.
    """
    found = {kind: set((earlier or {}).get(kind, ())) for kind in KINDS}
    for name, source in sources.items():
        splits, *columns = _columns(source)
        here = [column[splits == source.split] for column in columns]
        for video, patient, frames in zip(*(column[chosen[name]].tolist() for column in here), strict=True):
            found["videos"].add(_hash(name, video))
            found["patients"].update([_hash(name, patient)] if patient else [])
            found["frames"].update([frames.decode()] if frames else [])
    return {kind: sorted(values) for kind, values in found.items()}


def read(workdir: str | os.PathLike) -> dict[str, set[str]] | None:
    """What training kept in the workdir, as of `hashed`; None where an older version did not.

    Raises:
      RecordsError: it is damaged.
    """
    path = pathlib.Path(workdir) / FILE
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_bytes())
        return {kind: set(kept[kind]) for kind in KINDS}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise records.RecordsError(
            f"{path} is damaged: restore it; without it nobody knows whether test videos were trained on"
        ) from None


def among_test(trained: Mapping[str, Iterable[str]] | None, name: str, source: records.RecordSource) -> dict | None:
    """How many of the test videos were trained on.

    Args:
      trained: of `read`; None if it is not known.
      name: of the dataset; source: its test split.

    Returns:
      {"test_videos", "trained_on": those with the id or the frames of a training video, "patients_trained_on": those
      of a patient with a training video, the former included}; None if it is not known.
    """
    if trained is None:
        return None
    rows = list(zip(*(column.tolist() for column in _columns(source)), strict=True))
    known = [
        _hash(name, video) in trained["videos"] or frames.decode() in trained["frames"] for _, video, _, frames in rows
    ]
    # A patient may have become known since: then the training videos say whose they are.
    patients = {patient for (_, _, patient, _), was in zip(rows, known, strict=True) if was and patient}
    counts = {"test_videos": 0, "trained_on": 0, "patients_trained_on": 0}
    for (split, _, patient, _), was in zip(rows, known, strict=True):
        if split == source.split:
            counts["test_videos"] += 1
            counts["trained_on"] += was
            counts["patients_trained_on"] += (
                was or patient in patients or (bool(patient) and _hash(name, patient) in trained["patients"])
            )
    return counts


def _columns(source: records.RecordSource) -> list[np.ndarray]:
    """Split, id, patient and hash of the frames (bytes, empty if unknown) of every record; of those without a manifest
    of this split only."""
    columns = manifest.columns(source.path, ("split", "id", "patient_id", "sha256"))
    if columns is None:
        fields = records.record_fields(source, ("id", "patient_id"))
        columns = fields | {"split": np.full(len(source), source.split), "sha256": np.zeros(len(source), "S16")}
    return [columns["split"], columns["id"], columns["patient_id"], columns["sha256"].astype("S16")]


def _hash(dataset: str, name: str) -> str:
    """Variants of a dataset share their patients."""
    return hashlib.sha256(f"{dataset.partition('/')[0]} {name}".encode()).hexdigest()[:16]
