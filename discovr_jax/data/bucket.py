"""Records that lie in a bucket.

array_record reads files at gs:// itself, one request of a byte range for a record; only what lies beside the files
(names, labels, counts: 300 bytes per clip) is copied to this host. It reads no other store, so from those the whole
folder of a dataset is copied, once: any process may need any record, because the shuffle is global, about 1.2 MB per
clip at 112 pixels.
"""

import hashlib
import logging
import os
import pathlib
import shutil

from discovr_jax import file_lock
from discovr_jax.data import records

logger = logging.getLogger(__name__)

_READ_BY_RANGE = "gs://"
# What tells that a file was written again, by the name that one store or another gives it.
_VERSIONS = ("md5Hash", "etag", "ETag", "content_md5", "mtime", "created")


def is_url(path) -> bool:
    """Whether a path is that of an object store, "gs://BUCKET/FOLDER", and no folder here."""
    return "://" in os.fspath(path)


def shards_at(data_dir: str, dataset: str, config_name: str) -> str | None:
    """Address of the folder whose array_record files are read where they are; None where they are copied."""
    return _address(data_dir, dataset, config_name) if data_dir.startswith(_READ_BY_RANGE) else None


def local_records(data_dir: str, dataset: str, config_name: str, cache: pathlib.Path | None = None) -> pathlib.Path:
    """Copies what `shards_at` does not say is read in the bucket, unless it is here; the first process copies.

    Args:
      data_dir: URL of what `prepare --data_dir` wrote, of any store that fsspec knows (gs:// needs gcsfs).
      cache: where copies are kept; None for ~/.cache/discovr_jax/records, or DISCOVR_JAX_RECORDS.

    Returns:
      A folder that takes the place of `data_dir`. Files that change in the bucket get another.

    Raises:
      RecordsError: no such records, the store cannot be reached, or the disk is too small.
    """
    default = pathlib.Path.home() / ".cache" / "discovr_jax" / "records"
    cache = cache or pathlib.Path(os.environ.get("DISCOVR_JAX_RECORDS", default))
    inside, url = records.records_dir("", dataset, config_name), _address(data_dir, dataset, config_name)
    try:
        import fsspec

        store, root = fsspec.core.url_to_fs(url)
        files = {path: about for path, about in sorted(store.find(root, detail=True).items()) if about["size"]}
    except Exception as error:  # Each store has its own kinds.
        hint = " (pip install gcsfs)" if isinstance(error, ImportError) and data_dir.startswith("gs:") else ""
        raise records.RecordsError(_failed(url, error) + hint) from error
    if not files:
        raise records.RecordsError(
            f"No records at {url}. Prepare them in a folder and copy it there: "
            f"{records.prepare_command(dataset, 'data', config_name)}; gcloud storage rsync -r data {data_dir}"
        )
    told = [(path, about["size"], *(str(about.get(name)) for name in _VERSIONS)) for path, about in files.items()]
    if shards_at(data_dir, dataset, config_name):
        files = {path: about for path, about in files.items() if ".array_record" not in path}
    home = cache / hashlib.sha256(repr((url, told)).encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with open(f"{home}.lock", "w") as lock:
        file_lock.lock(lock, wait=True)
        if not (home / inside).is_dir():
            _copy(store, root, files, url, home, inside)
    return home


def _copy(store, root: str, files: dict[str, dict], url: str, home: pathlib.Path, inside: pathlib.Path) -> None:
    """All files or nothing: into a folder of another name first; what a killed process left there goes."""
    part = home.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    size, free = sum(about["size"] for about in files.values()), shutil.disk_usage(home.parent).free
    if size > 0.95 * free:
        raise records.RecordsError(
            f"The records at {url} take {size / 1e9:.1f} GB and {home.parent} has {free / 1e9:.1f} GB free: make "
            "space, or set DISCOVR_JAX_RECORDS to a folder on a larger disk."
        )
    logger.info("copying %.1f GB from %s to %s", size / 1e9, url, home)
    try:
        place = part / inside
        for path, about in files.items():
            target = place / path.removeprefix(root).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                store.get_file(path, os.fspath(target))
            except Exception as error:
                raise records.RecordsError(_failed(url, error)) from error
            if (came := target.stat().st_size) != about["size"]:
                raise records.RecordsError(f"{path} came as {came} bytes, not {about['size']}: try again.")
        os.rename(part, home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _address(data_dir: str, dataset: str, config_name: str) -> str:
    return f"{data_dir.rstrip('/')}/{records.records_dir('', dataset, config_name)}"


def _failed(url: str, error: Exception) -> str:
    return (
        f"The records at {url} cannot be read ({type(error).__name__}: {error!s:.200}). Check the address and the "
        "credentials, or copy the folder to this host yourself and give it as data.data_dir."
    )
