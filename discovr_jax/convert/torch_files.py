"""PyTorch and safetensors files in and out. The only file that imports torch, and only for its own format."""

import dataclasses
import json
import os
import pathlib
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from discovr_jax.convert.sizes import ConversionError

WEIGHTS = ("model", "state_dict")  # keys under which a checkpoint may hold its state dict
SAFETENSORS = ".safetensors"
LARGEST = 2**20  # sides of tensors: the arrays that we compute to compare with them must fit into memory


@dataclasses.dataclass(frozen=True)
class Source:
    """A state dict as read. args: the training script's arguments, {} if absent; epoch: None if absent."""

    tensors: dict[str, np.ndarray]
    args: dict[str, Any]
    epoch: int | None


def read_torch_file(path: str | os.PathLike) -> Source:
    """Read a .safetensors file, or whatever else as a PyTorch file; optimizer state is ignored.

    Raises:
      ConversionError: absent, damaged, without a state dict, or a pickle that wants to run code.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ConversionError(f"{path}: no such file")
    return _read_safetensors(path) if path.suffix == SAFETENSORS else _read_torch(path)


def write(path: str | os.PathLike, tensors: Mapping[str, np.ndarray], epoch: int | None) -> None:
    """Write {"model": tensors, "epoch": epoch} as .safetensors or, whatever else the suffix, for PyTorch.

    The file appears whole or not at all.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        if path.suffix == SAFETENSORS:
            import safetensors.numpy

            metadata = {"format": "pt"} | ({} if epoch is None else {"epoch": str(epoch)})
            safetensors.numpy.save_file(dict(tensors), temporary, metadata)
        else:
            torch = _torch(path)
            model = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
            torch.save({"model": model} | ({} if epoch is None else {"epoch": epoch}), temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _read_safetensors(path: pathlib.Path) -> Source:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
        args, epoch = (json.loads(metadata.get(name, "null")) for name in ("args", "epoch"))
    except MemoryError:
        raise
    except Exception as error:  # the library and NumPy raise errors of many kinds for a damaged file
        reason = f"{type(error).__name__}: {error}"[:300]
        raise ConversionError(f"{path} is no readable safetensors file ({reason}): copy it again") from None
    return _source(path, tensors, args, epoch)


def _read_torch(path: pathlib.Path) -> Source:
    torch = _torch(path)
    # Mapped, not read: the optimizer's moments are twice the weights and nobody looks at them.
    mapped = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_safe_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises errors of many kinds for a damaged file
        raise ConversionError(_why_unreadable(path, error)) from None
    weights = content
    if isinstance(content, Mapping):
        weights = next((content[k] for k in WEIGHTS if isinstance(content.get(k), Mapping)), content)
    if not isinstance(weights, Mapping):
        raise ConversionError(f"{path} holds a {type(content).__name__}, no state dict")
    others = [str(name) for name, value in weights.items() if not isinstance(value, torch.Tensor)]
    if others or not weights:
        raise ConversionError(
            f"{path} holds no state dict: neither under {' or '.join(WEIGHTS)}, nor as a whole "
            f"(keys that are no tensors: {', '.join(others[:8]) or 'the file is empty'})"
        )
    tensors = {}
    for name, tensor in weights.items():
        if not isinstance(name, str) or tensor.layout != torch.strided or not tensor.is_floating_point():
            raise ConversionError(f"{path}: tensor {name} is {tensor.dtype}, {tensor.layout}; weights are dense floats")
        # A view may repeat few stored numbers without end.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ConversionError(f"{path}: tensor {name} of shape {tuple(tensor.shape)} holds fewer numbers than that")
        # NumPy has no bfloat16; to float32 it is exact.
        exact = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        tensors[name] = exact.detach().numpy()
    whole = content if weights is not content else {}
    args, epoch = whole.get("args"), whole.get("epoch")
    return _source(path, tensors, vars(args) if hasattr(args, "__dict__") else args, epoch)


def _source(path: pathlib.Path, tensors: dict[str, np.ndarray], args, epoch) -> Source:
    """What was read, if its sizes are those of a model; arguments and epoch of other kinds count as absent."""
    for name, tensor in tensors.items():
        if not tensor.size or max(tensor.shape, default=1) > LARGEST:
            raise ConversionError(f"{path}: tensor {name} has shape {tensor.shape}; sides are from 1 to {LARGEST}")
    return Source(tensors, dict(args) if isinstance(args, Mapping) else {}, epoch if isinstance(epoch, int) else None)


def _safe_globals() -> list:
    """What DISCOVR's checkpoints hold besides tensors and plain values: the arguments, and NumPy scalars."""
    import argparse

    numbers = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64, np.bool_)]
    scalar, _ = np.float32(0).__reduce__()  # the function by which NumPy pickles scalars
    # Files written with NumPy 1 call the module by its old name.
    return [argparse.Namespace, np.dtype, *numbers, scalar, (scalar, "numpy.core.multiarray.scalar")]


def _why_unreadable(path: pathlib.Path, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    wanted = next((line for line in lines if "GLOBAL" in line), None)
    if wanted:
        return (
            f"{path} is refused: opening it would import or run code that no weights need ({wanted[:300]}). "
            "Ask whoever made it for a plain state dict, or for safetensors"
        )
    reason = lines[0].split(". ")[0][:300] if lines else "the file is empty"
    return (
        f"{path} cannot be read as a file of torch.save ({type(error).__name__}: {reason}): it is cut off, "
        "damaged or of another kind. Copy it again"
    )


def _torch(path: pathlib.Path):
    try:
        import torch
    except ImportError:
        raise ConversionError(
            f"{path.name}: PyTorch files need torch, which is not installed (pip install "
            "'discovr_jax[torch]'); safetensors files do not"
        ) from None
    return torch
