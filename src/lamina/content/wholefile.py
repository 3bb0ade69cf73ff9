"""A file of a person's that is whole or not there: an archive, a report, a certificate.

The store's own files go through ``durable``: those must survive a power cut, these only a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO, cast


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Under its name when all is written, and not at all after a failure.

    What is there and no file, such as a named pipe or ``/dev/stdout``, is written to and never replaced; a
    symlink is followed. Every ``OSError`` of the file itself has ``path`` as its name, or its directory where
    it cannot even be begun.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with _naming(path):
            device = open(target, "wb")  # noqa: SIM115 - closed below
        with _closed(device):
            yield from _flushed(device, path)
        return
    temporary = target.with_name(f".{target.name[:64]}.{os.urandom(8).hex()}")
    with _naming(temporary.parent):
        file = open(temporary, "xb")  # noqa: SIM115 - closed below
    try:
        with _closed(file):
            yield from _flushed(file, path)
        with _naming(path):
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _flushed(stream: IO[bytes], path: Path) -> Iterator[BinaryIO]:
    out = _NamedFile(stream, path)
    yield cast("BinaryIO", out)
    out.flush()


@contextmanager
def _closed(stream: IO[bytes]) -> Iterator[None]:
    """Closing writes once more what could not be written, and would complain again."""
    try:
        yield
    finally:
        with suppress(OSError):
            stream.close()


class _NamedFile:
    """What writers need of a file, with failures that cannot be taken for another's."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path

    def write(self, chunk: bytes | memoryview) -> int:
        with _naming(self._path):
            return self._stream.write(chunk)

    def flush(self) -> None:
        with _naming(self._path):
            self._stream.flush()

    def writable(self) -> bool:
        return True


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        error.filename2 = None
        raise
