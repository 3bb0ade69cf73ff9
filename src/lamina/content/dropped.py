"""Blobs that were dropped: which they are, and which repository gives them again.

A row is durable before its blob is unlinked, and goes after the blob is there again. So a row alone says
nothing: a blob is dropped where there is a row and no file, and where there are both somebody died, or is
at work, between the two.
"""

from __future__ import annotations

from collections.abc import Iterable

from lamina.content.state import State
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest
from lamina.values import dataclass

_COLUMNS = "blob, media_type, size, diff_id, compression, repository, dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedBlob:
    """``repository`` is the one that served it then, registry first. ``dropped`` is seconds since the epoch.

    ``compression`` is what the first bytes said, so that nobody has to fetch them for that.
    """

    descriptor: Descriptor
    diff_id: Digest
    compression: str
    repository: str
    dropped: float

    @property
    def digest(self) -> Digest:
        return self.descriptor.digest


class DroppedTable:
    """Statements on the table ``dropped``. Rows of blobs that are here are given as well."""

    def __init__(self, state: State) -> None:
        self._state = state

    def add(self, blobs: Iterable[DroppedBlob]) -> None:
        rows = [
            (blob.digest, blob.descriptor.media_type, blob.descriptor.size, blob.diff_id, blob.compression,
             blob.repository, blob.dropped)
            for blob in blobs
        ]
        with self._state.transaction() as connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO dropped ({_COLUMNS}) VALUES (?,?,?,?,?,?,?)", rows  # noqa: S608 - ours
            )

    def remove(self, blobs: Iterable[Digest]) -> None:
        with self._state.transaction() as connection:
            connection.executemany("DELETE FROM dropped WHERE blob = ?", [(blob,) for blob in blobs])

    def find(self, blob: Digest) -> DroppedBlob | None:
        found = self._select("WHERE blob = ?", (blob,))
        return found[0] if found else None

    def of_layer(self, diff_id: Digest) -> list[DroppedBlob]:
        return self._select("WHERE diff_id = ?", (diff_id,))

    def walk(self) -> list[DroppedBlob]:
        return self._select("", ())

    def _select(self, clause: str, values: tuple[object, ...]) -> list[DroppedBlob]:
        statement = f"SELECT {_COLUMNS} FROM dropped {clause} ORDER BY blob"  # noqa: S608 - ours
        return [_blob(row) for row in self._state.rows(statement, values)]


def _blob(row: tuple[object, ...]) -> DroppedBlob:
    blob, media_type, size, diff_id, compression, repository, dropped = map(str, row)
    return DroppedBlob(
        descriptor=Descriptor(media_type=media_type, digest=Digest(blob), size=int(size)),
        diff_id=Digest(diff_id), compression=compression, repository=repository, dropped=float(dropped),
    )
