"""The transport over sockets: http.client beneath, connections kept and shared by threads.

http.client is kept for requests and the heads of responses, and because nothing in Python moves a
body with less work (docs/decisions/030). Around it stand the things it leaves to its
user: a pool, proxies, trust by origin, limits on what a server may send and how slowly, and errors
that say in one sentence what went wrong.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Self, cast

from lamina.http.chunked import ChunkedReader
from lamina.http.connect import Channel, Contexts, Dialer
from lamina.http.message import (
    BrokenConnection,
    Headers,
    InvalidHeader,
    MalformedResponse,
    Origin,
    Request,
    Response,
    TimedOut,
    TlsFailed,
    TransportFailure,
    check_headers,
    split_url,
)
from lamina.http.proxy import Proxy, ProxyRules
from lamina.http.trust import SystemAuthorities, Trust, make_context
from lamina.values import dataclass

CHUNK = 1 << 20
# sendall's timeout is for the whole call (socket.rst, "sendall"): small pieces let slow lines be slow.
_SEND_PIECE = 256 << 10
_READ_BUFFER = 64 << 10
# A response's head: http.client allows 100 lines of 64 KiB; nobody honest needs a twentieth of it.
MAX_HEAD = 256 << 10
# A sender slower than this, over a whole minute of our waiting, is stalling us (slow-read attack).
MIN_BYTES_PER_WINDOW = 4 << 10
PACE_WINDOW = 60.0
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})  # RFC 9110 section 9.2.2


@dataclass(frozen=True, slots=True)
class _Route:
    """What makes two connections interchangeable."""

    origin: Origin
    proxy: Proxy | None
    trust: Trust


@dataclass(frozen=True, slots=True)
class _Waits:
    read: float
    answer: float

    def within(self, silence: float | None) -> _Waits:
        return self if silence is None else _Waits(min(self.read, silence), min(self.answer, silence))


class HttpTransport:
    """Sends requests to http and https URLs. Close it to close its idle connections.

    Timeouts are seconds of silence: ``read_timeout`` of any, ``answer_timeout`` after a body was sent,
    since a registry may take minutes to put a big blob away before it says so.
    """

    def __init__(
        self,
        *,
        authorities: SystemAuthorities | None = None,
        proxies: ProxyRules | None = None,
        connect_timeout: float = 30.0,
        read_timeout: float = 60.0,
        answer_timeout: float = 600.0,
        idle_per_route: int = 8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._authorities = authorities or SystemAuthorities()
        self._proxies = proxies or ProxyRules()
        self._dialer = Dialer(connect_timeout=connect_timeout, read_timeout=read_timeout)
        self._waits = _Waits(read_timeout, max(read_timeout, answer_timeout))
        self._idle_per_route = idle_per_route
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: dict[_Route, list[_Connection]] = {}
        self._contexts: dict[Trust, Any] = {}
        self._is_closed = False

    def send(self, request: Request) -> Response:
        origin, target = split_url(request.url)
        check_headers(request.headers)
        proxy = self._proxies.proxy_for(origin)
        route = _Route(origin, proxy, request.trust if origin.scheme == "https" else Trust())
        if proxy is not None and origin.scheme == "http":
            target = request.url
        kept = self._take(route)
        if kept is not None:
            try:
                return kept.exchange(request, target)
            except _Unanswered:
                # The server closed a kept connection while we were writing on it. What is safe to send
                # twice is sent again on a fresh one (RFC 9112 section 9.3.1); for the rest, and for a
                # streamed body, which is partly gone, only the caller can know how to go on.
                if request.method not in _IDEMPOTENT or not isinstance(request.body, bytes | None):
                    raise
        return self._connect(route, request.silence).exchange(request, target)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            connections = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
        for connection in connections:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _connect(self, route: _Route, silence: float | None) -> _Connection:
        proxy = route.proxy
        contexts = Contexts(
            origin=self._context(route.trust) if route.origin.scheme == "https" else None,
            proxy=self._context(Trust()) if proxy is not None and proxy.scheme == "https" else None,
        )
        channel = self._dialer.within(silence).dial(route.origin, proxy, contexts)
        return _Connection(channel, route, self._keep, self._waits, self._clock)

    def _context(self, trust: Trust) -> Any:
        with self._lock:
            if trust not in self._contexts:
                self._contexts[trust] = make_context(trust, self._authorities)
            return self._contexts[trust]

    def _take(self, route: _Route) -> _Connection | None:
        while True:
            with self._lock:
                kept = self._idle.get(route)
                connection = kept.pop() if kept else None
            if connection is None or connection.is_usable():
                return connection
            connection.close()

    def _keep(self, connection: _Connection) -> None:
        with self._lock:
            kept = self._idle.setdefault(connection.route, [])
            if not self._is_closed and len(kept) < self._idle_per_route:
                kept.append(connection)
                return
        connection.close()


class _HungUp(BrokenConnection):
    """The other side closed or reset the connection."""


class _Unanswered(BrokenConnection):
    """Broken before the first byte of an answer."""


class _Connection:
    """One open connection, used by one exchange at a time."""

    def __init__(
        self,
        channel: Channel,
        route: _Route,
        keep: Callable[[_Connection], None],
        waits: _Waits,
        clock: Callable[[], float],
    ) -> None:
        self.route = route
        self._where = route.origin.authority
        self._keep = keep
        self._channel = channel
        self._waits = waits
        self._http = http.client.HTTPConnection(route.origin.host, route.origin.port)
        # Duck typing that http.client documents for tunnels: it only sends, makes a file, closes.
        self._http.sock = channel
        self._http.auto_open = 0
        self._http.response_class = functools.partial(  # type: ignore[assignment]
            _PacedResponse, host=self._where, clock=clock
        )

    def is_usable(self) -> bool:
        """Nothing to read: the other side neither hung up nor sent what nobody asked for."""
        poll = select.poll()
        try:
            poll.register(self._channel.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
            return not poll.poll(0)
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        self._http.close()
        self._channel.close()

    def exchange(self, request: Request, target: str) -> Response:
        try:
            raw = self._exchange(request, target)
        except BaseException:
            self.close()
            raise
        finished = functools.partial(self._keep, self) if not raw.will_close else None
        body = _Body(raw, self._where, self.close, finished)
        return Response(raw.status, Headers(raw.getheaders()), cast("BinaryIO", body))

    def _exchange(self, request: Request, target: str) -> _PacedResponse:
        waits = self._waits.within(request.silence)
        self._channel.settimeout(waits.read)
        try:
            with _plain_sentences(self._where):
                self._send_head(request, target)
            for chunk in _body_chunks(request):
                with _plain_sentences(self._where):
                    self._send(chunk)
        except _HungUp:
            # The server may have answered before it hung up, for instance to refuse the body.
            with contextlib.suppress(TransportFailure):
                return self._read_head()
            raise _Unanswered(f"{self._where}: the connection broke off while sending") from None
        if request.body is None:
            return self._read_head()
        self._channel.settimeout(waits.answer)
        head = self._read_head()
        with contextlib.suppress(OSError):  # closed already, where the answer had no body and no future
            self._channel.settimeout(waits.read)
        return head

    def _send_head(self, request: Request, target: str) -> None:
        self._http.putrequest(request.method, target, skip_host=True)
        self._http.putheader("Host", self._where)
        proxy = self.route.proxy
        if proxy is not None and proxy.authorization and self.route.origin.scheme == "http":
            self._http.putheader("Proxy-Authorization", proxy.authorization)
        for name, value in request.headers.items():
            self._http.putheader(name, value.encode("latin-1", "replace"))
        if isinstance(request.body, bytes) and "Content-Length" not in request.headers:
            self._http.putheader("Content-Length", str(len(request.body)))
        self._http.endheaders()

    def _send(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        for start in range(0, len(view), _SEND_PIECE):
            self._http.send(view[start : start + _SEND_PIECE])

    def _read_head(self) -> _PacedResponse:
        try:
            with _plain_sentences(self._where):
                raw = self._http.getresponse()
        except _HungUp:
            raise _Unanswered(f"{self._where}: closed the connection without an answer") from None
        assert isinstance(raw, _PacedResponse)
        return raw


def _body_chunks(request: Request) -> Iterator[bytes]:
    if isinstance(request.body, bytes):
        yield request.body
    elif request.body is not None:
        yield from _exactly(request.body, _announced(request))


def _announced(request: Request) -> int:
    try:
        return int(request.headers["Content-Length"])
    except (KeyError, ValueError):
        raise InvalidHeader("a streamed body needs a Content-Length header") from None


def _exactly(source: BinaryIO, size: int) -> Iterator[bytes]:
    """The source's bytes, which must be as many as announced; the last read lets it check itself."""
    left = size
    while chunk := source.read(min(CHUNK, max(left, 1))):
        left -= len(chunk)
        if left < 0:
            raise InvalidHeader(f"the body to send is longer than the {size} bytes announced")
        yield chunk
    if left:
        raise InvalidHeader(f"the body to send ended {left} bytes before the {size} announced")


