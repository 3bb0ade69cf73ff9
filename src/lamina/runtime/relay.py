"""Between a container and everybody else: its output to the log and to who is attached, their input to it.

One loop of poll(2) in the monitor. A client that reads slowly slows the container down, as a pipe would: its
output is neither dropped nor heaped up. Everything that a client says is a stranger's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable

from lamina.runtime.frames import BrokenFrame, FrameReader, Kind, frame, read_resize
from lamina.runtime.logs import LogWriter

_CHUNK = 64 << 10
_FULL = 256 << 10
# More than that wait in the listener's queue: each is a descriptor, and this process has to have some left.
_MOST_CLIENTS = 64
_LAST_SECONDS = 2.0
_OUT_OF_DESCRIPTORS = 0.05
_READ = select.POLLIN | select.POLLHUP | select.POLLERR
_TIOCSWINSZ = 0x5414


class Client:
    """``is_first`` came with the container's start: when it goes, the container's input has ended."""

    def __init__(self, connection: socket.socket, *, is_first: bool = False) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.is_first = is_first
        self.is_gone = False
        self._reader = FrameReader()
        self._unsent = bytearray()

    @property
    def is_full(self) -> bool:
        return len(self._unsent) > _FULL

    @property
    def wants(self) -> int:
        return _READ | (select.POLLOUT if self._unsent else 0)

    def send(self, data: bytes) -> None:
        self._unsent += data
        self.flush()

    def flush(self) -> None:
        try:
            while self._unsent:
                sent = self.connection.send(self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.is_gone = True

    def read(self) -> list[tuple[Kind, bytes]]:
        try:
            data = self.connection.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.is_gone = True
            return []
        try:
            return list(self._reader.feed(data))
        except BrokenFrame:
            self.is_gone = True
            return []

    def finish(self, data: bytes, seconds: float) -> None:
        """The last words; who does not take them in time goes without."""
        with contextlib.suppress(OSError):
            self.connection.settimeout(seconds)
            self.connection.sendall(bytes(self._unsent) + data)
        self.connection.close()


class Relay:
    """From the container's descriptors to the log and the clients, and from the clients to its input."""

    def __init__(self, log: LogWriter, listener: socket.socket, *, keeps_input: bool) -> None:
        self.clients: list[Client] = []
        self._log = log
        self._listener = listener
        self._listener.setblocking(False)
        self._keeps_input = keeps_input
        self._outputs: dict[int, str] = {}
        self._input = -1
        self._terminal = -1
        self._pending = bytearray()
        self._is_input_over = False
        self._size: tuple[int, int] | None = None

    def connect(self, outputs: dict[int, str], source: int, terminal: int) -> None:
        """A new run of the container: owns the descriptors from here on."""
        self._outputs = dict(outputs)
        self._input, self._terminal = source, terminal
        self._pending.clear()
        self._is_input_over = False
        for descriptor in (*outputs, source):
            if descriptor >= 0:
                os.set_blocking(descriptor, False)
        if self._size is not None:
            self._resize(*self._size)
        if source >= 0 and not self._keeps_input:
            self._end_input()

    @property
    def has_first(self) -> bool:
        """Whether who came with the start is there still."""
        return any(client.is_first for client in self.clients)

    @property
    def is_drained(self) -> bool:
        return not self._outputs

    def wait(self, timeout: float, others: dict[int, Callable[[], None]]) -> None:
        """One round: until something happens, or ``timeout`` seconds. ``others`` are called when readable."""
        poller = select.poll()
        is_full = any(client.is_full for client in self.clients)
        for descriptor in () if is_full else self._outputs:
            poller.register(descriptor, _READ)
        if self._pending and self._input >= 0:
            reads_too = self._input in self._outputs and not is_full
            poller.register(self._input, select.POLLOUT | (_READ if reads_too else 0))
        if len(self.clients) < _MOST_CLIENTS:
            poller.register(self._listener, select.POLLIN)
        # Input that nobody reads is not heaped up either: its writer waits, as at a pipe.
        takes_input = len(self._pending) < _FULL
        for client in self.clients:
            if wants := client.wants if takes_input else client.wants & select.POLLOUT:
                poller.register(client.connection, wants)
        for descriptor in others:
            poller.register(descriptor, select.POLLIN)
        ready = dict(poller.poll(max(0.0, timeout) * 1000))
        for descriptor, stream in list(self._outputs.items()):
            if ready.get(descriptor, 0) & _READ:
                self._read_output(descriptor, stream)
        if ready.get(self._input, 0) & (select.POLLOUT | select.POLLERR) and self._pending:
            self._write_input()
        self._serve_clients(ready)
        if self._listener.fileno() in ready:
            self._accept()
        for descriptor, act in others.items():
            if descriptor in ready:
                act()

    def finish(self, last_words: bytes) -> None:
        deadline = time.monotonic() + _LAST_SECONDS
        for client in self.clients:
            client.finish(last_words, max(0.01, deadline - time.monotonic()))
        self.clients.clear()

    def close_streams(self) -> None:
        for descriptor in {*self._outputs, self._input} - {-1}:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._outputs.clear()
        self._input = self._terminal = -1

    # -- output

    def _read_output(self, descriptor: int, stream: str) -> None:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # what a pty answers when its last user is gone
                raise
            data = b""
        if not data:
            del self._outputs[descriptor]
            if descriptor != self._input:
                os.close(descriptor)
            return
        self._log.write(stream, data)
        message = frame(Kind.OUTPUT if stream == "stdout" else Kind.ERROR_OUTPUT, data)
        for client in self.clients:
            client.send(message)

    # -- input

    def _serve_clients(self, ready: dict[int, int]) -> None:
        for client in list(self.clients):
            events = ready.get(client.connection.fileno(), 0)
            if events & select.POLLOUT:
                client.flush()
            if events & _READ:
                for kind, payload in client.read():
                    self._obey(client, kind, payload)
            if client.is_gone:
                self.clients.remove(client)
                client.connection.close()
                if client.is_first and self._terminal < 0:
                    self._end_input()

    def _obey(self, client: Client, kind: Kind, payload: bytes) -> None:
        if kind is Kind.INPUT and self._keeps_input and not self._is_input_over:
            self._pending += payload
            self._write_input()
        elif kind is Kind.INPUT_END and client.is_first and self._terminal < 0:
            self._end_input()
        elif kind is Kind.RESIZE:
            with contextlib.suppress(BrokenFrame):
                self._resize(*read_resize(payload))

    def _write_input(self) -> None:
        if self._input < 0:
            self._pending.clear()
            return
        try:
            while self._pending:
                sent = os.write(self._input, self._pending[:_CHUNK])
                del self._pending[:sent]
        except BlockingIOError:
            return
        except OSError:  # nobody reads any more
            self._pending.clear()
            self._is_input_over = True
        if self._is_input_over:
            self._close_input()

    def _end_input(self) -> None:
        self._is_input_over = True
        if not self._pending:
            self._close_input()

    def _close_input(self) -> None:
        if self._input >= 0 and self._terminal < 0:
            os.close(self._input)
            self._input = -1

    def _resize(self, rows: int, columns: int) -> None:
        self._size = (rows, columns)
        if self._terminal >= 0:
            import fcntl  # noqa: PLC0415 - only with a terminal

            with contextlib.suppress(OSError):
                fcntl.ioctl(self._terminal, _TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            # It stays in the queue, and would be tried at once.
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(_OUT_OF_DESCRIPTORS)
        else:
            self.clients.append(Client(connection))
