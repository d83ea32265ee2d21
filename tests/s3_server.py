"""A bucket of S3 on this host: moto's server speaks the API."""

import contextlib
import socket
import subprocess
import sys
import time

import pytest


@contextlib.contextmanager
def serving(folder, patch):
    """The bucket "lab", empty; yields its `s3fs.S3FileSystem`. Skips the test without s3fs and moto.

    Args:
      folder: for the server's log; patch: pytest's monkeypatch, for the address and the credentials.
    """
    s3fs = pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "anything")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 120
            while "Running on" not in (folder / "log").read_text() and time.monotonic() < deadline:
                time.sleep(0.1)
            s3fs.S3FileSystem.clear_instance_cache()  # of another server
            store = s3fs.S3FileSystem()
            store.mkdir("lab")
            yield store
        finally:
            process.terminate()
