"""The videos of a run, as its evaluation left them: features, labels, predictions; records give the clips."""

import json
import pathlib
import zipfile
from typing import Any

import numpy as np

from discovr_jax.data import labels, manifest, mixture, records
from discovr_jax.evaluation import fitted_heads, scored
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.explore.clips import RecordClips
from discovr_jax.explore.run_heads import RunHeads
from discovr_jax.explore.videos import ExploreError, Videos
from discovr_jax.method.experiment import saved_config
from discovr_jax.runs import checkpoint

AGAIN = "evaluate it (python -m discovr_jax.main --config=... --workdir=... --mode=eval)"
_TEXT = ("id", "dataset", "view")
_NUMBERS = ("ef", "rvef", "edv", "esv", "ivsd", "lvidd", "lvpwd", "fps", "num_frames")
_LABELS = {0: "normal", 1: "abnormal"}
# Kind of head: what it says of a video, and which output of predictions.csv that is.
_SAYS = {
    "probe": ("probability_abnormal", "probability"),
    "knn": ("neighbour_vote", ""),
    "anomaly": ("anomaly_score", ""),
}


def read(workdir: pathlib.Path, readout: str = "", data_dir: str = "") -> Videos:
    """All splits of the dataset that the newest checkpoint was scored on.

    Args:
      readout: a pooled feature; "": the one that validation chose for the first evaluator.
      data_dir: where the records are, if no longer where the evaluation read them.

    Raises:
      ExploreError: no evaluation, no features, or other records.
    """
    try:
        evaluated = scored.find(workdir)
    except checkpoint.CheckpointError as error:
        raise ExploreError(f"{error}, and train first") from None
    if evaluated is None:
        raise ExploreError(f"{workdir}: its newest checkpoint has no evaluation: {AGAIN}")
    results = json.loads(evaluated.path.read_bytes())
    readout = readout or evaluated.chosen()[0]
    sources = _sources(workdir, evaluated, results, data_dir)
    features, columns = [], []
    for split, each in _features(workdir, results["dataset"], readout).items():
        if len(each) != len(sources[split]):
            raise ExploreError(
                f"{workdir} holds features of {len(each)} videos of split {split}, the records {len(sources[split])}: "
                f"{AGAIN}"
            )
        features.append(np.asarray(each, np.float32))
        columns.append(_columns(sources[split], split, results["label_rule"]))
    _check_belong(evaluated.heads, readout, features[0])
    frame = _with_predictions(columns, evaluated, results)
    target_fps = evaluated.features["clip"]["target_fps"]
    return Videos(
        workdir.resolve().name,
        f"{readout} of step {evaluated.step}",
        frame,
        np.concatenate(features),
        RecordClips(list(sources.values())),
        heads=RunHeads(workdir, use_fps=bool(target_fps)),
    )


def _sources(workdir, evaluated: scored.Scored, results, data_dir: str) -> dict[str, records.RecordSource]:
    """The records of each split, checked to be those that were scored."""
    try:
        config = saved_config(json.loads((workdir / "config.json").read_bytes()))
    except (OSError, ValueError) as error:
        raise ExploreError(f"{workdir}/config.json cannot be read ({error}): name the folder of a whole run") from None
    config.data.frame_size = evaluated.features["clip"]["frame_size"]
    config.data.data_dir = data_dir or config.data.data_dir
    try:
        sources = {
            split: mixture.open_source(config.data, results["dataset"], split) for split in feature_extraction.SPLITS
        }
    except records.RecordsError as error:
        raise ExploreError(f"{error} If they were moved, name their folder: --data_dir=DIR") from None
    path = sources["test"].path
    if results.get("manifest_sha256") != manifest.sha256(path):
        raise ExploreError(f"the records at {path} are not those that were scored: give --data_dir=THEIRS, or {AGAIN}")
    return sources


def _features(workdir: pathlib.Path, dataset: str, readout: str) -> dict[str, np.ndarray]:
    """{split: float [N, D]} from the evaluation's cache."""
    directory, result = workdir / "eval" / "features", {}
    for split in feature_extraction.SPLITS:
        name = f"{feature_extraction.folder(dataset)}-{results_lib.STUDIED}-0-{split}-{'?' * 20}.npz"
        files = sorted(directory.glob(name), key=lambda path: path.stat().st_mtime)
        if not files:
            raise ExploreError(f"{directory} keeps no features of {dataset}, split {split}: {AGAIN}")
        try:
            # Opened here, because np.load leaves a damaged file open.
            with files[-1].open("rb") as file, np.load(file, allow_pickle=False) as archive:
                if readout != "all" and readout not in archive:
                    known = ", ".join(sorted(archive.files))
                    raise ExploreError(f"--readout={readout}: {files[-1]} holds {known}")
                result[split] = {name: archive[name] for name in (archive.files if readout == "all" else [readout])}
        except ExploreError:
            raise
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise ExploreError(f"{files[-1]} is damaged ({type(error).__name__}): remove it, and {AGAIN}") from None
    if readout == "all":
        result = feature_cache.add_all(result)
    return {split: each[readout] for split, each in result.items()}


def _check_belong(path: pathlib.Path, readout: str, train: np.ndarray) -> None:
    """The heads hold the training videos in some readouts, which tells features of an earlier checkpoint from these."""
    if not path.is_file():
        return
    held = fitted_heads.read(path).arrays.get(f"reference/{readout}")
    if held is not None and not np.array_equal(held, train):
        raise ExploreError(f"the features kept beside {path} are of another checkpoint: {AGAIN}")


def _columns(source: records.RecordSource, split: str, rule: str) -> dict[str, Any]:
    names = dict.fromkeys((*_TEXT, *_NUMBERS, *labels.rule_fields(rule)))
    fields = records.record_fields(source, list(names))
    label = [_LABELS.get(value, "") for value in labels.normal_label(fields, rule)]
    return (
        {name: fields[name].astype(object) for name in _TEXT}
        | {"split": np.full(len(source), split, object), "label": np.array(label, object)}
        | {name: fields[name].astype(float) for name in _NUMBERS}
    )


def _with_predictions(columns: list[dict[str, Any]], evaluated: scored.Scored, results) -> Any:
    """Columns of all splits as one table, with what predictions.csv says of test videos."""
    import pandas as pd

    frame = pd.concat([pd.DataFrame(each) for each in columns], ignore_index=True)
    frame = frame.dropna(axis=1, how="all")
    path = evaluated.heads.parent / "predictions.csv"
    if not path.is_file():
        return frame
    table = pd.read_csv(path, dtype={"id": str, "output": str}, keep_default_na=False, na_values={"prediction": [""]})
    table = table[(table["encoder"] == results_lib.STUDIED) & (table["seed"] == 0)]
    for part, head in results.get("heads", {}).get("parts", {}).items():
        name, output = _SAYS.get(head["kind"], (f"{part}_predicted", ""))
        if head["kind"] not in (*_SAYS, "regression") or name in frame:
            continue
        said = table[(table["family"] == part) & (table["output"] == output)].set_index("id")["prediction"]
        test = frame["split"] == "test"
        frame[name] = frame["id"].map(said.astype(float)).where(test)
        if head["kind"] == "regression":
            frame[f"{part}_error"] = frame[name] - frame[head["field"]]
    return frame
