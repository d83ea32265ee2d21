"""Entry point: flags, jax.distributed, dispatch. No logic lives here.

python -m discovr_jax.main --config=configs/adult.py --workdir=DIR [--mode=train|eval|plan] [--config.KEY=VALUE ...]
python -m discovr_jax.main --mode=eval --config=... --workdir=DIR [--features=NAME=FILE.parquet ...]
python -m discovr_jax.main --mode=compare --workdirs=A,B,C [--workdir=OUT]
"""

import errno
import logging
import os
import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from discovr_jax import command_line
from discovr_jax.progress import doing
from discovr_jax.runs.workdir import WorkdirError

# What the storage of a workdir or of records can do to a run; any other OSError is a defect of ours.
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)

INCOMPLETE = 3  # exit code of an evaluation in which some evaluator could not run; the others have their metrics

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the same command again resumes in it.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "plan", "compare"], "See README.md.")
_WORKDIRS = flags.DEFINE_list("workdirs", None, "compare: the runs, FOLDER or NAME=FOLDER+FOLDER for several seeds.")
_FEATURES = flags.DEFINE_multi_string(
    "features", [], "eval: NAME=FILE.parquet, features of another encoder, scored beside; repeat it for more."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no cluster is found out.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes run this command together.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_TOPOLOGY = flags.DEFINE_string("topology", "", "plan: v5e:4x4, v5p:4x4x4, v6e:8x8, v7:2x2x1, gpu:h200:8, cpu:8.")
_BATCH = flags.DEFINE_integer("batch", None, "plan: clips per step, instead of the config's.")
_SWEEP = flags.DEFINE_bool("sweep", False, "plan: compare mesh shapes.")
_QUICK = flags.DEFINE_bool("quick", False, "plan: compile a few blocks and extend to all, in a fraction of the time.")
_CONFIG = config_flags.DEFINE_config_file("config", None, "A config file or its name, with :arguments.")
command_line.require_config()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    if _FEATURES.value and _MODE.value != "eval":
        raise app.UsageError("--features goes with --mode=eval")
    logger = command_line.show_log()
    config = _CONFIG.value
    name = config_flags.get_config_filename(flags.FLAGS["config"]) if config else _MODE.value
    workdir = _WORKDIR.value or f"runs/{pathlib.Path(name).stem}"
    logger.info("%s in workdir %s: loading JAX", _MODE.value, workdir)  # takes seconds, minutes on a slow disk

    with doing("loading JAX", logger.info):
        import jax

        from discovr_jax import train
    from discovr_jax.convert.read import WeightsError
    from discovr_jax.data.pipeline import LoaderError
    from discovr_jax.data.records import RecordsError
    from discovr_jax.errors import ConfigError
    from discovr_jax.evaluation import compare, evaluate
    from discovr_jax.evaluation.features.feature_files import TableError
    from discovr_jax.parallel import processes
    from discovr_jax.planning import chips, plan
    from discovr_jax.runs.checkpoint import CheckpointError
    from discovr_jax.runs.step_watch import NonFiniteError

    cache = pathlib.Path.home() / ".cache" / "discovr_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(cache)))
    try:
        if _MODE.value == "compare":
            compare.compare_runs(_WORKDIRS.value or [], workdir)
            return
        if _MODE.value == "plan":
            chips.simulate(chips.parse_topology(_TOPOLOGY.value, config.mesh.slices))
            with doing("compiling for hardware that is not here", logger.info):
                plan.plan_workdir(config, workdir, _TOPOLOGY.value, _BATCH.value, _SWEEP.value, _QUICK.value)
            return
        processes.initialise(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        if not processes.is_first():
            logger.setLevel(logging.ERROR)  # only process 0 logs
        logger.info("workdir %s, %d device(s): %s", workdir, jax.device_count(), jax.devices()[0].device_kind)
        if _MODE.value == "train":
            train.train_and_evaluate(config, workdir, evaluate.evaluate_state)
            return
        results = evaluate.evaluate_workdir(config, workdir, _FEATURES.value)
        if any(skip["set_up"] for skip in results["skipped"]):
            sys.exit(INCOMPLETE)
    except Exception as error:
        told = (RecordsError, LoaderError, WorkdirError, CheckpointError, WeightsError, NonFiniteError)
        told += (chips.TopologyError, plan.PlanError, processes.DistributedError, ConfigError, TableError)
        message = str(error) if isinstance(error, told) else None
        if isinstance(error, OSError) and error.errno in _STORAGE:
            message = (
                f"{error.filename or workdir}: {error.strerror}. Make space, or repair the storage or its "
                "permissions; then the same command resumes"
            )
        processes.leave(error, message)


def run() -> None:
    """The console script discovr-train."""
    app.run(main, flags_parser=command_line.parse_flags)


def run_plan() -> None:
    """The console script discovr-plan."""
    sys.argv.insert(1, "--mode=plan")
    run()


if __name__ == "__main__":
    run()
