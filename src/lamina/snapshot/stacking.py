"""For drivers that stack by snapshot (btrfs, zfs, devicemapper): a stack of layers, one snapshot each.

Such a driver asks for the plain tar of a layer (``Reception(form=Form.TAR)``), and its ``commit_layers``
is a call of :func:`commit_by_snapshot`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lamina.content.durable import make_directory
from lamina.content.lease import boot_id, process_start
from lamina.layer.apply import apply
from lamina.layer.root import DirectoryRoot
from lamina.layer.tarstream import TarReader
from lamina.oci.config import chain_ids
from lamina.oci.digest import Digest
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.look import ownership
from lamina.snapshot.mounting import mounted
from lamina.snapshot.namespace import Ownership
from lamina.snapshot.snapshotter import (
    Mount,
    SnapshotExists,
    SnapshotKind,
    SnapshotNotFound,
    Snapshotter,
)

# Whose a snapshot is that a layer is applied to: process, its start, and boot.
_KEY = re.compile(r"layer (\d+) (\d+) (\S*) [0-9a-f]{16}")
# Applies a layer's tar to an active snapshot, of which it is given the mounts.
Fill = Callable[[Path, Sequence[Mount]], None]


def commit_by_snapshot(
    driver: Snapshotter, layers: LayerStore, diff_ids: Sequence[Digest], *, fill: Fill | None = None
) -> str:
    """Makes a snapshot for each prefix of a stack that has none yet, base first; returns the top's name.

    When another process makes the same one at the same time, the first one counts. Without ``fill``, each
    is mounted by this process, and the layer applied to it.
    """
    layers.insist(diff_ids, driver.reception)
    parent = ""
    for name, diff_id in zip(chain_ids(diff_ids), diff_ids, strict=True):
        if not _is_there(driver, name):
            _commit_one(driver, layers, parent, name, diff_id, fill)
        parent = name
    return parent


def abandoned(driver: Snapshotter) -> list[str]:
    """Keys of snapshots that layers were being applied to when a process died: for the driver's ``sweep``."""
    return [info.key for info in driver.walk() if info.kind is SnapshotKind.ACTIVE and _is_dead(info.key)]


def abandoned_sizes(driver: Snapshotter) -> Iterator[tuple[str, int]]:
    """With the bytes of each: what ``leftovers`` says of them."""
    for key in abandoned(driver):
        with contextlib.suppress(SnapshotNotFound):  # two may look at once
            yield key, driver.usage(key).size


def sweep_abandoned(driver: Snapshotter) -> int:
    """Removes them; returns the bytes freed."""
    freed = 0
    for key, size in abandoned_sizes(driver):
        with contextlib.suppress(SnapshotNotFound):
            driver.remove(key)
            freed += size
    return freed


def _is_dead(key: str) -> bool:
    found = _KEY.fullmatch(key)
    return found is not None and (found[3] != boot_id() or process_start(int(found[1])) != int(found[2]))


def _is_there(driver: Snapshotter, name: str) -> bool:
    try:
        driver.stat(name)
    except SnapshotNotFound:
        return False
    return True


def _commit_one(
    driver: Snapshotter, layers: LayerStore, parent: str, name: str, diff_id: Digest, fill: Fill | None
) -> None:
    pid = os.getpid()
    key = f"layer {pid} {process_start(pid)} {boot_id()} {os.urandom(8).hex()}"
    try:
        mounts = driver.prepare(key, parent)
        if fill is not None:
            fill(layers.tar(diff_id), mounts)
        else:
            with _writable(driver, layers, mounts) as path:
                _apply(layers.tar(diff_id), path, driver.identity.ownership)
        driver.commit(name, key, diff_id=diff_id)
    except BaseException as error:
        with contextlib.suppress(SnapshotNotFound):
            driver.remove(key)
        if not isinstance(error, SnapshotExists):
            raise


def _apply(tar: Path, path: Path, owners: Ownership) -> None:
    with (
        open(tar, "rb", buffering=0) as stream,
        DirectoryRoot(path, owner=ownership(owners is not Ownership.SINGLE)) as root,
    ):
        apply(TarReader(stream), root)


@contextlib.contextmanager
def _writable(driver: Snapshotter, layers: LayerStore, mounts: Sequence[Mount]) -> Iterator[Path]:
    """Where this process may not mount, a single directory stands for itself."""
    if not driver.identity.may_mount:
        yield Path(mounts[0].source)
        return
    place = layers.root / "snapshots" / f".applying-{os.urandom(8).hex()}"
    make_directory(place)
    try:
        with mounted(mounts, place) as path:
            yield path
    finally:
        os.rmdir(place)
