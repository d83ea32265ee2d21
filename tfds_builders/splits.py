"""Splits for datasets that ship none: by the hash of the patient's id, or stratified, for small archives."""

import collections
import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence

from discovr_jax.data import records
from tfds_builders.tables import SourceError

HASHED, STRATIFIED = "hashed", "stratified"
# The leading bytes of the digest that place a patient between 0 and 1.
_BYTES = 8


def parse_split(text: str) -> tuple[str, dict[str, float]]:
    """HASHED or STRATIFIED, and the shares of the splits.

    >>> parse_split("hashed:80/10/10")
    ('hashed', {'train': 80.0, 'val': 10.0, 'test': 10.0})

    Raises:
      SourceError: it is of another form.
    """
    how, _, numbers = text.partition(":")
    parts = numbers.split("/")
    if how not in (HASHED, STRATIFIED) or len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise SourceError("--split must be hashed:80/10/10 or stratified:70/10/20, or of other whole numbers.")
    if not int(parts[0]):
        raise SourceError("--split gives nothing to train.")
    return how, dict(zip(records.SPLITS, map(float, parts), strict=True))


def hashed_split(patient_id: str, seed: int, shares: Mapping[str, float]) -> str:
    """The split of a patient: the same on every machine, whatever other patients there are.

    SHA-256 of "SEED:PATIENT_ID" (UTF-8), its first 8 bytes read as a big-endian fraction of 1, falls into one of
    the shares laid end to end in the order train, val, test. So all clips of a patient share a split, and patients
    that are added later move nobody.

    Args:
      patient_id: not empty.
      seed: another seed gives another, independent split.
      shares: of each split, 0 or more, in any unit (0.8 and 0.2, or 8 and 2); splits left out get nobody.

    Returns:
      train, val or test.

    Raises:
      ValueError: an empty patient_id, an unknown split, or shares that are negative, not finite or all 0.

    >>> hashed_split("patient7", seed=0, shares={"train": 8, "val": 1, "test": 1})
    'train'
    """
    total = _total(shares)
    place = _place(patient_id, seed) * total
    given = [split for split in records.SPLITS if shares.get(split, 0) > 0]
    edge = 0.0
    for split in given[:-1]:
        edge += shares[split]
        if place < edge:
            return split
    return given[-1]


def stratified_splits(
    strata: Mapping[str, Sequence[Hashable]], seed: int, shares: Mapping[str, float]
) -> dict[str, str]:
    """The splits of patients such that each stratum (a class) has its share of the videos in every split.

    A patient belongs to the stratum of most of its videos. Stratum by stratum, the patients of most videos first, each
    goes to the split that lacks most videos of the stratum; of equal patients their hash decides. A stratum of as many
    patients as splits, or more, is in every split; one of two is in the two largest, one of one in the largest. Unlike
    `hashed_split`, a patient that is added can move others.

    Args:
      strata: {patient: the stratum of each of its videos}.
      seed, shares: as of `hashed_split`.

    Returns:
      {patient: train, val or test}.

    >>> classes = {f"p{number}": ["rare" if number < 3 else "common"] for number in range(13)}
    >>> found = stratified_splits(classes, seed=0, shares={"train": 8, "val": 1, "test": 1})
    >>> sorted(found[f"p{number}"] for number in range(3)), collections.Counter(found.values())["train"]
    (['test', 'train', 'val'], 9)
    """
    total = _total(shares)
    # The largest first, test before val: a stratum of fewer patients than splits fills those.
    given = sorted((one for one in ("train", "test", "val") if shares.get(one, 0) > 0), key=lambda one: -shares[one])
    frequency = collections.Counter(stratum for videos in strata.values() for stratum in videos)
    members: dict[Hashable, list[str]] = {}
    for patient, videos in strata.items():
        counts = collections.Counter(videos)
        # Of equally many the rarer one, which needs the patient more.
        members.setdefault(max(counts, key=lambda one: (counts[one], -frequency[one])), []).append(patient)
    result: dict[str, str] = {}
    for patients in members.values():
        patients.sort(key=lambda one: (-len(strata[one]), _place(one, seed)))
        videos = sum(len(strata[one]) for one in patients)
        lacking = {split: shares[split] / total * videos for split in given}
        empty = list(given)
        for number, patient in enumerate(patients):
            free = empty if len(patients) - number <= len(empty) else given
            split = max(free, key=lambda one: lacking[one])
            lacking[split] -= len(strata[patient])
            empty = [one for one in empty if one != split]
            result[patient] = split
    return result


def _total(shares: Mapping[str, float]) -> float:
    unknown = sorted(set(shares) - set(records.SPLITS))
    total = sum(shares.values())
    if unknown or any(share < 0 for share in shares.values()) or not (0 < total < math.inf):
        raise ValueError(f"shares must be 0 or more for some of {records.SPLITS}, not all 0; got {dict(shares)}.")
    return total


def _place(patient_id: str, seed: int) -> float:
    """Where a patient lies between 0 and 1."""
    if not patient_id:
        raise ValueError("patient_id is empty: patients without one would all share a split.")
    digest = hashlib.sha256(f"{seed}:{patient_id}".encode()).digest()
    return int.from_bytes(digest[:_BYTES], "big") / 2 ** (8 * _BYTES)
