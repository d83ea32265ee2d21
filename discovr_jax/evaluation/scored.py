"""What the evaluation of a run's weights says of its features: which readout it chose, and how it made them."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from discovr_jax.evaluation import fitted_heads
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.evaluation.report import display_names
from discovr_jax.models import readouts
from discovr_jax.runs import checkpoint

BEST = "best"
SCORED = "video_teacher"  # the branch that evaluations score
# Beside it, what some readouts are made from (`readouts.branches`), and where a checkpoint holds it.
PREFIXES = {"decoder": "params/decoder/", "image_encoder": "teacher/image_encoder/"}


class ReadoutError(ValueError):
    """No evaluation says which readout is meant, or it is not of these weights; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """An evaluation of one checkpoint.

    Attributes:
      path: of its results.json; step: of the checkpoint.
      settings: config.eval of the evaluation.
      features: "clip" {key of config.data: value}, "dtype" and "mean_lengths" {readout: its mean length on the
        training videos}, which the readout "all" is divided by; empty for results of an earlier version.
      readouts: {part: {"chosen", "chosen_by"}} of the evaluators of pooled features, the most usual first.
      heads: of the file where it kept its heads (`fitted_heads`), if it did.
    """

    path: pathlib.Path
    step: int
    settings: Mapping[str, Any]
    features: Mapping[str, Any]
    readouts: Mapping[str, Mapping[str, str]]
    heads: pathlib.Path

    def chosen(self, part: str = "") -> tuple[str, str]:
        """The readout that validation chose for an evaluator ("" for the first), and by what.

        Raises:
          ReadoutError: there is no such evaluator.
        """
        part = part or next(iter(self.readouts), "")
        if part not in self.readouts:
            known = ", ".join(f"{BEST}:{name}" for name in self.readouts) or "none"
            raise ReadoutError(f"readout {BEST}:{part}: {self.path} holds no choice of that name; there are {known}")
        entry = self.readouts[part]
        return entry["chosen"], f"{part} on {entry['chosen_by']}, evaluation of step {self.step}"


def find(path: str | os.PathLike) -> Scored | None:
    """The evaluation of the checkpoint that `read_weights` takes from `path`; None if it was not evaluated.

    Raises:
      CheckpointError: there is no checkpoint.
      ReadoutError: results.json is damaged.
    """
    path = pathlib.Path(path)
    if path.is_file():
        return None
    folder = checkpoint.newest_step(path)
    step, workdir = int(folder.name.removeprefix("step_")), folder.parent.parent
    evaluated = workdir / "eval" / str(step)
    for file in (workdir / "results.json", evaluated / "results.json", *sorted(evaluated.glob("*/results.json"))):
        if file.is_file() and (result := _read(file, step, evaluated)) is not None:
            return result
    return None


def _read(file: pathlib.Path, step: int, evaluated: pathlib.Path) -> Scored | None:
    try:
        results = json.loads(file.read_bytes())
        if results["step"] != step or "features" not in results:  # of another step, or of an earlier version
            return None
        parts = {
            part: {"chosen": entry["encoders"][results_lib.STUDIED]["chosen"], "chosen_by": entry["chosen_by"]}
            for part, entry in results["readouts"].items()
            # What was chosen on another dataset, or of tokens, is no readout of this one's pooled features.
            if "bank" not in entry and results_lib.STUDIED in entry["encoders"]
        }
        known = {part: entry for part, entry in parts.items() if entry["chosen"] in readouts.KNOWN}
        order = [
            *(name for name in display_names.FAMILIES if name in known),
            *sorted(set(known) - set(display_names.FAMILIES)),
        ]
        chosen = {name: known[name] for name in order}
        settings = results["settings"]
        heads = evaluated / feature_extraction.folder(settings.get("dataset") or "") / fitted_heads.FILE
        return Scored(file, step, settings, results.get("features", {}), chosen, heads)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReadoutError(
            f"{file} is damaged ({type(error).__name__}: {error}): evaluate again (--mode=eval), or name a readout"
        ) from None
