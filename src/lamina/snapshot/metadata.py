"""The rows behind snapshots: one driver's part of the table ``snapshots`` in the state file.

A row appears after the directories it speaks of are in place and synced, and goes before they are
removed. So a row can be believed, and a directory without one is what a dead process left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lamina.content.state import State
from lamina.oci.digest import Digest
from lamina.snapshot.snapshotter import (
    SnapshotExists,
    SnapshotInfo,
    SnapshotInUse,
    SnapshotKind,
    SnapshotNotFound,
    check_key,
)
from lamina.values import dataclass, field

_COLUMNS = "key, kind, parent, diff_id, created, data"


@dataclass(frozen=True, slots=True)
class Row:
    """``data`` is the driver's own."""

    info: SnapshotInfo
    data: Mapping[str, Any] = field(default_factory=dict)


class SnapshotTable:
    def __init__(self, state: State, driver: str, clock: Callable[[], float] = time.time) -> None:
        self._state = state
        self._driver = driver
        self._clock = clock

    def find(self, key: str) -> Row | None:
        rows = self._select("AND key = ?", (key,))
        return rows[0] if rows else None

    def get(self, key: str, *kinds: SnapshotKind) -> Row:
        """Raises :class:`SnapshotNotFound`, also for one of another kind."""
        row = self.find(key)
        if row is None or (kinds and row.info.kind not in kinds):
            wanted = " or ".join(kinds) if kinds else ""
            raise SnapshotNotFound(f"{key}: {self._driver} has no such {wanted} snapshot".replace("  ", " "))
        return row

    def insist_absent(self, key: str) -> None:
        if self.find(check_key(key)) is not None:
            raise SnapshotExists(f"{key}: there is a snapshot of that name in {self._driver}")

    def add(
        self, key: str, kind: SnapshotKind, *, parent: str = "", diff_id: Digest | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """The parent is looked at in the same transaction, so that it cannot go in between."""
        with self._state.transaction() as connection:
            self.insist_absent(key)
            if parent:
                self.get(parent, SnapshotKind.COMMITTED)
            connection.execute(
                "INSERT INTO snapshots VALUES (?,?,?,?,?,?,?)",
                (self._driver, key, kind.value, parent, diff_id or "", self._clock(),
                 _dumped(data or {})),
            )

    def put_layer(self, name: str, parent: str, diff_id: Digest, data: Mapping[str, Any]) -> None:
        """A committed snapshot that came from a layer: there already, perhaps, and then with this data."""
        with self._state.transaction() as connection:
            row = self.find(name)
            if row is None:
                self.add(name, SnapshotKind.COMMITTED, parent=parent, diff_id=diff_id, data=data)
            elif row.info.kind is not SnapshotKind.COMMITTED or row.info.diff_id != diff_id:
                raise SnapshotExists(f"{name}: there is another snapshot of that name in {self._driver}")
            elif dict(row.data) != dict(data):
                connection.execute(
                    "UPDATE snapshots SET data = ? WHERE driver = ? AND key = ?",
                    (_dumped(data), self._driver, name),
                )

    def commit(
        self, name: str, key: str, data: Mapping[str, Any], diff_id: Digest | None = None
    ) -> None:
        """The active ``key`` becomes the committed ``name``, at once."""
        with self._state.transaction():
            row = self.get(key, SnapshotKind.ACTIVE)
            self._delete(key)
            self.add(name, SnapshotKind.COMMITTED, parent=row.info.parent, diff_id=diff_id, data=data)

    def remove(self, key: str) -> Row:
        """Raises :class:`SnapshotInUse` for one that has children."""
        with self._state.transaction():
            row = self.get(key)
            children = self._select("AND parent = ?", (key,))
            if children:
                raise SnapshotInUse(f"{key}: {len(children)} snapshots of {self._driver} are based on it")
            self._delete(key)
        return row

    def walk(self) -> Iterator[Row]:
        """A snapshot of the table itself: safe while rows come and go."""
        return iter(self._select("", ()))

    def lineage(self, name: str) -> list[Row]:
        """A committed snapshot and its parents, topmost first."""
        rows = []
        while name:
            rows.append(self.get(name, SnapshotKind.COMMITTED))
            name = rows[-1].info.parent
        return rows

    def _delete(self, key: str) -> None:
        with self._state.transaction() as connection:
            connection.execute("DELETE FROM snapshots WHERE driver = ? AND key = ?", (self._driver, key))

    def _select(self, clause: str, values: tuple[object, ...]) -> list[Row]:
        statement = f"SELECT {_COLUMNS} FROM snapshots WHERE driver = ? {clause} ORDER BY created, key"  # noqa: S608 - clauses are ours
        return [_row(columns) for columns in self._state.rows(statement, (self._driver, *values))]


def _dumped(data: Mapping[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"))


def _row(columns: tuple[object, ...]) -> Row:
    key, kind, parent, diff_id, created, data = map(str, columns)
    info = SnapshotInfo(
        key=key, kind=SnapshotKind(kind), parent=parent, diff_id=Digest(diff_id) if diff_id else None,
        created=float(created),
    )
    return Row(info, json.loads(data))
