"""Weights from a workdir, a checkpoint, a converted one or a PyTorch file; or initial ones."""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from discovr_jax import trees
from discovr_jax.data import frame_rates
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.runs import checkpoint

logger = logging.getLogger(__name__)


class WeightsError(ValueError):
    """Weights do not fit what they are meant for; the message names the arrays or the key to change."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    Attributes:
      config: whose model the arrays belong to.
      arrays: by path ("teacher/video_encoder/cls_token").
      frame_rates: of the training videos, as of `data.frame_rates.of_training`; None if the checkpoint does not say.
    """

    config: ConfigDict
    arrays: dict[str, np.ndarray]
    frame_rates: Sequence[float] | None = None


def read_weights(path: str | os.PathLike, wanted: Callable[[str], bool], only: str = "") -> Weights:
    """Read some arrays of a checkpoint in any form.

    Args:
      path: a workdir, a converted checkpoint, a checkpoints/step_N folder, or a .pth or .safetensors file.
      wanted: of an array's path.
      only: of a PyTorch file, the one module to look at; "" for all.

    Raises:
      CheckpointError, ConversionError: nothing there, damaged, incomplete, or refused.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        arrays, meta = checkpoint.read_arrays(path, wanted)
        return Weights(experiment_lib.saved_config(meta["config"]), arrays, meta["data"].get(frame_rates.KEY))
    from discovr_jax.convert import state, torch_files
    from discovr_jax.convert.sizes import Hints

    source = torch_files.read_torch_file(path)
    converted = state.from_torch(source.tensors, Hints.from_args(source.args), only=only)
    for note in converted.notes:
        logger.info("%s: %s", path, note)
    arrays = {name: array for name, array in converted.arrays.items() if wanted(name)}
    return Weights(converted.config, arrays)


def initial_weights(config: ConfigDict, seed: int, wanted: Callable[[str], bool]) -> Weights:
    """The arrays that a run of a config and a seed begins with; the same on every machine with the same jax.

    Args:
      wanted: of an array's path, as of `read_weights`.
    """
    experiment = experiment_lib.make_experiment(config, max(config.batch_size, 1))  # of schedules, which are not used

    @jax.jit
    def init(key):
        state = train_step.init_state(experiment.model, experiment.tx, experiment.masks, key)
        return {"params": state.params, "teacher": state.teacher}

    leaves = jax.tree_util.tree_leaves_with_path(init(experiment_lib.initial_key(seed)))
    arrays = {trees.path_name(path): np.asarray(leaf) for path, leaf in leaves}
    current = experiment_lib.saved_config(experiment_lib.config_dict(config))
    return Weights(current, {name: array for name, array in arrays.items() if wanted(name)})
