"""A store in a dictionary: the smallest target, and the one the others are compared with."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, Self

from lamina.content.store import BlobNotFound, DigestMismatch, NameNotFound, verified
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest


class MemoryStore:
    """Everything a :class:`~lamina.content.store.Target` and a ``Keeper`` do."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}
        self._names: dict[str, Descriptor] = {}

    def open(self, wanted: Descriptor) -> BinaryIO:
        return self.open_at(wanted, 0)

    def open_at(self, wanted: Descriptor, offset: int) -> BinaryIO:
        try:
            return io.BytesIO(self._blobs[wanted.digest][offset:])
        except KeyError:
            raise BlobNotFound(f"{wanted.digest}: not in this store") from None

    def has(self, wanted: Descriptor) -> bool:
        return wanted.digest in self._blobs

    def put(self, expected: Descriptor, source: BinaryIO) -> None:
        if not self.has(expected):
            self._blobs[expected.digest] = verified(expected, source).read()

    def ingest(self) -> MemoryIngest:
        return MemoryIngest(self._blobs)

    def resolve(self, name: str) -> Descriptor:
        try:
            return self._names[name]
        except KeyError:
            raise NameNotFound(f"{name}: no such name") from None

    def tag(self, name: str, target: Descriptor) -> None:
        self._names[name] = target

    def names(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def walk(self) -> Iterator[tuple[Digest, int]]:
        return iter([(digest, len(data)) for digest, data in self._blobs.items()])

    def delete(self, digest: Digest) -> None:
        self._blobs.pop(digest, None)


class MemoryIngest:
    def __init__(self, blobs: dict[Digest, bytes]) -> None:
        self._blobs = blobs
        self._data = bytearray()

    def write(self, chunk: bytes | memoryview) -> int:
        self._data += chunk
        return len(chunk)

    def commit(self, media_type: str, expected: Digest | None = None) -> Descriptor:
        data = bytes(self._data)
        digest = Digest.of(data, expected.algorithm if expected else "sha256")
        if expected is not None and digest != expected:
            raise DigestMismatch(f"{expected}: the bytes written have the digest {digest}")
        self._blobs[digest] = data
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._data = bytearray()
