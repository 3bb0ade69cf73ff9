"""One system call that waits for us: its arguments, whose it is, and how it is answered."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from lamina.runtime.caller import Beyond, Caller
from lamina.runtime.notify import Listener, Notification
from lamina.runtime.rawcall import AT_EMPTY_PATH
from lamina.values import dataclass

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
WORD = 0xFFFFFFFF


class Refused(Exception):
    """The call fails with an error number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Answered(Exception):
    """The caller has its answer already, and runs."""


@dataclass(frozen=True, slots=True)
class Call:
    """``listener`` and ``notification`` are how it is answered, ``caller`` who waits."""

    listener: Listener
    notification: Notification
    caller: Caller

    @property
    def arguments(self) -> tuple[int, ...]:
        return self.notification.arguments

    def insist_waiting(self) -> None:
        """What was looked up by the caller's pid is the caller's. To be asked before anything is changed."""
        if not self.listener.is_waiting(self.notification):
            raise Beyond

    def write(self, *parts: tuple[int, bytes]) -> None:
        """Into the caller's memory: addresses, and what goes there."""
        memory = self.caller.open_memory()
        try:
            self.insist_waiting()
            for address, text in parts:
                if text and os.pwrite(memory, text, address) < len(text):
                    raise Refused(errno.EFAULT)
        except (OSError, OverflowError):
            raise Refused(errno.EFAULT) from None
        finally:
            os.close(memory)

    def answer_with(self, descriptor: int, *, close_on_exec: bool) -> None:
        self.listener.answer_with(self.notification, descriptor, close_on_exec=close_on_exec)

    def find(self, directory: int, address: int, flags: int = 0, *, follows: bool = True) -> int:
        """The file that the call names, open for nothing (O_PATH). ``flags`` are those of the ...at calls."""
        directory = signed(directory)
        path = self.caller.read_path(address) if address or not flags & AT_EMPTY_PATH else b""
        if path:
            return self.caller.find(directory, path, follows=follows and not flags & AT_SYMLINK_NOFOLLOW)
        if not flags & AT_EMPTY_PATH:
            raise Beyond
        if directory == AT_FDCWD:
            return self.caller.find(AT_FDCWD, b".", follows=True)
        return self.caller.open_descriptor(directory)


# What it returns is the call's result; None: the kernel shall carry it out.
Act = Callable[[Call], int | None]


def signed(argument: int) -> int:
    """A register as the C int that the call takes from it."""
    number = argument & WORD
    return number - (1 << 32) if number & 0x80000000 else number
