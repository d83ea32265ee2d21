"""Features of other encoders, from files, for the videos that a run is scored on.

A file that does not fit the records is refused, with the count and the first names: records without features in any
split, a patient, split or number of frames that contradicts the records, features that never change. What stops
nothing is a note in results.json and in the log: ids that the records have not (they may be quarantined), columns that
never change, exact copies in two patients, readouts that `eval.readouts` leaves out.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.data import file_listing
from discovr_jax.evaluation.features import feature_files
from discovr_jax.evaluation.features.feature_files import LENGTH, PATIENT, SPLIT, TableError, some
from discovr_jax.models import readouts

# Names of columns of results.json, of files of the cache, and after "RUN:" in --workdirs.
_NAME = re.compile(r"[A-Za-z0-9][\w.]*")
_TAKEN = ("discovr", "random", "pixels", "mean_mask", "autoencoder", "memory_autoencoder")
_UNKNOWN = (None, "")


@dataclasses.dataclass(frozen=True)
class OutsideFeatures:
    """One more encoder of an evaluation.

    Attributes:
      seeds: [{split: {readout: float64 [N, D]}}], rows in the order of the records.
      about: for results.json: "files" (see `feature_files.FeatureFile`), one per seed, and "notes".
    """

    seeds: Sequence[Mapping[str, Mapping[str, np.ndarray]]]
    about: Mapping[str, Any]


def parse(items: Iterable[str]) -> dict[str, list[str]]:
    """`feature_files.parse_features`, of names that can stand beside a run's own encoders.

    Raises:
      TableError: it cannot.
    """
    found = feature_files.parse_features(items)
    for name in found:
        if name in _TAKEN:
            raise TableError(f"--features={name}=...: every evaluation has an encoder of this name; choose another")
        if not _NAME.fullmatch(name):
            raise TableError(f"--features={name}=...: a name has letters, digits, '_' and '.' only")
    return found


def read(
    features: Mapping[str, Sequence[str]],
    fields: Mapping[str, Mapping[str, np.ndarray]],
    asked: Sequence[str] = readouts.KNOWN,
) -> dict[str, OutsideFeatures]:
    """The features of every encoder of `parse` for the records.

    Args:
      fields: {split: {"id", "patient_id", "num_frames": [N]}} of the records, see `extract.read_fields`.
      asked: `eval.readouts`.

    Raises:
      TableError: a file that does not fit the records; says what, of how many videos and of which.
    """
    result = {}
    for name, files in features.items():
        seeds, notes, taken = [], [], []
        for item in files:
            table = feature_files.read(item)
            ids = {split: [file_listing.plain(str(one)) for one in columns["id"]] for split, columns in fields.items()}
            _check(table, ids, fields)
            by_split = {split: table.take(of_split) for split, of_split in ids.items()}
            taken.append(next(iter(by_split.values())))
            seeds.append({split: one.readouts for split, one in by_split.items()})
            notes += _notes(table, ids, seeds[-1], fields, asked)
        feature_files.check_seeds(name, taken)
        result[name] = OutsideFeatures(seeds, {"files": [dict(one.about) for one in taken], "notes": notes})
    return result


def _check(table: feature_files.Table, ids: Mapping[str, Sequence[str]], fields) -> None:
    """Raises TableError unless the file has every record, and says of it what the records say."""
    where = f"--features={table.file}"
    missing = {split: [one for one in of_split if one not in table.ids] for split, of_split in ids.items()}
    if lacking := [one for of_split in missing.values() for one in of_split]:
        counts = ", ".join(f"{len(missing[split])} of {len(ids[split])} of {split}" for split in missing)
        raise TableError(
            f"{where} lacks features of {some(lacking)} ({counts}). Every record needs some, as all are compared on "
            "the same videos; its ids must be those of manifest.csv beside the records"
        )

    def known(column: str) -> dict[str, Any]:
        values = table.values(column) if column in table.columns else {}
        return {one: value for one, value in values.items() if value not in _UNKNOWN}

    def of_records(column: str) -> dict[str, Any]:
        values = (zip(ids[split], columns[column], strict=True) for split, columns in fields.items())
        return {one: value for pairs in values for one, value in pairs}

    splits = {one: split for split, of_split in ids.items() for one in of_split}
    if other := [one for one, split in known(SPLIT).items() if splits.get(one, split) != split]:
        raise TableError(
            f"{where}: the split of {some(other)} is another in the records. If the encoder was trained on those "
            "videos, it has seen what it is tested on: prepare the records with its splits"
        )
    frames = of_records(LENGTH)
    if other := [one for one, count in known(LENGTH).items() if frames.get(one, count) != count]:
        raise TableError(
            f"{where}: {LENGTH} of {some(other)} is another in the records: the ids belong to other videos. If the "
            f"file counts frames otherwise, leave its column {LENGTH} out"
        )
    patients = {one: str(patient) for one, patient in of_records("patient_id").items()}
    for column in PATIENT:
        told = {one: str(patient) for one, patient in known(column).items() if patients.get(one)}
        if other := _contradicting(told, patients):
            raise TableError(
                f"{where}: the {column} of {some(other)} contradicts the records: the ids belong to other videos, or "
                "one of the two is wrong about the patients"
            )


def _contradicting(told: Mapping[str, str], patients: Mapping[str, str]) -> list[str]:
    """Videos whose patient is another one in the records.

    A private archive's patients have other names there: then two videos must be of one patient in both, or in neither.
    """
    if set(told.values()) & set(patients.values()):
        return [one for one, patient in told.items() if patients[one] != patient]
    wrong: set[str] = set()
    for mine, other in ((told, patients), (patients, told)):
        groups: dict[str, dict[str, list[str]]] = {}
        for one in told:
            groups.setdefault(mine[one], {}).setdefault(other[one], []).append(one)
        wrong.update(one for parts in groups.values() if len(parts) > 1 for part in parts.values() for one in part)
    return sorted(wrong)


def _notes(table: feature_files.Table, ids, splits, fields, asked: Sequence[str]) -> list[str]:
    """What is worth knowing of a file that fits. Raises TableError for features that never change."""
    file, notes = table.about["file"], []  # its name alone: folders may be private
    in_records = {one for of_split in ids.values() for one in of_split}
    # By their rows: such an id may be the name of a private file.
    if strange := [row for one, row in table.ids.items() if one not in in_records]:
        rows = ", ".join(map(str, strange[:3])) + (", ..." if len(strange) > 3 else "")
        notes.append(f"{file}: {len(strange)} ids are not in the records, and left out (rows {rows}, from 0)")
    for readout, train in splits["train"].items():
        constant = int((np.ptp(train, axis=0) == 0).sum())
        if constant == train.shape[1]:
            raise TableError(
                f"--features={table.file}: {readout} is the same for all {len(train)} training videos: the encoder did "
                "not see them, or one row was written for all"
            )
        if constant:
            notes.append(f"{file}: {constant} of {train.shape[1]} numbers of {readout} never change in training")
    every = [np.concatenate([*of_split.values()], axis=1) for of_split in splits.values()]
    pairs = [pair for split in ids for pair in zip(fields[split]["patient_id"], ids[split], strict=True)]
    patients = [f"patient {patient}" if patient else one for patient, one in pairs]
    notes += feature_files.repeats(file, np.concatenate(every), np.array(patients))
    if set(table.readouts) <= set(readouts.KNOWN) and (unused := sorted(set(table.readouts) - set(asked))):
        notes.append(f"{file}: its readouts {', '.join(unused)} are not among eval.readouts, and not scored")
    return notes
