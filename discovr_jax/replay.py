"""Repeats the step at which a run stopped because it was not finite, and says which parts of it are not.

python -m discovr_jax.replay WORKDIR/nonfinite/checkpoints/step_N [--data_dir=RECORDS]
"""

import argparse
import pathlib
import sys

import jax
import numpy as np
from ml_collections import ConfigDict

from discovr_jax import storage
from discovr_jax.data import mixture, pipeline
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.method.fidelity import option
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.runs.checkpoint import CheckpointError, Checkpoints
from discovr_jax.runs.step_watch import described


def replay(dump: pathlib.Path, data_dir: str | None = None) -> tuple[dict[str, float], bool]:
    """Makes the step again, from the state of the dump and the batch of the records.

    Args:
      dump: the folder that the error of the run named.
      data_dir: where the records are now; None for where they were.

    Returns:
      ({metric: value} of the step and of each module's gradient, whether it is again not finite).

    Raises:
      CheckpointError: no dump, damaged, or its batch is no longer what the run saw.
      RecordsError: the records are gone.
    """
    dump = pathlib.Path(dump).resolve()
    step = dump.name.removeprefix("step_")
    if dump.parent.name != "checkpoints" or not step.isdigit() or not dump.is_dir():
        raise CheckpointError(f"{dump} is no dump: give WORKDIR/nonfinite/checkpoints/step_N")
    dumps = Checkpoints(dump.parents[1], read_only=True)
    meta = dumps.meta(int(step))
    config = experiment_lib.saved_config(meta["config"])
    if isinstance(config.data.abnormal_rule, ConfigDict):
        config.data.abnormal_rule = None  # as it was: each dataset's own
    if data_dir:
        config.data.data_dir = data_dir
    config.data.workers = 0
    sources = mixture.open_training(config.data)
    chosen = pipeline.training_records(sources, config.data)
    experiment = experiment_lib.make_experiment(config, sum(map(len, chosen.values())))
    mesh = mesh_lib.make_mesh(config.mesh)
    crop = option(config, "data.crop")
    second_clip = experiment.views.positive == "other_beat"
    with pipeline.train_batches(
        sources, config, crop=crop, second_clip=second_clip, start_step=int(step)
    ) as batches:
        placed = {name: jax.device_put(value, mesh_lib.batch_sharding(mesh)) for name, value in next(batches).items()}
    before, now = meta["data"]["batch"], described(placed)
    if before is not None and before != now:
        differ = ", ".join(sorted(name for name in before if before[name] != now[name]))
        raise CheckpointError(
            f"{dump}: the batch of step {step} is not what the run saw ({differ} differ): the records were changed "
            "since, or the batch was damaged in memory"
        )
    abstract = train_step.abstract_state(experiment.model, experiment.tx, experiment.masks, mesh)
    state, _ = dumps.restore(int(step), abstract)
    dumps.close()
    inputs = {name: placed[name] for name in experiment.input_shapes(1)}
    norms = jax.jit(experiment_lib.make_train_step(experiment, config).module_norms)(state, inputs)
    _, metrics = experiment_lib.jit_train_step(experiment, config, mesh)(state, inputs)
    values = {name: float(value) for name, value in sorted(jax.device_get(metrics).items())}
    skipped = values.pop("skipped")
    values |= {f"gradient/{name}": float(value) for name, value in sorted(jax.device_get(norms).items())}
    return values, skipped > 0


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit code 0 if the step is again not finite."""
    parser = argparse.ArgumentParser(prog="python -m discovr_jax.replay", description=__doc__)
    parser.add_argument("dump", type=pathlib.Path, help="WORKDIR/nonfinite/checkpoints/step_N")
    parser.add_argument("--data_dir", help="where the records are, if they were moved")
    given = parser.parse_args(storage.expand_home(arguments))
    try:
        values, reproduced = replay(given.dump, given.data_dir)
    except (CheckpointError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, value in values.items():
        print(f"{name:32} {value:.6g}{'' if np.isfinite(value) else '   <- not finite'}")
    print("The step is not finite again." if reproduced else "This time the step is finite: it was not reproduced.")
    return 0 if reproduced else 1


if __name__ == "__main__":
    sys.exit(main())
