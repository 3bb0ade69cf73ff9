"""The driver btrfs: ``snapshots/btrfs/<random>/tree`` is a subvolume; layers and containers are snapshots.

Everything is asked of the kernel (``ioctl``): no program is needed. A view is a read-only bind mount of the
committed subvolume. What an active one changed, the kernel tells, given read-only snapshots of both sides.

No subvolume of ours is read-only for longer than that: ``rm -r`` could not remove it, and a state directory
is a directory that people remove like any other.

Ordinary users can do all this in their own way, but for limits: what they remove is emptied file by file, and
what changed is found by comparing whole trees.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lamina.content.durable import sync_directory
from lamina.content.state import State
from lamina.errors import InvalidInput
from lamina.oci.config import chain_ids
from lamina.oci.digest import Digest
from lamina.snapshot import trees
from lamina.snapshot.btrfs import ioctl
from lamina.snapshot.changes import Difference
from lamina.snapshot.directories import Directories
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.metadata import Row, SnapshotTable
from lamina.snapshot.mountinfo import mounts
from lamina.snapshot.namespace import Identity, Ownership
from lamina.snapshot.size import parse_size
from lamina.snapshot.snapshotter import (
    DriverUnavailable,
    Form,
    Mount,
    Reception,
    SnapshotInfo,
    SnapshotInUse,
    SnapshotKind,
    SnapshotNotFound,
    Usage,
)
from lamina.snapshot.stacking import abandoned_sizes, commit_by_snapshot, sweep_abandoned
from lamina.snapshot.touched import Touched
from lamina.snapshot.trying import owners, scratch

NAME = "btrfs"
# As docker has it: what a limit of size may not be below.
OPTIONS = ("min_space",)
# A subvolume's own records begin at 16 KiB; below this, hardly a file could be made.
MIN_LIMIT = 1 << 20
_TREE = "tree"


def open_driver(
    state: State, layers: LayerStore, hands: Hands, options: Mapping[str, str]
) -> BtrfsSnapshotter:
    return BtrfsSnapshotter(state, layers, hands, min_space=_min_space(options))


def _min_space(options: Mapping[str, str]) -> int:
    text = options.get("min_space")
    return max(MIN_LIMIT, parse_size(text, "btrfs.min_space")) if text else MIN_LIMIT


def promise(hands: Hands) -> str:
    if _is_root(hands.identity):
        return "a snapshot for each layer and container"
    return f"a snapshot for each layer and container; removed file by file, no limits of size{owners(hands)}"


def try_driver(root: Path, hands: Hands, options: Mapping[str, str]) -> str:
    """A subvolume, a snapshot of it, and the end of both, where they would be."""
    _min_space(options)
    with scratch(root, hands) as path:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if ioctl.filesystem_of(descriptor) is None:
                return "needs the state directory on a btrfs filesystem"
        finally:
            os.close(descriptor)
        home = path / "home"
        home.mkdir()
        try:
            _act(hands, "create", path=str(home / "one"))
            _act(hands, "snapshot", source=str(home / "one"), target=str(home / "two"))
            _act(hands, "remove", path=str(home))
        except OSError as error:
            return f"btrfs does not let us make and remove snapshots here: {error.strerror}"
    return ""


class BtrfsSnapshotter:
    """See the protocol :class:`~lamina.snapshot.snapshotter.Snapshotter`."""

    name = NAME

    def __init__(
        self, state: State, layers: LayerStore, hands: Hands, *, min_space: int = MIN_LIMIT
    ) -> None:
        self._layers = layers
        self._min_space = min_space
        self._hands = hands
        self._table = SnapshotTable(state, NAME)
        self._directories = Directories(layers.root / "snapshots" / NAME, self._empty)
        self.reception = Reception(form=Form.TAR)

    @property
    def identity(self) -> Identity:
        return self._hands.identity

    # -- making snapshots

    def prepare(self, key: str, parent: str = "") -> Sequence[Mount]:
        self._make(key, SnapshotKind.ACTIVE, parent)
        return self.mounts(key)

    @contextlib.contextmanager
    def prepare_ahead(self, parent: str) -> Iterator[Callable[[str], None]]:
        """See :class:`~lamina.snapshot.snapshotter.PreparesAhead`: the kernel commits a transaction."""
        with self._directories.new() as directory:
            source = self._fill(directory, parent)
            sync_directory(directory.parent)

            def finish(key: str) -> None:
                # Another one of the same name may have come: what ours was a snapshot of is not its parent.
                if parent and self._committed(parent) != source:
                    raise SnapshotNotFound(f"{parent}: removed meanwhile")
                self._table.add(key, SnapshotKind.ACTIVE, parent=parent, data={"id": directory.name})

            yield finish

    def view(self, key: str, parent: str = "") -> Sequence[Mount]:
        """A read-only bind mount where the caller can mount; elsewhere a snapshot that may be spoilt."""
        if parent and self.identity.may_mount:
            self._table.add(key, SnapshotKind.VIEW, parent=parent)
        else:
            self._make(key, SnapshotKind.VIEW, parent)
        return self.mounts(key)

    def mounts(self, key: str) -> Sequence[Mount]:
        row = self._table.get(key, SnapshotKind.ACTIVE, SnapshotKind.VIEW)
        shown = self._tree(row) if "id" in row.data else self._committed(row.info.parent)
        return (_bind(shown, *(("ro",) if row.info.kind is SnapshotKind.VIEW else ())),)

    def commit(self, name: str, key: str, *, diff_id: Digest | None = None) -> None:
        row = self._table.get(key, SnapshotKind.ACTIVE)
        self._table.insist_absent(name)
        self._insist_unmounted(row)
        self._act("settle", path=str(self._tree(row)))
        usage = self._measured(row) if diff_id is None else self._usage_of(diff_id)
        data = {**row.data, "usage": usage, "owners": self.identity.key}
        self._table.commit(name, key, data, diff_id)

    def _usage_of(self, diff_id: Digest) -> list[int]:
        """A layer's files are there once, whatever it is on."""
        facts = self._layers.facts(diff_id)
        return [facts.content_size, facts.entries]

    def commit_layers(self, diff_ids: Sequence[Digest]) -> str:
        self._layers.insist(diff_ids, self.reception)
        self._remove_foreign(diff_ids)
        return commit_by_snapshot(self, self._layers, diff_ids, fill=self._apply)

    def _apply(self, tar: Path, mounts: Sequence[Mount]) -> None:
        keeps_owners = self.identity.ownership is not Ownership.SINGLE
        tree = mounts[0].source
        try:
            self._act("apply_layer", path=tree, tar=str(tar), keeps_owners=keeps_owners)
        except OSError:
            # From a disk that is full no row could be removed, which comes first.
            self._act("make_room", path=tree)
            raise

    def _remove_foreign(self, diff_ids: Sequence[Digest]) -> None:
        """Who was here before with another mapping of ids gave the files other owners."""
        for name in reversed(list(chain_ids(diff_ids))):
            row = self._table.find(name)
            if row is not None and row.data.get("owners") != self.identity.key:
                self.remove(name)

    # -- what is there

    def stat(self, key: str) -> SnapshotInfo:
        return self._table.get(key).info

    def usage(self, key: str) -> Usage:
        row = self._table.get(key)
        if row.info.kind is SnapshotKind.VIEW:
            return Usage(0, 0)
        return Usage(*(row.data.get("usage") or self._measured(row)))

    def _measured(self, row: Row) -> list[int]:
        """What it has beyond its parent: as the kernel tells, else by looking at both; all, without one."""
        tree = str(self._tree(row))
        if not row.info.parent:
            found: list[int] = self._hands.run("measure", path=tree)
            return found
        if _is_root(self.identity):
            from lamina.snapshot.btrfs.comparing import delta_between  # noqa: PLC0415 - for those who ask

            # A disk that is full has no room for another snapshot.
            with contextlib.suppress(OSError), self._standing_still(row) as (below, still):
                delta = delta_between(below, still)
                if delta is not None:
                    return [delta.size, delta.inodes]
        new: list[int] = self._act("measure_new", path=tree, parent=str(self._committed(row.info.parent)))
        return new

    def walk(self) -> Iterator[SnapshotInfo]:
        return (row.info for row in self._table.walk())

    def limit(self, key: str, size: int) -> None:
        """See :class:`~lamina.snapshot.snapshotter.LimitsSize`: EDQUOT."""
        from lamina.snapshot.btrfs import quota  # noqa: PLC0415 - few ask for it
        from lamina.snapshot.btrfs.subvolumes import opened  # noqa: PLC0415 - as above

        row = self._table.get(key, SnapshotKind.ACTIVE)
        if size < self._min_space:
            raise InvalidInput(f"{size} bytes: a size limit on btrfs is at least {self._min_space}")
        if not _is_root(self.identity):
            raise DriverUnavailable(
                "storage driver btrfs: a limit of size needs root: ordinary users cannot set quotas of btrfs"
            )
        with opened(self._tree(row)) as subvolume:
            quota.limit(subvolume, ioctl.number_of(subvolume), size)
        trees.sync_tree(self._tree(row))

    # -- what an active snapshot changed

    @property
    def hands(self) -> Hands:
        return self._hands

    def difference(self, key: str) -> Difference:
        """The whole trees, of which the active one may change meanwhile."""
        row = self._table.get(key, SnapshotKind.ACTIVE)
        return self._difference(row, self._tree(row), None)

    @contextlib.contextmanager
    def holding_difference(self, key: str) -> Iterator[Difference]:
        """What the kernel knows of; a running container is looked at as it is when this begins.

        Subvolumes that it made are looked at as they come. Where the disk has no room for another snapshot,
        the whole trees are what there is.
        """
        row = self._table.get(key, SnapshotKind.ACTIVE)
        with ExitStack() as stack:
            pair = None
            if row.info.parent and _is_root(self.identity):
                with contextlib.suppress(OSError):
                    pair = stack.enter_context(self._standing_still(row))
            yield self.difference(key) if pair is None else self._held(row, *pair)

    def _held(self, row: Row, below: Path, still: Path) -> Difference:
        from lamina.snapshot.btrfs.comparing import touched_between  # noqa: PLC0415 - for diff and commit alone

        inside = self._places_inside(row)
        touched = touched_between(below, still)
        if touched is not None and inside:
            touched = Touched(paths=touched.paths, trees=(*touched.trees, *inside))
        return self._difference(row, self._tree(row) if inside else still, touched)

    def _difference(self, row: Row, upper: Path, touched: Touched | None) -> Difference:
        return Difference(
            upper=(_bind(upper),),
            lower=(_bind(self._committed(row.info.parent)),) if row.info.parent else (),
            keeps_owners=self.identity.ownership is not Ownership.SINGLE, touched=touched,
        )

    def _places_inside(self, row: Row) -> list[str]:
        from lamina.snapshot.btrfs.subvolumes import opened  # noqa: PLC0415 - for diff and commit alone

        with opened(self._tree(row)) as subvolume:
            return ioctl.places_below(subvolume)

    @contextlib.contextmanager
    def _standing_still(self, row: Row) -> Iterator[tuple[Path, Path]]:
        """Read-only snapshots of the parent and of the snapshot itself, for the time of the block."""
        with ExitStack() as stack:
            directory = stack.enter_context(self._directories.new())
            stack.callback(self._directories.discard, directory)
            pair = directory / "below", directory / _TREE
            for source, target in zip((self._committed(row.info.parent), self._tree(row)), pair, strict=True):
                self._act("snapshot", source=str(source), target=str(target), is_read_only=True)
            yield pair

    # -- the end of snapshots

    def remove(self, key: str) -> None:
        self._insist_unmounted(self._table.get(key))
        row = self._table.remove(key)
        if "id" in row.data:
            self._directories.discard(self._directories.path(row.data["id"]))

    def leftovers(self) -> Iterator[tuple[Path, int]]:
        for key, size in abandoned_sizes(self):
            yield self._directories.path(self._table.get(key).data["id"]), size
        yield from self._directories.leftovers(self._known)

    def sweep(self) -> int:
        freed = sweep_abandoned(self) + self._directories.sweep(self._known)
        if _is_root(self.identity):
            self._forget_counters()
        return freed

    def _forget_counters(self) -> None:
        from lamina.snapshot.btrfs import quota  # noqa: PLC0415 - for those who sweep
        from lamina.snapshot.btrfs.subvolumes import opened  # noqa: PLC0415 - as above

        with contextlib.suppress(FileNotFoundError), opened(self._directories.home) as directory:
            quota.remove_stale(directory)

    def _known(self) -> set[str]:
        return {row.data["id"] for row in self._table.walk() if "id" in row.data}

    def close(self) -> None:
        self._hands.close()

    # -- subvolumes

    def _act(self, act: str, **arguments: Any) -> Any:
        return _act(self._hands, act, **arguments)

    def _tree(self, row: Row) -> Path:
        return self._directories.path(row.data["id"]) / _TREE

    def _committed(self, name: str) -> Path:
        return self._tree(self._table.get(name, SnapshotKind.COMMITTED))

    def _make(self, key: str, kind: SnapshotKind, parent: str) -> None:
        self._table.insist_absent(key)
        with self._directories.new() as directory:
            self._fill(directory, parent)
            self._table.add(key, kind, parent=parent, data={"id": directory.name})

    def _fill(self, directory: Path, parent: str) -> Path | None:
        """Gives the subvolume that this is a snapshot of now."""
        if not parent:
            self._act("create", path=str(directory / _TREE))
            return None
        source = self._committed(parent)
        try:
            self._act("snapshot", source=str(source), target=str(directory / _TREE))
        except FileNotFoundError:
            raise SnapshotNotFound(f"{parent}: removed meanwhile") from None
        return source

    def _empty(self, doomed: Path) -> None:
        self._act("remove", path=str(doomed))

    def _insist_unmounted(self, row: Row) -> None:
        if "id" not in row.data:
            return
        ending = f"/{row.data['id']}/{_TREE}"
        for line in mounts():
            if line.root.endswith(ending):
                raise SnapshotInUse(f"{row.info.key}: mounted on {line.target}; unmount it first")


def _act(hands: Hands, act: str, **arguments: Any) -> Any:
    return hands.run("btrfs", act=act, arguments=arguments)


def _bind(path: Path, *options: str) -> Mount:
    return Mount(type="bind", source=str(path), options=options)


def _is_root(identity: Identity) -> bool:
    """Of the machine, with all rights: most of what btrfs can do is for no one else."""
    return identity.is_initial and identity.may_mount and identity.ownership is Ownership.KEPT
