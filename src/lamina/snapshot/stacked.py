"""Drivers that stack directories with overlayfs; they differ in what a layer becomes (see ``Lowers``).

``snapshots/<driver>/<random>/`` holds ``upper`` and ``work`` of one active snapshot; a committed one keeps
its ``upper``, and becomes a lower directory for others. ``snapshots/<driver>/roots/<hash>`` are empty
directories that only say what the root of a stack is like: a layer need not list its root, and the
directory of one that does not would otherwise show its own mode and owner.

Rules of a stack (measured, see docs/decisions): a layer that is there twice is mounted once, at its topmost
place (overlayfs answers ELOOP to a repeated lower directory, and the lower one shows nowhere); what lies
below an opaque root is left out (overlayfs ignores that mark on a layer's own root); a single lower
directory is bind-mounted, unless it holds whiteouts, which only overlayfs hides.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lamina.content.durable import make_directory
from lamina.content.state import State
from lamina.errors import InvalidInput
from lamina.oci.config import chain_ids
from lamina.oci.digest import Digest
from lamina.snapshot import trees
from lamina.snapshot.directories import Directories
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.metadata import Row, SnapshotTable
from lamina.snapshot.mountinfo import mounted_with
from lamina.snapshot.namespace import Identity
from lamina.snapshot.projectquota import limit, own_project, release
from lamina.snapshot.snapshotter import (
    DriverUnavailable,
    Mount,
    Reception,
    SnapshotInfo,
    SnapshotInUse,
    SnapshotKind,
    Usage,
)

if TYPE_CHECKING:
    from lamina.snapshot.changes import Difference

# What must never happen in an upper directory that becomes a layer: a rename that is only a note of where
# the content was, or a file that is only its attributes. In a user namespace both are off by themselves.
_TRUSTED_OPTIONS = ("redirect_dir=nofollow", "metacopy=off", "index=off")
_USER_OPTIONS = ("userxattr",)
_ROOTS = "roots"


class Lowers(Protocol):
    """How the layers of a stack become lower directories."""

    @property
    def reception(self) -> Reception: ...

    def settle(self, diff_ids: Sequence[Digest], known: Sequence[str | None]) -> list[str]:
        """Makes each layer ready over those below it; returns the keys of what they are.

        ``known`` are those that an earlier call returned for the same layers of the same stack.
        """
        ...

    def mount(self, diff_id: Digest, key: str) -> Mount: ...

    def usage(self, diff_id: Digest, key: str) -> Usage: ...

    def release(self, diff_id: Digest, key: str) -> None:
        """The snapshot that held a settled layer is gone: what was made for its stack alone may go too."""
        ...


class StackedSnapshotter:
    """See the protocol :class:`~lamina.snapshot.snapshotter.Snapshotter`."""

    def __init__(
        self, name: str, state: State, layers: LayerStore, lowers: Lowers, hands: Hands, *, size: int = 0
    ) -> None:
        """``size`` bounds every active snapshot, unless :meth:`limit` says another; 0 for no limit."""
        self.name = name
        self._size = size
        self._state = state
        self._layers = layers
        self._lowers = lowers
        self._hands = hands
        self._table = SnapshotTable(state, name)
        self._directories = Directories(layers.root / "snapshots" / name, self._empty)

    @property
    def identity(self) -> Identity:
        return self._hands.identity

    @property
    def reception(self) -> Reception:
        return self._lowers.reception

    # -- making snapshots

    def prepare(self, key: str, parent: str = "") -> Sequence[Mount]:
        self._table.insist_absent(key)
        lineage = self._table.lineage(parent)
        with self._directories.new() as directory:
            for name in ("upper", "work"):
                trees.make_root(directory / name)
            self._dress_upper(directory / "upper", lineage)
            if self._size:
                self._bound(directory, self._size)
            self._table.add(key, SnapshotKind.ACTIVE, parent=parent, data={"id": directory.name})
        return self.mounts(key)

    def view(self, key: str, parent: str = "") -> Sequence[Mount]:
        self._table.add(key, SnapshotKind.VIEW, parent=parent)
        return self.mounts(key)

    def mounts(self, key: str) -> Sequence[Mount]:
        row = self._table.get(key, SnapshotKind.ACTIVE, SnapshotKind.VIEW)
        lineage = self._table.lineage(row.info.parent)
        lowers = self._lower_mounts(lineage)
        if row.info.kind is SnapshotKind.VIEW:
            return (self._viewed(lineage, lowers),)
        directory = self._directories.path(row.data["id"])
        if not lowers:
            return (Mount(type="bind", source=str(directory / "upper")),)
        return (self._writable(lowers, directory),)

    def commit(self, name: str, key: str, *, diff_id: Digest | None = None) -> None:
        row = self._table.get(key, SnapshotKind.ACTIVE)
        self._table.insist_absent(name)
        directory = self._directories.path(row.data["id"])
        self._insist_unmounted(key, directory)
        self._insist_whole(directory / "upper")
        self._hands.run("sync", path=str(directory / "upper"))
        self._table.commit(name, key, {"id": row.data["id"]}, diff_id)
        self._hands.empty(directory / "work")

    def commit_layers(self, diff_ids: Sequence[Digest]) -> str:
        self._layers.insist(diff_ids, self.reception)
        rows = [self._table.find(chain_id) for chain_id in chain_ids(diff_ids)]
        known = [None if row is None else row.data.get("layer") for row in rows]
        settled = self._lowers.settle(diff_ids, known)
        parent = ""
        with self._state.transaction():
            for chain_id, diff_id, key in zip(chain_ids(diff_ids), diff_ids, settled, strict=True):
                self._table.put_layer(chain_id, parent, diff_id, self._data_of(diff_id, key))
                parent = chain_id
        return parent

    def _data_of(self, diff_id: Digest, key: str) -> dict[str, Any]:
        """``layer`` is the key of its form; the rest is said only where it is true."""
        facts = self._layers.facts(diff_id)
        data: dict[str, Any] = {"layer": key}
        if facts.has_marks:
            data["has_marks"] = True
        if facts.cuts_stack:
            data["cuts_stack"] = True
        if facts.root is not None:
            data["root"] = facts.root
        return data

    # -- what is there

    def stat(self, key: str) -> SnapshotInfo:
        return self._table.get(key).info

    def usage(self, key: str) -> Usage:
        row = self._table.get(key)
        if row.info.kind is SnapshotKind.VIEW:
            return Usage(0, 0)
        if row.info.diff_id is not None and "layer" in row.data:
            return self._lowers.usage(row.info.diff_id, row.data["layer"])
        size, inodes = self._hands.run("measure", path=str(self._directories.path(row.data["id"])))
        return Usage(size, inodes)

    def walk(self) -> Iterator[SnapshotInfo]:
        return (row.info for row in self._table.walk())

    # -- what an active snapshot changed

    @property
    def hands(self) -> Hands:
        return self._hands

    def difference(self, key: str) -> Difference:
        from lamina.snapshot.changes import Difference  # noqa: PLC0415 - for diff and commit alone

        row = self._table.get(key, SnapshotKind.ACTIVE)
        lineage = self._table.lineage(row.info.parent)
        upper = self._directories.path(row.data["id"]) / "upper"
        if lineage:
            self._insist_whole(upper)
        return Difference(
            upper=(Mount(type="bind", source=str(upper)),),
            lower=(self._viewed(lineage, self._lower_mounts(lineage)),) if lineage else (),
            namespace=self.identity.xattr_namespace if lineage else "",
            is_root_plain=bool(lineage) and "id" not in lineage[0].data and _look_of(lineage) is None,
            keeps_owners=self.reception.keeps_owners,
        )

    def _insist_whole(self, upper: Path) -> None:
        self._hands.run("insist_whole", path=str(upper), namespace=self.identity.xattr_namespace)

    # -- how much an active snapshot may take

    def limit(self, key: str, size: int) -> None:
        """See :class:`~lamina.snapshot.snapshotter.LimitsSize`."""
        row = self._table.get(key, SnapshotKind.ACTIVE)
        directory = self._directories.path(row.data["id"])
        if not own_project(directory / "upper") and any(os.scandir(directory / "upper")):
            raise InvalidInput(f"{key}: has files already, which a size limit would not count")
        self._bound(directory, size)

    def _bound(self, directory: Path, size: int) -> None:
        if not (self.identity.is_initial and self.identity.may_mount):
            raise DriverUnavailable(
                f"storage driver {self.name}: a size limit takes project quotas, which root alone may set"
            )
        try:
            limit(self._directories.home, [directory / name for name in ("upper", "work")], size)
        except DriverUnavailable as error:
            raise DriverUnavailable(f"storage driver {self.name}: {error}") from None

    def _empty(self, doomed: Path) -> None:
        """What was bounded is so no more, before it goes: nothing else knows of which limit it was."""
        release(doomed / "upper")
        self._hands.empty(doomed)

    # -- the end of snapshots

    def remove(self, key: str) -> None:
        row = self._table.get(key)
        if "id" in row.data:
            self._insist_unmounted(key, self._directories.path(row.data["id"]))
        row = self._table.remove(key)
        if "id" in row.data:
            self._directories.discard(self._directories.path(row.data["id"]))
        elif row.info.diff_id is not None and "layer" in row.data:
            self._lowers.release(row.info.diff_id, row.data["layer"])

    def leftovers(self) -> Iterator[tuple[Path, int]]:
        return self._directories.leftovers(self._known)

    def sweep(self) -> int:
        return self._directories.sweep(self._known)

    def withdraw(self) -> int:
        """See :class:`~lamina.snapshot.snapshotter.Withdraws`: who has a row may be about to mount a root."""
        with self._state.transaction():
            roots = self._directories.path(_ROOTS)
            if roots.is_dir() and not any(True for _row in self._table.walk()):
                self._directories.discard(roots)
        return 0

    def _known(self) -> set[str]:
        return {_ROOTS, *(row.data["id"] for row in self._table.walk() if "id" in row.data)}

    def close(self) -> None:
        self._hands.close()

    # -- stacks

    def _lower_mounts(self, lineage: Sequence[Row]) -> list[Mount]:
        """Topmost first."""
        found: list[Mount] = []
        seen: set[Digest] = set()
        for row in lineage:
            diff_id = row.info.diff_id
            if diff_id is None or "id" in row.data:
                found.append(Mount(type="bind", source=str(self._directories.path(row.data["id"]) / "upper")))
                continue
            if diff_id not in seen:
                found.append(self._lowers.mount(diff_id, row.data["layer"]))
                seen.add(diff_id)
            if row.data.get("cuts_stack"):
                break
        return found

    def _viewed(self, lineage: Sequence[Row], lowers: list[Mount]) -> Mount:
        look = _look_of(lineage)
        if look and "root" not in lineage[0].data and "layer" in lineage[0].data:
            lowers = [self._root(look), *lowers]
        if not lowers:
            return _read_only(self._root(None))
        if len(lowers) == 1:
            if not _may_have_marks(lineage):
                return _read_only(lowers[0])
            lowers = [*lowers, self._root(None)]
        return self._overlay(lowers, "ro")

    def _writable(self, lowers: Sequence[Mount], directory: Path) -> Mount:
        return self._overlay(
            lowers, f"upperdir={directory / 'upper'}", f"workdir={directory / 'work'}"
        )

    def _overlay(self, lowers: Sequence[Mount], *more: str) -> Mount:
        is_trusted = self._hands.identity.xattr_namespace == "trusted"
        options = _TRUSTED_OPTIONS if is_trusted else _USER_OPTIONS
        return Mount(type="overlay", source="overlay", options=(*more, *options), layers=tuple(lowers))

    def _root(self, look: Mapping[str, Any] | None) -> Mount:
        """An empty directory that looks as the root of a stack should. Made once for each look."""
        text = json.dumps(look, sort_keys=True) + self.identity.key
        path = self._directories.home / _ROOTS / hashlib.sha256(text.encode()).hexdigest()[:32]
        if not path.is_dir():
            make_directory(path.parent)
            with self._directories.new() as directory:
                trees.make_root(directory / "root")
                if look:
                    self._dress(directory / "root", look)
                self._hands.run("name", source=str(directory / "root"), target=str(path))
                self._directories.discard(directory)
        return Mount(type="bind", source=str(path))

    def _dress(self, path: Path, look: Mapping[str, Any]) -> None:
        self._hands.run("dress", path=str(path), look=look, keeps_owners=self.reception.keeps_owners)

    def _dress_upper(self, upper: Path, lineage: Sequence[Row]) -> None:
        """The root of what is written looks as the root below it does: what is topmost is what shows."""
        if lineage and "id" in lineage[0].data:
            below = self._directories.path(lineage[0].data["id"]) / "upper"
            self._hands.run("dress_like", path=str(upper), other=str(below))
            return
        look = _look_of(lineage)
        if look:
            self._dress(upper, look)

    def _insist_unmounted(self, key: str, directory: Path) -> None:
        where = self._where(directory)
        if where:
            raise SnapshotInUse(f"{key}: mounted on {where[0]}; unmount it first")

    def _where(self, directory: Path) -> list[str]:
        """Where what is written to a directory is mounted."""
        return mounted_with(f"upperdir={directory / 'upper'}")


def keys_of(
    layers: LayerStore, diff_ids: Sequence[Digest], known: Sequence[str | None], shared: str,
    is_here: Callable[[Digest, str], bool],
) -> list[str]:
    """For each layer of a stack the key of its form: ``shared``, or one for this stack alone."""
    def is_ours(diff_id: Digest, key: str) -> bool:
        # Somebody with another mapping of ids may have used this state directory before us.
        return (key == shared or key.startswith(f"{shared}-")) and is_here(diff_id, key)

    keys: list[str | None] = [
        key if key is not None and is_ours(diff_id, key) else None
        for diff_id, key in zip(diff_ids, known, strict=True)
    ]
    unknown = [number for number, key in enumerate(keys) if key is None]
    if unknown:
        from lamina.snapshot.settle import dependent  # noqa: PLC0415 - not when all is known

        alone = dependent(layers, diff_ids, unknown)
        chains = list(chain_ids(diff_ids))
        for number in unknown:
            keys[number] = f"{shared}-{chains[number].encoded}" if number in alone else shared
    return [key for key in keys if key is not None]


def _look_of(lineage: Sequence[Row]) -> Mapping[str, Any] | None:
    """What the topmost layer that lists its root says of it; ``None`` for the default."""
    for row in lineage:
        if "root" in row.data:
            look: Mapping[str, Any] = row.data["root"]
            return look
    return None


def _may_have_marks(lineage: Sequence[Row]) -> bool:
    return "id" in lineage[0].data or bool(lineage[0].data.get("has_marks"))


def _read_only(mount: Mount) -> Mount:
    if mount.is_read_only:
        return mount
    return Mount(type=mount.type, source=mount.source, options=(*mount.options, "ro"), layers=mount.layers)
