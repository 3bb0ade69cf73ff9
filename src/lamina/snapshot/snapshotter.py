"""What a storage driver is: snapshots by name, out of which come instructions for mounting.

The vocabulary is containerd's. A *key* names an active snapshot (somebody writes into it) or a view
(nobody does); a *name* names a committed one. Only committed snapshots are parents. Methods answer
with :class:`Mount` values, never with a mounted path, so drivers hold no state between calls.

Two ways lead to a committed snapshot:

- :meth:`Snapshotter.commit` turns an active snapshot into one. Its changes stay as the driver has
  them (an upper directory, a tree, a volume): no tar, no diff id.
- :meth:`Snapshotter.commit_layers` makes a stack of layers mountable, and gives it the chain id of the
  stack as its name. What a layer leaves behind in the :class:`~lamina.snapshot.layers.LayerStore`
  while it streams in is the driver's choice: its :attr:`Snapshotter.reception`. A driver that stacks by
  snapshot (btrfs, zfs, devicemapper) asks for the plain tar and calls
  :func:`lamina.snapshot.stacking.commit_by_snapshot`, which prepares, applies and commits layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lamina.errors import Conflict, InvalidInput, NotFound, Unsupported
from lamina.oci.digest import Digest
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.snapshot.namespace import Identity

MAX_KEY = 512


class SnapshotNotFound(NotFound):
    pass


class SnapshotExists(Conflict):
    pass


class SnapshotInUse(Conflict):
    """It has children, or is mounted."""


class DriverUnavailable(Unsupported):
    """This machine, or this user on it, cannot run the driver. The message says what is missing."""


class TooManyLayers(Unsupported):
    pass


class SnapshotKind(StrEnum):
    ACTIVE = "active"
    VIEW = "view"
    COMMITTED = "committed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """``key`` is the name, for a committed one. ``created`` is seconds since the epoch."""

    key: str
    kind: SnapshotKind
    parent: str = ""
    diff_id: Digest | None = None
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot takes on disk without its parents: ``size`` in bytes, and inodes.

    A committed snapshot that came from a layer answers with the layer's unpacked form, which other
    snapshots may share; ``is_shared`` says so, and then the bytes belong to the layer store's account.
    """

    size: int
    inodes: int
    is_shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One instruction. ``type`` is a filesystem's name, or ``bind``.

    ``target`` is relative to where the whole sequence is mounted. ``options`` are the kernel's, in
    their order. ``layers`` are for ``overlay``: the lower directories, topmost first, each again an
    instruction; they are mounted nowhere that a path could reach.
    """

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()
    layers: tuple[Mount, ...] = ()

    @property
    def is_read_only(self) -> bool:
        return "ro" in self.options

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Mount:
        """Of what ``asdict`` made of one."""
        layers = tuple(map(cls.from_json, document["layers"]))
        return cls(**{**document, "options": tuple(document["options"]), "layers": layers})


class Form(StrEnum):
    """What a layer leaves behind besides its index. The values are words of messages."""

    TAR = "tar"
    EROFS = "erofs"
    TREE = "tree"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """What a driver wants kept of a layer that streams in, besides its index.

    The rest concerns :attr:`Form.TREE`: ``key`` names the tree among others of the same layer,
    ``xattrs`` is the namespace of overlayfs' marks in it (``trusted`` or ``user``), and
    ``keeps_owners`` says whether files get the owners that the layer has for them.
    """

    form: Form
    key: str = ""
    xattrs: str = "trusted"
    keeps_owners: bool = True


class Snapshotter(Protocol):
    """Methods raise :class:`SnapshotNotFound`, :class:`SnapshotExists`, :class:`SnapshotInUse`.

    Safe for several processes on one state directory. A call that dies half-way leaves no snapshot,
    and at most a directory that ``sweep`` removes.
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> Identity:
        """As whom files are made, and mounts."""
        ...

    @property
    def reception(self) -> Reception: ...

    def prepare(self, key: str, parent: str = "") -> Sequence[Mount]:
        """A new active snapshot over a committed one, or over nothing."""
        ...

    def view(self, key: str, parent: str = "") -> Sequence[Mount]:
        """A read-only look at a committed snapshot. Nothing that is done with its mounts changes it."""
        ...

    def mounts(self, key: str) -> Sequence[Mount]:
        """The same instructions again. ``key`` is active or a view."""
        ...

    def commit(self, name: str, key: str, *, diff_id: Digest | None = None) -> None:
        """Ends an active snapshot; what was written becomes the committed ``name``.

        The caller has unmounted it, and says which layer's changes they are, if they are one's. Durable
        when this returns.
        """
        ...

    def commit_layers(self, diff_ids: Sequence[Digest]) -> str:
        """Makes a stack of received layers, base first, a committed snapshot; returns its chain id.

        Idempotent. Every layer has been received as :attr:`reception` asks.
        """
        ...

    def remove(self, key: str) -> None:
        """Any kind; a committed one must have no children."""
        ...

    def stat(self, key: str) -> SnapshotInfo: ...

    def usage(self, key: str) -> Usage: ...

    def walk(self) -> Iterator[SnapshotInfo]: ...

    def leftovers(self) -> Iterator[tuple[Path, int]]:
        """Directories that calls that died left behind, with their bytes."""
        ...

    def sweep(self) -> int:
        """Removes the leftovers; returns the bytes freed."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class PreparesAhead(Protocol):
    """A driver that may take long over ``prepare``, and can do most of it before it is known by a key."""

    def prepare_ahead(self, parent: str) -> AbstractContextManager[Callable[[str], None]]:
        """What the block is given makes the active snapshot of a key out of what is there.

        So the write lock is held for that alone; the block ends after the commit. Who dies before leaves
        what ``sweep`` removes. Raises :class:`SnapshotNotFound` if the parent went away in between.
        """
        ...


@runtime_checkable
class LimitsSize(Protocol):
    """A driver that can bound what an active snapshot takes (docker's ``--storage-opt size=``)."""

    def limit(self, key: str, size: int) -> None:
        """Writing more than ``size`` bytes fails from now on, with ENOSPC or EDQUOT.

        Before the snapshot is mounted. Raises :class:`DriverUnavailable` where this machine cannot, and
        ``InvalidInput`` for a size that cannot be.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPlace:
    """A pool, or a dataset: the bytes that are free in it. ``is_plain``: each that is written takes one."""

    name: str
    free: int
    is_plain: bool


@runtime_checkable
class KeepsElsewhere(Protocol):
    """A driver whose snapshots do not lie among the files of the state directory."""

    def room(self) -> OwnPlace | None:
        """``None`` where it cannot be known without making something, such as a pool active."""
        ...


@runtime_checkable
class Withdraws(Protocol):
    """A driver that has something besides snapshots, such as a pool."""

    def withdraw(self) -> int:
        """Takes that away if there is no snapshot any more; gives the bytes freed.

        Nothing that somebody else made. Who dies at it leaves the rest to the next call.
        """
        ...


@runtime_checkable
class TellsProblems(Protocol):
    """A driver whose own storage can be in trouble, or was set up in a way that people should know of."""

    @property
    def caution(self) -> str:
        """A sentence for whoever chooses it; or nothing."""
        ...

    def problems(self) -> Iterator[str]:
        """Sentences for ``lamina check``, which mends none of it."""
        ...


def check_key(key: str) -> str:
    """Keys are data, never part of a path; they must still be printable and short.

    Raises ``InvalidInput``.
    """
    if not key or len(key) > MAX_KEY or not key.isprintable():
        raise InvalidInput(f"{key[:80]!r}: a snapshot's name has 1 to {MAX_KEY} printable characters")
    return key
