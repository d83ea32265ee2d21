"""The door: flags, jax.distributed, dispatch. No logic lives here.

python -m discovr_jax.main --config=configs/adult.py --workdir=DIR [--mode=train|eval|plan] [--config.KEY=VALUE ...]
"""

import difflib
import errno
import logging
import os
import pathlib
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from discovr_jax.workdir import WorkdirError, flatten

# What the storage of a workdir or of records can do to a run; any other OSError is a defect of ours.
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)

_LONGEST = 4000  # characters of an error in an argument, which may quote it

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the same command again resumes in it.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "plan"], "See README.md.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no cluster is found out.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes run this command together.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_TOPOLOGY = flags.DEFINE_string("topology", "", "plan: v5e:4x4, v5p:4x4x4, v6e:8x8, gpu:h200:8 or cpu:8.")
_BATCH = flags.DEFINE_integer("batch", None, "plan: clips a step, instead of the config's.")
_SWEEP = flags.DEFINE_bool("sweep", False, "plan: compare mesh shapes.")
_QUICK = flags.DEFINE_bool("quick", False, "plan: compile a few blocks and extend to all, in a fraction of the time.")
_CONFIG = config_flags.DEFINE_config_file("config", None, "A config file or its name, with :arguments.")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    # Our lines only: Orbax and TFDS log theirs through absl, a page a checkpoint.
    absl_logging.set_verbosity(absl_logging.WARNING)
    logger = logging.getLogger("discovr_jax")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)

    import jax

    from discovr_jax import chips, distributed, evaluate, plan, train
    from discovr_jax.checkpoint import CheckpointError
    from discovr_jax.data.pipeline import LoaderError
    from discovr_jax.data.records import RecordsError
    from discovr_jax.step_watch import NonFiniteError
    from discovr_jax.weights import WeightsError

    cache = pathlib.Path.home() / ".cache" / "discovr_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(cache)))
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    config, workdir = _CONFIG.value, _WORKDIR.value or f"runs/{name}"
    try:
        if _MODE.value == "plan":
            chips.simulate(chips.parse_topology(_TOPOLOGY.value, config.mesh.slices))
            plan.plan_workdir(config, workdir, _TOPOLOGY.value, _BATCH.value, _SWEEP.value, _QUICK.value)
            return
        distributed.initialise(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        if not distributed.is_first():
            logger.setLevel(logging.ERROR)  # what goes for all, the first says
        logger.info("workdir %s, %d device(s): %s", workdir, jax.device_count(), jax.devices()[0].device_kind)
        if _MODE.value == "train":
            train.train_and_evaluate(config, workdir, evaluate.evaluate_state)
        else:
            evaluate.evaluate_workdir(config, workdir)
    except Exception as error:
        told = (RecordsError, LoaderError, WorkdirError, CheckpointError, WeightsError, NonFiniteError)
        told += (chips.TopologyError, plan.PlanError, distributed.DistributedError)
        message = str(error) if isinstance(error, told) else None
        if isinstance(error, OSError) and error.errno in _STORAGE:
            message = (
                f"{error.filename or workdir}: {error.strerror}. Make space, or repair the storage or its "
                "permissions; then the same command resumes"
            )
        distributed.leave(error, message)


def parse_flags(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """absl's parsing, with errors of one line; --config takes a path or the name of a shipped config."""
    from discovr_jax.experiment import config_path

    if "--config" in argv[:-1]:  # "--config NAME"
        at = argv.index("--config")
        argv = [*argv[:at], f"--config={argv[at + 1]}", *argv[at + 2 :]]
    try:
        argv = [f"--config={config_path(a[9:])}" if a.startswith("--config=") else a for a in argv]
        left = values(argv)
        hasattr(values["config"].value, "seed")  # a file that could not be loaded says so here
        return left
    except FileNotFoundError as error:
        words = str(error)
    except RecursionError:
        words = "an argument is too long, or nested too deeply"
    except flags.Error as error:
        # An error inside a config file comes with its traceback; if it is a check of ours, its last line says all.
        last = str(error).strip().splitlines()[-1]
        words = last.removeprefix("ValueError: ") if last.startswith("ValueError: ") else str(error)
    except (ArithmeticError, AttributeError, LookupError, OSError, SyntaxError, TypeError, ValueError) as error:
        # The library reads a key as Python would, and so fails in as many ways.
        last = (str(error).strip().splitlines() or [""])[-1]
        words = _unknown_keys(argv, values) or f"an argument cannot be read ({type(error).__name__}: {last})"
    sys.exit(f"error: {words[:_LONGEST]}")


def _unknown_keys(argv: list[str], values: flags.FlagValues) -> str:
    """Which keys of the arguments the config has not, and which were perhaps meant; empty if all are there."""
    path = next((a[9:] for a in argv if a.startswith("--config=")), None)
    given = [a.removeprefix("--config.").partition("=")[0] for a in argv if a.startswith("--config.")]
    if path is None or not given:
        return ""
    try:
        known = flatten(values["config"].parser.parse(path).to_dict())
    except OSError:  # the file could not be loaded
        return ""
    unknown = [key for key in given if key not in known]
    near = [match for key in unknown for match in difflib.get_close_matches(key, known, n=3)]
    hint = f"Did you mean {', '.join(near)}? " if near else ""
    return f"the config has no key {', '.join(unknown)}. {hint}Every key is in configs/base.py" if unknown else ""


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
