"""A context that comes as a stream, or does not come at all: ``build -``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lamina.build.context import MAX_DOCUMENT, Context
from lamina.errors import InvalidInput
from lamina.layer.compress import Compression, Readable, sniff
from lamina.layer.root import Ownership
from lamina.layer.tarstream import TarReader
from lamina.runtime.extraction import Extraction
from lamina.runtime.incoming import Begun, plain
from lamina.snapshot import syscalls
from lamina.snapshot.trees import empty_and_remove
from lamina.values import dataclass

_BLOCK = 512
_XZ_MAGIC, _BZIP2_MAGIC = b"\xfd7zXZ\x00", b"BZh"


@dataclass(frozen=True, slots=True)
class Received:
    """``dockerfile`` is set where the stream was one, and the context is empty then."""

    context: Context
    dockerfile: bytes | None


def receive(stream: Readable, directory: Path | None = None) -> Received:
    """What is piped into a build: a tar of the context, compressed or not, or else a Dockerfile."""
    head = _read_up_to(stream, _BLOCK)
    if is_archive(head):
        return Received(unpacked(Begun(head, stream), directory), None)
    text = head + _read_up_to(stream, MAX_DOCUMENT - len(head) + 1)
    if len(text) > MAX_DOCUMENT:
        raise InvalidInput("standard input: no archive, and longer than a Dockerfile may be")
    return Received(empty(directory), text)


def is_archive(head: bytes) -> bool:
    """By the first block: something compressed, a tar, or a tar of nothing."""
    if head.startswith((_XZ_MAGIC, _BZIP2_MAGIC)) or (len(head) >= 4 and sniff(head) is not Compression.NONE):
        return True
    return is_tar(head) or (len(head) >= _BLOCK and not any(head))


def is_tar(head: bytes) -> bool:
    """By the first block: a header with the right sum (POSIX pax, "ustar")."""
    if len(head) < _BLOCK:
        return False
    try:
        expected = int(head[148:156].strip(b"\0 ") or b"x", 8)
    except ValueError:
        return False
    return sum(head[:148]) + sum(head[156:_BLOCK]) + 8 * ord(" ") == expected


def unpacked(stream: Readable, directory: Path | None = None) -> Context:
    """A tar as a context, in a private directory that is gone when the context is closed.

    ``directory`` is where that is made; the system's temporary one if not given. Devices are left out.
    Raises ``InvalidLayer`` and ``PathEscapes`` for what no honest tar holds.
    """
    place = _private(directory)
    try:
        extract_into(stream, place, (os.geteuid(), os.getegid()))
        return Context.from_directory(place, on_close=_remover(place))
    except BaseException:
        empty_and_remove(place)
        raise


def empty(directory: Path | None = None) -> Context:
    place = _private(directory)
    return Context.from_directory(place, on_close=_remover(place))


def extract_into(stream: Readable, place: Path, ids: tuple[int, int] | None) -> None:
    """A tar into a directory that is there. ``ids`` are whose everything becomes; ``None`` keeps owners."""
    top = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        Extraction(
            lambda path, flags: syscalls.open_in_root(top, path, flags),
            owner=Ownership.KEEP, ids=ids, has_devices=False,
        ).run(TarReader(plain(stream)))
    finally:
        os.close(top)


def _private(directory: Path | None) -> Path:
    import tempfile  # noqa: PLC0415 - 5 ms, for few builds

    return Path(tempfile.mkdtemp(prefix="lamina-context-", dir=directory))


def _remover(place: Path) -> Callable[[], None]:
    return lambda: empty_and_remove(place)


def _read_up_to(stream: Readable, size: int) -> bytes:
    pieces: list[bytes] = []
    while size > 0 and (piece := stream.read(min(size, 1 << 20))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
