"""What a checkpoint says of itself beside its arrays: JSON, sealed by a hash."""

import hashlib
import importlib.metadata
import json
import pathlib

from discovr_jax.runs import checksums

FORMAT_VERSION = 2  # 1: without a hash of the meta; still read
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says which, why, and what to do."""


def versions() -> dict[str, str]:
    """Installed versions of the packages that a checkpoint depends on."""
    result = {}
    for name in PACKAGES:
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            result[name] = "absent"
    return result


def make(arrays: dict, data: dict, config: dict, clock: dict | None = None) -> dict:
    """The meta of arrays by path; data and clock: see `Checkpoints.save`."""
    meta = {"format": FORMAT_VERSION, "data": data, "config": config, "versions": versions()}
    meta |= {"clock": clock} if clock else {}
    meta["checksums"] = checksums.of_arrays(arrays)
    return meta | {"sha256": _hash(meta)}


def check(folder: pathlib.Path, meta) -> None:
    """Raises CheckpointError for the meta of a later version, and for a damaged one."""
    version = meta.get("format") if isinstance(meta, dict) else None
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(f"{folder} is damaged: its meta names no format")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has format {version}, this code reads up to {FORMAT_VERSION}: use the version of discovr_jax "
            "that wrote it, or a later one"
        )
    if version >= 2 and meta.get("sha256") != _hash(meta):
        raise CheckpointError(f"{folder} is damaged: its meta (config, data position) is not what was saved")


def _hash(meta: dict) -> str:
    content = {name: value for name, value in meta.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
