"""The heads that an evaluation fitted, on disk: what `predict` needs to say of another video what was scored here.

One file, eval/STEP/[DATASET/]heads.safetensors: arrays, and in its header as JSON what they are. It is written by the
run that scores, from the very heads that it scored, and belongs to one encoder (`weights_sha256`) and one way to make
features (`preprocessing`).

    FIELD +- half width: split conformal prediction interval, from the absolute errors on validation videos
    class: probability of the linear probe, calibrated on validation; vote of the nearest neighbours
    anomaly: distance to normal training videos, threshold from normal validation videos
    out of distribution: distance from the training videos, threshold from validation videos (`out_of_distribution`)
"""

import dataclasses
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from discovr_jax.data import transforms
from discovr_jax.evaluation import neighbours, out_of_distribution, results_io
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.metrics import bootstrap
from discovr_jax.evaluation.metrics import videos as video_metrics

FILE = "heads.safetensors"
FORMAT = 1  # raised when a reader of today could not use the file
NOMINAL = 0.9  # coverage of the prediction intervals
SPECIFICITY = "95"  # percent, of the anomaly threshold
RESEARCH_USE = "For research use only; not a medical device."
KINDS = ("regression", "probe", "knn", "anomaly", "segmentation")
_REFERENCE = ("knn", "anomaly")  # heads that are the training videos themselves


