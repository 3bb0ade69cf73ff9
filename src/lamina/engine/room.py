"""Whether there is room for what a migration writes: asked before it writes anything.

Two figures for each place. What is *needed* counts every byte as often as it is written. What it takes at
*least* leaves out all that the filesystem could compress or share, half of what is copied, and what
containers wrote: zeros of theirs become holes. Only where that is lacking is the migration refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.errors import Unavailable
from lamina.snapshot.mountinfo import filesystem_of
from lamina.snapshot.snapshotter import Form, KeepsElsewhere, OwnPlace, Snapshotter
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.image import Image, Layer
    from lamina.runtime.container import Container
    from lamina.snapshot.layers import Facts

# Containers, and the bytes that each takes on disk.
Sizes = Sequence[tuple["Container", int]]
# Drivers whose containers take no whole copy of their image; of these, those that mount layers as they are.
SHARING = ("erofs", "overlay2", "btrfs", "zfs", "devicemapper", "fuse-overlayfs")
_STACKING = ("erofs", "overlay2", "fuse-overlayfs")
# Filesystems that write every byte that they are given, and those of them that share none either.
_INCOMPRESSIBLE = frozenset({"ext2", "ext3", "ext4", "tmpfs", "xfs"})
_UNSHARED = _INCOMPRESSIBLE - {"xfs"}
_SMALL = 10 << 20


class NoRoom(Unavailable):
    """The disk could become full. The message says how much it would take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A place, the bytes that are free in it, and those that it is to take: about, and at least."""

    place: str
    free: int
    needed: int
    least: int = 0


def rooms_for(
    engine: Core, target: Snapshotter, stacks: Sequence[Image], sizes: Sizes,
    opened: Callable[[str], Snapshotter],
) -> tuple[Room, ...]:
    """In the state directory, and where else the driver keeps its snapshots, if that can be known.

    ``opened`` gives an old driver by name.
    """
    needs = _Needs(engine, target, stacks, sizes, opened)
    if not isinstance(target, KeepsElsewhere):
        return (_here(engine.root, needs),)
    own = target.room()
    beside = _beside(engine.root, needs)
    return (beside,) if own is None else (beside, _elsewhere(own, needs))


def insist_room(rooms: Sequence[Room]) -> None:
    """Raises :class:`NoRoom`."""
    for room in rooms:
        if room.least > room.free:
            raise NoRoom(
                f"{room.place}: the migration takes {mebibytes(room.least)} there at least, and "
                f"{mebibytes(room.free)} are free; make room (`lamina system df` shows what could go), or "
                "choose another driver"
            )


def doubts(rooms: Sequence[Room]) -> Iterator[str]:
    """A sentence for each place where it may lack, and need not."""
    for room in rooms:
        if room.needed > room.free:
            yield (
                f"{room.place}: the migration takes about {mebibytes(room.needed)} there, and "
                f"{mebibytes(room.free)} are free; what does not fit stays with its old driver"
            )


def mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB" if size < _SMALL else f"{size >> 20} MiB"


def _here(root: Path, needs: _Needs) -> Room:
    """All of it; what a container had here is free again before the next one moves."""
    kind = filesystem_of(root)
    changes = needs.arriving + 2 * needs.largest
    copied = needs.trees // 2 if kind in _UNSHARED else 0
    return Room(
        place=str(root), free=_free(root), needed=needs.forms + needs.trees + changes,
        least=needs.forms + copied if kind in _INCOMPRESSIBLE else 0,
    )


def _beside(root: Path, needs: _Needs) -> Room:
    """The tars of layers, and the changes of one container on their way."""
    return Room(
        place=str(root), free=_free(root), needed=needs.forms + needs.largest,
        least=needs.forms if filesystem_of(root) in _INCOMPRESSIBLE else 0,
    )


def _elsewhere(own: OwnPlace, needs: _Needs) -> Room:
    return Room(
        place=own.name, free=own.free, needed=needs.trees + needs.changes,
        least=needs.trees // 2 if own.is_plain else 0,
    )


class _Needs:
    """Bytes: ``forms`` of layers, and ``trees`` that a driver makes of stacks, for containers too.

    ``changes`` are those of all containers, ``arriving`` those of containers that lie elsewhere now, and
    ``largest`` those of one: they are here a second time while it moves.
    """

    def __init__(
        self, engine: Core, target: Snapshotter, stacks: Sequence[Image], sizes: Sizes,
        opened: Callable[[str], Snapshotter],
    ) -> None:
        self._layers = engine.layers_store
        self._reception = target.reception
        contents = {str(image.chain_ids[-1]): sum(map(self._content, image.layers)) for image in stacks}
        changes = [
            (opened(each.driver), _changes(opened(each.driver), size, contents.get(each.parent, 0)))
            for each, size in sizes
        ]
        layers = {layer.diff_id: layer for image in stacks for layer in image.layers}
        self.forms = sum(map(self._form, layers.values()))
        self.changes = sum(size for _driver, size in changes)
        self.largest = max((size for _driver, size in changes), default=0)
        self.arriving = sum(size for driver, size in changes if isinstance(driver, KeepsElsewhere))
        known = {info.key for info in target.walk()}
        if target.name in _STACKING:
            self.trees = 0
        elif target.name in SHARING:
            self.trees = sum(size for chain, size in self._prefixes(stacks) if chain not in known)
        else:
            copies = sum(contents.get(each.parent, 0) for each, _size in sizes)
            self.trees = copies + sum(size for chain, size in contents.items() if chain not in known)

    def _prefixes(self, stacks: Sequence[Image]) -> set[tuple[str, int]]:
        """A layer is applied once for each stack that it is on."""
        return {
            (str(chain), self._content(layer)) for image in stacks
            for chain, layer in zip(image.chain_ids, image.layers, strict=True)
        }

    def _form(self, layer: Layer) -> int:
        """Nothing for one that is there; a blob that is the tar itself has a second name."""
        form = self._reception.form
        if self._layers.has(layer.diff_id, form, self._reception.key):
            return 0
        if form is Form.TREE:
            return self._content(layer)
        if layer.descriptor.digest == layer.diff_id:
            return 0
        facts = self._facts(layer)
        return layer.descriptor.size if facts is None else facts.tar_size

    def _content(self, layer: Layer) -> int:
        """Of a layer that was never unpacked, all that is known is its blob's size."""
        facts = self._facts(layer)
        return layer.descriptor.size if facts is None else facts.content_size

    def _facts(self, layer: Layer) -> Facts | None:
        return self._layers.facts(layer.diff_id) if self._layers.has_index(layer.diff_id) else None


def _changes(driver: Snapshotter, size: int, content: int) -> int:
    """Of what is a whole copy, the image is no part."""
    return size if driver.name in SHARING else max(0, size - content)


def _free(root: Path) -> int:
    """Root may take what ext4 keeps back from others."""
    status = os.statvfs(root)
    return (status.f_bfree if os.geteuid() == 0 else status.f_bavail) * status.f_frsize