class _PacedResponse(http.client.HTTPResponse):
    """Reads through a :class:`_PacedReader`, and counts the head's bytes while it parses them."""

    def __init__(
        self, sock: socket.socket, *arguments: Any, host: str, clock: Callable[[], float], **named: Any
    ) -> None:
        super().__init__(sock, *arguments, **named)
        self._paced = _PacedReader(self.fp.detach(), host, clock)
        self.fp = io.BufferedReader(self._paced, _READ_BUFFER)

    def begin(self) -> None:
        super().begin()
        self._paced.allowance = None
        if self.status < 200:
            raise MalformedResponse(f"{self._paced.host}: answered with an unexpected status {self.status}")


class _PacedReader(io.RawIOBase):
    """A socket's bytes, with a limit while ``allowance`` is set, and a floor under their speed.

    Only time spent waiting for the peer counts, so that a slow consumer is not blamed on it.
    """

    def __init__(self, inner: io.RawIOBase, host: str, clock: Callable[[], float]) -> None:
        super().__init__()
        self.host = host
        self.allowance: int | None = MAX_HEAD + _READ_BUFFER  # what is read ahead is body
        self._inner = inner
        self._clock = clock
        self._waited = 0.0
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        begun = self._clock()
        count: int = self._inner.readinto(buffer)
        self._waited += self._clock() - begun
        self._received += count
        if self._waited > PACE_WINDOW:
            if self._received < MIN_BYTES_PER_WINDOW:
                raise TimedOut(f"{self.host}: sent only {self._received} bytes in {self._waited:.0f} seconds")
            self._waited, self._received = 0.0, 0
        if self.allowance is not None:
            self.allowance -= count
            if self.allowance < 0:
                raise MalformedResponse(f"{self.host}: its headers are longer than {MAX_HEAD} bytes")
        return count

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


