"""The door: flags, jax.distributed, dispatch. No logic lives here.

python -m discovr_jax.main --config=configs/adult.py --workdir=DIR [--mode=train|eval] [--config.KEY=VALUE ...]
"""

import logging
import os
import pathlib
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the same command again resumes in it.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "train (and evaluate), or evaluate a checkpoint.")
_CONFIG = config_flags.DEFINE_config_file("config", None, "A config file or its name, with :arguments.")


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

    from discovr_jax import evaluate, train
    from discovr_jax.checkpoint import CheckpointError
    from discovr_jax.data.records import RecordsError
    from discovr_jax.workdir import WorkdirError

    cache = pathlib.Path.home() / ".cache" / "discovr_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(cache)))
    config, workdir = _CONFIG.value, _WORKDIR.value or f"runs/{pathlib.Path(_config_name()).stem}"
    logger.info("workdir %s, %d device(s): %s", workdir, jax.device_count(), jax.devices()[0].device_kind)
    try:
        if _MODE.value == "train":
            train.train_and_evaluate(config, workdir, evaluate.evaluate_state)
        else:
            evaluate.evaluate_workdir(config, workdir)
    except (RecordsError, WorkdirError, CheckpointError, train.NonFiniteError) as error:
        sys.exit(f"error: {error}")


def _config_name() -> str:
    return next(a.split("=", 1)[1] for a in sys.argv if a.startswith("--config=")).partition(":")[0]


def _resolve_config(argv: list[str]) -> list[str]:
    """--config takes a path or the name of a shipped config."""
    from discovr_jax.experiment import config_path

    return [f"--config={config_path(a[9:])}" if a.startswith("--config=") else a for a in argv]


if __name__ == "__main__":
    app.run(main, argv=_resolve_config(sys.argv))
