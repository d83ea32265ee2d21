"""Chromium without a window, driven by its DevTools protocol: real clicks on a real page, no library for it."""

import asyncio
import base64
import json
import pathlib
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--no-first-run", "--hide-scrollbars", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--disable-background-networking", "--remote-debugging-port=0",
)  # fmt: skip


class Browser:
    """One tab; `requests` are the addresses that its page asked for, `errors` what its scripts complained of."""

    def __init__(self, folder: pathlib.Path, width: int = 1280, height: int = 800):
        from tornado.websocket import websocket_connect

        self.requests: list[str] = []
        self.errors: list[str] = []
        self._folder, self._number, self._loop = folder, 0, asyncio.new_event_loop()
        command = [PROGRAM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        told = folder / "profile" / "DevToolsActivePort"
        until(lambda: told.is_file() and len(told.read_text().splitlines()) == 2, "Chromium does not start", 120)
        with urllib.request.urlopen(f"http://127.0.0.1:{told.read_text().split()[0]}/json/list") as reply:
            (tab,) = [each for each in json.load(reply) if each["type"] == "page"]
        self._socket = self._done(lambda: websocket_connect(tab["webSocketDebuggerUrl"], max_message_size=2**28))
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self.resize(width, height)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *exception) -> None:
        async def close() -> None:  # inside the loop: outside it there may be none, as after another test's asyncio.run
            self._socket.close()

        try:
            self._loop.run_until_complete(close())
        finally:
            self._process.terminate()
            self._process.wait()
            self._loop.close()

    def call(self, method: str, **params: Any) -> dict:
        """The result of a command; events that come meanwhile are noted."""
        self._number += 1
        message = json.dumps({"id": self._number, "method": method, "params": params})
        self._done(lambda: self._socket.write_message(message))
        while True:
            reply = json.loads(self._done(self._socket.read_message))
            if reply.get("id") == self._number:
                assert "error" not in reply, f"{method}: {reply['error']}"
                return reply["result"]
            self._note(reply)

    def _done(self, start: Callable[[], Any]) -> Any:
        """The result of something awaitable that is to be started inside the loop."""

        async def run() -> Any:
            return await start()

        return self._loop.run_until_complete(run())

    def _note(self, event: dict) -> None:
        kind, params = event["method"], event["params"]
        if kind == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif kind == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif kind == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif kind == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def value(self, script: str) -> Any:
        """What an expression of JavaScript is."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 120) -> float:
        """Seconds until an expression is true."""
        return until(lambda: self.value(f"Boolean({script})"), script, seconds)

    def press(self, x: float, y: float, *way: tuple[float, float]) -> None:
        """A click of the mouse, or with a `way` a drag along it."""

        def mouse(kind: str, at: tuple[float, float], **more: Any) -> None:
            self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], **more)

        held = {"button": "left", "clickCount": 1}
        mouse("mouseMoved", (x, y))
        mouse("mousePressed", (x, y), **held)
        for place in way:
            mouse("mouseMoved", place, button="left", buttons=1)
        mouse("mouseReleased", way[-1] if way else (x, y), **held)

    def screenshot(self, path: pathlib.Path, whole: bool = False) -> None:
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(picture))


def until(done: Callable[[], Any], what: str, seconds: float) -> float:
    """Seconds until `done()`; an AssertionError after too many."""
    start = time.monotonic()
    while not done():
        assert time.monotonic() - start < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - start

