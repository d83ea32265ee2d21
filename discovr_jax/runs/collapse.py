"""Reads the monitors of a run and says in one line what is wrong and what to try. See docs/learning.md."""

import logging
import math

logger = logging.getLogger(__name__)


PATIENCE = 3  # logged rows in a row that must look sick before a warning
SAME = 0.02  # relative difference below which two entropies count as equal


def symptoms(row: dict, num_prototypes: int, centering: str) -> dict[str, str]:
    """What looks wrong in one row of metrics: {name of the symptom: what to try}.

    Args:
      num_prototypes, centering: `model.num_prototypes` and `dino.centering` of the run.
    """
    result, centre = {}, centering == "mean"  # Sinkhorn reads no centre: its momentum does nothing
    for name, words in (("vid", "video"), ("img", "image")):
        top = row.get(f"teacher/{name}/entropy_max")
        if top is None:
            continue
        mean, of_mean = row[f"teacher/{name}/entropy"], row[f"teacher/{name}/entropy_of_mean"]
        if of_mean < SAME * top:
            result[f"{words} teacher gives one output for every clip (constant collapse)"] = (
                "set dino.center_momentum=0.9 or dino.centering=sinkhorn"
                if centre
                else "lower optim.lr, raise ema.momentum"
            )
        elif mean > (1 - SAME) * top:
            result[f"{words} teacher's outputs are uniform (H = Hm = ln K)"] = (
                "lower dino.teacher_temperature or head.outputs, raise optim.lr"
                + ", set dino.center_momentum=0.99" * centre
            )
    if row.get("scd/perplexity", math.inf) < 0.05 * num_prototypes:
        result["few prototypes are in use"] = "lower scd.epsilon or use more scd.iterations; try scd.standardise"
    if row.get("scd/position_information", 0.0) > 0.9:
        result["prototypes encode the place in the frame, little else"] = (
            "set scd.standardise=position, raise model.num_prototypes (8 times the patches of a frame or more)"
        )
    if row.get("features/rank", math.inf) < 1.5:
        result["clip features lie on one line (dimensional collapse)"] = "lower optim.lr, raise ema.momentum"
    return result


class Watch:
    """Warns once per symptom, after it stayed for `PATIENCE` logged rows."""

    def __init__(self, num_prototypes: int, centering: str):
        self._run = num_prototypes, centering
        self._seen: dict[str, int] = {}

    def look(self, step: int, row: dict) -> list[str]:
        """Warnings given at this row."""
        current = symptoms(row, *self._run)
        self._seen = {name: self._seen.get(name, 0) + 1 for name in current}
        due = [name for name, rows in self._seen.items() if rows == PATIENCE]
        for name in due:
            logger.warning("step %d: %s. Try: %s. See docs/learning.md", step, name, current[name])
        return due
