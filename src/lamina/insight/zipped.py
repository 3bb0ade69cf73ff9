"""The members of a zip archive, without believing how many it says it has."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from lamina.insight.passing import Readable
from lamina.layer.entry import InvalidLayer

if TYPE_CHECKING:
    import zipfile

# The standard library reads the central directory whole; this one lists half a million members.
MAX_DIRECTORY = 32 << 20

# APPNOTE 4.3.16 and 4.3.14: signature; four counts; the directory's size, and where it begins.
_END = struct.Struct("<4sHHHHIIH")
_END_64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_LONGEST_COMMENT = 65535


class DirectoryTooLarge(InvalidLayer):
    pass


def open_members(file: IO[bytes]) -> Iterator[tuple[zipfile.ZipInfo, Readable]]:
    """Each with its content, as a stream that works until the next one is asked for.

    Raises ``InvalidLayer`` for an archive that cannot be read. What is wrong with one member is raised while
    it is read.
    """
    import zipfile  # noqa: PLC0415 - 12 ms, and few images need it

    _insist_on_size(file)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, struct.error) as error:
        raise InvalidLayer(f"damaged ({error})") from None
    with archive:
        for info in archive.infolist():
            if info.file_size:
                member = _Member(archive, info)
                yield info, member
                member.close()


def is_stored(info: zipfile.ZipInfo) -> bool:
    """Its bytes lie in the archive as they are."""
    return info.compress_type == 0


class _Member:
    """A member that is opened when it is first read, so that its damage is its own."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self._archive = archive
        self._info = info
        self._file: IO[bytes] | None = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, size: int = 1 << 20, /) -> bytes:
        import zipfile  # noqa: PLC0415
        import zlib  # noqa: PLC0415

        try:
            if self._file is None:
                self._file = self._archive.open(self._info)
            return self._file.read(size)
        except NotImplementedError:
            raise InvalidLayer("compressed in a way that is not known here") from None
        except RuntimeError:
            raise InvalidLayer("encrypted") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, struct.error) as error:
            raise InvalidLayer(f"damaged ({error})") from None


def _insist_on_size(file: IO[bytes]) -> None:
    size = file.seek(0, 2)
    start = max(0, size - _LONGEST_COMMENT - _END.size - _LOCATOR.size)
    file.seek(start)
    tail = file.read(size - start)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise InvalidLayer("damaged (its directory is missing)")
    length = _END.unpack_from(tail, at)[5]
    before = at - _LOCATOR.size
    if before >= 0 and tail.startswith(b"PK\6\7", before):
        file.seek(_LOCATOR.unpack_from(tail, before)[2])
        end = file.read(_END_64.size)
        if len(end) == _END_64.size:
            length = _END_64.unpack(end)[8]
    if length > MAX_DIRECTORY:
        raise DirectoryTooLarge(f"its directory has {length} bytes; {MAX_DIRECTORY} is the limit")
