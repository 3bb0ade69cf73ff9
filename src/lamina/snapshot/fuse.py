"""The driver fuse-overlayfs: the directories of overlay2, stacked by a program instead of the kernel.

For ordinary users where the kernel's overlayfs is refused to them, and FUSE is not. Layers are the same
trees, under the same keys, as overlay2 makes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.content.state import State
from lamina.snapshot.fusemount import PROGRAM, TYPE, program
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.mountinfo import mounts
from lamina.snapshot.overlay import TreeLowers
from lamina.snapshot.snapshotter import DriverUnavailable, Mount
from lamina.snapshot.stacked import StackedSnapshotter
from lamina.snapshot.trying import LACKING, owners, scratch
from lamina.values import replace

if TYPE_CHECKING:
    from lamina.snapshot.changes import Difference

NAME = "fuse-overlayfs"
OPTIONS: tuple[str, ...] = ()


def open_driver(
    state: State, layers: LayerStore, hands: Hands, _options: Mapping[str, str]
) -> FuseSnapshotter:
    return FuseSnapshotter(NAME, state, layers, TreeLowers(layers, hands), hands)


def try_driver(root: Path, hands: Hands, _options: Mapping[str, str]) -> str:
    if not hands.identity.may_mount:
        if hands.identity.is_initial:
            return LACKING
        return "needs root, or user namespaces for ordinary users, which this system does not allow"
    if not program():
        return f"needs the program {PROGRAM} (package {PROGRAM})"
    with scratch(root, hands) as path:
        found: str = hands.run("try_fuse", path=str(path))
        return found


def promise(hands: Hands) -> str:
    return f"overlays by the program {PROGRAM}, for where the kernel's are refused; slower{owners(hands)}"


def try_fuse(path: Path) -> str:
    """Two lower directories and an upper one, all seen as one."""
    from lamina.snapshot.mounting import can_mount  # noqa: PLC0415 - ctypes, for those who mount

    for name in ("low", "lower", "upper", "work"):
        (path / name).mkdir()
    layers = tuple(Mount(type="bind", source=str(path / name)) for name in ("lower", "low"))
    return can_mount(_writable(layers, path))


class FuseSnapshotter(StackedSnapshotter):
    """Like overlay2's, but for the type of its mounts."""

    def _bound(self, _directory: Path, _size: int) -> None:
        """The program has the right to exceed quotas, and it is the one who writes."""
        raise DriverUnavailable(
            f"storage driver {NAME}: cannot limit what a container writes; overlay2 and erofs can on ext4 or "
            "xfs, and btrfs, zfs and devicemapper"
        )

    def difference(self, key: str) -> Difference:
        """The program's marks are not all the kernel's, and the number of a file's names that it tells is
        that of those it has come across: the upper directory is read as it lies there.
        """
        from lamina.layer.upper import FUSE  # noqa: PLC0415 - for diff and commit alone

        found = super().difference(key)
        return replace(found, namespace=FUSE) if found.namespace else found

    def _writable(self, lowers: Sequence[Mount], directory: Path) -> Mount:
        return _writable(lowers, directory)

    def _overlay(self, lowers: Sequence[Mount], *more: str) -> Mount:
        return Mount(type=TYPE, source=PROGRAM, options=more, layers=tuple(lowers))

    def _where(self, directory: Path) -> list[str]:
        source = os.fspath(directory)
        return [line.target for line in mounts() if line.type == TYPE and line.source == source]


def _writable(lowers: Sequence[Mount], directory: Path) -> Mount:
    """The source is what `mountinfo` shows: the kernel knows nothing of upper directories here."""
    options = (f"upperdir={directory / 'upper'}", f"workdir={directory / 'work'}")
    return Mount(type=TYPE, source=str(directory), options=options, layers=tuple(lowers))
