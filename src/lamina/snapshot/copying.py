"""The driver vfs: whole trees, copied or reflinked. Works anywhere, and is what the others are compared with.

Of a stack only the top becomes a tree, composed from the layers' tars in one pass over the union: nothing
that a higher layer hides is ever written. Active snapshots and, where this process cannot mount, views are
private copies: with reflinks (xfs, btrfs) they cost their directories, elsewhere their bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lamina.content.durable import sync_directory
from lamina.content.state import State
from lamina.oci.config import chain_ids
from lamina.oci.digest import Digest
from lamina.snapshot import trees
from lamina.snapshot.changes import Difference
from lamina.snapshot.directories import Directories, locked_home
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.metadata import Row, SnapshotTable
from lamina.snapshot.mountinfo import mounts
from lamina.snapshot.namespace import Identity, Ownership
from lamina.snapshot.snapshotter import (
    Form,
    Mount,
    Reception,
    SnapshotInfo,
    SnapshotInUse,
    SnapshotKind,
    SnapshotNotFound,
    Usage,
)
from lamina.snapshot.trying import owners

NAME = "vfs"
_TREE = "tree"


def open_driver(
    state: State, layers: LayerStore, hands: Hands, _options: Mapping[str, str]
) -> CopyingSnapshotter:
    return CopyingSnapshotter(state, layers, hands)


def promise(hands: Hands) -> str:
    return f"copies files, needs nothing{owners(hands)}"


class CopyingSnapshotter:
    """See the protocol :class:`~lamina.snapshot.snapshotter.Snapshotter`."""

    name = NAME

    def __init__(self, state: State, layers: LayerStore, hands: Hands) -> None:
        self._state = state
        self._layers = layers
        self._hands = hands
        self._table = SnapshotTable(state, NAME)
        self._directories = Directories(layers.root / "snapshots" / NAME, hands.empty)
        self.reception = Reception(form=Form.TAR)

    @property
    def identity(self) -> Identity:
        return self._hands.identity

    # -- making snapshots

    def prepare(self, key: str, parent: str = "") -> Sequence[Mount]:
        self._copy_of(parent, key, SnapshotKind.ACTIVE)
        return self.mounts(key)

    @contextlib.contextmanager
    def prepare_ahead(self, parent: str) -> Iterator[Callable[[str], None]]:
        """See :class:`~lamina.snapshot.snapshotter.PreparesAhead`."""
        with self._directories.new() as directory:
            source = self._fill(directory, parent)
            sync_directory(directory.parent)

            def finish(key: str) -> None:
                # Another one of the same name may have come: whether this copy is whole then, nobody knows.
                if parent and self._committed(parent) != source:
                    raise SnapshotNotFound(f"{parent}: removed meanwhile")
                self._table.add(key, SnapshotKind.ACTIVE, parent=parent, data={"id": directory.name})

            yield finish

    def view(self, key: str, parent: str = "") -> Sequence[Mount]:
        """A read-only bind mount of the committed tree where the caller can mount; elsewhere a copy."""
        if parent and self.identity.may_mount:
            self._table.add(key, SnapshotKind.VIEW, parent=parent)
        else:
            self._copy_of(parent, key, SnapshotKind.VIEW)
        return self.mounts(key)

    def mounts(self, key: str) -> Sequence[Mount]:
        row = self._table.get(key, SnapshotKind.ACTIVE, SnapshotKind.VIEW)
        options = ("ro",) if row.info.kind is SnapshotKind.VIEW else ()
        shown = row if "id" in row.data else self._table.get(row.info.parent, SnapshotKind.COMMITTED)
        return (Mount(type="bind", source=str(self._tree(shown)), options=options),)

    def commit(self, name: str, key: str, *, diff_id: Digest | None = None) -> None:
        row = self._table.get(key, SnapshotKind.ACTIVE)
        self._table.insist_absent(name)
        self._insist_unmounted(row)
        self._hands.run("sync", path=str(self._tree(row)))
        usage = self._hands.run("measure", path=str(self._tree(row)))
        self._table.commit(name, key, {**row.data, "usage": usage}, diff_id)

    def commit_layers(self, diff_ids: Sequence[Digest]) -> str:
        name: str = list(chain_ids(diff_ids))[-1]
        self._layers.insist(diff_ids, self.reception)
        # One process at a time: the second one finds the tree that it wanted.
        with locked_home(self._directories.home):
            row = self._table.find(name)
            if row is not None and row.data["owners"] == self.identity.key and self._tree(row).is_dir():
                return name
            with self._directories.new() as directory:
                usage = self._hands.run(
                    "compose", root=str(self._layers.root), diff_ids=list(diff_ids),
                    target=str(directory / _TREE),
                    keeps_owners=self.identity.ownership is not Ownership.SINGLE,
                )
                data = {"id": directory.name, "usage": usage, "owners": self.identity.key}
                self._table.put_layer(name, "", diff_ids[-1], data)
            if row is not None:
                self._directories.discard(self._directories.path(row.data["id"]))
        return name

    # -- what is there

    def stat(self, key: str) -> SnapshotInfo:
        return self._table.get(key).info

    def usage(self, key: str) -> Usage:
        row = self._table.get(key)
        if "id" not in row.data:
            return Usage(0, 0)
        size, inodes = row.data.get("usage") or self._hands.run("measure", path=str(self._tree(row)))
        return Usage(size, inodes)

    def walk(self) -> Iterator[SnapshotInfo]:
        return (row.info for row in self._table.walk())

    # -- what an active snapshot changed

    @property
    def hands(self) -> Hands:
        return self._hands

    def difference(self, key: str) -> Difference:
        row = self._table.get(key, SnapshotKind.ACTIVE)
        parent = self._table.get(row.info.parent, SnapshotKind.COMMITTED) if row.info.parent else None
        return Difference(
            upper=self._bound(row), lower=() if parent is None else self._bound(parent),
            keeps_owners=self.identity.ownership is not Ownership.SINGLE,
        )

    def _bound(self, row: Row) -> tuple[Mount, ...]:
        return (Mount(type="bind", source=str(self._tree(row))),)

    # -- the end of snapshots

    def remove(self, key: str) -> None:
        self._insist_unmounted(self._table.get(key))
        row = self._table.remove(key)
        if "id" in row.data:
            self._directories.discard(self._directories.path(row.data["id"]))

    def leftovers(self) -> Iterator[tuple[Path, int]]:
        return self._directories.leftovers(self._known)

    def sweep(self) -> int:
        return self._directories.sweep(self._known)

    def _known(self) -> set[str]:
        return {row.data["id"] for row in self._table.walk() if "id" in row.data}

    def close(self) -> None:
        self._hands.close()

    # -- trees

    def _tree(self, row: Row) -> Path:
        return self._directories.path(row.data["id"]) / _TREE

    def _copy_of(self, parent: str, key: str, kind: SnapshotKind) -> None:
        self._table.insist_absent(key)
        with self._directories.new() as directory:
            self._fill(directory, parent)
            self._table.add(key, kind, parent=parent, data={"id": directory.name})

    def _fill(self, directory: Path, parent: str) -> Path | None:
        """Gives the tree that was copied."""
        if not parent:
            trees.make_root(directory / _TREE)
            return None
        source = self._committed(parent)
        self._hands.run("copy", source=str(source), target=str(directory / _TREE))
        return source

    def _committed(self, key: str) -> Path:
        return self._tree(self._table.get(key, SnapshotKind.COMMITTED))

    def _insist_unmounted(self, row: Row) -> None:
        if "id" not in row.data:
            return
        ending = f"/{row.data['id']}/{_TREE}"
        for line in mounts():
            if line.root.endswith(ending):
                raise SnapshotInUse(f"{row.info.key}: mounted on {line.target}; unmount it first")
