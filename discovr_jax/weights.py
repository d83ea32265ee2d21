"""Weights from a workdir, a checkpoint, a converted one or a PyTorch file, and a run that starts from them."""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from discovr_jax import checkpoint
from discovr_jax.experiment import make_model, saved_config
from discovr_jax.optim import path_name

logger = logging.getLogger(__name__)

TREES = ("params", "teacher")


class WeightsError(ValueError):
    """Weights do not fit what they are meant for; the message names the arrays or the key to change."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Arrays by path ("teacher/video_encoder/cls_token"), and the config whose model they belong to."""

    config: ConfigDict
    arrays: dict[str, np.ndarray]


def read(path: str | os.PathLike, wanted: Callable[[str], bool], only: str = "") -> Weights:
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
        return Weights(saved_config(meta["config"]), arrays)
    from discovr_jax.convert import state, torch_files
    from discovr_jax.convert.sizes import Hints

    source = torch_files.read(path)
    converted = state.from_torch(source.tensors, Hints.from_args(source.args), only=only)
    for note in converted.notes:
        logger.info("%s: %s", path, note)
    arrays = {name: array for name, array in converted.arrays.items() if wanted(name)}
    return Weights(converted.config, arrays)


def initialise_from(state, config: ConfigDict):
    """A fresh `TrainState` with the weights, teachers and centres of `config.init_from`; the rest stays.

    Modules that the checkpoint has not got stay as drawn, and a student or teacher that only its counterpart
    is there for starts as that; both are logged. Arrays keep their place on the mesh.

    Raises:
      WeightsError: sizes differ, or the checkpoint lacks a video encoder.
      CheckpointError, ConversionError: see `read`.
    """
    path = config.init_from
    weights = read(path, lambda name: name.startswith((*(f"{tree}/" for tree in TREES), "memory/centers/")))
    leaves, structure = jax.tree_util.tree_flatten_with_path(
        {"params": state.params, "teacher": state.teacher, "memory": {"centers": state.memory.centers}}
    )
    names = [path_name(keys) for keys, _ in leaves]
    sources = _sources(names, weights.arrays)
    wrong = [
        f"{name}: here {leaf.shape}, there {weights.arrays[sources[name]].shape}"
        for name, (_, leaf) in zip(names, leaves, strict=True)
        if name in sources and weights.arrays[sources[name]].shape != leaf.shape
    ]
    if wrong:
        raise WeightsError(
            f"config.init_from={path} does not fit this config in {len(wrong)} arrays: {'; '.join(wrong[:5])}. "
            "Set config.model and config.head to its sizes (see its config.json)"
        )
    if not any(name.startswith("params/video_encoder/") for name in sources):
        raise WeightsError(f"config.init_from={path} holds no video encoder")
    fresh = sorted({"/".join(name.split("/")[:2]) for name in names if name not in sources})
    if fresh:
        logger.warning("not in %s, so starting anew: %s", path, ", ".join(fresh))
    _compare(config, weights.config)
    filled = [
        _placed(weights.arrays[sources[name]], leaf) if name in sources else leaf
        for name, (_, leaf) in zip(names, leaves, strict=True)
    ]
    parts = jax.tree_util.tree_unflatten(structure, filled)
    memory = state.memory.replace(centers=parts["memory"]["centers"])
    logger.info("starting from the weights of %s", path)
    return state.replace(params=parts["params"], teacher=parts["teacher"], memory=memory)


def _sources(names: Sequence[str], arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """For every array of the run, the array of the checkpoint that it starts as; none for fresh modules.

    Raises:
      WeightsError: a module is there in part.
    """
    modules = {tuple(name.split("/")[:2]) for name in arrays}
    sources, missing = {}, []
    for name in names:
        tree, module, *rest = name.split("/")
        for candidate in (tree, *(other for other in TREES if tree in TREES and other != tree)):
            if (candidate, module) in modules:
                source = "/".join((candidate, module, *rest))
                if source in arrays:
                    sources[name] = source
                else:
                    missing.append(source)
                break
    if missing:
        raise WeightsError(
            f"the checkpoint lacks {len(missing)} arrays that this config's model has: {', '.join(missing[:5])}. "
            "Set config.model to its sizes (depth, video_qkv_bias; see its config.json)"
        )
    return sources


def _compare(config: ConfigDict, theirs: ConfigDict) -> None:
    """What shapes do not show: attention heads must agree; another grid or normalisation deserves a warning."""
    theirs.model.attention = config.model.attention  # a matter of the machine
    model, source = make_model(config), make_model(theirs)
    if (model.heads, model.decoder_heads) != (source.heads, source.decoder_heads):
        raise WeightsError(
            f"config.init_from={config.init_from} has {source.heads} attention heads ({source.decoder_heads} in "
            f"the decoder), this config {model.heads} ({model.decoder_heads}): set config.model to its sizes"
        )
    here, there = (m.position_grid or (m.grid.time, m.grid.rows, m.grid.cols) for m in (model, source))
    if here != there:
        logger.warning(
            "clips have a grid of %s patches here and %s in %s: --config.model.position_grid='%s' keeps the "
            "meaning of its positions",
            *(here, there, config.init_from, there),
        )
    for name in ("intensity", "positions"):
        if (ours := getattr(model, name)) != (others := getattr(source, name)):
            logger.warning("model.%s is %r here, %r in init_from", name, ours, others)


def _placed(array: np.ndarray, leaf: jax.Array) -> jax.Array:
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])
