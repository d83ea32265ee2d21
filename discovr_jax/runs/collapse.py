"""Reads the monitors of a run and says in one line what is wrong and what to try. See docs/troubleshooting.md."""

import logging
import math
from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)


PATIENCE = 3  # logged rows in a row that must look sick before a warning
SAME = 0.02  # relative difference below which two entropies count as equal
_TEACHERS = {"vid": "video", "img": "image"}
_MASKS = {"vid": "mask.ratio", "img": "mask.image_ratio"}  # how much is masked to its student
_MONITORS = ("features/rank", "phase/rank", "scd/agreement", *(f"teacher/{name}/entropy" for name in _TEACHERS))


def symptoms(row: Mapping[str, float], num_prototypes: int, centering: str) -> dict[str, str]:
    """What looks wrong in one row of metrics: {name of the symptom: what to try}.

    Args:
      num_prototypes, centering: `model.num_prototypes` and `dino.centering` of the run.
    """
    result, centre = {}, centering == "mean"  # Sinkhorn reads no centre: its momentum does nothing
    for name, words in _TEACHERS.items():
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
                + _law(row, name)
            )
    if row.get("scd/perplexity", math.inf) < 0.05 * num_prototypes:
        result["few prototypes are in use"] = "lower scd.epsilon or use more scd.iterations; try scd.standardise"
    if row.get("scd/position_information", 0.0) > 0.9:
        result["prototypes encode the patch position, little else"] = (
            "set scd.standardise=position, raise model.num_prototypes (8 times the patches of a frame or more)"
        )
    if row.get("features/rank", math.inf) < 1.5:
        result["clip features lie on one line (dimensional collapse)"] = "lower optim.lr, raise ema.momentum"
    return result


def _law(row: Mapping[str, float], name: str) -> str:
    """Why outputs become uniform, where the law of collapse says it (`losses.monitors.predicted_share`)."""
    predicted, needed = (row.get(f"teacher/{name}/{key}", math.nan) for key in ("predicted_share", "needed_share"))
    if not predicted < needed:  # also of runs that did not log them
        return ""
    return (
        f", show more to the student ({_MASKS[name]}): its views predict {100 * predicted:.0f} % of what differs "
        f"between clips, and tau_t / tau_s asks for {100 * needed:.0f} %"
    )


class Watch:
    """Warns once per symptom, after it stayed for `PATIENCE` logged rows."""

    def __init__(self, num_prototypes: int, centering: str):
        self._run = num_prototypes, centering
        self._rows_in_a_row: dict[str, int] = {}

    def look(self, step: int, row: dict) -> list[str]:
        """Warnings given at this row."""
        current = symptoms(row, *self._run)
        self._rows_in_a_row = {name: self._rows_in_a_row.get(name, 0) + 1 for name in current}
        due = [name for name, rows in self._rows_in_a_row.items() if rows == PATIENCE]
        for name in due:
            logger.warning("step %d: %s. Try: %s. See docs/troubleshooting.md", step, name, current[name])
        return due


def health(rows: Sequence[Mapping[str, float]], num_prototypes: int, centering: str) -> list[str]:
    """The health of a run in one line, and a line for each warning.

    Args:
      rows: logged metrics in the order of their steps, such as the lines of metrics.jsonl; others are passed over.
      num_prototypes, centering: as of `symptoms`.

    Returns:
      ["step 600: rank of clips 9.7; ln K - H: video 0.55, image 0.40; ...; no warnings"], or [] where no monitor was
      logged.
      A warning is a symptom of each of the last `PATIENCE` rows.
    """
    monitored = [row for row in rows if any(name in row for name in _MONITORS)]
    if not monitored:
        return []
    row = monitored[-1]
    parts = [f"rank of clips {row['features/rank']:.1f}"] if "features/rank" in row else []
    if "phase/rank" in row:
        # No symptom: one direction, contraction, is what few clips per batch teach first (docs/notes/phase.md).
        parts.append(f"rank of the phase {row['phase/rank']:.1f} (near 1 is expected with few clips per batch)")
    gaps = [
        f"{words} {row[f'teacher/{name}/entropy_max'] - row[f'teacher/{name}/entropy']:.2f}"
        for name, words in _TEACHERS.items()
        if f"teacher/{name}/entropy" in row
    ]
    parts += [f"ln K - H: {', '.join(gaps)}"] if gaps else []
    if "scd/agreement" in row:
        alone = row["scd/agreement_position_only"]
        parts.append(f"agreement {row['scd/agreement']:.2f} (position alone {alone:.2f})")
    if "perf/goodput" in row:
        parts.append(f"goodput {100 * row['perf/goodput']:.0f} %")
    last = [symptoms(each, num_prototypes, centering) for each in monitored[-PATIENCE:]]
    warnings = [f"{name}; try: {what}" for name, what in last[-1].items() if all(name in each for each in last)]
    count = f"{len(warnings)} warning{'s' * (len(warnings) > 1)}" if warnings else "no warnings"
    return [f"step {row['step']}: {'; '.join([*parts, count])}", *warnings]


def told(lines: Sequence[str]) -> list[str]:
    """Lines of `health` for the terminal."""
    return [f"health at {lines[0]}", *(f"warning: {line}" for line in lines[1:])] if lines else []
