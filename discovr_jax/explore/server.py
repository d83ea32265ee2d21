"""Serves the page to this machine alone; every address holds a token.

A request without the token, under another host name or from a page of another origin is answered 403, whatever it asks
for: page, scripts or websocket. Everything that is shown comes through the websocket; Bokeh's scripts come from the
installed package.
"""

import errno
import hmac
import logging
import secrets
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import ErrorHandler

from discovr_jax.explore.videos import ExploreError

HOST = "127.0.0.1"


class _Guarded(BokehTornado):
    """Bokeh's server below /TOKEN, and 403 for all else."""

    def __init__(self, page: Callable[[Any], None], token: str, port: int):
        self._token = token
        self._hosts = {f"{name}:{port}" for name in (HOST, "localhost")}
        super().__init__({"/": page}, prefix=token, extra_websocket_origins=sorted(self._hosts))

    def find_handler(self, request, **kwargs):
        """Tornado asks here for every request."""
        if self._permits(request):
            return super().find_handler(request, **kwargs)
        return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})

    def _permits(self, request) -> bool:
        given = request.path.removeprefix("/").partition("/")[0]
        origin = request.headers.get("Origin")
        return (
            hmac.compare_digest(given.encode(), self._token.encode())
            and request.headers.get("Host") in self._hosts  # a name that an attacker points here is another one
            and (origin is None or urlsplit(origin).netloc in self._hosts)
        )


def start(page: Callable[[Any], None], port: int = 0) -> tuple[BaseServer, str]:
    """A server that `run_until_shutdown()` runs, and its address.

    Args:
      page: fills a Bokeh document, one per browser tab.
      port: 0 for any that is free.

    Raises:
      ExploreError: the port is taken.
    """
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise ExploreError(f"--port={port} {reason}: choose another, or leave it out for one that is free") from None
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)  # its lines hold the token
    token, port = secrets.token_urlsafe(24), listening.getsockname()[1]
    application = _Guarded(page, token, port)
    http = HTTPServer(application)
    listening.setblocking(False)
    http.add_socket(listening)
    server = BaseServer(IOLoop.current(), application, http)
    server.start()
    return server, f"http://{HOST}:{port}/{token}/"
