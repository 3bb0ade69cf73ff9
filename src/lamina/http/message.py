"""Requests and responses as values, and the failures of carrying one to the other.

A :class:`Transport` takes one request and gives one response. It follows no redirect, answers no
challenge and repeats nothing that the other side may have seen: those are decisions, and they are
made above. The same values serve both directions, so that an application (a function from request
to response) can stand in for a network in tests.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO, NamedTuple, Protocol, Self
from urllib.parse import SplitResult, urlsplit

from lamina.errors import InvalidInput, Unavailable
from lamina.http.trust import Trust
from lamina.values import dataclass, field

# RFC 9110 section 5.6.2: what a header's name is made of.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# A URL is ASCII without spaces and controls by the time it is sent (RFC 3986); no backslash tricks.
_SENDABLE_URL = re.compile(r"[!-\[\]-~]+")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*)|[0-9a-fA-F:.]+(?:%[A-Za-z0-9_.-]+)?")
MAX_URL = 16_384


class InvalidUrl(InvalidInput):
    pass


class InvalidHeader(InvalidInput):
    pass


class TransportFailure(Unavailable):
    """No usable response came. ``may_pass`` says whether asking again could help."""

    may_pass = False


class UnknownHost(TransportFailure):
    pass


class ConnectFailed(TransportFailure):
    """Nobody accepted the connection."""


class TlsFailed(TransportFailure):
    pass


class UntrustedCertificate(TlsFailed):
    pass


class NotTls(TlsFailed):
    """The other side does not speak TLS on that port at all."""


class TimedOut(TransportFailure):
    may_pass = True


class BrokenConnection(TransportFailure):
    """The connection ended before the message did."""

    may_pass = True


class MalformedResponse(TransportFailure):
    """What came back is not HTTP, or is more of it than anybody should send."""


class ProxyFailed(TransportFailure):
    pass


class Origin(NamedTuple):
    """Where a request goes, and whom credentials belong to (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """As a Host header says it: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def split_url(url: str) -> tuple[Origin, str]:
    """The origin and the target (path and query) of an http or https URL, or :class:`InvalidUrl`.

    SECURITY: other schemes (``file:``), user names in the authority, and anything that could end a
    request line early are refused here, for URLs that servers send us as for our own.
    """
    if len(url) > MAX_URL or _SENDABLE_URL.fullmatch(url) is None:
        raise InvalidUrl(f"{url[:200]!r}: not a URL that can be sent")
    parts = _split(url)
    if parts.scheme not in _DEFAULT_PORTS:
        raise InvalidUrl(f"{url[:200]!r}: only http and https URLs are followed")
    if "@" in parts.netloc:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        raise InvalidUrl(f"{shown}: a URL must not carry credentials")
    host, port = _host_and_port(parts, url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Origin(parts.scheme, host, port), target


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise InvalidUrl(f"{url[:200]!r}: not a URL ({error})") from None


def _host_and_port(parts: SplitResult, url: str) -> tuple[str, int]:
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InvalidUrl(f"{url[:200]!r}: its port is not a number up to 65535") from None
    if not host or _HOST.fullmatch(host) is None:
        raise InvalidUrl(f"{url[:200]!r}: {host!r} is not a host")
    return host, port if port is not None else _DEFAULT_PORTS[parts.scheme]


class Headers(Mapping[str, str]):
    """Header fields: names in any case, in the order they came; repeated names keep every value.

    As a mapping it gives the first value of a name.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[str, str]] | Mapping[str, str] = ()) -> None:
        items = pairs.items() if isinstance(pairs, Mapping) else pairs
        self._pairs = tuple((name, value) for name, value in items)

    def __getitem__(self, name: str) -> str:
        for value in self.get_all(name):
            return value
        raise KeyError(name)

    def get_all(self, name: str) -> tuple[str, ...]:
        wanted = name.lower()
        return tuple(value for key, value in self._pairs if key.lower() == wanted)

    def pairs(self) -> tuple[tuple[str, str], ...]:
        return self._pairs

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.lower() for key, _ in self._pairs))

    def __len__(self) -> int:
        return len({key.lower() for key, _ in self._pairs})

    def __repr__(self) -> str:
        return f"Headers({[name for name, _ in self._pairs]})"  # SECURITY: values may be credentials


def check_headers(headers: Mapping[str, str]) -> None:
    """SECURITY: a name or value with a line break would begin a header, or a message, of its own."""
    for name, value in headers.items():
        if _TOKEN.fullmatch(name) is None:
            raise InvalidHeader(f"{name!r}: not a header name")
        if any(character in value for character in "\r\n\0"):
            raise InvalidHeader(f"{name}: a header value must not hold line breaks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """``body`` is read once, by whoever carries the request, who does not close it.

    A stream as body needs a Content-Length header. ``trust`` is for https. ``silence`` is how many
    seconds the other side may say nothing, where the transport would wait longer. On the serving side the
    stream ends where the body ends and raises :class:`BrokenConnection` if the sender stops early.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | BinaryIO | None = field(default=None, repr=False)
    trust: Trust = field(default_factory=Trust, repr=False)
    silence: float | None = None


class DocumentTooLong(MalformedResponse):
    pass


class Response:
    """A status, headers and a stream of bytes; a context manager, and whoever gets it closes it.

    Reading raises :class:`BrokenConnection` when the body stops before its announced end.
    """

    __slots__ = ("headers", "status", "stream")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes | BinaryIO = b"") -> None:
        self.status = status
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.stream: BinaryIO = io.BytesIO(body) if isinstance(body, bytes) else body

    @property
    def content_length(self) -> int | None:
        """What the other side announced, if it is a number."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def read(self, size: int = -1) -> bytes:
        return self.stream.read(size)

    def read_document(self, limit: int) -> bytes:
        """The whole body, or :class:`DocumentTooLong` as soon as it is known to be over ``limit``."""
        announced = self.content_length
        if announced is not None and announced > limit:
            raise DocumentTooLong(f"the answer announces {announced} bytes; the limit is {limit}")
        pieces: list[bytes] = []
        length = 0
        while chunk := self.stream.read(min(limit + 1 - length, 1 << 20)):
            pieces.append(chunk)
            length += len(chunk)
            if length > limit:
                raise DocumentTooLong(f"the answer is longer than the limit of {limit} bytes")
        return b"".join(pieces)

    def close(self) -> None:
        self.stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Transport(Protocol):
    """Safe for threads. ``send`` returns when the response's headers have arrived."""

    def send(self, request: Request) -> Response: ...

    def close(self) -> None: ...
