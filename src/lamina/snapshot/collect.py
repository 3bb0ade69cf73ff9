"""Snapshots that nobody needs any more: which they are, and taking them away in the right order."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from lamina.oci.digest import Digest
from lamina.snapshot.snapshotter import (
    SnapshotInfo,
    SnapshotInUse,
    SnapshotKind,
    SnapshotNotFound,
    Snapshotter,
)


def snapshots_of_layer(driver: Snapshotter, diff_id: Digest) -> list[SnapshotInfo]:
    """Every snapshot that a layer is part of, children before their parents."""
    infos = list(driver.walk())
    chosen = [info for info in infos if info.diff_id == diff_id]
    return _with_children(infos, chosen)


def release_layer(driver: Snapshotter, diff_id: Digest) -> int:
    """Removes the committed snapshots that a layer is part of; returns the bytes that were theirs alone.

    Raises :class:`SnapshotInUse` when an active snapshot or a view is based on one of them. The layer's own
    forms stay: ``LayerStore.remove`` is for those.
    """
    doomed = snapshots_of_layer(driver, diff_id)
    for info in doomed:
        if info.kind is not SnapshotKind.COMMITTED or info.diff_id is None:
            raise SnapshotInUse(f"{diff_id}: the {info.kind} snapshot {info.key} is based on it")
    return sum(_remove(driver, info) for info in doomed)


def unused_snapshots(driver: Snapshotter, keep: Collection[str]) -> list[tuple[SnapshotInfo, int]]:
    """Committed snapshots of layers that are neither in ``keep`` nor the base of anything that stays.

    Children before their parents, each with the bytes that removing it frees.
    """
    infos = list(driver.walk())
    needed: set[str] = set()
    by_key = {info.key: info for info in infos}
    for info in infos:
        if info.key in keep or info.kind is not SnapshotKind.COMMITTED or info.diff_id is None:
            key = info.key
            while key and key not in needed:
                needed.add(key)
                key = by_key[key].parent if key in by_key else ""
    doomed = _with_children(infos, [info for info in infos if info.key not in needed])
    return [(info, _own_size(driver, info)) for info in doomed]


def drop_unused(driver: Snapshotter, keep: Collection[str]) -> int:
    """Removes what :func:`unused_snapshots` names; returns the bytes freed.

    What somebody has put something on meanwhile stays, and what is under that.
    """
    freed = 0
    for info, _size in unused_snapshots(driver, keep):
        with contextlib.suppress(SnapshotInUse, SnapshotNotFound):
            freed += _remove(driver, info)
    return freed


def _remove(driver: Snapshotter, info: SnapshotInfo) -> int:
    size = _own_size(driver, info)
    driver.remove(info.key)
    return size


def _own_size(driver: Snapshotter, info: SnapshotInfo) -> int:
    usage = driver.usage(info.key)
    return 0 if usage.is_shared else usage.size


def _with_children(infos: Collection[SnapshotInfo], chosen: Collection[SnapshotInfo]) -> list[SnapshotInfo]:
    """The chosen and all that is based on them, children first."""
    children: dict[str, list[SnapshotInfo]] = {}
    for info in infos:
        children.setdefault(info.parent, []).append(info)
    depths: dict[str, tuple[int, SnapshotInfo]] = {}
    waiting = [(0, info) for info in chosen]
    while waiting:
        depth, info = waiting.pop()
        if depth >= depths.get(info.key, (0, info))[0]:
            depths[info.key] = (depth, info)
            waiting.extend((depth + 1, child) for child in children.get(info.key, ()))
    return [info for _depth, info in sorted(depths.values(), key=lambda found: -found[0])]
