"""A headless Chromium for tests, spoken to over pipes (`--remote-debugging-pipe`): no package, no port."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import image

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars")
SECONDS = 90.0
"""for which an answer is waited"""


class Browser:
    """One page; what it requests and what it says on the console is kept."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer, self._number, self._session = b"", 0, None
        self.requests: list[str] = []
        self.messages: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of Chrome's DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            if time.monotonic() > end:
                raise TimeoutError("Chromium did not answer")
            if not (read := os.read(self._answers, 1 << 20)):
                raise RuntimeError("Chromium ended")
            self._buffer += read
        answer, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(answer))

    def _note(self, event: dict[str, Any]) -> None:
        method, found = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(json.dumps(found))

    def open(self, address: str) -> None:
        """Begin to load a page, and to keep what it requests and says."""
        self.call("Page.navigate", url="about:blank")
        self.requests.clear()
        self.messages.clear()
        self.call("Page.navigate", url=address)

    def open_file(self, page: Path) -> None:
        """Load a file."""
        self.open(page.as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def wait(self, script: str) -> Any:
        """What an expression gives as soon as that is true."""
        end = time.monotonic() + SECONDS
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"{script} did not become true"
            time.sleep(0.05)
        return value

    def show(self, width: int, scheme: str = "light", media: str = "screen") -> None:
        """Show the page so wide, in ``light`` or ``dark``, on a ``screen`` or in ``print``."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script: str) -> Any:
        """What an expression gives in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def press_tab(self) -> None:
        """Move the focus on."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)

    def picture(self) -> Any:
        """The whole page as pixels, (height, width, 3), in [0, 1]."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        return image.imread(io.BytesIO(base64.b64decode(found)))[..., :3]

    def printed(self) -> bytes:
        """The page as PDF, as a reader who prefers dark pages prints it."""
        self.show(1280, "dark", "print")
        options = {"preferCSSPageSize": True, "printBackground": False}
        return base64.b64decode(self.call("Page.printToPDF", **options)["data"])


def page_count(pdf: bytes) -> int:
    """How many pages a PDF of Chromium has."""
    return pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type /Page/")


def ink_share(pixels: Any) -> float:
    """Share of pixels whose color is not the most frequent one."""
    flat = np.round(np.asarray(pixels).reshape(-1, 3) * 255).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return 1.0 - float(np.unique(flat, return_counts=True)[1].max()) / len(flat)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, which ends with the block."""
    assert PROGRAM is not None
    its_commands, commands = os.pipe()
    answers, its_answers = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (its_commands, its_answers)]
    actions: list[Any] = [(os.POSIX_SPAWN_OPEN, output, os.devnull, os.O_WRONLY, 0) for output in (1, 2)]
    actions += [(os.POSIX_SPAWN_DUP2, end, place) for end, place in zip(high, (3, 4), strict=True)]
    command = [PROGRAM, *FLAGS, f"--user-data-dir={profile}"]
    process = os.posix_spawn(PROGRAM, command, os.environ, file_actions=actions)
    for end in (its_commands, its_answers, *high):
        os.close(end)
    try:
        yield Browser(commands, answers)
    finally:
        os.close(commands)
        os.close(answers)
        os.kill(process, signal.SIGTERM)
        os.waitpid(process, 0)
