"""For drivers that stack by snapshot (btrfs, zfs, devicemapper): a stack of layers, one snapshot each.

Such a driver asks for the plain tar of a layer (``Reception(form=Form.TAR)``), and its ``commit_layers``
is a call of :func:`commit_by_snapshot`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lamina.content.durable import make_directory
from lamina.layer.apply import apply
from lamina.layer.root import DirectoryRoot
from lamina.layer.tarstream import TarReader
from lamina.oci.config import chain_ids
from lamina.oci.digest import Digest
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.look import ownership
from lamina.snapshot.mounting import mounted
from lamina.snapshot.namespace import Ownership
from lamina.snapshot.snapshotter import Mount, SnapshotExists, SnapshotNotFound, Snapshotter


def commit_by_snapshot(driver: Snapshotter, layers: LayerStore, diff_ids: Sequence[Digest]) -> str:
    """Makes a snapshot for each prefix of a stack that has none yet, base first; returns the top's name.

    When another process makes the same one at the same time, the first one counts.
    """
    layers.insist(diff_ids, driver.reception)
    parent = ""
    for name, diff_id in zip(chain_ids(diff_ids), diff_ids, strict=True):
        if not _is_there(driver, name):
            _commit_one(driver, layers, parent, name, diff_id)
        parent = name
    return parent


def _is_there(driver: Snapshotter, name: str) -> bool:
    try:
        driver.stat(name)
    except SnapshotNotFound:
        return False
    return True


def _commit_one(driver: Snapshotter, layers: LayerStore, parent: str, name: str, diff_id: Digest) -> None:
    key = f"layer {os.urandom(8).hex()}"
    try:
        with _writable(driver, layers, driver.prepare(key, parent)) as path:
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
