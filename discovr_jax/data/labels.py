"""Normal or abnormal, derived from a record's measurements by a rule that the config names.

    ef < 50           abnormal if the left ventricular ejection fraction, percent, is below (or <=)
    rvef <= 45        the same of the right ventricle
    wall_cm >= 1.3    abnormal if the thicker of septum and posterior wall, cm, is above (or >)
    source_label      what the dataset itself says
"""

import re
from collections.abc import Mapping

import numpy as np

from discovr_jax.errors import ConfigError

_FORMS = (
    "'ef < 50', 'rvef <= 45', 'wall_cm >= 1.3' and 'source_label' "
    "(any number; < or <= for ef and rvef, > or >= for wall_cm)"
)
_RULE = re.compile(r"(?:(ef|rvef) *(<=?)|(wall_cm) *(>=?)) *(\d+(?:\.\d+)?)|source_label")
_COMPARE = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}


def rule_fields(rule: str) -> tuple[str, ...]:
    """The record fields that `rule` reads, for `records.record_fields`; ValueError for an unknown rule."""
    return _parse(rule)[0]


def normal_label(fields: Mapping[str, np.ndarray], rule: str) -> np.ndarray:
    """Labels records by `rule` (forms: see the module).

    A wall rule calls a heart abnormal if either wall is, and normal only if both walls are known.

    Args:
      fields: the columns `rule_fields(rule)`, each [N]; NaN where unknown (source_label: -1).
      rule: for example "ef < 50".

    Returns:
      float32 [N]: 0 normal, 1 abnormal, NaN unknown.

    Raises:
      ValueError: an unknown rule, or a source_label other than -1, 0, 1.
      KeyError: a column is missing.

    >>> normal_label({"ef": np.array([35.0, 60.0, np.nan])}, "ef < 50").tolist()
    [1.0, 0.0, nan]
    """
    names, comparison, threshold = _parse(rule)
    if missing := [name for name in names if name not in fields]:
        raise KeyError(f"Rule '{rule}' needs the fields {missing}, got {sorted(fields)}.")
    if comparison is None:
        labels = np.asarray(fields["source_label"])
        if not np.isin(labels, (-1, 0, 1)).all():
            raise ValueError(f"source_label must be -1, 0 or 1, got {np.unique(labels)}.")
        return np.where(labels < 0, np.nan, labels).astype(np.float32)
    # Records hold float32: 1.3 stored is 1.29999995, so the threshold must be rounded the same way.
    values = np.stack([np.asarray(fields[name], np.float32) for name in names])
    abnormal = _COMPARE[comparison](values, np.float32(threshold)).any(axis=0)
    unknown = np.isnan(values).any(axis=0) & ~abnormal
    return np.where(unknown, np.nan, abnormal).astype(np.float32)


def _parse(rule: str) -> tuple[tuple[str, ...], str | None, float]:
    """Fields read, comparison that makes a record abnormal (None: the source's label), threshold."""
    match = _RULE.fullmatch(rule.strip())
    if match is None:
        raise ConfigError(f"Unknown rule '{rule}' for abnormal records (data.abnormal_rule). Forms: {_FORMS}.")
    fraction, below, wall, above, number = match.groups()
    if number is None:
        return ("source_label",), None, 0.0
    return ("ivsd", "lvpwd") if wall else (fraction,), below or above, float(number)
