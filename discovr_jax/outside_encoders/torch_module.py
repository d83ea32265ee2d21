"""An encoder of others as PyTorch runs it: built by the user's own function, its weights checked against their file."""

import hashlib
import importlib.util
import logging
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)
_LEAST_SHARE = 0.9  # of the module's parameters, that must be in the files of weights
_LOADS = "def load(weights: str) -> torch.nn.Module"
Module = Callable[[np.ndarray], np.ndarray]


class OutsideEncoderError(ValueError):
    """An encoder that cannot be built or does not give what it should; the message says what to do."""


def load(loader: str | os.PathLike, weights: str | os.PathLike) -> tuple[Module, dict[str, Any]]:
    """The user's encoder as a function, and what is known of it.

    `loader` is a file of Python with a function `load(weights)`, which is run: give only files that you trust. What it
    returns is set to float32 and to evaluation, on the first GPU if there is one.

    Args:
      weights: the file or folder that `load` reads.

    Returns:
      A function from a batch float32 [B, 3, ...] to vectors float32 [B, D]; tokens [B, N, D] are averaged.
      {"loader_sha256", "weights_sha256", "weights_in_use": share of the module's parameters that are in the files,
      None where that cannot be told, "weights_not_read": names of files that the check cannot read}.

    Raises:
      OutsideEncoderError: no PyTorch, no such files, a function that fails or returns no module, or a module whose
        parameters are not those of `weights`.
    """
    torch, loader, weights = _torch(), pathlib.Path(loader), pathlib.Path(weights)
    if not loader.is_file():
        raise OutsideEncoderError(f"--loader={loader}: no such file; it holds '{_LOADS}'")
    if not weights.exists():
        raise OutsideEncoderError(f"--weights={weights}: no such file or folder")
    module = _run(loader, str(weights))
    if not isinstance(module, torch.nn.Module):
        raise OutsideEncoderError(f"--loader={loader}: load() returned a {type(module).__name__}, no torch.nn.Module")
    share, not_read = _share_in_files(torch, module, weights)
    if share is not None and share < _LEAST_SHARE:
        raise OutsideEncoderError(
            f"--weights={weights}: only {share:.0%} of the parameters of the module that {loader.name} made are in it, "
            "the others were never loaded, or are of something else. Load the state dict with strict=True"
        )
    if share is None:
        logger.warning("--weights=%s: whether the module of %s uses them cannot be told", weights, loader.name)
    if not_read:
        logger.warning("not compared with the module, since reading it may run code: %s", ", ".join(not_read))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = module.float().eval().to(device)

    def embed(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found = module(torch.from_numpy(np.ascontiguousarray(batch)).to(device))
        if not isinstance(found, torch.Tensor) or found.ndim not in (2, 3) or len(found) != len(batch):
            shape = f" {list(found.shape)}" if isinstance(found, torch.Tensor) else ""
            raise OutsideEncoderError(
                f"the module of {loader.name} gave a {type(found).__name__}{shape} for a batch of {len(batch)}; it "
                "must give vectors [B, D], or tokens [B, N, D]: let load() wrap it"
            )
        return (found.float().mean(1) if found.ndim == 3 else found.float()).cpu().numpy()

    about = {
        "loader_sha256": hashlib.sha256(loader.read_bytes()).hexdigest(),
        "weights_sha256": _sha256(weights),
        "weights_in_use": share,
        "weights_not_read": not_read,
    }
    return embed, about


def _torch():
    try:
        import torch
    except ImportError:
        raise OutsideEncoderError("--encoder=torch:NAME needs PyTorch: pip install 'discovr_jax[torch]'") from None
    return torch


def _run(loader: pathlib.Path, weights: str):
    """What `load(weights)` of the file returns; its errors, whatever they are, in one line."""
    try:
        spec = importlib.util.spec_from_file_location(loader.stem, loader)
        assert spec is not None and spec.loader is not None, "its name must end in .py"
        content = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(content)
        return content.load(weights)
    except Exception as error:  # of any kind: it is the user's code
        raise OutsideEncoderError(f"--loader={loader}: {type(error).__name__}: {error}; it holds '{_LOADS}'") from error


def _files(weights: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in weights.rglob("*") if path.is_file()) if weights.is_dir() else [weights]


def _sha256(weights: pathlib.Path) -> str:
    whole = hashlib.sha256()
    for path in _files(weights):
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _share_in_files(torch, module, weights: pathlib.Path) -> tuple[float | None, list[str]]:
    """Of the module's parameters, counted as numbers, those in tensors that `weights` holds too, under any name.

    Returns:
      The share, None where it cannot be told: there are no parameters or no tensors, or what is missing may be in a
      file that was not read. And the names of such files: to read them would run code, which loading may do and a
      check does not.
    """
    stored: set[tuple[int, str]] = set()
    not_read: list[pathlib.Path] = []
    for path in _files(weights):
        try:
            for tensor in _stored_tensors(torch, path):
                # A loader may make the module float16, which rounds before our own rounding does.
                stored |= {_fingerprint(torch, tensor), _fingerprint(torch, tensor.half())}
        except Exception:  # torch raises errors of many kinds
            not_read.append(path)
    sizes = [(tensor.numel(), _fingerprint(torch, tensor) in stored) for tensor in module.parameters()]
    total, found = sum(size for size, _ in sizes), sum(size for size, same in sizes if same)
    # A number takes a byte or more: small files, such as the settings of a training, cannot hold what is missing.
    elsewhere = sum(path.stat().st_size for path in not_read) >= total - found
    known = bool(stored) and (found >= _LEAST_SHARE * total or not elsewhere) and total > 0
    return found / total if known else None, [path.name for path in not_read]


def _stored_tensors(torch, path: pathlib.Path) -> Iterator[Any]:
    """Tensors of a file, however nested; none of a file of another kind."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        content = load_file(path)
    elif path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".tar"):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    else:
        return
    waiting = [content]
    while waiting:
        one = waiting.pop()
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, (list, tuple)):
            waiting.extend(one)


def _fingerprint(torch, tensor) -> tuple[int, str]:
    """Count and hash of a tensor's numbers, rounded to bfloat16: the same after a change of shape, or of type to it or
    above."""
    rounded = tensor.detach().cpu().to(torch.bfloat16).contiguous().view(torch.int16)
    return tensor.numel(), hashlib.sha256(rounded.numpy().tobytes()).hexdigest()
