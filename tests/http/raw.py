"""A server that says exactly what a test tells it to, on a real socket, however wrong that is."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

TLS = Path(__file__).parent.parent / "data" / "tls"


@dataclass(frozen=True)
class Said:
    """One request as it arrived."""

    head: str
    body: bytes
    connection: int

    @property
    def line(self) -> str:
        return self.head.split("\r\n", 1)[0]

    def header(self, name: str) -> str | None:
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None


@dataclass(frozen=True)
class Hangup:
    """Bytes, and then the end of the connection."""

    data: bytes = b""


Reply = bytes | Hangup | Callable[[socket.socket, Said], None]


def ok(body: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def server_context(*, client_ca: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.crt", TLS / "server.key")
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


class RawServer:
    """Gives its replies in turn, over as many connections as the client makes; then hangs up."""

    def __init__(self, *replies: Reply, tls: ssl.SSLContext | None = None) -> None:
        self._replies = list(replies)
        self._tls = tls
        self.said: list[Said] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._channels: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.authority}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        for channel in self._channels:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for channel in self._channels:
            channel.close()

    def _accept(self) -> None:
        while True:
            try:
                channel, _ = self._listener.accept()
            except OSError:
                return
            self._channels.append(channel)
            thread = threading.Thread(target=self._converse, args=(channel, len(self._channels)), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _converse(self, channel: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                channel = self._tls.wrap_socket(channel, server_side=True)
                self._channels.append(channel)
            while (said := self._listen(channel, number)) is not None:
                self.said.append(said)
                if not self._replies:
                    break
                reply = self._replies.pop(0)
                if isinstance(reply, bytes):
                    channel.sendall(reply)
                elif isinstance(reply, Hangup):
                    channel.sendall(reply.data)
                    break
                else:
                    reply(channel, said)
            channel.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            channel.close()

    @staticmethod
    def _listen(channel: socket.socket, number: int) -> Said | None:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = channel.recv(65536)
            if not piece:
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        said = Said(head.decode("latin-1"), b"", number)
        length = int(said.header("Content-Length") or 0)
        while len(body) < length:
            piece = channel.recv(65536)
            if not piece:
                break
            body += piece
        return Said(said.head, body, number)
