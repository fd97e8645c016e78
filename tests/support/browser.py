"""Debian's Chromium without a window and without a network, driven by the DevTools protocol.

A page of the browser: open a file, wait for a condition, evaluate JavaScript, click, photograph.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

#: Drawn by the processor; no host name is resolved, so that nothing can be asked of a network.
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--use-gl=angle",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--remote-debugging-port=0",
    "--remote-allow-origins=*", "--hide-scrollbars",
)  # fmt: skip


def find_browser() -> str | None:
    """Path of a Chromium; None where there is none."""
    given = os.environ.get("VCM_TEST_BROWSER")
    return given or shutil.which("chromium") or shutil.which("chromium-browser")


class BrowserPage:
    """A page, and all that it logged and asked for."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=60, max_size=None)
        self._number = 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Network.emulateNetworkConditions",
            offline=True, latency=0, downloadThroughput=0, uploadThroughput=0,
        )  # fmt: skip

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and what it gives."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        told = message.get("params", {})
        if message["method"] == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"])[:500])
        elif message["method"] == "Runtime.consoleAPICalled" and told["type"] in (
            "error",
            "assert",
        ):
            self.errors.append(json.dumps(told["args"])[:500])
        elif message["method"] == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(told["entry"]["text"])
        elif message["method"] == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"][:100])

    def open(self, path: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a file from the disk."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """Value of a JavaScript expression; promises are awaited."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 90) -> None:
        """Until a JavaScript expression is true."""
        until = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({condition})"):
            assert not self.errors, self.errors
            assert time.monotonic() < until, f"{condition} after {seconds} s; errors: {self.errors}"
            time.sleep(0.2)

    def click(self, x: float, y: float) -> None:
        """Press and release the left button at a place of the window [pixels]."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def photograph(self, path: Path, whole: bool = False) -> Path:
        """The window as PNG, or the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    def close(self) -> None:
        """Leave the page."""
        self._socket.close()


@contextmanager
def browser_page(executable: str) -> Iterator[BrowserPage]:
    """A browser with an empty page; it ends with the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [executable, *_FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        page = None
        try:
            page = BrowserPage(_address(Path(folder) / "DevToolsActivePort"))
            yield page
        finally:
            if page is not None:
                page.close()
            process.terminate()
            process.wait(20)


def _address(port_file: Path) -> str:
    """WebSocket of the first page, once the browser has written its port."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if port_file.is_file() and len(port_file.read_text().splitlines()) == 2:
            port = port_file.read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as reply:
                pages = [p for p in json.load(reply) if p["type"] == "page"]
            if pages:
                return str(pages[0]["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise TimeoutError("Chromium did not start within 60 s.")
