"""PyTorch state dicts to our arrays and back, strictly: every tensor once, every array once, equal shapes."""

import dataclasses
import fnmatch
import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from discovr_jax.convert import names
from discovr_jax.convert.sizes import ConversionError, Hints, infer
from discovr_jax.losses import terms
from discovr_jax.method import experiment
from discovr_jax.method import step as train_step
from discovr_jax.models import positions
from discovr_jax.trees import path_name

# Kept by us alone; the public code has nothing like it and does without.
OURS_ONLY = ("memory/position_mean",)
# A teacher's tables and gains went through the EMA's rounding, so they are equal to ours to this (absolute).
COMPUTED_TOLERANCE = 1e-4
LISTED = 12  # names in an error message, at most
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Converted:
    """A checkpoint in our names.

    Attributes:
      config: with the sizes of the model.
      arrays: float32 by path: "params/...", "teacher/...", "memory/centers/...".
      computed: tensors that we compute instead of storing, as they were, so that `to_torch` gives them back.
      modules: the PyTorch modules that were there.
      notes: what was assumed, left out or cast.
    """

    config: ConfigDict
    arrays: Arrays
    computed: Arrays
    modules: list[str]
    notes: list[str]


def from_torch(
    tensors: Mapping[str, np.ndarray], hints: Hints, allow: Sequence[str] = (), only: str = ""
) -> Converted:
    """Convert a whole state dict, or a bare encoder (names without a module): it becomes the video teacher.

    Args:
      tensors: by PyTorch name; prefixes "module." and "backbone." are ignored.
      hints: what shapes cannot tell.
      allow: shell patterns of PyTorch names that may stay unused or missing.
      only: PyTorch module to convert, such as "video_teacher"; the others are not looked at. "" for all.

    Raises:
      ConversionError: lists tensors that nothing uses, arrays that nothing fills, and shapes that differ.
    """
    tensors, notes = _without_prefixes(tensors), []
    bare = bool(tensors) and all(_is_encoder_part(name) for name in tensors)
    if bare:
        tensors = {f"video_teacher.{name}": tensor for name, tensor in tensors.items()}
        only = only or "video_teacher"
        notes.append("a bare encoder: taken as the video teacher")
    sizes = {name: tensor.shape for name, tensor in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not only or name.startswith(f"{only}.")}
    computed = {name: tensor for name, tensor in tensors.items() if names.is_computed(name)}
    known = {name: t for name, t in tensors.items() if name not in computed and names.our_name(name)}
    unused = sorted(tensors.keys() - computed.keys() - known.keys())
    try:
        config, assumed = infer(sizes, hints)
        want = expected_shapes(config)
    except ConversionError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ConversionError(f"no model has the sizes of these tensors ({error})") from None
    notes += assumed
    if only:
        want = {path: shape for path, shape in want.items() if path.startswith(f"{names.MODULES[only][0]}/")}

    arrays, wrong = {}, []
    for name, tensor in known.items():
        path = names.our_name(name)[0]
        shape = torch_shape(path, want[path]) if path in want else None
        if shape is None:
            unused.append(name)
        elif tuple(tensor.shape) != shape:
            wrong.append(f"{name} has shape {tuple(tensor.shape)}, wanted {shape}")
        else:
            if tensor.dtype != np.float32:
                notes.append(f"{name} is cast from {tensor.dtype} to float32")
            arrays[path] = np.ascontiguousarray(names.to_ours(name, tensor)[1], np.float32)
    filled = {names.our_name(name)[0] for name in known}
    missing = sorted(names.torch_name(path)[0] for path in want.keys() - filled)
    problems = [*wrong, *_check_computed(computed, config)]
    for what, result in (("not used", unused), ("missing", missing)):
        refused = [name for name in result if not _allowed(name, allow)]
        if refused:
            problems.append(f"{len(refused)} {what}: {_listed(refused)}")
        left = [name for name in result if _allowed(name, allow)]
        if left:
            notes.append(f"allowed, {what}: {_listed(left)}")
    if problems:
        remedy = ". Name with --allow PATTERN what you know to be left out" if unused or missing else ""
        raise ConversionError("the checkpoint does not fit: " + "; ".join(problems) + remedy)
    return Converted(config, arrays, computed, sorted({name.split(".")[0] for name in known}), notes)


