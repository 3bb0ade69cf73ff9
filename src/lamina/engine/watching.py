"""Streams that say how far they are: for work that reads long and answers late."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

from lamina.content.store import Fetcher
from lamina.events import Action, Event, Report
from lamina.oci.descriptor import Descriptor

# Below this nobody waits long enough to want to know.
WATCHED = 32 << 20
_STEP = 8 << 20


def watched(stream: BinaryIO, subject: str, total: int, report: Report) -> BinaryIO:
    """The same stream; what is read of a large one is reported as searching."""
    if total < WATCHED:
        return stream
    return cast("BinaryIO", io.BufferedReader(_Watched(stream, subject, total, report), 1 << 20))


class WatchedSource:
    """A fetcher in front of another."""

    def __init__(self, source: Fetcher, report: Report) -> None:
        self._source = source
        self._report = report

    def has(self, wanted: Descriptor) -> bool:
        return self._source.has(wanted)

    def open(self, wanted: Descriptor) -> BinaryIO:
        return watched(self._source.open(wanted), wanted.digest, wanted.size, self._report)


class _Watched(io.RawIOBase):
    def __init__(self, stream: BinaryIO, subject: str, total: int, report: Report) -> None:
        super().__init__()
        self._stream = stream
        self._subject = subject
        self._total = total
        self._report = report
        self._read = 0
        self._said = -_STEP

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's own stubs say Buffer
        chunk = self._stream.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self._read += len(chunk)
        if self._read - self._said >= _STEP:
            self._said = self._read
            self._say(Action.SEARCHING)
        if not chunk:
            self._say(Action.SEARCHED)
        return len(chunk)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()

    def _say(self, action: Action) -> None:
        self._report(Event(action=action, subject=self._subject, current=self._read, total=self._total))
