"""A headless Chromium, driven by its DevTools protocol."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = "/usr/bin/chromium"


class Browser:
    """One tab; `events` are all that the page has reported since `clear`."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._number, self._session = 0, ""
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        from websockets.sync.client import connect

        with ExitStack() as ends:
            self._folder = ends.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
            words += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
            words += [f"--user-data-dir={self._folder}", "about:blank"]
            self._process = subprocess.Popen([CHROMIUM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            ends.callback(self._end)
            port, path = self._where()
            self._socket = ends.enter_context(connect(f"ws://127.0.0.1:{port}{path}", max_size=2**26, proxy=None))
            target = self.do("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.do(f"{domain}.enable")
            self._ends = ends.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ends.close()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _where(self) -> tuple[str, str]:
        place, until = Path(self._folder) / "DevToolsActivePort", time.monotonic() + 120
        while time.monotonic() < until and self._process.poll() is None:
            if place.exists() and len(lines := place.read_text().splitlines()) == 2:
                return lines[0], lines[1]
            time.sleep(0.1)
        raise RuntimeError("Chromium did not start")

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=120))
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        done = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(str(done["exceptionDetails"]))
        return done["result"].get("value")

    def wait(self, expression: str, seconds: float = 90) -> Any:
        """The value of an expression once it is true."""
        until = time.monotonic() + seconds
        while not (value := self.run(expression)):
            assert time.monotonic() < until, f"{expression} did not become true"
            time.sleep(0.1)
        return value

    def go(self, address: str) -> None:
        """Load a page."""
        self.do("Page.navigate", url="about:blank")
        self.events.clear()
        self.do("Page.navigate", url=address)

    def size(self, width: int, height: int = 900) -> None:
        """Set the size of the window."""
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def dark(self, on: bool) -> None:
        """Ask for a dark page or a light one."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.do("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        done = self.do("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(done["data"]))

    def messages(self) -> list[str]:
        """What the page has logged, and its exceptions."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        """The addresses that the page has asked for."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent]
