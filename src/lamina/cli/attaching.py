"""Between a person and a container: this terminal's keys to its input, its output to here, signals to it."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lamina.cli.arguments import UsageError
from lamina.errors import LaminaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

_CHUNK = 64 << 10
_INPUT_READY, _OUTPUT_READY, _WRITABLE = 1, 2, 4
_MSG_DONTWAIT = 0x40  # send(2); the module that has its name costs start-up time
DEFAULT_KEYS = "ctrl-p,ctrl-q"
# All that can be caught and mean something to a program; those of the terminal itself stay ours.
_PROXIED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGALRM")


class Detached(LaminaError):
    """The person pressed the keys: the container goes on."""


def read_detach_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` as the bytes that a terminal sends."""
    keys = bytearray()
    for key in text.split(","):
        if key.startswith("ctrl-") and len(key) == 6:
            code = ord(key[5].upper()) ^ 0x40
            if not 0 <= code < 32:
                raise UsageError(f"--detach-keys: {key!r}: expected a letter, or one of @ [ \\ ] ^ _")
            keys.append(code)
        elif len(key) == 1 and key.isascii():
            keys.append(ord(key))
        else:
            raise UsageError(f"--detach-keys: expected keys such as ctrl-p,ctrl-q, got {text!r}")
    return bytes(keys)


class DetachKeys:
    """Takes the keys out of what is typed; those that only began like them go on."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._seen = 0

    def feed(self, data: bytes) -> bytes:
        """Raises :class:`Detached`."""
        passed = bytearray()
        for byte in data:
            if self._keys and byte == self._keys[self._seen]:
                self._seen += 1
                if self._seen == len(self._keys):
                    raise Detached("detached")
                continue
            passed += self._keys[: self._seen]
            self._seen = 1 if self._keys and byte == self._keys[0] else 0
            if not self._seen:
                passed.append(byte)
        return bytes(passed)


def terminal_size() -> tuple[int, int] | None:
    """Rows and columns of the terminal that somebody sits at."""
    for descriptor in (1, 0, 2):
        try:
            size = os.get_terminal_size(descriptor)
        except OSError:
            continue
        return size.lines, size.columns
    return None


def insist_terminal(option: str = "--tty") -> None:
    if not os.isatty(0):
        raise UsageError(f"{option}: standard input is no terminal; leave it out, or run this in one")


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Keys reach the container as they are pressed, Ctrl-C among them; the terminal is mended at the end."""
    import termios
    import tty

    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def proxied_signals(send: Callable[[int], None]) -> Iterator[None]:
    """Signals that this process gets go to the container instead."""
    import signal

    before = {}
    for name in _PROXIED:
        number = getattr(signal, name)
        before[number] = signal.signal(number, lambda got, _frame: send(got))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def resizing(resize: Callable[[int, int], None]) -> Iterator[None]:
    """Tells the size now, and whenever it changes."""
    import signal

    def tell(*_: object) -> None:
        size = terminal_size()
        if size is not None:
            resize(*size)

    before = signal.signal(signal.SIGWINCH, tell)
    try:
        tell()
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


class Outlet:
    """What was typed, on its way to the container. Never waits: the other side may wait for us to read first.

    ``write`` gives how much it took, or raises ``BlockingIOError``. A signal handler puts sizes in, at any
    moment: what it adds is only appended, and one call at a time writes.
    """

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write
        self._waiting: list[bytes] = []
        self._first = b""
        self._is_busy = False

    @property
    def is_clear(self) -> bool:
        return not self._first and not self._waiting

    def put(self, data: bytes) -> None:
        self._waiting.append(data)
        self.flush()

    def flush(self) -> None:
        if self._is_busy:
            return
        self._is_busy = True
        try:
            while not self.is_clear:
                self._first = self._first or self._waiting.pop(0)
                self._first = self._first[self._write(self._first) :]
        except BlockingIOError:
            pass
        except OSError:  # nobody takes anything any more; what they said last is still to be read
            self._first = b""
            self._waiting.clear()
        finally:
            self._is_busy = False


