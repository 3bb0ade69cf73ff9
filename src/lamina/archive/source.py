"""Archives and layouts as a source: whatever another tool saved, ready to be copied from."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Self

from lamina.archive.docker import MANIFEST, DockerArchive, is_docker_archive
from lamina.archive.layout import INDEX, ArchivedImage, Layout
from lamina.archive.members import DirectoryMembers, InvalidArchive, Members, TarMembers
from lamina.archive.spool import settled
from lamina.content.store import BlobNotFound, NameNotFound
from lamina.events import Report, silent
from lamina.oci.descriptor import Descriptor


class ArchiveSource:
    """A ``Source`` and a ``RangedFetcher`` over a docker-archive, an OCI archive or a layout directory.

    ``scratch`` is a directory for the one temporary file that compressed or unseekable input needs; it is
    gone when the source is closed. Several threads may read at once. Nothing is verified here but sizes:
    every ``put`` does that.
    """

    def __init__(self, source: Path | BinaryIO, *, scratch: Path, report: Report = silent) -> None:
        self._members: Members
        if isinstance(source, Path) and source.is_dir():
            self._members = DirectoryMembers(source)
        else:
            self._members = TarMembers(settled(source, scratch))
        try:
            self._reading = _reading(self._members, report)
        except BaseException:
            self._members.close()
            raise

    def images(self) -> tuple[ArchivedImage, ...]:
        """In the order of the archive, each with the names that it bears there."""
        return tuple(self._reading.images)

    def resolve(self, name: str) -> Descriptor:
        """A name as the archive spells it, also a tag alone; the empty name is the only image there is."""
        images = self._reading.images
        if name in self._reading.aliases:
            return self._reading.aliases[name]
        if not name and len(images) == 1:
            return images[0].root
        known = ", ".join(sorted(self._reading.aliases)) or "no names"
        if not name:
            raise NameNotFound(
                f"the archive holds {len(images)} images ({known}); say which, with a colon and its name"
            )
        raise NameNotFound(f"{name!r}: no such name among {len(images)} images in the archive ({known})")

    def has(self, wanted: Descriptor) -> bool:
        return self._reading.has(wanted)

    def open(self, wanted: Descriptor) -> BinaryIO:
        return self.open_at(wanted, 0)

    def open_at(self, wanted: Descriptor, offset: int) -> BinaryIO:
        return self._reading.open_at(wanted, offset)

    def close(self) -> None:
        self._members.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _reading(members: Members, report: Report) -> Layout | DockerArchive:
    """Docker >= 25 writes both forms into one tar: the layout is read, since it keeps the manifest's digest.

    Where its blobs are not all there, as after somebody filtered the tar, ``manifest.json`` still serves.
    """
    if members.has(INDEX):
        try:
            return Layout(members, report)
        except BlobNotFound:
            if not members.has(MANIFEST):
                raise
    if is_docker_archive(members):
        return DockerArchive(members)
    raise InvalidArchive(
        f"not an image archive: it has neither {MANIFEST} nor {INDEX} (a root filesystem is for import)"
    )
