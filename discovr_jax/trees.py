"""Names and hashes of parameter trees."""

import hashlib
from typing import Any

import jax
import numpy as np

_PART = 2**24  # numbers that are hashed at once


def path_name(path) -> str:
    """A leaf's name, "video_encoder/transformer/block0/attn/qkv"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def fingerprint(tree: Any) -> str:
    """SHA-256 of a parameter tree: names, dtypes, shapes and bytes of every leaf."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        flat = np.ascontiguousarray(array).reshape(-1)
        for start in range(0, flat.size, _PART):
            digest.update(flat[start : start + _PART].tobytes())
    return digest.hexdigest()
