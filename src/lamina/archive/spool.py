"""An archive as it arrives, made into a file that can be read anywhere: inflated, and out of the pipe."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from lamina.archive.members import InvalidArchive
from lamina.content.store import CHUNK
from lamina.errors import NotFound, Unsupported
from lamina.layer.compress import Compression, inflate, sniff
from lamina.layer.entry import InvalidLayer

_LONGEST_MAGIC = 6
_FOREIGN = {b"\xfd7zXZ\0": "xz", b"BZh": "bzip2"}


class ArchiveNotFound(NotFound):
    pass


class UnknownCompression(Unsupported):
    pass


def settled(source: Path | BinaryIO, scratch: Path) -> BinaryIO:
    """A plain tar with a file descriptor, at position 0; the caller closes it.

    A plain file is used where it lies. Anything compressed, and anything that cannot seek, is written to
    an unnamed file in ``scratch``, which vanishes with its descriptor, however the process ends. A stream
    that was passed in stays its owner's to close.
    """
    if not isinstance(source, Path):
        return _settled(source, scratch)
    try:
        with open(source, "rb") as file:
            return _settled(file, scratch)
    except FileNotFoundError:
        raise ArchiveNotFound(f"{source}: no such file or directory") from None


def _settled(source: BinaryIO, scratch: Path) -> BinaryIO:
    descriptor = _regular_file(source)
    if descriptor is not None and sniff(os.pread(descriptor, _LONGEST_MAGIC, 0)) is Compression.NONE:
        file = cast("BinaryIO", os.fdopen(os.dup(descriptor), "rb", buffering=0))
    else:
        file = _spooled(source, scratch)
    head = os.pread(file.fileno(), _LONGEST_MAGIC, 0)
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            file.close()
            raise UnknownCompression(f"the archive is compressed with {name}; gzip and zstd are read here")
    return file


def _spooled(source: BinaryIO, scratch: Path) -> BinaryIO:
    file = tempfile.TemporaryFile(prefix="archive-", dir=scratch)  # noqa: SIM115 - the caller closes it
    try:
        stream = inflate(source)
        while chunk := stream.read(CHUNK):
            file.write(chunk)
        file.seek(0)
    except InvalidLayer as error:  # damaged, cut, or a bomb
        file.close()
        raise InvalidArchive(f"the archive cannot be read: {error}") from None
    except BaseException:
        file.close()
        raise
    return cast("BinaryIO", file)


def _regular_file(source: BinaryIO) -> int | None:
    """The descriptor of a file that can be read by position; ``None`` for pipes and half-read files."""
    try:
        descriptor = source.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and source.tell() == 0:
            return descriptor
    except (OSError, ValueError, AttributeError):  # in memory, or a stream of somebody else's making
        pass
    return None
