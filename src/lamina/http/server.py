"""The doors' web server: h11 for the protocol, one thread a connection, one function for answers.

h11 decides what is a message and where it ends (docs/decisions/031); here are the socket,
the clock and the limits. An application is a function from :class:`Request` to :class:`Response`; it
may read the body as it comes, or not at all, and its response may be a stream, sent as it is read,
or a plain file, sent by the kernel.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, BinaryIO, Self, cast

import h11

from lamina.http.message import BrokenConnection, Headers, Request, Response, TimedOut
from lamina.values import dataclass

Application = Callable[[Request], Response]

_log = logging.getLogger(__name__)
_CHUNK = 256 << 10
# Bigger pieces come from mmap, at malloc's threshold of 128 KiB, and cost a page fault each 4 KiB:
# measured, bodies of 64 KiB pieces take a third of the CPU time that 256 KiB pieces take.
_RECEIVED = 64 << 10
_HEAD_CHUNK = 16 << 10  # h11 measures a head against its limit only once it has been received


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Seconds and bytes. A peer gets ``head_seconds`` for a whole request head, however it drips."""

    connections: int = 128
    head_bytes: int = 64 << 10
    head_seconds: float = 30.0
    idle_seconds: float = 75.0  # between requests: longer than clients keep connections
    stall_seconds: float = 60.0  # for each wait inside a body
    drain_bytes: int = 1 << 20  # of a body nobody wanted, to keep the connection
    linger_seconds: float = 2.0


