"""A copy of a run with what using its encoder needs: scored weights, results, heads; no optimizer, no students.

python -m discovr_jax.slim WORKDIR --output=DIR [--without_heads]

    checkpoints/step_N/weights.safetensors    arrays; their config, in the header
    config.json                               the same config, to be read
    eval/N/results.json, heads.safetensors    where that checkpoint was evaluated

Withheld are folders and projects that the config names, and why an evaluator did not run, which may name files.
"""

import argparse
import copy
import functools
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from discovr_jax import storage
from discovr_jax.convert import folder
from discovr_jax.data import frame_rates
from discovr_jax.evaluation import fitted_heads, results_io, scored
from discovr_jax.models import readouts
from discovr_jax.progress import doing
from discovr_jax.runs import checkpoint, metrics_log

WITHHELD = "withheld"
# Keys of the config that name what is not passed on.
PLACES = (*metrics_log.PRIVATE, "log.project")
ENCODERS = ("teacher/video_encoder/", "teacher/image_encoder/")


def write(workdir: str | os.PathLike, output: str | os.PathLike, heads: bool = True) -> pathlib.Path:
    """Write the copy, whole or not at all; `load_encoder`, `extract` and `predict` read it like the run.

    Args:
      workdir: of a run; its newest checkpoint is taken, with the evaluation of that checkpoint if there is one.
      heads: whether the fitted heads come along; they hold the features and ids of the training videos.

    Returns:
      The folder.

    Raises:
      ConversionError: something is at `output`.
      CheckpointError: the run has no checkpoint.
    """
    output = folder.check_free(output)  # before anything is read
    evaluated = scored.find(workdir)
    kept = evaluated.heads if evaluated and heads and evaluated.heads.is_file() else None
    modules = readouts.branches(_poolings(evaluated))
    modules |= {*fitted_heads.read(kept).about["weights_sha256"]} if kept else set()
    needed = (*ENCODERS, *(prefix for name, prefix in scored.PREFIXES.items() if name in modules))
    source = checkpoint.newest_step(workdir)
    arrays, meta = checkpoint.read_arrays(source, lambda name: name.startswith(needed))
    step = int(source.name.removeprefix("step_"))
    config = without_places(meta["config"])
    with folder.whole(output) as temporary:
        data = {name: meta["data"][name] for name in (frame_rates.KEY,) if name in meta["data"]}
        checkpoint.save_weights(temporary, step, arrays, data, config)
        results_io.write_json(temporary / "config.json", config)
        if evaluated:
            results = json.loads(evaluated.path.read_bytes())
            skipped = [skip | {"reason": WITHHELD} for skip in results.get("skipped", [])]
            place = pathlib.Path("eval", str(step))
            results_io.write_json(temporary / place / "results.json", results | {"skipped": skipped})
            if kept:  # in the folder of the dataset that they are of, if another one was scored
                copied = temporary / kept.relative_to(source.parent.parent)
                copied.parent.mkdir(exist_ok=True)
                shutil.copy(kept, copied)
    return output


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """A saved config whose `PLACES` are withheld; those that say nothing ("") stay so."""
    result = copy.deepcopy(dict(config))
    for key in PLACES:
        *sections, name = key.split(".")
        inner = functools.reduce(lambda outer, section: outer.get(section, {}), sections, result)
        if inner.get(name):
            inner[name] = WITHHELD
    return result


def _poolings(evaluated: scored.Scored | None) -> list[str]:
    """Poolings that validation chose, and those that "all" joins."""
    chosen = [entry["chosen"] for entry in evaluated.readouts.values()] if evaluated else []
    return chosen + ([*evaluated.features.get("mean_lengths", {})] if evaluated and "all" in chosen else [])


@doing("copying what is read")
def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 if the copy was written, 1 with the reason on stderr if not."""
    parser = argparse.ArgumentParser(
        prog="python -m discovr_jax.slim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", help="of a run")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write; must not exist")
    parser.add_argument("--without_heads", action="store_true", help="heads hold features and ids of training videos")
    args = parser.parse_args(storage.expand_home(argv))
    try:
        output = write(args.workdir, args.output, heads=not args.without_heads)
    except (ValueError, checkpoint.CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{size / 1e6:.1f} MB written to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
