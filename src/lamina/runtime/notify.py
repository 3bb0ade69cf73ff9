"""System calls that wait for somebody else's answer: seccomp's user notifications (seccomp_unotify(2)).

Whoever holds the listener is asked about each call that the filter answers with ``SCMP_ACT_NOTIFY``. When the
last holder closes it, whoever waits, and whoever calls later, gets ENOSYS: nobody hangs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

from lamina.values import dataclass

# _IOWR('!', 0, struct seccomp_notif) and its kin of linux/seccomp.h
_RECEIVE = 0xC0502100
_SEND = 0xC0182101
_IS_VALID = 0x40082102
_ADD_DESCRIPTOR = 0x40182103
_SET_FLAGS = 0x40082104
_CONTINUE = 1
_WAKE_UP_HERE = 1
_ADD_AND_SEND = 2

# id, pid, flags, then struct seccomp_data: nr, arch, instruction_pointer, args
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_ADDED = struct.Struct("=QIIII")


@dataclass(frozen=True, slots=True)
class Notification:
    """One call that waits. ``pid`` is its thread's, as this process sees it; 0 if it cannot."""

    id: int
    pid: int
    number: int
    architecture: int
    arguments: tuple[int, ...]


class Listener:
    """Owns the descriptor. One reader alone: of two, one may wait for a call that the other took."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_inheritable(descriptor, False)
        with contextlib.suppress(OSError):
            # The two take turns, so the one that is woken runs where the other sleeps (Linux 6.6).
            fcntl.ioctl(descriptor, _SET_FLAGS, _WAKE_UP_HERE)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)

    def receive(self) -> Notification | None:
        """Once the descriptor is readable; ``None`` where whoever called was killed meanwhile."""
        buffer = bytearray(_NOTIFICATION.size)  # the kernel insists on zeros
        try:
            fcntl.ioctl(self._descriptor, _RECEIVE, buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        number, pid, _flags, call, architecture, _at, *arguments = _NOTIFICATION.unpack(buffer)
        return Notification(number, pid, call, architecture, tuple(arguments))

    def is_waiting(self, notification: Notification) -> bool:
        """Whether the call still waits: if not, its pid may be another process by now."""
        try:
            fcntl.ioctl(self._descriptor, _IS_VALID, notification.id.to_bytes(8, "little"))
        except OSError:
            return False
        return True

    def answer(self, notification: Notification, value: int = 0, *, error: int = 0) -> None:
        self._send(_RESPONSE.pack(notification.id, 0 if error else value, -error, 0))

    def proceed(self, notification: Notification) -> None:
        """The kernel carries the call out as if nobody had been asked, with the caller's own rights."""
        self._send(_RESPONSE.pack(notification.id, 0, 0, _CONTINUE))

    def answer_with(self, notification: Notification, descriptor: int, *, close_on_exec: bool) -> None:
        """The caller gets a descriptor of its own for the same open file (Linux 5.14)."""
        flags = os.O_CLOEXEC if close_on_exec else 0
        added = _ADDED.pack(notification.id, _ADD_AND_SEND, descriptor, 0, flags)
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            fcntl.ioctl(self._descriptor, _ADD_DESCRIPTOR, added)

    def _send(self, response: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):  # whoever waited is gone
            fcntl.ioctl(self._descriptor, _SEND, response)
