"""A run that starts from weights: `config.init_from`."""

import logging
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from discovr_jax.convert.read import WeightsError, read_weights
from discovr_jax.method.experiment import make_model
from discovr_jax.parallel import processes
from discovr_jax.runs import checkpoint
from discovr_jax.trees import path_name

logger = logging.getLogger(__name__)

TREES = ("params", "teacher")
POSITION_MEAN = "memory/position_mean"


def initialise_from(state, config: ConfigDict):
    """A fresh `TrainState` with the weights, teachers and memory of `config.init_from`; the rest stays.

    Modules that the checkpoint has not got (those of a branch that it did not train, say) stay as drawn, and a student
    or teacher that only its counterpart is there for starts as that; both are logged. The mean image token of each
    patch position is taken over where frames have the same grid. Arrays keep their sharding.

    Raises:
      WeightsError: sizes differ, or the checkpoint lacks a video encoder.
      CheckpointError, ConversionError: see `read_weights`.
    """
    path = folder = config.init_from
    if pathlib.Path(path).is_dir():  # the same step on every process, also of a workdir where training goes on
        folder = processes.gathered(str(checkpoint.newest_step(path)))[0]
    weights = read_weights(folder, lambda name: name.startswith((*(f"{tree}/" for tree in TREES), "memory/")))
    fallback = state.params, state.teacher, state.memory
    leaves, structure = jax.tree_util.tree_flatten_with_path(dict(zip((*TREES, "memory"), fallback, strict=True)))
    names = [path_name(keys) for keys, _ in leaves]
    sources = _sources(names, weights.arrays)
    for name, (_, leaf) in zip(names, leaves, strict=True):
        # Frames of another size: the mean starts from the first batch, as it does where the checkpoint has none.
        if name == POSITION_MEAN and name in sources and weights.arrays[name].shape != leaf.shape:
            del sources[name]
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
    fresh = sorted({_module(name) for name in names if name not in sources} - {POSITION_MEAN})
    if fresh:
        logger.warning("not in %s, so starting anew: %s", path, ", ".join(fresh))
    _compare(config, weights.config)
    filled = [
        _placed(weights.arrays[sources[name]], leaf) if name in sources else leaf
        for name, (_, leaf) in zip(names, leaves, strict=True)
    ]
    parts = jax.tree_util.tree_unflatten(structure, filled)
    logger.info("starting from the weights of %s", path)
    return state.replace(**parts)


def _module(name: str) -> str:
    """What is there whole or not at all: a module of a tree, and each array of the memory."""
    tree, *rest = name.split("/")
    return name if tree == "memory" else f"{tree}/{rest[0]}"


def _sources(names: Sequence[str], arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """For every array of the run, the array of the checkpoint that it starts as; none for fresh modules.

    Raises:
      WeightsError: a module is there in part.
    """
    modules = {_module(name) for name in arrays}
    sources, missing = {}, []
    for name in names:
        tree, rest = name.split("/", 1)
        for candidate in (tree, *(other for other in TREES if tree in TREES and other != tree)):
            source = f"{candidate}/{rest}"
            if _module(source) in modules:
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
    for name in ("input_normalisation", "positions", "motion"):
        if (ours := getattr(model, name)) != (others := getattr(source, name)):
            logger.warning("model.%s is %r here, %r in init_from", name, ours, others)


def _placed(array: np.ndarray, leaf: jax.Array) -> jax.Array:
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])
