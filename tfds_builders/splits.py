"""Splits for datasets that ship none: a patient's split follows from the hash of the patient's id."""

import hashlib
import math
from collections.abc import Mapping

from discovr_jax.data import records

# The leading bytes of the digest that place a patient between 0 and 1.
_BYTES = 8


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
    if not patient_id:
        raise ValueError("patient_id is empty: patients without one would all share a split.")
    unknown = sorted(set(shares) - set(records.SPLITS))
    total = sum(shares.values())
    if unknown or any(share < 0 for share in shares.values()) or not (0 < total < math.inf):
        raise ValueError(f"shares must be 0 or more for some of {records.SPLITS}, not all 0; got {dict(shares)}.")
    digest = hashlib.sha256(f"{seed}:{patient_id}".encode()).digest()
    place = int.from_bytes(digest[:_BYTES], "big") / 2 ** (8 * _BYTES) * total
    given = [split for split in records.SPLITS if shares.get(split, 0) > 0]
    edge = 0.0
    for split in given[:-1]:
        edge += shares[split]
        if place < edge:
            return split
    return given[-1]
