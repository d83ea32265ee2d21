"""Records that lie in a bucket, or on a web server.

Each record is read where it lies, by one request of a byte range (data/shards.py). Only what lies beside the files of
records (names, labels, counts: 300 bytes per clip) is copied to this host.
"""

import hashlib
import logging
import os
import pathlib
import shutil
from concurrent import futures
from typing import Any

from discovr_jax import file_lock
from discovr_jax.data import range_reader, records

logger = logging.getLogger(__name__)

# What tells that a file was written again, by the name that one store or another gives it.
_VERSIONS = ("md5Hash", "etag", "ETag", "content_md5", "mtime", "created", "Last-Modified")
_ASKED_AT_ONCE = 32
_LIBRARIES = {"gs:": "gcsfs", "s3:": "s3fs", "http": "aiohttp"}


def is_url(path) -> bool:
    """Whether a path is that of an object store, "gs://BUCKET/FOLDER", and no folder here."""
    return "://" in os.fspath(path)


def shards_at(data_dir: str, dataset: str, config_name: str) -> str:
    """Address of the folder whose array_record files are read where they are."""
    return f"{data_dir.rstrip('/')}/{records.records_dir('', dataset, config_name)}"


def local_records(data_dir: str, dataset: str, config_name: str, cache: pathlib.Path | None = None) -> pathlib.Path:
    """Copies what lies beside the array_record files, unless it is here; the first process copies.

    Args:
      data_dir: URL of what `prepare --data_dir` wrote, of any store that fsspec knows: gs:// needs gcsfs, s3:// s3fs,
        https:// aiohttp and a server that lists its folders.
      cache: where copies are kept; None for ~/.cache/discovr_jax/records, or DISCOVR_JAX_RECORDS.

    Returns:
      A folder that takes the place of `data_dir`. Files that change in the bucket get another.

    Raises:
      RecordsError: no such records, the store cannot be reached, or the disk is too small.
    """
    default = pathlib.Path.home() / ".cache" / "discovr_jax" / "records"
    cache = cache or pathlib.Path(os.environ.get("DISCOVR_JAX_RECORDS", default))
    inside, url = records.records_dir("", dataset, config_name), shards_at(data_dir, dataset, config_name)
    try:
        store, root, files = range_reader.asked_again(url, lambda: _listed(url))
    except records.RecordsError as error:
        raise records.RecordsError(_with_advice(error, url)) from error
    if not files:
        raise records.RecordsError(
            f"No records at {url}. Prepare them in a folder and copy it there: "
            f"{records.prepare_command(dataset, 'data', config_name)}; gcloud storage rsync -r data {data_dir}"
        )
    told = [(path, about["size"], *(str(about.get(name)) for name in _VERSIONS)) for path, about in files.items()]
    files = {path: about for path, about in files.items() if ".array_record" not in path}
    home = cache / hashlib.sha256(repr((url, told)).encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with open(f"{home}.lock", "w") as lock:
        file_lock.lock(lock, wait=True)
        if not (home / inside).is_dir():
            _copy(store, root, files, url, home, inside)
    return home


def _listed(url: str) -> tuple[Any, str, dict[str, dict]]:
    """The store, the folder's path in it, and its files by path, with size and what tells their version."""
    import fsspec

    store, root = fsspec.core.url_to_fs(url)
    files = store.find(root, detail=True)
    if any(about["size"] is None for about in files.values()):  # a web server lists names, and links that sort them
        names = [path for path in files if "?" not in path]
        with futures.ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
            files = dict(zip(names, pool.map(store.info, names), strict=True))
    return store, root, {path: about for path, about in sorted(files.items()) if about["size"]}


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
                range_reader.asked_again(path, lambda: store.get_file(path, os.fspath(target)))  # noqa: B023
            except records.RecordsError as error:
                raise records.RecordsError(_with_advice(error, url)) from error
            if (came := target.stat().st_size) != about["size"]:
                raise records.RecordsError(f"{path} came as {came} bytes, not {about['size']}: try again.")
        os.rename(part, home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _with_advice(error: records.RecordsError, url: str) -> str:
    library = next((name for scheme, name in _LIBRARIES.items() if url.startswith(scheme)), "")
    missing = library and isinstance(error.__cause__, ImportError)
    advice = f"pip install {library}" if missing else "Check the address and the credentials"
    return f"{error}. {advice}, or copy the folder to this host and give it as data.data_dir."
