"""The standard streams of a command that has no monitor and no terminal of its own: exec without -t.

A file or a pipe is handed over as it is. This terminal never is: whoever has it open reads what is typed
here, long after the command has ended, and changes its settings. So between it and the command are pipes.
"""

from __future__ import annotations

import contextlib
import os
import select
from types import TracebackType
from typing import Self

from lamina.cli.attaching import write_all

_CHUNK = 64 << 10


class ForeignStreams:
    """``stdin``, ``stdout`` and ``stderr`` are what the command gets; -1 for nothing."""

    def __init__(self, *, sends_input: bool) -> None:
        self._ours: dict[int, int] = {}
        self._theirs: list[int] = []
        self._input = -1
        self.stdin = self._for_input() if sends_input else -1
        self.stdout, self.stderr = self._for_output(1), self._for_output(2)

    def relay(self, pid: int) -> None:
        """Until the process, a child of ours, has ended; what it wrote before that is all passed on."""
        self._close_theirs()
        if not self._ours and self._input < 0:
            return
        end = os.pidfd_open(pid)
        try:
            poller = select.poll()
            for descriptor in (end, *self._ours):
                poller.register(descriptor, select.POLLIN)
            if self._input >= 0:
                poller.register(0, select.POLLIN)
            while True:
                ready = {descriptor for descriptor, _ in poller.poll()}
                for descriptor in ready & self._ours.keys():
                    if not self._pass_output(descriptor):
                        poller.unregister(descriptor)
                if 0 in ready and not self._pass_input():
                    poller.unregister(0)
                if end in ready and not ready & self._ours.keys():
                    return
        finally:
            os.close(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_theirs()
        for descriptor in (*self._ours, *([self._input] if self._input >= 0 else [])):
            os.close(descriptor)
        self._ours.clear()
        self._input = -1

    def _for_input(self) -> int:
        if not os.isatty(0):
            return 0
        theirs, self._input = os.pipe()
        self._theirs.append(theirs)
        return theirs

    def _for_output(self, number: int) -> int:
        if not os.isatty(number):
            return number
        ours, theirs = os.pipe()
        self._ours[ours] = number
        self._theirs.append(theirs)
        return theirs

    def _pass_output(self, descriptor: int) -> bool:
        data = os.read(descriptor, _CHUNK)
        if data:
            write_all(self._ours[descriptor], data)
            return True
        del self._ours[descriptor]
        os.close(descriptor)
        return False

    def _pass_input(self) -> bool:
        data = os.read(0, _CHUNK)
        with contextlib.suppress(BrokenPipeError):
            if data:
                # What is typed is less than a pipe takes; a command that reads nothing has its reader wait.
                view = memoryview(data)
                while view:
                    view = view[os.write(self._input, view) :]
                return True
        os.close(self._input)
        self._input = -1
        return False

    def _close_theirs(self) -> None:
        for descriptor in self._theirs:
            os.close(descriptor)
        self._theirs.clear()