def _wait(other: int, outlet: Outlet, *, takes_input: bool, timeout: int | None = None) -> int:
    """Until something can be read or written; nothing more is typed while some of it is left to send."""
    poller = select.poll()
    poller.register(other, select.POLLIN if outlet.is_clear else select.POLLIN | select.POLLOUT)
    if takes_input and outlet.is_clear:
        poller.register(0, select.POLLIN)
    ready = dict(poller.poll(timeout))
    found = _INPUT_READY if 0 in ready else 0
    if ready.get(other, 0) & ~select.POLLOUT:
        return found | _OUTPUT_READY
    return found | _WRITABLE if other in ready else found


def relay_attached(
    connection: socket.socket, *, sends_input: bool, is_terminal: bool, keys: bytes,
    shows: tuple[str, ...] = ("stdout", "stderr"),
) -> tuple[int, str] | None:
    """Until the container has ended: its exit code, and what went wrong. ``None`` if the connection broke.

    Raises :class:`Detached`.
    """
    from lamina.runtime.frames import FrameReader, Kind, frame, resize

    reader, detach = FrameReader(), DetachKeys(keys if is_terminal else b"")
    outputs = {Kind.OUTPUT: (1, "stdout"), Kind.ERROR_OUTPUT: (2, "stderr")}
    outlet = Outlet(lambda data: connection.send(data, _MSG_DONTWAIT))

    def tell_size(rows: int, columns: int) -> None:
        outlet.put(resize(rows, columns))

    with _maybe(is_terminal, lambda: resizing(tell_size)):
        while True:
            events = _wait(connection.fileno(), outlet, takes_input=sends_input)
            if events & _INPUT_READY:
                data = os.read(0, _CHUNK)
                outlet.put(frame(Kind.INPUT, detach.feed(data)) if data else frame(Kind.INPUT_END))
                sends_input = bool(data)
            outlet.flush()
            if not events & _OUTPUT_READY:
                continue
            try:
                received = connection.recv(_CHUNK)
            except ConnectionResetError:
                received = b""
            if not received:
                return None
            for kind, payload in reader.feed(received):
                if kind is Kind.EXIT:
                    import json

                    document = json.loads(payload)
                    return document["code"], document["error"]
                if kind in outputs and outputs[kind][1] in shows:
                    write_all(outputs[kind][0], payload)


def relay_terminal(master: int, is_over: Callable[[], bool], *, sends_input: bool, keys: bytes) -> None:
    """For a process with a terminal of its own, whose master is ours; until its last user is gone.

    Raises :class:`Detached`.
    """
    import fcntl
    import struct
    import termios

    def resize(rows: int, columns: int) -> None:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    detach = DetachKeys(keys)
    os.set_blocking(master, False)
    outlet = Outlet(lambda data: os.write(master, data))
    with resizing(resize):
        while True:
            events = _wait(master, outlet, takes_input=sends_input, timeout=1000)
            if not events and is_over():
                return
            if events & _INPUT_READY:
                data = os.read(0, _CHUNK)
                sends_input = bool(data)
                outlet.put(detach.feed(data) if data else b"\x04")  # the terminal's own end of input
            outlet.flush()
            if events & _OUTPUT_READY:
                try:
                    data = os.read(master, _CHUNK)
                except BlockingIOError:
                    continue
                except OSError:  # EIO: nobody has the other side open any more
                    return
                if not data:
                    return
                write_all(1, data)


def write_all(descriptor: int, data: bytes) -> None:
    """Straight to the descriptor: what Python holds back would come too late. A closed reader is no error."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BrokenPipeError:
            return
        except BlockingIOError:
            select.select([], [descriptor], [])


@contextmanager
def _maybe(applies: bool, context: Callable[[], Any]) -> Iterator[None]:
    if not applies:
        yield
        return
    with context():
        yield


def flush_standard_streams() -> None:
    """What was printed comes before what the container says."""
    sys.stdout.flush()
    sys.stderr.flush()
