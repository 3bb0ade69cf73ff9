"""Writing behind: the caller makes bytes while a thread hashes and stores those that it made before.

Hashing and writing release the interpreter, so that two cores do two things. Memory is bounded: whoever
is too far ahead waits.
"""

from __future__ import annotations

import queue
import threading
from typing import Protocol, Self

_AHEAD = 16  # chunks


class Writable(Protocol):
    def write(self, chunk: bytes | memoryview, /) -> object: ...


class WriteBehind:
    """``write`` returns before the bytes are written. ``out`` belongs to the thread until ``finish``.

    What goes wrong there is raised by the next ``write``, or by ``finish``. Leaving the context without
    ``finish`` drops what was not written yet.
    """

    def __init__(self, out: Writable) -> None:
        self._out = out
        self._chunks: queue.Queue[bytes | memoryview | None] = queue.Queue(_AHEAD)
        self._error: BaseException | None = None
        self._is_given_up = False
        # Daemonic: a failure elsewhere must be able to end the program while a disk hangs.
        self._thread = threading.Thread(target=self._work, name="write behind", daemon=True)
        self._thread.start()

    def write(self, chunk: bytes | memoryview) -> int:
        """The chunk must not change afterwards."""
        if self._error is not None:
            raise self._error
        self._chunks.put(chunk)
        return len(chunk)

    def finish(self) -> None:
        """All of it has been written when this returns."""
        self._end()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_given_up = True
        self._end()

    def _end(self) -> None:
        if self._thread.is_alive():
            self._chunks.put(None)
            self._thread.join()

    def _work(self) -> None:
        """Goes on taking chunks after an error, so that nobody waits for room for ever."""
        while (chunk := self._chunks.get()) is not None:
            if self._error is None and not self._is_given_up:
                try:
                    self._out.write(chunk)
                except BaseException as error:
                    self._error = error
