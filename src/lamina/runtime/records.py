"""The table of containers: one row each in the state file, which names are unique in."""

from __future__ import annotations

import json
from collections.abc import Iterator

from lamina.content.state import State
from lamina.errors import InvalidInput
from lamina.oci.digest import Digest
from lamina.runtime.container import Container, ContainerNotFound, NameInUse


class ContainerTable:
    def __init__(self, state: State) -> None:
        self._state = state

    def add(self, container: Container) -> None:
        """Raises :class:`NameInUse`."""
        with self._state.transaction() as connection:
            self.insist_free(container.name)
            connection.execute(
                "INSERT INTO containers VALUES (?,?,?,?,?,?)",
                (container.id, container.name, container.image, container.config, container.created,
                 json.dumps(container.to_json(), separators=(",", ":"))),
            )

    def find(self, text: str) -> Container:
        """By name, ID, or the beginning of an ID that only one has. Raises :class:`ContainerNotFound`."""
        rows = self._rows("WHERE name = ? OR id = ?", (text.removeprefix("/"), text))
        if not rows and text and all(letter in "0123456789abcdef" for letter in text):
            rows = self._rows("WHERE substr(id, 1, ?) = ?", (len(text), text))
            if len(rows) > 1:
                raise InvalidInput(f"{text}: the beginning of {len(rows)} containers' IDs; give more of it")
        if not rows:
            raise ContainerNotFound(f"{text}: no such container; `lamina ps -a` lists those that there are")
        return rows[0]

    def get(self, container_id: str) -> Container | None:
        rows = self._rows("WHERE id = ?", (container_id,))
        return rows[0] if rows else None

    def walk(self) -> Iterator[Container]:
        """Newest first."""
        return iter(self._rows("", ()))

    def replace(self, container: Container) -> None:
        """Another name, or other limits. Raises :class:`NameInUse`, :class:`ContainerNotFound`."""
        with self._state.transaction() as connection:
            self.insist_free(container.name, apart_from=container.id)
            changed = connection.execute(
                "UPDATE containers SET name = ?, document = ? WHERE id = ?",
                (container.name, json.dumps(container.to_json(), separators=(",", ":")), container.id),
            )
            if not changed.rowcount:
                raise ContainerNotFound(f"{container.id[:12]}: removed meanwhile")

    def remove(self, container_id: str) -> None:
        with self._state.transaction() as connection:
            connection.execute("DELETE FROM containers WHERE id = ?", (container_id,))

    def images(self) -> set[Digest]:
        """Digests of the root documents of images that containers are made from."""
        return {Digest(str(row[0])) for row in self._state.rows("SELECT DISTINCT image FROM containers")}

    def names(self) -> set[str]:
        return {str(row[0]) for row in self._state.rows("SELECT name FROM containers")}

    def ids(self) -> set[str]:
        return {str(row[0]) for row in self._state.rows("SELECT id FROM containers")}

    def insist_free(self, name: str, apart_from: str = "") -> None:
        """Raises :class:`NameInUse`. Only within the transaction that takes the name does it last."""
        rows = self._state.rows("SELECT id FROM containers WHERE name = ? AND id != ?", (name, apart_from))
        if rows:
            raise NameInUse(
                f"{name}: the container {str(rows[0][0])[:12]} has that name; remove or rename it, or take "
                "another"
            )

    def _rows(self, clause: str, values: tuple[object, ...]) -> list[Container]:
        statement = f"SELECT document FROM containers {clause} ORDER BY created DESC, id"  # noqa: S608 - clauses are ours
        return [Container.from_json(json.loads(str(row[0]))) for row in self._state.rows(statement, values)]


