"""Which images are here, and what they are called: records and names over the state file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lamina.content.state import State
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest
from lamina.values import dataclass

_COLUMNS = (
    "i.digest, i.media_type, i.size, i.manifest, i.config, i.platform, i.created, i.content_size, "
    "i.labels, i.stored"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """What inflating a blob once has proved. Sizes are bytes; ``content_size`` counts file data alone."""

    diff_id: Digest
    tar_size: int
    content_size: int
    entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """``manifest`` stands for the image on this machine; ``config`` is its ID; ``labels`` is JSON text."""

    descriptor: Descriptor
    manifest: Digest
    config: Digest
    platform: str
    created: str
    content_size: int
    labels: str
    stored: float
    names: tuple[str, ...] = ()


class Catalog:
    """Statements on the tables ``images``, ``names``, ``layers`` and ``origins``.

    Writing methods belong inside ``State.transaction()`` of the caller.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    def record(self, record: ImageRecord) -> None:
        with self._state.transaction() as connection:
            connection.execute(
                "INSERT INTO images VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT (digest) DO UPDATE SET "
                "manifest=excluded.manifest, config=excluded.config, platform=excluded.platform, "
                "created=excluded.created, content_size=excluded.content_size, labels=excluded.labels",
                (record.descriptor.digest, record.descriptor.media_type, record.descriptor.size,
                 record.manifest, record.config, record.platform, record.created, record.content_size,
                 record.labels, record.stored),
            )

    def remove(self, digest: Digest) -> None:
        with self._state.transaction() as connection:
            connection.execute("DELETE FROM images WHERE digest = ?", (digest,))

    def assign(self, name: str, digest: Digest) -> None:
        with self._state.transaction() as connection:
            connection.execute(
                "INSERT INTO names VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET image = excluded.image",
                (name, digest),
            )

    def unassign(self, name: str) -> bool:
        with self._state.transaction() as connection:
            return connection.execute("DELETE FROM names WHERE name = ?", (name,)).rowcount > 0

    def named(self, name: str) -> ImageRecord | None:
        found = self._select(
            "JOIN names AS wanted ON wanted.image = i.digest LEFT JOIN names AS n ON n.image = i.digest "
            "WHERE wanted.name = ?", (name,)
        )
        return found[0] if found else None

    def with_digest(self, digest: str) -> ImageRecord | None:
        """By the digest of the root document."""
        found = self._select("LEFT JOIN names AS n ON n.image = i.digest WHERE i.digest = ?", (digest,))
        return found[0] if found else None

    def with_id_prefix(self, prefix: str) -> list[ImageRecord]:
        """By the first hex digits of the image ID or of the root digest."""
        like = f"sha256:{prefix}%"
        return self._select(
            "LEFT JOIN names AS n ON n.image = i.digest WHERE i.config LIKE ? OR i.digest LIKE ?",
            (like, like),
        )

    def records(self) -> list[ImageRecord]:
        """Newest first, each with its names sorted."""
        return self._select("LEFT JOIN names AS n ON n.image = i.digest", ())

    # -- facts about blobs

    def learn_layer(self, blob: Digest, facts: LayerFacts) -> None:
        with self._state.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO layers VALUES (?,?,?,?,?)",
                (blob, facts.diff_id, facts.tar_size, facts.content_size, facts.entries),
            )

    def layer(self, blob: Digest) -> LayerFacts | None:
        rows = self._state.rows(
            "SELECT diff_id, tar_size, content_size, entries FROM layers WHERE blob = ?", (blob,)
        )
        if not rows:
            return None
        diff_id, tar_size, content_size, entries = rows[0]
        return LayerFacts(
            diff_id=Digest(str(diff_id)), tar_size=_whole(tar_size), content_size=_whole(content_size),
            entries=_whole(entries),
        )

    def content_size(self, layers: Sequence[Descriptor]) -> int:
        """Bytes of files over all layers; a layer that was never inflated counts with its blob's size."""
        total = 0
        for layer in layers:
            facts = self.layer(layer.digest)
            total += layer.size if facts is None else facts.content_size
        return total

    def forget_layers(self, blobs: Iterable[Digest]) -> None:
        with self._state.transaction() as connection:
            for blob in blobs:
                connection.execute("DELETE FROM layers WHERE blob = ?", (blob,))
                connection.execute("DELETE FROM origins WHERE blob = ?", (blob,))
                connection.execute("DELETE FROM dropped WHERE blob = ?", (blob,))

    def learn_origin(self, blobs: Iterable[Digest], repository: str) -> None:
        with self._state.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO origins VALUES (?, ?)", [(blob, repository) for blob in blobs]
            )

    def origins(self, blob: Digest) -> list[str]:
        rows = self._state.rows("SELECT repository FROM origins WHERE blob = ? ORDER BY 1", (blob,))
        return [str(row[0]) for row in rows]

    def _select(self, clause: str, values: tuple[object, ...]) -> list[ImageRecord]:
        statement = (
            f"SELECT {_COLUMNS}, n.name FROM images AS i {clause} "  # noqa: S608 - clauses are ours
            "ORDER BY i.created DESC, i.digest, n.name"
        )
        records: list[ImageRecord] = []
        names: list[str] = []
        previous: tuple[object, ...] = ()
        for row in self._state.rows(statement, values):
            if row[:-1] != previous:
                if previous:
                    records.append(_record(previous, names))
                previous, names = row[:-1], []
            if row[-1] is not None:
                names.append(str(row[-1]))
        if previous:
            records.append(_record(previous, names))
        return records


def _record(row: tuple[object, ...], names: list[str]) -> ImageRecord:
    digest, media_type, size, manifest, config, platform, created, content_size, labels, stored = row
    return ImageRecord(
        descriptor=Descriptor(
            media_type=str(media_type), digest=Digest(str(digest)), size=_whole(size)
        ),
        manifest=Digest(str(manifest)),
        config=Digest(str(config)),
        platform=str(platform),
        created=str(created),
        content_size=_whole(content_size),
        labels=str(labels),
        stored=float(str(stored)),
        names=tuple(names),
    )


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value
