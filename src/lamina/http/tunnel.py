"""TLS inside TLS: for an https origin behind an https proxy.

:class:`ssl.SSLSocket` can only wrap a plain socket, so the inner session runs over memory and its
records travel through the outer socket. Only what the transport needs of a socket is here.
"""

from __future__ import annotations

import io
import socket
import ssl
from typing import cast

_RECORD = 32 << 10


class TlsOverTls:
    """One inner session, handshake included. Not for use by two threads at once."""

    def __init__(self, outer: ssl.SSLSocket, context: ssl.SSLContext, server_hostname: str) -> None:
        self._outer = outer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._inner = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._is_shaken = False
        self._readers = 0
        self._is_closed = False
        while not self._is_shaken:
            self._shake()

    def _shake(self) -> None:
        try:
            self._inner.do_handshake()
            self._is_shaken = True
        except ssl.SSLWantReadError:
            self._flush()
            self._fill()
        self._flush()

    def _flush(self) -> None:
        if pending := self._outgoing.read():
            self._outer.sendall(pending)

    def _fill(self) -> None:
        if chunk := self._outer.recv(_RECORD):
            self._incoming.write(chunk)
        else:
            self._incoming.write_eof()

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        while True:
            try:
                return cast("int", self._inner.read(len(buffer), buffer))  # a count, as it got a buffer
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0

    def sendall(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            count = self._inner.write(view[:_RECORD])
            view = view[count:]
            self._flush()

    def makefile(self, mode: str, buffering: int = -1) -> io.BufferedReader:
        """As with a socket, the connection stays open until it and its readers are closed."""
        if mode != "rb":
            raise ValueError(f"{mode!r}: only reading is buffered")
        self._readers += 1
        return io.BufferedReader(_RawReader(self), io.DEFAULT_BUFFER_SIZE if buffering < 0 else buffering)

    def settimeout(self, seconds: float | None) -> None:
        self._outer.settimeout(seconds)

    def fileno(self) -> int:
        return self._outer.fileno()

    def shutdown(self, how: int = socket.SHUT_RDWR) -> None:
        self._outer.shutdown(how)

    def close(self) -> None:
        self._is_closed = True
        if not self._readers:
            self._outer.close()

    def reader_closed(self) -> None:
        self._readers -= 1
        if self._is_closed:
            self.close()


class _RawReader(io.RawIOBase):
    def __init__(self, channel: TlsOverTls) -> None:
        super().__init__()
        self._channel = channel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        return self._channel.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            self._channel.reader_closed()
        super().close()
