"""Headless Chromium, driven through two pipes by its own protocol: no port, no network, no library."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.compat.peers import PATIENCE, program

_ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-pipe",
)


class Browser:
    """One tab, and what its page did: ``events`` are Chromium's own, since the last :meth:`open`."""

    def __init__(self, sender: int, receiver: int) -> None:
        self._sender = sender
        self._receiver = receiver
        self._received = b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self._has_scripts = True
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._sender, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result = answer["result"]
                assert isinstance(result, dict)
                return result
            self.events.append(answer)

    def open(self, url: str, width: int, height: int, *, is_dark: bool = False, is_phone: bool = False) -> None:
        """Returns when the page and its scripts are done."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=is_phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=is_phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="", features=[scheme])
        self._load("about:blank")  # or a new fragment would be the same page
        self.events.clear()
        self._load(url)
        if self._has_scripts:  # a promise of the page would wait for ever without
            self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def _load(self, url: str) -> None:
        loader = self.call("Page.navigate", url=url)["loaderId"]
        wanted = ("Page.lifecycleEvent", "load", loader)
        while wanted not in map(_stage, self.events):
            self.events.append(self._receive())

    @contextlib.contextmanager
    def without_scripts(self) -> Iterator[None]:
        """Pages opened here run none of their own."""
        self._has_scripts = False
        self.call("Emulation.setScriptExecutionDisabled", value=True)
        try:
            yield
        finally:
            self.call("Emulation.setScriptExecutionDisabled", value=False)
            self._has_scripts = True

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True,
                           userGesture=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        typed = {"text": "\r", "windowsVirtualKeyCode": 13} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def tap(self, x: float, y: float) -> None:
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def screenshot(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    @property
    def problems(self) -> list[str]:
        """What the console was told: errors, exceptions, violations of a policy."""
        self.evaluate("1")  # what was reported before this answer has arrived with it
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
            elif event.get("method") in ("Runtime.consoleAPICalled", "Log.entryAdded"):
                found.append(str(parameters))
        return found

    @property
    def requests(self) -> list[str]:
        """The URLs that the page asked for, its own first."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._receiver], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"chromium said nothing for {PATIENCE} seconds"
            chunk = os.read(self._receiver, 1 << 20)
            assert chunk, "chromium is gone"
            self._received += chunk
        message, _, self._received = self._received.partition(b"\0")
        answer = json.loads(message)
        assert isinstance(answer, dict)
        return answer


def _stage(event: dict[str, Any]) -> tuple[object, object, object]:
    parameters = event.get("params", {})
    return event.get("method"), parameters.get("name"), parameters.get("loaderId")


def _out_of_the_way(descriptor: int) -> int:
    """The same under a number that is surely neither 3 nor 4."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


@contextlib.contextmanager
def browser(home: Path) -> Iterator[Browser]:
    """Chromium reads orders from descriptor 3 and answers on 4; its whole group is gone at the end."""
    theirs_in, ours_out = map(_out_of_the_way, os.pipe())
    ours_in, theirs_out = map(_out_of_the_way, os.pipe())
    command = [program("chromium"), *_ARGUMENTS, f"--user-data-dir={home / 'profile'}"]
    # Through a shell, which can put descriptors at the numbers that are wanted.
    script = f'exec 3<&{theirs_in} 4>&{theirs_out} {theirs_in}<&- {theirs_out}>&-; exec "$@"'
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command], pass_fds=(theirs_in, theirs_out), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "HOME": str(home)},
        )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(ours_out, ours_in)
    finally:
        os.close(ours_out)
        os.close(ours_in)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