class _Body(io.RawIOBase):
    """A response's body. At its end the connection goes back to the pool; closed early, it is closed."""

    def __init__(
        self,
        raw: _PacedResponse,
        where: str,
        abandon: Callable[[], None],
        finished: Callable[[], None] | None,
    ) -> None:
        super().__init__()
        self._raw = raw
        self._chunks = ChunkedReader(raw.fp, where) if raw.chunked and not raw.isclosed() else None
        self._where = where
        self._abandon = abandon
        self._finished = finished
        self._received = 0
        self._is_over = False
        if raw.isclosed() or raw.length == 0:
            self._end()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        if self._is_over or size == 0:
            return b""
        if self._chunks is not None:
            buffer = bytearray(size)
            return bytes(memoryview(buffer)[: self.readinto(buffer)])
        with self._failing_closed():
            chunk: bytes = self._raw.read(size)
        self._account(len(chunk))
        return chunk

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._is_over or not len(buffer):
            return 0
        with self._failing_closed():
            if self._chunks is not None:
                count = self._chunks.readinto(memoryview(buffer))
            else:
                count = self._raw.readinto(buffer)
        self._account(count)
        return count

    @contextlib.contextmanager
    def _failing_closed(self) -> Iterator[None]:
        try:
            with _plain_sentences(self._where):
                yield
        except TransportFailure:
            self._finished = None
            self._end()
            raise

    def _account(self, count: int) -> None:
        self._received += count
        if not count and self._raw.length:
            missing = self._raw.length
            self._finished = None
            self._end()
            raise BrokenConnection(
                f"{self._where}: the connection broke off after {self._received} bytes, {missing} short"
            )
        if not count or self._raw.isclosed() or (self._chunks is not None and self._chunks.is_over):
            self._end()

    def _end(self) -> None:
        self._is_over = True
        self._raw.close()
        if self._finished is not None:
            self._finished()
        else:
            self._abandon()
        self._finished = None

    def close(self) -> None:
        if not self.closed and not self._is_over:
            self._is_over = True
            self._raw.close()
            self._abandon()
        super().close()


@contextlib.contextmanager
def _plain_sentences(where: str) -> Iterator[None]:
    """What sockets, TLS and http.client raise, as one of ours."""
    try:
        yield
    except TimeoutError:
        raise TimedOut(f"{where}: no data for too long, gave up waiting") from None
    except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):  # RemoteDisconnected is among them
        raise _HungUp(f"{where}: the connection broke off") from None
    except http.client.IncompleteRead:
        raise BrokenConnection(f"{where}: the connection broke off") from None
    except http.client.HTTPException as error:
        raise MalformedResponse(f"{where}: did not answer in HTTP ({_named(error)})") from None
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise TlsFailed(f"{where}: TLS failed ({reason})") from None
    except OSError as error:
        raise BrokenConnection(f"{where}: the connection broke off ({error.strerror or error})") from None


def _named(error: http.client.HTTPException) -> str:
    text = str(error)[:100]
    return f"{type(error).__name__}: {text!r}" if text else type(error).__name__