def serve(
    application: Application,
    *,
    address: str = "127.0.0.1",
    port: int = 0,
    limits: ServerLimits | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> RunningServer:
    """Listens and answers in the background until closed. Port 0 takes any free one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family, backlog=128)
    return RunningServer(listener, application, limits or ServerLimits(), clock)


class RunningServer:
    """A context manager; ``close`` lets answers in progress finish for a moment, then cuts them."""

    def __init__(
        self,
        listener: socket.socket,
        application: Application,
        limits: ServerLimits,
        clock: Callable[[], float],
    ) -> None:
        self._listener = listener
        self._application = application
        self._limits = limits
        self._clock = clock
        self._slots = threading.BoundedSemaphore(limits.connections)
        self._lock = threading.Lock()
        self._conversations: dict[_Conversation, threading.Thread] = {}
        self._is_closing = threading.Event()
        self.address, self.port = listener.getsockname()[:2]
        self._acceptor = threading.Thread(target=self._accept, name=f"lamina-http-{self.port}", daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}"

    def close(self, patience: float = 5.0) -> None:
        """``patience`` is how many seconds answers in progress get."""
        if self._is_closing.is_set():
            return
        self._is_closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self._acceptor.join()
        with self._lock:
            talking = dict(self._conversations)
        for conversation in talking:
            if conversation.is_idle:
                conversation.cut()
        until = self._clock() + patience
        for conversation, thread in talking.items():
            thread.join(max(0.0, until - self._clock()))
            if thread.is_alive():
                conversation.cut()
                thread.join(patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._is_closing.is_set():
            if not self._slots.acquire(timeout=0.5):
                continue
            try:
                channel, _ = self._listener.accept()
            except OSError:
                self._slots.release()
                if not self._is_closing.is_set():
                    _log.exception("accepting a connection failed")
                    self._is_closing.wait(0.1)  # out of descriptors, most likely: others will close some
                continue
            conversation = _Conversation(channel, self._application, self._limits, self._clock)
            thread = threading.Thread(target=self._converse, args=(conversation,), daemon=True)
            with self._lock:
                self._conversations[conversation] = thread
            thread.start()

    def _converse(self, conversation: _Conversation) -> None:
        try:
            conversation.run(self._is_closing)
        except (OSError, BrokenConnection, TimedOut):
            pass  # the peer is gone or asleep; there is nobody to tell
        except Exception:
            _log.exception("a connection failed")
        finally:
            conversation.close()
            with self._lock:
                del self._conversations[conversation]
            self._slots.release()


class _Conversation:
    """One connection: requests and responses in turn."""

    def __init__(
        self,
        channel: socket.socket,
        application: Application,
        limits: ServerLimits,
        clock: Callable[[], float],
    ) -> None:
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._channel = channel
        self._application = application
        self._limits = limits
        self._clock = clock
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self.is_idle = True

    def run(self, is_closing: threading.Event) -> None:
        while not is_closing.is_set() and self._exchange():
            self._protocol.start_next_cycle()

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._channel.close()

    def _exchange(self) -> bool:
        """One request and its response; whether the connection can carry another."""
        self.is_idle = True
        try:
            head = self._next_head()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint, str(error))
            return False
        if head is None:
            return False
        request = self._request(head)
        if request is None:
            self._refuse(400, "bad request")
            return False
        self._answer(request)
        if self._protocol.our_state is h11.DONE and self._drain():
            return True
        if self._protocol.their_state is h11.SEND_BODY:
            self._linger()
        return False

    def _next_head(self) -> h11.Request | None:
        """Waits for a request; ``None`` when the peer hung up or kept silent for too long."""
        until = self._clock() + self._limits.idle_seconds
        while True:
            event = self._protocol.next_event()
            if isinstance(event, h11.Request):
                self._channel.settimeout(self._limits.stall_seconds)
                return event
            if event is not h11.NEED_DATA:
                return None
            self._channel.settimeout(max(0.01, until - self._clock()))
            try:
                data = self._channel.recv(_HEAD_CHUNK)
            except TimeoutError:
                return None
            if self.is_idle:
                self.is_idle = False
                until = self._clock() + self._limits.head_seconds
            elif self._clock() > until:
                return None
            self._protocol.receive_data(data)

    def _request(self, head: h11.Request) -> Request | None:
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers])
        target, host = head.target.decode("ascii"), headers.get("Host", "")
        # SECURITY: a message with both lengths is how requests are smuggled (RFC 9112 section 6.3).
        if "Transfer-Encoding" in headers and "Content-Length" in headers:
            return None
        if not target.startswith("/") or not host or head.http_version not in {b"1.0", b"1.1"}:
            return None
        if "Transfer-Encoding" not in headers and headers.get("Content-Length", "0") == "0":
            self._protocol.next_event()  # the end of a body that is not there
        return Request(
            method=head.method.decode("ascii"), url=f"http://{host}{target}", headers=headers,
            body=cast("BinaryIO", _RequestBody(self)),
        )

    def _answer(self, request: Request) -> None:
        try:
            response = self._application(request)
        except (BrokenConnection, TimedOut):
            raise
        except Exception:
            _log.exception("answering %s %s failed", request.method, request.url)
            response = Response(500, {"Content-Length": "0"})
        with response:
            self._send_response(request, response)

    def _send_response(self, request: Request, response: Response) -> None:
        headers = [(name, value) for name, value in response.headers.pairs()]
        headers.append(("Date", formatdate(usegmt=True)))
        if self._is_body_unwanted(response):
            headers.append(("Connection", "close"))
        self._send(h11.Response(status_code=response.status, headers=headers))
        if request.method != "HEAD" and response.status not in {204, 304}:
            self._send_stream(response)
        self._send(h11.EndOfMessage())

    def _is_body_unwanted(self, response: Response) -> bool:
        """A refused upload is not read to its end: the connection goes instead."""
        return response.status >= 400 and self._protocol.their_state is h11.SEND_BODY

    def _send_stream(self, response: Response) -> None:
        length = response.content_length
        if length and _is_plain_file(response.stream):
            start = response.stream.tell()
            self._send(h11.Data(data=cast("bytes", _Span(length))), response.stream, start)
            return
        left = length
        while left != 0 and (chunk := response.stream.read(_CHUNK if left is None else min(_CHUNK, left))):
            self._send(h11.Data(data=chunk))
            left = None if left is None else left - len(chunk)

    def _send(self, event: Any, file: BinaryIO | None = None, start: int = 0) -> None:
        pieces = self._protocol.send_with_data_passthrough(event) or []
        if file is None:
            self._channel.sendall(b"".join(pieces) if len(pieces) > 1 else pieces[0] if pieces else b"")
            return
        for piece in pieces:  # with a known length that is the file alone, with nothing around it
            sent = self._channel.sendfile(file, start, len(piece))
            if sent != len(piece):
                raise BrokenConnection(f"the file to send ended {len(piece) - sent} bytes early")

    def _refuse(self, status: int, reason: str) -> None:
        if self._protocol.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        body = f"{reason}\n".encode()
        headers = {"Content-Type": "text/plain", "Content-Length": str(len(body)), "Connection": "close"}
        self._send(h11.Response(status_code=status, headers=list(headers.items())))
        self._send(h11.Data(data=body))
        self._send(h11.EndOfMessage())
        self._linger()

    def _drain(self) -> bool:
        """Reads what the application left of a body, up to a limit; whether all of it was."""
        left = self._limits.drain_bytes
        try:
            while self._protocol.their_state is h11.SEND_BODY and left > 0:
                left -= len(self.receive())
        except (BrokenConnection, h11.ProtocolError):
            return False
        return self._protocol.their_state is h11.DONE

    def _linger(self) -> None:
        """Closing on unread bytes makes the kernel send a reset that can overtake our answer."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)
            until = self._clock() + self._limits.linger_seconds
            while (left := until - self._clock()) > 0:
                self._channel.settimeout(left)
                if not self._channel.recv(_CHUNK):
                    return

    def receive(self) -> bytes:
        """The next piece of the request's body; empty at its end."""
        if self._protocol.their_state is not h11.SEND_BODY:
            return b""  # there was none, or all of it was read: to wait for more would be for ever
        if self._protocol.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            try:
                event = self._protocol.next_event()
            except h11.RemoteProtocolError as error:
                raise BrokenConnection(f"the request's body: {error}") from None
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if event is not h11.NEED_DATA:
                return b""
            try:
                self._protocol.receive_data(self._channel.recv(_RECEIVED))
            except TimeoutError:
                seconds = self._limits.stall_seconds
                raise TimedOut(f"the request's body: nothing for {seconds:g} seconds") from None
            except OSError as error:
                raise BrokenConnection(f"the request's body: {error.strerror or error}") from None


class _RequestBody(io.RawIOBase):
    """The body as a stream. An end before the announced one is :class:`BrokenConnection`."""

    def __init__(self, conversation: _Conversation) -> None:
        super().__init__()
        self._conversation = conversation
        self._rest = memoryview(b"")
        self._is_over = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """What is there, at most ``size`` bytes; ``b""`` only at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        if not size or self._is_over:
            return b""
        if not self._rest:
            data = self._conversation.receive()
            self._is_over = not data
            if len(data) <= size:
                return data
            self._rest = memoryview(data)
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


class _Span:
    """Stands in h11 for the bytes of a file that the kernel will send (h11's docs, "sendfile")."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length


def _is_plain_file(stream: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, AttributeError):  # io.UnsupportedOperation is an OSError
        return False
