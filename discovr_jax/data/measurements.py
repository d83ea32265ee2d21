"""Units of the measurements in records, and values that no heart has: a unit or a column mixed up.

The ranges are wide: from a fetus of 20 weeks to the largest adult heart, with room for odd tracings.
"""

import dataclasses
import math
from collections.abc import Mapping

from discovr_jax.data.io.video import FPS


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A field of the records that holds a number with a unit.

    Attributes:
      unit: as messages name it.
      low, high: plausible from and to, both included.
      mistakes: (factor, what the value then is): a value outside that times the factor lies inside.
    """

    unit: str
    low: float
    high: float
    mistakes: tuple[tuple[float, str], ...] = ()

    def holds(self, value: float) -> bool:
        """Whether a value is plausible; False for NaN."""
        return self.low <= value <= self.high


_FRACTION = (100.0, "a fraction of 1")
_MILLIMETRES, _METRES = (0.1, "in millimetres"), (100.0, "in metres")
_LITRES = (1000.0, "in litres")
PLAUSIBLE = {
    "ef": Measurement("percent", 2, 100, (_FRACTION,)),
    "rvef": Measurement("percent", 2, 100, (_FRACTION,)),
    "edv": Measurement("mL", 0.35, 1000, (_LITRES,)),
    "esv": Measurement("mL", 0.02, 1000, (_LITRES,)),
    "ivsd": Measurement("cm", 0.03, 5, (_MILLIMETRES, _METRES)),
    "lvidd": Measurement("cm", 0.2, 15, (_MILLIMETRES, _METRES)),
    "lvpwd": Measurement("cm", 0.03, 5, (_MILLIMETRES, _METRES)),
    "fps": Measurement("frames per second", *FPS),
}


def implausible(field: str, values: Mapping[str, float]) -> str:
    """What is wrong with a measurement, without quoting it; empty if it is plausible or unknown (NaN).

    Args:
      field: of `PLAUSIBLE`.
      values: of one video by field; those of other fields may be absent.
    """
    known, value = PLAUSIBLE[field], values[field]
    if not (math.isnan(value) or known.holds(value)):
        words = f"{field} is outside {known.low:g} to {known.high:g} {known.unit}"
        for factor, unit in known.mistakes:
            if known.holds(value * factor):
                return f"{words}; it seems to be {unit}: give {known.unit} (times {factor:g})"
        return words
    edv, esv = (values.get(name, math.nan) for name in ("edv", "esv"))
    # A volume that is wrong by itself says nothing of the other.
    if field in ("edv", "esv") and PLAUSIBLE["edv"].holds(edv) and PLAUSIBLE["esv"].holds(esv) and esv > edv:
        return f"{field} is of a heart that is larger in systole than in diastole; are esv and edv exchanged?"
    return ""
