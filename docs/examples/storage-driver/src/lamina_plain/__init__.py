"""A storage driver in a hundred lines: every snapshot is a whole tree, and a copy of its parent's.

What makes a driver correct is all here: a row appears after what it speaks of is on the disk, and goes before
that is removed; what no row knows is a leftover; whoever owns the files, `hands` reach them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lamina.content.state import State
from lamina.oci.config import chain_ids
from lamina.oci.digest import Digest
from lamina.snapshot import trees
from lamina.snapshot.directories import Directories
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.metadata import Row, SnapshotTable
from lamina.snapshot.mountinfo import mounts as all_mounts
from lamina.snapshot.namespace import Identity, Ownership
from lamina.snapshot.snapshotter import (
    Form,
    Mount,
    Reception,
    SnapshotInfo,
    SnapshotInUse,
    SnapshotKind,
    Snapshotter,
    Usage,
)

NAME = "plain"


class PlainDriver:
    """What the entry point names: called, it opens the driver; the rest answers questions about it."""

    # plain.home=DIR: where the trees lie, if not in the state directory.
    OPTIONS = ("home",)

    def __call__(
        self, state: State, layers: LayerStore, hands: Hands, options: Mapping[str, str]
    ) -> Snapshotter:
        home = Path(options["home"]) if "home" in options else layers.root / "snapshots"
        return PlainSnapshotter(state, layers, hands, home / NAME)

    def try_driver(self, _root: Path, _hands: Hands, options: Mapping[str, str]) -> str:
        """Why it cannot be used here; the empty text if it can. It is asked before every first use."""
        home = options.get("home", "")
        return f"plain.home={home}: no such directory" if home and not Path(home).is_dir() else ""

    def promise(self, _hands: Hands) -> str:
        """What `lamina info` says of it where it works."""
        return "copies files, as an example"


driver = PlainDriver()


class PlainSnapshotter:
    """See `lamina.snapshot.snapshotter.Snapshotter`, which says what each method must do."""

    name = NAME

    def __init__(self, state: State, layers: LayerStore, hands: Hands, home: Path) -> None:
        self._layers = layers
        self._hands = hands
        self._table = SnapshotTable(state, NAME)
        self._directories = Directories(home, hands.empty)
        # Keep the tar of each layer that is pulled: `commit_layers` is going to read it.
        self.reception = Reception(form=Form.TAR)

    @property
    def identity(self) -> Identity:
        return self._hands.identity

    # -- making snapshots

    def prepare(self, key: str, parent: str = "") -> Sequence[Mount]:
        self._copy(key, SnapshotKind.ACTIVE, parent)
        return self.mounts(key)

    def view(self, key: str, parent: str = "") -> Sequence[Mount]:
        self._copy(key, SnapshotKind.VIEW, parent)
        return self.mounts(key)

    def _copy(self, key: str, kind: SnapshotKind, parent: str) -> None:
        self._table.insist_absent(key)
        with self._directories.new() as directory:  # locked, and gone again if something fails
            if parent:
                source = self._tree(self._table.get(parent, SnapshotKind.COMMITTED))
                self._hands.run("copy", source=str(source), target=str(directory / "tree"))
            else:
                trees.make_root(directory / "tree")
            self._table.add(key, kind, parent=parent, data={"id": directory.name})

    def mounts(self, key: str) -> Sequence[Mount]:
        row = self._table.get(key, SnapshotKind.ACTIVE, SnapshotKind.VIEW)
        options = ("ro",) if row.info.kind is SnapshotKind.VIEW else ()
        return (Mount(type="bind", source=str(self._tree(row)), options=options),)

    def commit(self, name: str, key: str, *, diff_id: Digest | None = None) -> None:
        row = self._table.get(key, SnapshotKind.ACTIVE)
        self._table.insist_absent(name)
        self._insist_unmounted(row)
        self._hands.run("sync", path=str(self._tree(row)))  # on the disk first
        self._table.commit(name, key, row.data, diff_id)

    def commit_layers(self, diff_ids: Sequence[Digest]) -> str:
        """The union of a stack in one pass. A filesystem with snapshots would call `commit_by_snapshot`."""
        self._layers.insist(diff_ids, self.reception)
        name = str(list(chain_ids(diff_ids))[-1])
        known = self._table.find(name)
        if known is not None and self._is_ours(known):
            return name
        with self._directories.new() as directory:
            self._hands.run(
                "compose", root=str(self._layers.root), diff_ids=list(diff_ids),
                target=str(directory / "tree"),
                keeps_owners=self.identity.ownership is not Ownership.SINGLE,
            )
            data = {"id": directory.name, "owners": self.identity.key}
            self._table.put_layer(name, "", diff_ids[-1], data)
        if known is not None:
            self._directories.discard(self._directories.path(known.data["id"]))
        return name

    def _is_ours(self, row: Row) -> bool:
        """Somebody with other ids may have used this state directory before."""
        return row.data.get("owners") == self.identity.key and self._tree(row).is_dir()

    # -- what is there

    def stat(self, key: str) -> SnapshotInfo:
        return self._table.get(key).info

    def usage(self, key: str) -> Usage:
        size, inodes = self._hands.run("measure", path=str(self._tree(self._table.get(key))))
        return Usage(size, inodes)

    def walk(self) -> Iterator[SnapshotInfo]:
        return (row.info for row in self._table.walk())

    # -- the end of snapshots

    def remove(self, key: str) -> None:
        self._insist_unmounted(self._table.get(key))
        row = self._table.remove(key)
        self._directories.discard(self._directories.path(row.data["id"]))

    def leftovers(self) -> Iterator[tuple[Path, int]]:
        return self._directories.leftovers(self._known)

    def sweep(self) -> int:
        return self._directories.sweep(self._known)

    def close(self) -> None:
        self._hands.close()

    def _known(self) -> set[str]:
        return {row.data["id"] for row in self._table.walk()}

    def _tree(self, row: Row) -> Path:
        return self._directories.path(row.data["id"]) / "tree"

    def _insist_unmounted(self, row: Row) -> None:
        ending = os.path.join("/", row.data["id"], "tree")
        for line in all_mounts():
            if line.root.endswith(ending):
                raise SnapshotInUse(f"{row.info.key}: mounted on {line.target}; unmount it first")