class HeadsError(ValueError):
    """There are no heads, or they do not belong to this encoder; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Heads:
    """The heads of one evaluation.

    Attributes:
      path: of the file.
      about: its header: "weights_sha256", "preprocessing", "heads", "ids" (of the training videos),
        "out_of_distribution", "dataset", "label_rule", "step".
      arrays: by name; "reference/READOUT" float32 [N, D] are the training videos in what kNN and anomaly read,
        "labels" float32 [N] theirs.
    """

    path: pathlib.Path
    about: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    def of_kind(self, kind: str) -> list[str]:
        """Names of the heads of one of `KINDS`; that which is called as its kind comes first."""
        names = [name for name, head in self.about["heads"].items() if head["kind"] == kind]
        return sorted(names, key=lambda name: (name != kind, name))

    def fitted(self, part: str) -> dict[str, np.ndarray]:
        """The arrays of a head, by their own names."""
        start = f"{part}/"
        return {name.removeprefix(start): each for name, each in self.arrays.items() if name.startswith(start)}

    @property
    def readouts(self) -> list[str]:
        """All that the heads read."""
        of_heads = (head["readout"] for head in self.about["heads"].values() if head["kind"] != "segmentation")
        return sorted({*of_heads, *self.about["out_of_distribution"]["readouts"]})


def half_width(errors: np.ndarray, nominal: float = NOMINAL) -> float:
    """Half the width of a split conformal prediction interval (Lei et al., 2018, algorithm 2).

    A new video's error is below it with probability `nominal` at least, if it is exchangeable with those of `errors`.

    Args:
      errors: absolute, float [N], of videos that the head was not fitted on.

    Returns:
      The ceil((N + 1) nominal)-th smallest error; infinity where there are too few.
    """
    rank = math.ceil((len(errors) + 1) * nominal)
    return float(np.sort(errors)[rank - 1]) if rank <= len(errors) else math.inf


def write(evaluation: results_lib.Evaluation, path: pathlib.Path, writes: bool = True, **about: Any) -> dict[str, Any]:
    """Keeps the heads of an evaluation.

    Args:
      path: of the file; its folder is made.
      writes: False on all processes but one.
      **about: JSON values for the header; see `Heads`.

    Returns:
      For results.json: what was kept, and how often the prediction intervals hold the truth on the test videos.
    """
    features, fields = evaluation.features[results_lib.STUDIED][0], evaluation.fields
    heads, arrays, intervals = {}, {}, {}
    for part, head in evaluation.heads.items():
        heads[part] = {"kind": head.kind, "field": head.field, "readout": head.readout, "options": head.options}
        heads[part]["details"] = head.predictions.details
        arrays |= {f"{part}/{name}": each for name, each in head.predictions.fitted.items()}
        if head.kind in _REFERENCE:
            arrays[f"reference/{head.readout}"] = features["train"][head.readout]
            arrays[f"{part}/known"] = head.known["train"]
        if head.kind == "regression":
            intervals[part] = _interval(head)
            heads[part]["interval"] = intervals[part]
    pictures = evaluation.features.get("pixels", ({"train": {}, "val": {}},))[0]
    limits, more = out_of_distribution.fit(*({**features[split], **pictures[split]} for split in ("train", "val")))
    limits["fewest_frames"] = _fewest_frames(fields["train"]["num_frames"], about["preprocessing"])
    arrays |= more
    arrays["labels"] = np.asarray(fields["train"]["label"], np.float32)
    header = {
        "format": FORMAT,
        "notice": RESEARCH_USE,
        **about,
        "heads": heads,
        "out_of_distribution": limits,
        "ids": [str(one) for one in fields["train"]["id"]],
    }
    if writes:
        _save(path, arrays, results_io.plain(header))
    parts = {part: {name: head[name] for name in ("kind", "field", "readout")} for part, head in heads.items()}
    return {"file": path.name, "parts": parts, "intervals": intervals, "out_of_distribution": limits}


def _fewest_frames(lengths: np.ndarray, clip: Mapping[str, Any]) -> int:
    """Real frames of a clip of the shortest training video; at least 1 where the stride depends on the frame rate."""
    if clip["target_fps"]:
        return 1
    return transforms.clip_indices(int(np.min(lengths)), clip["num_frames"], clip["stride"], 0)[1]


def _interval(head: results_lib.FittedHead) -> dict[str, Any]:
    """Half width of the prediction interval, and the share of test videos whose truth it holds, by bootstrap."""
    predictions, rows = head.predictions, head.rows
    width = half_width(np.abs(predictions.val - head.target["val"]))
    covered = (np.abs(predictions.test - rows.target) <= width).astype(np.float64)
    share = bootstrap.distribution(video_metrics.mean, rows.target, covered, rows.weights)
    return {
        "nominal": NOMINAL,
        "half_width": width,
        "validation_videos": len(head.target["val"]),
        "test_coverage": bootstrap.interval(share, rows.num_patients),
    }


def _save(path: pathlib.Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
    """The file, whole or not at all."""
    import safetensors.numpy

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        plain = {name: np.ascontiguousarray(each) for name, each in arrays.items()}
        safetensors.numpy.save_file(plain, temporary, {"heads": json.dumps(header, sort_keys=True, allow_nan=False)})
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read(path: str | os.PathLike) -> Heads:
    """The heads of a file of `write`.

    Raises:
      HeadsError: there is none, it is damaged, or of a later version.
    """
    import safetensors

    path = pathlib.Path(path)
    if not path.is_file():
        raise HeadsError(f"{path}: no such file: evaluate again (--mode=eval), which fits and keeps the heads")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["heads"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        version = about["format"]
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:  # of the library, of the header
        reason = f"{type(error).__name__}: {error}"[:300]
        raise HeadsError(f"{path} cannot be read ({reason}): evaluate again (--mode=eval)") from None
    if version != FORMAT:
        raise HeadsError(f"{path} is of format {version}, this version reads {FORMAT}: evaluate again (--mode=eval)")
    return Heads(path, about, arrays)


def nearest_videos(heads: Heads, readout: str, features: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
    """The training videos most similar to each of features [Q, D] by cosine: (id, similarity), the nearest first."""
    similarity, index = neighbours.nearest(features, heads.arrays[f"reference/{readout}"], k)
    ids = heads.about["ids"]
    return [
        [(ids[number], float(value)) for number, value in zip(numbers, values, strict=True)]
        for numbers, values in zip(index, similarity, strict=True)
    ]
