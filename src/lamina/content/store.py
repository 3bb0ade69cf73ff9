"""What it means to hold content: a few narrow protocols, and a reader that believes nothing.

A registry repository, the local store, an OCI layout, an archive and a test's dictionary are all
the same thing seen from here: content named by descriptors, some of it named again by people.
A function asks for the smallest protocol that it uses.

``put`` is for content whose name is known, ``ingest`` for content whose name is found by writing it.
Putting what is there already is fine and costs nothing. Whatever a :class:`Fetcher` opens is not
verified: wrap it in :func:`verified` (every ``put`` does so itself).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, Protocol, Self

from lamina.errors import IntegrityError, InvalidInput, NotFound
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest, Digester

CHUNK = 1 << 20  # 64 KiB reads lose a quarter of the throughput (docs/performance.md)


class BlobNotFound(NotFound):
    pass


class NameNotFound(NotFound):
    pass


class SizeMismatch(IntegrityError):
    pass


class DigestMismatch(IntegrityError):
    pass


class Fetcher(Protocol):
    """Content by descriptor. ``open`` raises :class:`BlobNotFound`; the caller closes the stream."""

    def open(self, wanted: Descriptor) -> BinaryIO: ...

    def has(self, wanted: Descriptor) -> bool: ...


class RangedFetcher(Fetcher, Protocol):
    """A fetcher that can begin in the middle; it may raise ``Unsupported``, then start from 0."""

    def open_at(self, wanted: Descriptor, offset: int) -> BinaryIO: ...


class Ingest(Protocol):
    """Bytes on their way to a name. Leaving without ``commit`` discards them."""

    def write(self, chunk: bytes | memoryview) -> int: ...

    def commit(self, media_type: str, expected: Digest | None = None) -> Descriptor: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Ingester(Protocol):
    """``put`` verifies size and digest, and makes nothing visible before both match."""

    def put(self, expected: Descriptor, source: BinaryIO) -> None: ...

    def ingest(self) -> Ingest: ...


class Resolver(Protocol):
    """Names to descriptors; raises :class:`NameNotFound`."""

    def resolve(self, name: str) -> Descriptor: ...


class Tagger(Protocol):
    def tag(self, name: str, target: Descriptor) -> None: ...


class Keeper(Protocol):
    """For stores that can be enumerated and emptied; sizes are bytes."""

    def walk(self) -> Iterator[tuple[Digest, int]]: ...

    def delete(self, digest: Digest) -> None: ...


class ContentStore(Fetcher, Ingester, Protocol):
    """Content both ways, without names."""


class Source(Fetcher, Resolver, Protocol):
    """What can be copied from."""


class Target(Fetcher, Ingester, Resolver, Tagger, Protocol):
    """What can be copied to."""


class Mounter(Protocol):
    """A target that can take a blob from a sibling repository without the bytes passing through us."""

    def mount(self, wanted: Descriptor, repository: str) -> bool: ...


class VerifyingReader(io.RawIOBase):
    """Passes bytes through and, at the end, insists on the descriptor's size and digest.

    Reading past ``expected.size`` is refused at once, so that a lying sender cannot fill a disk.
    ``begun`` seeds it with what an interrupted transfer already hashed.
    """

    def __init__(self, expected: Descriptor, source: BinaryIO, begun: Digester | None = None) -> None:
        super().__init__()
        self._expected = expected
        self._source = source
        self._digester = begun or Digester(expected.digest.algorithm)
        self._is_checked = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes; ``b""`` only when everything was read and everything matched."""
        if size == 0:
            return b""
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        chunk = self._source.read(size)
        if chunk:
            self._digester.update(chunk)
            if self._digester.size > self._expected.size:
                raise SizeMismatch(
                    f"{self._expected.digest}: expected {self._expected.size} bytes, got more"
                )
            return chunk
        self._check()
        return b""

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def _check(self) -> None:
        if self._is_checked:
            return
        check_content(self._expected, self._digester)
        self._is_checked = True

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def verified(expected: Descriptor, source: BinaryIO) -> VerifyingReader:
    return VerifyingReader(expected, source)


def check_content(expected: Descriptor, found: Digester) -> None:
    if found.size != expected.size:
        raise SizeMismatch(f"{expected.digest}: expected {expected.size} bytes, got {found.size}")
    digest = found.digest()
    if digest != expected.digest:
        raise DigestMismatch(f"{expected.digest}: the bytes received have the digest {digest}")


class DocumentTooLarge(InvalidInput):
    pass


def read_all(source: Fetcher, wanted: Descriptor, limit: int) -> bytes:
    """A whole verified document. Raises :class:`DocumentTooLarge` before a byte moves if it is over."""
    if wanted.size > limit:
        raise DocumentTooLarge(f"{wanted.digest}: {wanted.size} bytes is over the limit of {limit}")
    with verified(wanted, source.open(wanted)) as reader:
        return reader.read()
