"""One layer, searched whole: its tar, what is in the containers among its files, and its blob's own bytes.

The tar is read once, front to back, whatever is searched for: out of the layer store if it is kept there,
else by inflating the blob. Blob and tar are hashed on the way, since an answer about other bytes than the
image's is worth nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO

from lamina.errors import IntegrityError, LaminaError
from lamina.insight.inflating import HEAD, Container, container_of
from lamina.insight.needles import Needle
from lamina.insight.nested import NestedMatch, NestedSearch, Trouble
from lamina.insight.passing import Part, Passing, Readable
from lamina.insight.scan import Match, Scanner
from lamina.layer import tarheader
from lamina.layer.compress import inflate
from lamina.layer.index import LayerIndex
from lamina.layer.tarheader import BLOCK
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest, Digester
from lamina.values import dataclass, field

_CHUNK = 1 << 20


class WrongBytes(IntegrityError):
    """What lies here is not what its digest names."""


@dataclass(slots=True, kw_only=True)
class LayerResult:
    """``end`` is where the tar's trailer begins. ``nested`` and ``troubles`` come with the entry's number.

    ``failures`` say what could not be searched. ``blob_header``: bytes before the compressed ones. A blob
    that is the tar is read once, and counted there.
    """

    tar: list[Match] = field(default_factory=list)
    nested: list[tuple[int, NestedMatch]] = field(default_factory=list)
    blob: list[Match] = field(default_factory=list)
    troubles: list[tuple[int, Trouble]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    end: int = 0
    blob_header: int = 0
    tar_bytes: int = 0
    blob_bytes: int = 0


def search_layer(
    descriptor: Descriptor, diff_id: Digest, index: LayerIndex | None, *, needles: Sequence[Needle],
    nested: NestedSearch, open_blob: Callable[[], BinaryIO] | None, kept_tar: BinaryIO | None,
) -> LayerResult:
    """Without an index, files are found as they pass, and only as far as the tar can be read.

    ``kept_tar`` is closed by the caller; without ``open_blob`` it is all that there is.
    """
    result = LayerResult()
    if open_blob is None:
        assert kept_tar is not None
        _try_tar(kept_tar, diff_id, index, needles, result, nested)
        return result
    with open_blob() as blob:
        if descriptor.digest == diff_id:
            _try_tar(blob, diff_id, index, needles, result, nested)
            return result
        reading = _Blob(descriptor, blob, needles, result)
        _try_tar(kept_tar or inflate(reading), diff_id, index, needles, result, nested)
        reading.finish()
    return result


def _try_tar(
    stream: Readable, diff_id: Digest, index: LayerIndex | None, needles: Sequence[Needle],
    result: LayerResult, nested: NestedSearch,
) -> None:
    try:
        search_tar(stream, diff_id, index, Scanner(needles), result, nested)
    except LaminaError as error:
        result.failures.append(str(error))


class _Blob:
    """A layer's blob on its way to be inflated: searched and hashed."""

    def __init__(
        self, descriptor: Descriptor, blob: BinaryIO, needles: Sequence[Needle], result: LayerResult
    ) -> None:
        self._descriptor = descriptor
        self._blob = blob
        self._scanner = Scanner(needles)
        self._digester = Digester(descriptor.digest.algorithm)
        self._result = result
        self._head = b""

    def read(self, size: int = _CHUNK, /) -> bytes:
        chunk = self._blob.read(size)
        if chunk:
            if len(self._head) < 1 << 17:
                self._head += chunk
            self._digester.update(chunk)
            self._scanner.feed(chunk)
        return chunk

    def finish(self) -> None:
        while self.read():
            pass
        found, result = self._digester.digest(), self._result
        result.blob_bytes = self._digester.size
        if found != self._descriptor.digest:
            result.failures.append(f"{self._descriptor.digest}: damaged: its bytes have the digest {found}")
        result.blob_header = gzip_header_size(self._head)
        result.blob = self._only_its_own(self._scanner.finish())

    def _only_its_own(self, matches: list[Match]) -> list[Match]:
        """A compressor stores what does not shrink: such bytes are the tar's, where they were found too."""
        in_tar = {(id(match.needle), match.encoding) for match in self._result.tar}
        return [
            match for match in matches
            if match.offset < self._result.blob_header or (id(match.needle), match.encoding) not in in_tar
        ]


def gzip_header_size(head: bytes) -> int:
    """Of the first member (RFC 1952, 2.3), with extra field, name and comment; 0 for anything else."""
    if head[:3] != b"\x1f\x8b\x08" or len(head) < 10:
        return 0
    flags, at = head[3], 10
    if flags & 4:
        at += 2 + int.from_bytes(head[at : at + 2], "little")
    for bit in (8, 16):
        if flags & bit:
            at = head.find(b"\0", at) + 1 or len(head)
    return at + (2 if flags & 2 else 0)


def search_tar(
    stream: Readable, diff_id: Digest, index: LayerIndex | None, scanner: Scanner, result: LayerResult,
    nested: NestedSearch | None = None,
) -> None:
    """Into ``result``, with what is in containers if ``nested`` is given.

    Raises :class:`WrongBytes` when all was read, and what inflating raises.
    """
    digester = Digester(diff_id.algorithm)

    def see(chunk: bytes) -> None:
        digester.update(chunk)
        scanner.feed(chunk)

    passing = Passing(stream, see)
    try:
        if index is not None:
            _open_files(passing, index, nested, result)
        elif nested is not None:
            found, troubles = nested.search(passing, Container.TAR, 1 << 40)
            result.nested += [(-1, match) for match in found]
            result.troubles += [(-1, trouble) for trouble in troubles]
        passing.drain()
    finally:
        result.tar_bytes = digester.size
        result.tar = scanner.finish()
    if digester.digest() != diff_id:
        raise WrongBytes(f"{diff_id}: damaged: its tar has the digest {digester.digest()}")


def _open_files(
    passing: Passing, index: LayerIndex, nested: NestedSearch | None, result: LayerResult
) -> None:
    """Looks at how each file begins, and into those that are containers."""
    for number, size in enumerate(index.sizes if nested is not None else ()):
        if nested is not None and size and passing.skip_to(index.data_offsets[number]):
            head = passing.peek(min(size, HEAD))
            container = container_of(head[:size])
            if container is not None:
                found, troubles = nested.search(Part(passing, size), container, size)
                result.nested += [(number, match) for match in found]
                result.troubles += [(number, trouble) for trouble in troubles]
    result.end = _end_of_entries(passing, index)


def _end_of_entries(passing: Passing, index: LayerIndex) -> int:
    """Behind the last entry. An index does not say how long the header of one without content is."""
    if not len(index):
        return 0
    number = len(index) - 1
    if index.data_offsets[number] >= 0:
        size = index.sizes[number]
        return index.data_offsets[number] + size + -size % BLOCK
    passing.skip_to(index.header_offsets[number])
    while (block := passing.peek(BLOCK))[156:157] in (b"x", b"X", b"g", b"L", b"K"):
        size = tarheader.size(block[124:136])
        passing.skip_to(passing.position + BLOCK + size + -size % BLOCK)
    return passing.position + BLOCK
