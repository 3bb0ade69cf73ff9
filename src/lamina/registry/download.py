"""A blob on its way here: one stream that takes up again where the connection broke off."""

from __future__ import annotations

import io
from collections.abc import Callable

from lamina.content.store import SizeMismatch
from lamina.http.message import BrokenConnection, ConnectFailed, Response, TransportFailure
from lamina.oci.descriptor import Descriptor
from lamina.registry.protocol import ProtocolViolation, parse_content_range
from lamina.registry.retry import Patience

_CHUNK = 1 << 20
# After this much progress the count of failures begins anew: a long download may break many times,
# a sender that gives a few bytes and hangs up may not.
_PROGRESS = 1 << 20

# Gives a response whose body begins at an offset of the blob (see :func:`positioned`).
Reopen = Callable[[int], Response]


class BlobStream(io.RawIOBase):
    """Reads what the descriptor announces, not a byte more or less. The digest is not checked here."""

    def __init__(self, wanted: Descriptor, reopen: Reopen, patience: Patience, offset: int = 0) -> None:
        super().__init__()
        self._wanted = wanted
        self._reopen = reopen
        self._patience = patience
        self._position = offset
        self._failures = 0
        self._failed_at = offset
        self._response: Response | None = reopen(offset)
        self._finish_if_whole()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        left = self._wanted.size - self._position
        while left and size:
            try:
                chunk = self._read_once(min(size, left))
            except TransportFailure as error:
                self._recover(error)
                continue
            self._position += len(chunk)
            self._finish_if_whole()
            return chunk
        return b""

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._drop()
        super().close()

    def _read_once(self, size: int) -> bytes:
        if self._response is None:
            self._response = self._reopen(self._position)
        chunk = self._response.read(size)
        if not chunk:
            raise BrokenConnection(
                f"{self._wanted.digest}: ended after {self._position} of {self._wanted.size} bytes"
            )
        return chunk

    def _recover(self, error: TransportFailure) -> None:
        self._drop()
        if self._position - self._failed_at >= _PROGRESS:
            self._failures = 0
        self._failures += 1
        self._failed_at = self._position
        may_pass = error.may_pass or isinstance(error, ConnectFailed)
        if not may_pass or not self._patience.wait(self._failures, self._wanted.digest, error):
            raise error

    def _finish_if_whole(self) -> None:
        """At the last byte the connection is given back, and a sender with more to say is refused."""
        if self._position < self._wanted.size or self._response is None:
            return
        try:
            extra = self._response.read(1)
        except TransportFailure:
            extra = b""  # all that was promised is here; how the connection ends is of no interest
        self._drop()
        if extra:
            raise SizeMismatch(f"{self._wanted.digest}: expected {self._wanted.size} bytes, got more")

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


def positioned(response: Response, wanted: Descriptor, offset: int) -> Response:
    """The response with its body at ``offset``: checked, and read up to there if Range was ignored."""
    try:
        _skip(response, offset - _beginning(response, wanted, offset))
    except BaseException:
        response.close()
        raise
    return response


def _beginning(response: Response, wanted: Descriptor, offset: int) -> int:
    """Where the body begins, once it is clear that it will end where the blob does."""
    start = 0
    if response.status == 206:
        start, end, _ = parse_content_range(response.headers.get("Content-Range", ""))
        if start > offset or end + 1 != wanted.size:
            raise ProtocolViolation(
                f"{wanted.digest}: asked for bytes {offset}-{wanted.size - 1}, got {start}-{end}"
            )
    announced = response.content_length
    if announced is not None and announced != wanted.size - start:
        raise SizeMismatch(
            f"{wanted.digest}: expected {wanted.size} bytes, the registry announces {start + announced}"
        )
    return start


def _skip(response: Response, count: int) -> None:
    while count:
        chunk = response.read(min(count, _CHUNK))
        if not chunk:
            raise BrokenConnection("the connection broke off before the place to resume at")
        count -= len(chunk)
