"""A headless Chromium, driven by its DevTools protocol over a pipe: https://chromedevtools.github.io/devtools-protocol.

Messages are JSON that ends in a zero byte; the browser reads them from its file descriptor 3 and writes to 4.
"""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Of one answer or event; a start takes one second on an idle machine.
TIMEOUT_SECONDS = 60
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def executable() -> str | None:
    """The first that is there and says its version: Ubuntu has a script by that name that only asks for a package."""
    found = filter(None, map(shutil.which, NAMES))
    return next((path for path in found if _has_version(path)), None)


class Chromium:
    """One browser with one page. `directory` takes its profile and what it downloads."""

    def __init__(self, program: str, directory: Path) -> None:
        self.downloads = directory / "downloads"
        self._directory = directory
        self._events: list[dict[str, Any]] = []
        self._unread = b""
        self._sent = 0
        self._session: str | None = None
        self._start(program)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads), eventsEnabled=True)

    def open(self, file: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a page and wait until it is there. Forgets what was seen of the page before."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.emulate(dark=dark)
        self._events.clear()
        self.ask("Page.navigate", url=file.as_uri())
        self.wait(lambda event: event["method"] == "Page.loadEventFired")

    def emulate(self, *, dark: bool = False, medium: str = "screen") -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media=medium, features=[scheme])

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, element: str) -> None:
        """With the mouse, on the middle of what a JavaScript expression gives."""
        self.run(f"{element}.scrollIntoView({{block: 'center'}})")
        place = self.run(
            f"(box => ({{x: box.x + box.width / 2, y: box.y + box.height / 2}}))({element}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def press(self, key: str, text: str = "") -> None:
        code = {"Enter": 13, "Tab": 9, " ": 32}[key]
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, text=text, windowsVirtualKeyCode=code)

    def download(self, link: str) -> bytes:
        """Click on a link that downloads, and read the file."""
        self._events.clear()
        self.click(link)
        begun = self.wait(lambda event: event["method"] == "Browser.downloadWillBegin")
        self.wait(
            lambda event: event["method"] == "Browser.downloadProgress" and event["params"]["state"] == "completed"
        )
        name: str = begun["params"]["suggestedFilename"]
        return (self.downloads / name).read_bytes()

    @property
    def errors(self) -> list[str]:
        """What the page complained about, its refusals of scripts included."""
        self.run("0")  # after what it said before
        kinds = {
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Runtime.consoleAPICalled",
            "Page.javascriptDialogOpening",
        }
        return [json.dumps(event) for event in self._events if event["method"] in kinds]

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its answer."""
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != message["id"]:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def wait(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event of a kind, which may have come already."""
        while (found := next(filter(is_it, self._events), None)) is None:
            self._events.append(self._read())
        return found

    def close(self) -> None:
        self._session = None
        self.ask("Browser.close")
        os.waitpid(self._pid, 0)

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(self._from, 1 << 20) if ready else b""
            assert more, f"Chromium does not answer: {(self._directory / 'stderr').read_text()}"
            self._unread += more
        line, self._unread = self._unread.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def _start(self, program: str) -> None:
        read_end, self._to = os.pipe()
        self._from, write_end = os.pipe()
        # Away from 3 and 4, which they become.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (read_end, write_end)]
        log = os.O_CREAT | os.O_WRONLY
        self._pid = os.posix_spawn(
            program,
            # Containers seldom let it make its sandbox; it opens our own pages only.
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
             "--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={self._directory / 'profile'}"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, ends[0], 3), (os.POSIX_SPAWN_DUP2, ends[1], 4),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, str(self._directory / "stderr"), log, 0o600),
            ],
        )  # fmt: skip
        for end in (read_end, write_end, *ends):
            os.close(end)


def _has_version(program: str) -> bool:
    return subprocess.run([program, "--version"], capture_output=True, timeout=TIMEOUT_SECONDS).returncode == 0
