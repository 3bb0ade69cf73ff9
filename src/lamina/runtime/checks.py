"""Health checks as they run: processes in the container whose output and end the monitor's loop waits for."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lamina.errors import LaminaError
from lamina.runtime.container import PAUSED, ContainerState
from lamina.runtime.health import MAX_OUTPUT, HealthCheck, HealthRecord, Probe
from lamina.runtime.runtime import Runtime, Stdio
from lamina.runtime.spec import exec_process

_TIMED_OUT = -1
_PAUSED_STEP = 1.0


class HealthChecks:
    """One run's. ``statuses`` is where the loop puts the wait statuses of children that it reaped."""

    def __init__(
        self, check: HealthCheck | None, runtime: Runtime, bundle: Path, container: str,
        document: Mapping[str, Any], state: ContainerState, tell: Callable[[dict[str, Any]], None],
        statuses: dict[int, int],
    ) -> None:
        self._check = check
        self._runtime = runtime
        self._bundle = bundle
        self._container = container
        self._document = document
        self._state = state
        self._tell = tell
        self._statuses = statuses
        self._record = HealthRecord()
        self._pid = 0
        self._source = -1
        self._end = -1
        self._output = bytearray()
        self._began = 0.0
        self._next = 0.0
        if check is not None:
            self._next = time.monotonic() + check.delay(0.0, self._record)
            tell(self._record.to_json())

    @property
    def pid(self) -> int:
        """Of the process that checks, or 0: whose end is wanted."""
        return self._pid

    def timeout(self, otherwise: float) -> float:
        """Seconds until :meth:`advance` has something to do."""
        if self._check is None:
            return otherwise
        due = self._next if not self._pid else self._began + self._check.timeout
        return max(0.0, min(otherwise, due - time.monotonic()))

    def sources(self) -> dict[int, Callable[[], None]]:
        """Its end as well: its output may end before, and then nothing else would wake the loop."""
        found: dict[int, Callable[[], None]] = {self._source: self._read} if self._source >= 0 else {}
        return found | {self._end: _nothing} if self._end >= 0 else found

    def advance(self) -> None:
        if self._check is None:
            return
        now = time.monotonic()
        if not self._pid:
            if now < self._next:
                return
            if (self._bundle / PAUSED).exists():  # it would wait for the end of that, and the loop with it
                self._next = now + _PAUSED_STEP
            else:
                self._begin(self._check, now)
        elif self._pid in self._statuses:
            status = self._statuses.pop(self._pid)
            code = os.waitstatus_to_exitcode(status)
            self._finish(self._check, code if code >= 0 else 128 - code)
        elif now > self._began + self._check.timeout:
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)
            self._output[:] = b"the health check took longer than its timeout"
            self._finish(self._check, _TIMED_OUT)

    def close(self) -> None:
        """The container has ended, and what runs in it with it."""
        if self._pid and self._pid not in self._statuses:  # one that was reaped has a number no more
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)
        self._close()

    def _begin(self, check: HealthCheck, now: float) -> None:
        process = exec_process(self._document, check.argv)
        self._began = now
        self._output.clear()
        source, sink = os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            made = self._runtime.execute(
                self._bundle, self._container, process, self._state.pid, Stdio(nothing, sink, sink)
            )
        except (LaminaError, OSError) as error:
            os.close(source)
            self._output[:] = str(error).encode("utf-8", "replace")
            self._finish(check, getattr(error, "exit_code", 126))
            return
        finally:
            os.close(sink)
            os.close(nothing)
        os.set_blocking(source, False)
        self._pid, self._source, self._end = made.pid, source, os.pidfd_open(made.pid)

    def _read(self) -> None:
        try:
            data = os.read(self._source, 65536)
        except BlockingIOError:
            return
        if not data:
            self._close_source()
        elif len(self._output) < MAX_OUTPUT:
            self._output += data[: MAX_OUTPUT - len(self._output)]

    def _finish(self, check: HealthCheck, code: int) -> None:
        if self._source >= 0:
            self._read()
        self._close()
        self._pid = 0
        now = time.monotonic()
        end = time.time()
        probe = Probe(start=end - (now - self._began), end=end, exit_code=code,
                      output=self._output.decode("utf-8", "replace"))
        self._record = self._record.after(probe, check, self._state.started)
        self._next = now + check.delay(end - self._state.started, self._record)
        self._tell(self._record.to_json())

    def _close(self) -> None:
        self._close_source()
        if self._end >= 0:
            os.close(self._end)
            self._end = -1

    def _close_source(self) -> None:
        if self._source >= 0:
            os.close(self._source)
            self._source = -1


def _nothing() -> None:
    """The process' status is the loop's to reap."""
