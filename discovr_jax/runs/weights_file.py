"""Arrays of a step in one safetensors file, the checkpoint's meta in its header: what is passed on to others.

It stands in the folder of its step in place of Orbax's `state` and `meta`.
"""

import json
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

NAME = "weights.safetensors"


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray], meta: Mapping) -> None:
    """Write arrays by path ("teacher/video_encoder/cls_token") and the meta, JSON values."""
    import safetensors.numpy

    plain = {name: np.ascontiguousarray(each) for name, each in arrays.items()}
    safetensors.numpy.save_file(plain, path, {"meta": json.dumps(meta, sort_keys=True)})
    path.chmod(0o644)


def read(path: pathlib.Path, wanted: Callable[[str], bool]) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays whose path is wanted, and the meta.

    Raises:
      ValueError, KeyError, OSError: the file is damaged, or of another program.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {})["meta"])
            return {name: file.get_tensor(name) for name in file.keys() if wanted(name)}, meta
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from None
