"""A web server on this host that gives byte ranges of the files of a folder, with the troubles of a store far away."""

import contextlib
import functools
import http.server
import os
import pathlib
import re
import threading
import time


class RangeServer(http.server.ThreadingHTTPServer):
    """Attributes:
    url: of the folder.
    asked: (method, path, range or None) of every request so far.
    latency: seconds that each answer waits.
    trouble: called with the number of each request for a range, from 0; returns None, "503", "drop" (the connection
      ends after half of the bytes), "short" (half of the bytes, as if they were all) or "whole" (all of the file).
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: pathlib.Path):
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=os.fspath(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[tuple[str, str, str | None]] = []
        self.latency, self.trouble = 0.0, lambda number: None
        self._ranges = iter(range(10**9))
        self._lock = threading.Lock()

    def next_range(self) -> int:
        with self._lock:
            return next(self._ranges)

    def handle_error(self, request, client_address):
        """Clients leave; nobody need read of it."""


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeServer

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append((self.command, self.path, wanted))
        time.sleep(self.server.latency)
        if not wanted:
            return super().do_GET()
        trouble = self.server.trouble(self.server.next_range())
        if trouble == "503":
            return self.send_error(503, "Slow Down")
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
        with open(self.translate_path(self.path), "rb") as file:
            file.seek(0 if trouble == "whole" else first)
            part = file.read(-1 if trouble == "whole" else last + 1 - first)
        half = len(part) // 2 if trouble in ("drop", "short") else len(part)
        self.send_response(200 if trouble == "whole" else 206)
        self.send_header("Content-Length", str(half if trouble == "short" else len(part)))
        self.end_headers()
        self.wfile.write(part[:half])
        self.close_connection = trouble == "drop"

    def do_HEAD(self):
        self.server.asked.append((self.command, self.path, None))
        super().do_HEAD()

    def log_message(self, *_):
        """Says nothing."""


@contextlib.contextmanager
def serving(folder: pathlib.Path):
    """A `RangeServer` of the folder, in a thread."""
    with RangeServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
