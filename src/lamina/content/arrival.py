"""A blob that may still be growing on disk, so that others can work on it while it lands.

The writer announces bytes; any number of threads wait for them. What they read is unverified until
the arrival is complete: they must throw their work away when it fails.
"""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import Self

from lamina.errors import Unavailable
from lamina.oci.descriptor import Descriptor


class ArrivalFailed(Unavailable):
    """The writer gave up; its own error says why."""


class Arrival:
    """``path`` can be opened for as long as this object lives, also while the file gets its final name:

    it leads through a descriptor of ours (proc(5), ``/proc/self/fd``), and so works in this process alone.
    """

    def __init__(self, descriptor: Descriptor, file: int, available: int = 0) -> None:
        """``file`` is duplicated: the caller may close its own at any time."""
        kept = os.dup(file)
        weakref.finalize(self, os.close, kept)
        self.descriptor = descriptor
        self.final: Path | None = None  # where the blob lies, whole and verified, if it did from the start
        self.path = Path(f"/proc/self/fd/{kept}")
        self._changed = threading.Condition()
        self._available = available
        self._is_complete = False
        self._failure: BaseException | None = None

    @classmethod
    def complete(cls, descriptor: Descriptor, path: Path) -> Self:
        """An arrival for a file that is whole and verified already."""
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            arrival = cls(descriptor, file, descriptor.size)
        finally:
            os.close(file)
        arrival._is_complete = True
        arrival.final = path
        return arrival

    @property
    def is_complete(self) -> bool:
        return self._is_complete

    def wait(self, beyond: int) -> int:
        """Blocks until more than ``beyond`` bytes are readable or all are; returns how many are.

        A result equal to ``beyond`` means complete, verified, and nothing more to come. Raises
        :class:`ArrivalFailed`.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._available > beyond or self._is_complete or self._failure is not None
            )
            if self._failure is not None:
                raise ArrivalFailed(f"{self.descriptor.digest}: did not arrive") from self._failure
            return self._available

    def advance(self, available: int) -> None:
        """The writer's: that many bytes are in the file now."""
        with self._changed:
            self._available = available
            self._changed.notify_all()

    def finish(self) -> None:
        """The writer's: whole, verified, and under its final name."""
        with self._changed:
            self._available = self.descriptor.size
            self._is_complete = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """The writer's: no more will come."""
        with self._changed:
            if not self._is_complete:
                self._failure = error
                self._changed.notify_all()
