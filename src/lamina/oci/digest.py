"""Digests: the names of bytes.

A digest is a ``str``, so that it is a dictionary key, a path part and JSON with no conversion.
The only way in for foreign text is :meth:`Digest.parse`, which is strict: a digest becomes part of
a URL and of a path (CVE-2024-3727 is what happens when nobody looks).
"""

from __future__ import annotations

import hashlib
import re

from lamina.errors import InvalidInput

# image-spec descriptor.md, "Registered algorithms": hex length is fixed, and lower case only.
_ENCODED = {
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "sha384": re.compile(r"[0-9a-f]{96}"),
    "sha512": re.compile(r"[0-9a-f]{128}"),
}


class InvalidDigest(InvalidInput):
    pass


class Digest(str):
    """``algorithm:encoded``, checked."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Digest:
        """Raises :class:`InvalidDigest` for anything that is not a registered algorithm and its hex."""
        if not isinstance(text, str):
            raise InvalidDigest(f"{text!r}: a digest must be a string")
        algorithm, _, encoded = text.partition(":")
        pattern = _ENCODED.get(algorithm)
        if pattern is None or pattern.fullmatch(encoded) is None:
            raise InvalidDigest(f"{text[:160]!r}: not a digest (expected sha256:<64 hex digits>)")
        return cls(text)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """The first 12 hex digits: what people see."""
        return self.encoded[:12]


class Digester:
    """Feed it chunks; it knows their digest and how many bytes there were. Hashing releases the GIL."""

    __slots__ = ("_hash", "algorithm", "size")

    def __init__(self, algorithm: str = "sha256") -> None:
        if algorithm not in _ENCODED:
            raise InvalidDigest(f"{algorithm!r}: not a registered digest algorithm")
        self.algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self.size = 0

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        self._hash.update(chunk)
        self.size += len(chunk)

    def digest(self) -> Digest:
        return Digest(f"{self.algorithm}:{self._hash.hexdigest()}")
