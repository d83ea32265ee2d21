"""A converted checkpoint on disk: a workdir with weights at step 0 and no optimizer, readable like any other.

config.json and checkpoints/ are those of a run; conversion.json says what was found in the source, and
torch_only.safetensors keeps the tensors that we compute instead of storing, so that `to-torch` is exact.
"""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from flax import traverse_util

from discovr_jax.convert import torch_files
from discovr_jax.convert.sizes import ConversionError
from discovr_jax.convert.state import Arrays, Converted
from discovr_jax.method import experiment
from discovr_jax.runs.checkpoint import Checkpoints

# Encoders by their module in PyTorch.
BRANCHES = {
    "encoder": "video_student",
    "video_teacher": "video_teacher",
    "image_student": "image_student",
    "image_teacher": "image_teacher",
}
REPORT, TORCH_ONLY = "conversion.json", "torch_only.safetensors"


def found(converted: Converted) -> dict[str, Any]:
    """What a conversion found, as JSON values."""
    config = converted.config
    model = experiment.make_model(config)
    return {
        "variant": config.model.variant,
        "width": model.width,
        "depth": model.depth,
        "heads": model.heads,
        "patch": model.patch,
        "tubelet": model.grid.tubelet,
        "frames": config.data.num_frames,
        "image_size": config.data.image_size,
        "stride": config.data.stride,
        "video_qkv_bias": model.video_qkv_bias,
        "image_qkv_bias": model.image_qkv_bias,
        "branches": sorted(BRANCHES[module] for module in converted.modules if module in BRANCHES),
        "modules": converted.modules,
        "parameters": int(sum(array.size for array in converted.arrays.values())),
        "notes": converted.notes,
    }


def check_free(output: str | os.PathLike) -> pathlib.Path:
    """The absolute path of a folder that is to be written.

    Raises:
      ConversionError: something is there.
    """
    output = pathlib.Path(output).absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConversionError(f"--output={output} exists and is not empty: choose another")
    return output


@contextlib.contextmanager
def whole(output: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A folder to fill, which takes the place of `output` when all went well: whole or not at all.

    Raises:
      ConversionError: something is there.
    """
    output = check_free(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        if output.exists():
            output.rmdir()
        temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def save_arrays(workdir: pathlib.Path, step: int, arrays: Arrays, config: dict) -> None:
    """Arrays by path as the checkpoint of a step, on disk when this returns."""
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        checkpoints.save(step, traverse_util.unflatten_dict(arrays, sep="/"), {}, config)
        checkpoints.wait()


def write(output: str | os.PathLike, converted: Converted, report: dict[str, Any]) -> None:
    """Write the folder, whole or not at all.

    Raises:
      ConversionError: something is there.
    """
    import safetensors.numpy

    config = experiment.config_dict(converted.config)
    with whole(output) as temporary:
        save_arrays(temporary, 0, converted.arrays, config)
        safetensors.numpy.save_file(_plain(converted.computed), temporary / TORCH_ONLY)
        (temporary / TORCH_ONLY).chmod(0o644)
        (temporary / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        (temporary / REPORT).write_text(json.dumps(report, indent=1) + "\n")


def read_report(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """conversion.json and the kept tensors of a converted checkpoint, or None if `path` is none.

    Raises:
      ConversionError: one of the two is damaged.
    """
    folder = pathlib.Path(path)
    if not (folder / REPORT).is_file():
        return None
    try:
        report = json.loads((folder / REPORT).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{folder / REPORT} is damaged ({error}): convert the source again") from None
    if not isinstance(report, dict):
        raise ConversionError(f"{folder / REPORT} is damaged (no object): convert the source again")
    return report, torch_files.read_torch_file(folder / TORCH_ONLY).tensors


def _plain(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
