"""Chromium without a window, driven over its debugging pipe: descriptors 3 and 4, JSON ended by NUL."""

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REDIRECT = 'exec 3<&"$0" 4>&"$1"; shift; exec "$@"'


class Page:
    """A page at an address, in a window of so many pixels."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write, self.number, self.rest = read, write, 0, b""
        self.session: dict[str, str] = {}

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Calls a method of the DevTools protocol."""
        self.number += 1
        said = {"id": self.number, "method": method, "params": params, **self.session}
        os.write(self.write, json.dumps(said).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                part = os.read(self.read, 65536)
                assert part, "chromium ended"
                self.rest += part
            message, _, self.rest = self.rest.partition(b"\0")
            answer = json.loads(message)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script: str) -> Any:
        """The value of an expression on the page, once it is there if it is a promise."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, condition: str) -> None:
        """Waits until a condition holds on the page."""
        look = f"const look = () => ({condition}) ? done(true) : setTimeout(look, 20); look()"
        self.run(f"new Promise(done => {{ {look}; }})")

    def photograph(self, path: Path) -> None:
        """Saves a picture of the window."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def open_page(address: str, title: str, width: int, height: int, profile: Path) -> Iterator[Page]:
    """Opens a page of this title in a browser of its own."""
    (theirs, write), (read, other) = os.pipe(), os.pipe()
    words = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    command = ["bash", "-c", REDIRECT, str(theirs), str(other), *words, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, pass_fds=(theirs, other), stderr=subprocess.DEVNULL)
    os.close(theirs)
    os.close(other)
    try:
        page = Page(read, write)
        target = page.call("Target.createTarget", url="about:blank")["targetId"]
        attached = page.call("Target.attachToTarget", targetId=target, flatten=True)
        page.session = {"sessionId": attached["sessionId"]}
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        page.call("Page.navigate", url=address)
        while page.run("document.title") != title:
            pass
        yield page
    finally:
        process.terminate()
        process.wait()
        os.close(read)
        os.close(write)
