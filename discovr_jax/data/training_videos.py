"""Which videos an encoder was trained on, kept beside it as hashes: so that an evaluation sees when it scores them.

Records made anew (labels came later, another split) may put into the test split what was a training video. Such metrics
are not those of new patients, though no label was seen in training.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from discovr_jax.data import manifest, records

FILE = "training_videos.json"
KINDS = ("videos", "patients", "frames")


def hashed(
    sources: Mapping[str, records.RecordSource],
    chosen: Mapping[str, Sequence[int]],
    earlier: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """What names the training videos.

    Args:
      sources: the training split of each dataset; chosen: its records that are trained on.
      earlier: of `read`, from an earlier start, whose records may have been others: they stay.

    Returns:
      {"videos", "patients", "frames"}: sorted hashes, 16 hexadecimal digits each (S16), of ids and patients (with their
      dataset) and of the frames as they are stored.
    """
    found = {kind: [values] for kind, values in (earlier or dict.fromkeys(KINDS, np.zeros(0, "S16"))).items()}
    for name, source in sources.items():
        splits, videos, patients, frames = _columns(source)
        trained = np.zeros(len(splits), bool)
        trained[np.flatnonzero(splits == source.split)[chosen[name]]] = True
        found["videos"].append(_hashes(name, videos[trained]))
        found["patients"].append(_hashes(name, patients[trained & (patients != "")]))
        found["frames"].append(frames[trained & (frames != b"")])
    return {kind: np.unique(np.concatenate(values)) for kind, values in found.items()}


def to_json(hashes: Mapping[str, np.ndarray]) -> str:
    """The text of `FILE`: {kind: [hash, ...]}. Joined, since `json` needs ten times the memory of a million hashes."""
    texts = {kind: b'", "'.join(values.tolist()).decode() for kind, values in hashes.items()}
    return "{" + ", ".join(f'"{kind}": ' + (f'["{text}"]' if text else "[]") for kind, text in texts.items()) + "}"


def read(workdir: str | os.PathLike) -> dict[str, np.ndarray] | None:
    """What training kept in the workdir, as of `hashed`; None where an older version did not.

    Raises:
      RecordsError: it is damaged.
    """
    path = pathlib.Path(workdir) / FILE
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_bytes())
        return {kind: np.unique(np.array(kept[kind], "S16")) for kind in KINDS}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise records.RecordsError(
            f"{path} is damaged: restore it; without it nobody knows whether test videos were trained on"
        ) from None


def among_test(trained: Mapping[str, np.ndarray] | None, name: str, source: records.RecordSource) -> dict | None:
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
    splits, videos, patients, frames = _columns(source)
    known = np.isin(_hashes(name, videos), trained["videos"]) | np.isin(frames, trained["frames"])
    # A patient may have become known since: then the training videos say whose they are.
    of_trained = np.isin(patients, patients[known]) | np.isin(_hashes(name, patients), trained["patients"])
    here = splits == source.split
    return {
        "test_videos": int(here.sum()),
        "trained_on": int((known & here).sum()),
        "patients_trained_on": int(((known | (of_trained & (patients != ""))) & here).sum()),
    }


def _columns(source: records.RecordSource) -> list[np.ndarray]:
    """Split, id, patient and hash of the frames (bytes, empty if unknown) of every record; of those without a manifest
    of this split only."""
    columns = manifest.columns(source.path, ("split", "id", "patient_id", "sha256"))
    if columns is None:
        fields = records.record_fields(source, ("id", "patient_id"))
        columns = fields | {"split": np.full(len(source), source.split), "sha256": np.zeros(len(source), "S16")}
    return [columns["split"], columns["id"], columns["patient_id"], columns["sha256"].astype("S16")]


def _hashes(dataset: str, names: np.ndarray) -> np.ndarray:
    """S16 of each name; variants of a dataset share their patients."""
    dataset = dataset.partition("/")[0]
    result = np.zeros(len(names), "S16")
    for number, name in enumerate(names):  # one by one: a list of a million texts takes 100 MB
        result[number] = hashlib.sha256(f"{dataset} {name}".encode()).hexdigest()[:16]
    return result