def to_torch(
    arrays: Mapping[str, np.ndarray],
    config: ConfigDict,
    computed: Mapping[str, np.ndarray] | None,
    allow: Sequence[str] = (),
) -> Arrays:
    """The state dict of our arrays, in the public code's names and layouts.

    Args:
      arrays: by path; optimizer state is not among them.
      config: gives the sizes of the tensors that the public code stores and we compute.
      computed: those tensors as they came; None computes those of all modules that are there.
      allow: shell patterns of our paths that may be left out, having no counterpart.

    Raises:
      ConversionError: lists arrays that the public code has no tensor for; or the model counts positions otherwise.
    """
    if config.model.positions != "1d":
        raise ConversionError(
            f"model.positions={config.model.positions!r}: the public code knows flattened positions only, and would "
            "compute other features from these weights"
        )
    tensors, left = {}, []
    for path, array in arrays.items():
        if names.torch_name(path) is None:
            left.append(path)
        else:
            name, tensor = names.to_torch(path, array)
            tensors[name] = np.ascontiguousarray(tensor)
    refused = [path for path in sorted(left) if not _allowed(path, (*OURS_ONLY, *allow))]
    if refused:
        raise ConversionError(
            f"the public code has no tensor for {len(refused)} arrays: {_listed(refused)}. "
            "Leave them out with --allow PATTERN"
        )
    if computed is None:
        modules = {name.split(".")[0] for name in tensors}
        computed = {n: compute(n, config) for n in names.COMPUTED if n.split(".")[0] in modules}
    return tensors | dict(computed)


def expected_shapes(config: ConfigDict) -> dict[str, tuple[int, ...]]:
    """Shape of every array that the model of `config` has with all branches, by path; nothing is built."""
    run = experiment.make_experiment(config, num_train=config.batch_size)
    model = run.model.clone(outputs=terms.outputs(("vid", "img", "scd")))
    init = functools.partial(train_step.init_state, model, run.tx, run.masks)
    state = jax.eval_shape(init, jax.random.key(0))
    parts = {"params": state.params, "teacher": state.teacher, "memory": {"centers": state.memory.centers}}
    return {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(parts)}


def torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that the PyTorch tensor of our array has."""
    # A broadcast array has the shape without the memory.
    return names.to_torch(path, np.broadcast_to(np.float32(0), shape))[1].shape


def compute(name: str, config: ConfigDict) -> np.ndarray:
    """A tensor of `names.COMPUTED`: a position table float32 [1, 1 + tokens, D] (CLS first: zeros), or a gain
    of ones, float32 [K, 1].
    """
    if name.endswith("weight_g"):
        return np.ones((config.head.outputs, 1), np.float32)
    model = experiment.make_model(config)
    tokens = model.grid.num_positions if name.startswith("image") else model.grid.tokens
    table = positions.encoder_positions(tokens, model.width)
    return np.concatenate([np.zeros((1, model.width), np.float32), table])[None]


def _without_prefixes(tensors: Mapping[str, np.ndarray]) -> Arrays:
    plain = {}
    for name, tensor in tensors.items():
        short = names.without_prefix(name)
        if short in plain:
            raise ConversionError(f"two tensors are called {short} without prefixes; one of them is {name}")
        plain[short] = tensor
    return plain


def _is_encoder_part(name: str) -> bool:
    whole = f"video_teacher.{name}"
    return names.our_name(whole) is not None or names.is_computed(whole)


def _check_computed(computed: Arrays, config: ConfigDict) -> list[str]:
    """What differs from the tensors that we compute: learned positions or gains cannot be represented."""
    wrong = []
    for name, tensor in computed.items():
        ours = compute(name, config)
        if tensor.shape != ours.shape:
            wrong.append(f"{name} has shape {tensor.shape}, wanted {ours.shape}")
        elif not np.abs(tensor - ours).max() <= COMPUTED_TOLERANCE:
            what = "a gain of ones" if name.endswith("weight_g") else "the fixed sinusoid table"
            wrong.append(f"{name} is not {what} (off by {np.abs(tensor - ours).max():.3g}); ours is fixed")
    return wrong


def _allowed(name: str, allow: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in allow)


def _listed(result: Sequence[str]) -> str:
    more = f" and {len(result) - LISTED} more" if len(result) > LISTED else ""
    return ", ".join(result[:LISTED]) + more
