"""The driver zfs: a dataset for each layer on its base, and a clone of one for each container and view.

Works with OpenZFS and with zfs-fuse. Datasets are mounted below the state directory when somebody asks for
them, and stay so until they are committed or removed; what is handed out are bind mounts of that. Of a
committed one only its snapshot ``@snapshot`` is ever used, through clones, so it is mounted nowhere.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lamina.content.state import State
from lamina.errors import InvalidInput, LaminaError
from lamina.oci.digest import Digest
from lamina.snapshot import trees
from lamina.snapshot.changes import Difference
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.metadata import Row, SnapshotTable
from lamina.snapshot.namespace import Identity
from lamina.snapshot.snapshotter import (
    DriverUnavailable,
    Form,
    Mount,
    OwnPlace,
    Reception,
    SnapshotInfo,
    SnapshotInUse,
    SnapshotKind,
    SnapshotNotFound,
    Usage,
)
from lamina.snapshot.stacking import abandoned_sizes, commit_by_snapshot, sweep_abandoned
from lamina.snapshot.trying import LACKING
from lamina.snapshot.zfs import program
from lamina.snapshot.zfs.datasets import MARK, Datasets

NAME = "zfs"
OPTIONS = ("fsname",)
# What a dataset takes for itself, and a little.
MIN_LIMIT = 1 << 20
_SNAPSHOT = "snapshot"
# zfs sends what was written too: of more than this, looking at every file is the faster way.
_MOST_SENT = 1 << 30


def open_driver(
    state: State, layers: LayerStore, hands: Hands, options: Mapping[str, str]
) -> ZfsSnapshotter:
    return ZfsSnapshotter(state, layers, hands, options)


def promise(_hands: Hands) -> str:
    return "a dataset for each layer, a clone for each container"


def try_driver(root: Path, hands: Hands, options: Mapping[str, str]) -> str:
    """All that is done with a dataset, once, where it would be; what is left is for ``sweep``."""
    if not hands.identity.is_initial:
        return "needs root: ordinary users cannot mount datasets on Linux"
    if not hands.identity.may_mount:
        return LACKING
    try:
        parent = parent_of(root, options)
        if not program.exists(parent):
            return f"{parent}: there is no such dataset; `zfs create {parent}` makes it"
        return _try_datasets(Datasets(root / "snapshots" / NAME, hands, lambda: parent))
    except DriverUnavailable as error:
        return str(error).removeprefix(f"storage driver {NAME}: ")
    except (LaminaError, OSError) as error:
        return str(error)


def _try_datasets(datasets: Datasets) -> str:
    with datasets.new() as one:
        try:
            os.setxattr(datasets.path(one), "trusted.lamina", b"1")
        except OSError:
            reason = "extended attributes do not work on it: start zfs-fuse with -x"
        else:
            reason = ""
        program.take_snapshot(f"{one}@{_SNAPSHOT}")
        with datasets.new(f"{one}@{_SNAPSHOT}") as two:
            datasets.discard(two)
        datasets.discard(one)
    return reason


def parent_of(root: Path, options: Mapping[str, str]) -> str:
    """The dataset in which ours are made: the one that was named, or that the state directory lies on."""
    named = options.get("fsname", "").strip("/")
    found = named or program.dataset_at(root)
    if not found:
        raise DriverUnavailable(
            "storage driver zfs: the state directory does not lie on zfs; the option zfs.fsname=POOL/DATASET "
            "names a dataset for it"
        )
    return found


class ZfsSnapshotter:
    """See the protocol :class:`~lamina.snapshot.snapshotter.Snapshotter`."""

    name = NAME

    def __init__(self, state: State, layers: LayerStore, hands: Hands, options: Mapping[str, str]) -> None:
        self._layers = layers
        self._hands = hands
        self._table = SnapshotTable(state, NAME)
        self._parent: Callable[[], str] = functools.partial(parent_of, layers.root, options)
        self._datasets = Datasets(layers.root / "snapshots" / NAME, hands, self._parent)
        self._inodes: dict[str, int] = {}
        self.reception = Reception(form=Form.TAR)

    @property
    def identity(self) -> Identity:
        return self._hands.identity

    @property
    def hands(self) -> Hands:
        return self._hands

    # -- making snapshots

    def prepare(self, key: str, parent: str = "") -> Sequence[Mount]:
        self._table.insist_absent(key)
        with self.prepare_ahead(parent) as finish:
            finish(key)
        return self.mounts(key)

    @contextlib.contextmanager
    def prepare_ahead(self, parent: str) -> Iterator[Callable[[str], None]]:
        """See :class:`~lamina.snapshot.snapshotter.PreparesAhead`: the pool writes a transaction."""
        origin = self._origin(parent)
        with self._new(parent, origin) as dataset:

            def finish(key: str) -> None:
                # Another one of the same name may have come: what ours is a clone of is not its parent.
                if self._origin(parent) != origin:
                    raise SnapshotNotFound(f"{parent}: removed meanwhile")
                self._table.add(key, SnapshotKind.ACTIVE, parent=parent, data={"dataset": dataset})

            yield finish

    def view(self, key: str, parent: str = "") -> Sequence[Mount]:
        self._table.insist_absent(key)
        with self._new(parent, self._origin(parent)) as dataset:
            self._table.add(key, SnapshotKind.VIEW, parent=parent, data={"dataset": dataset})
        return self.mounts(key)

    def mounts(self, key: str) -> Sequence[Mount]:
        row = self._table.get(key, SnapshotKind.ACTIVE, SnapshotKind.VIEW)
        return (self._bind(row.data["dataset"], is_read_only=row.info.kind is SnapshotKind.VIEW),)

    def commit(self, name: str, key: str, *, diff_id: Digest | None = None) -> None:
        """zfs's own snapshot is what makes it durable; a second attempt takes a new one."""
        row = self._table.get(key, SnapshotKind.ACTIVE)
        self._table.insist_absent(name)
        self._insist_unmounted(row)
        dataset: str = row.data["dataset"]
        tree = self._datasets.mounted(dataset)
        self._hands.run("sync", path=str(tree))
        inodes = self._new_inodes(row) if diff_id is None else self._layers.facts(diff_id).entries
        with contextlib.suppress(OSError):  # who looks into it may go on: what is committed is what zfs has
            self._datasets.unmount(dataset)
        program.take_snapshot(f"{dataset}@{_SNAPSHOT}")
        usage = [program.number(dataset, "used"), inodes]
        self._table.commit(name, key, {**row.data, "usage": usage}, diff_id)

    def commit_layers(self, diff_ids: Sequence[Digest]) -> str:
        try:
            return commit_by_snapshot(self, self._layers, diff_ids)
        except OSError as error:
            if error.errno in program.DEAD:
                raise program.unreachable(self._parent()) from error
            raise

    # -- what is there

    def stat(self, key: str) -> SnapshotInfo:
        return self._table.get(key).info

    def usage(self, key: str) -> Usage:
        row = self._table.get(key)
        if row.info.kind is SnapshotKind.VIEW:
            return Usage(0, 0)
        if row.info.kind is SnapshotKind.COMMITTED:
            return Usage(*row.data["usage"])
        dataset = row.data["dataset"]
        self._hands.run("sync", path=str(self._datasets.mounted(dataset)))
        with contextlib.suppress(program.PoolFull):
            program.set_property(dataset, MARK, self._datasets.identity())  # writes out what is to be counted
        return Usage(program.number(dataset, "used"), self._new_inodes(row))

    def _new_inodes(self, row: Row) -> int:
        """More than in the parent. zfs-fuse's own count has up to three for a file with attributes."""
        total = trees.measure(self._datasets.mounted(row.data["dataset"])).inodes
        parent = row.info.parent
        if parent and parent not in self._inodes:
            with self._look(parent) as path:
                self._inodes[parent] = trees.measure(path).inodes
        return max(0, total - self._inodes.get(parent, 0))

    def walk(self) -> Iterator[SnapshotInfo]:
        return (row.info for row in self._table.walk())

    def limit(self, key: str, size: int) -> None:
        """See :class:`~lamina.snapshot.snapshotter.LimitsSize`: EDQUOT. What it has of its parent is free."""
        row = self._table.get(key, SnapshotKind.ACTIVE)
        if size < MIN_LIMIT:
            raise InvalidInput(f"{size} bytes: a container on zfs takes at least {MIN_LIMIT}")
        program.set_property(row.data["dataset"], "quota", str(size))

    def room(self) -> OwnPlace:
        """See :class:`~lamina.snapshot.snapshotter.KeepsElsewhere`."""
        parent = self._parent()
        return OwnPlace(
            name=parent, free=program.number(parent, "available"), is_plain=program.is_plain(parent)
        )

    # -- what an active snapshot changed

    @contextlib.contextmanager
    def holding_difference(self, key: str) -> Iterator[Difference]:
        """Both trees as clones, and where they may differ; or else the tree as it is, anywhere."""
        row = self._table.get(key, SnapshotKind.ACTIVE)
        parent = row.info.parent
        if not parent:
            yield Difference(upper=(self._bind(row.data["dataset"]),))
            return
        with self._look(parent) as below, contextlib.ExitStack() as stack:
            lower = (_bound(below, is_read_only=True),)
            still = self._changed(row, stack)
            if still is None:
                yield Difference(upper=(self._bind(row.data["dataset"]),), lower=lower)
                return
            from lamina.snapshot.inodes import touched_inodes  # noqa: PLC0415 - for diff and commit alone

            path, inodes = still
            touched = touched_inodes(below, path, inodes.__contains__)
            yield Difference(upper=(_bound(path),), lower=lower, touched=touched)

    def _changed(self, row: Row, stack: contextlib.ExitStack) -> tuple[Path, frozenset[int]] | None:
        """The tree as it is now, until the stack ends, and its inodes that are not as in the parent.

        ``None`` where zfs cannot say, or would read more than comparing whole trees does.
        """
        if program.is_in_kernel():
            return None
        from lamina.snapshot.zfs.sent import read_sent  # noqa: PLC0415 - for diff and commit alone

        dataset = row.data["dataset"]
        try:
            self._hands.run("sync", path=str(self._datasets.mounted(dataset)))
            with contextlib.ExitStack() as trial:
                taken = trial.enter_context(self._datasets.standing_still(dataset))
                if program.number(dataset, "used") > _MOST_SENT:
                    return None
                with program.sending(self._origin(row.info.parent), taken) as stream:
                    inodes = read_sent(stream)
                path = trial.enter_context(self._clone("", taken))
                stack.enter_context(trial.pop_all())
        except (LaminaError, OSError):
            return None
        return path, inodes

    def _look(self, parent: str) -> contextlib.AbstractContextManager[Path]:
        """A committed tree for the time of the block."""
        return self._clone(parent, self._origin(parent))

    @contextlib.contextmanager
    def _clone(self, parent: str, origin: str) -> Iterator[Path]:
        with self._new(parent, origin) as dataset:
            yield self._datasets.path(dataset)
            self._datasets.discard(dataset)

    # -- the end of snapshots

    def remove(self, key: str) -> None:
        """What zfs will not let go of yet is left to ``sweep``, and among ``leftovers`` until then."""
        self._insist_unmounted(self._table.get(key))
        row = self._table.remove(key)
        self._datasets.discard(row.data["dataset"])

    def leftovers(self) -> Iterator[tuple[Path, int]]:
        for key, size in abandoned_sizes(self):
            yield Path(self._table.get(key).data["dataset"]), size
        yield from self._datasets.leftovers(self._known)

    def sweep(self) -> int:
        return sweep_abandoned(self) + self._datasets.sweep(self._known)

    def _known(self) -> set[str]:
        return {row.data["dataset"] for row in self._table.walk()}

    def close(self) -> None:
        self._hands.close()

    # -- datasets

    def _origin(self, parent: str) -> str:
        """The snapshot that a child of a committed one is a clone of."""
        if not parent:
            return ""
        return f"{self._table.get(parent, SnapshotKind.COMMITTED).data['dataset']}@{_SNAPSHOT}"

    @contextlib.contextmanager
    def _new(self, parent: str, origin: str) -> Iterator[str]:
        with contextlib.ExitStack() as stack:
            try:
                dataset = stack.enter_context(self._datasets.new(origin))
            except program.DatasetNotFound as error:
                if origin and self._table.find(parent) is None:
                    raise SnapshotNotFound(f"{parent}: removed meanwhile") from error
                raise
            yield dataset

    def _bind(self, dataset: str, *, is_read_only: bool = False) -> Mount:
        return _bound(self._datasets.mounted(dataset), is_read_only=is_read_only)

    def _insist_unmounted(self, row: Row) -> None:
        where = self._datasets.shown_elsewhere(row.data["dataset"])
        if where:
            raise SnapshotInUse(f"{row.info.key}: mounted on {where}; unmount it first")


def _bound(path: Path, *, is_read_only: bool = False) -> Mount:
    return Mount(type="bind", source=str(path), options=("ro",) if is_read_only else ())
