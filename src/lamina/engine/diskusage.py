"""Bytes on disk by kind and by image.

What is called reclaimable is computed by the very functions with which ``prune`` then frees it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lamina.content.catalog import ImageRecord
from lamina.content.collect import (
    own_size,
    reachable,
)
from lamina.engine import containers, removing
from lamina.engine.leftovers import find_leftovers
from lamina.engine.mounts import mounted_ids
from lamina.engine.reached import configs_of
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest
from lamina.oci.reference import Reference
from lamina.runtime.records import ContainerTable
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """One line of ``lamina system df``. ``reclaimable`` is what the matching prune frees."""

    type: str
    total: int
    active: int
    size: int
    reclaimable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUsage:
    """``shared`` bytes are also reached by other images here; ``unique`` go when this image goes.

    ``dropped`` bytes of its blobs are not here.
    """

    repository: str
    tag: str
    id: Digest
    created: str
    size: int
    shared: int
    unique: int
    dropped: int = 0


def usage(engine: Core) -> tuple[UsageRow, ...]:
    """Bytes on disk. Images count everything that a name or an ID still reaches."""
    records = engine.store.catalog.records()
    mounted = mounted_ids(engine)
    disk = _Disk(engine)
    live = disk.of([record.descriptor for record in records])
    used = ContainerTable(engine.store.state).images()
    in_use = [
        record for record in records if record.config in mounted or record.descriptor.digest in used
    ]
    kept = disk.of([record.descriptor for record in in_use])
    leftovers = find_leftovers(engine)
    return (
        UsageRow(type="Images", total=len({record.config for record in records}), active=len(in_use),
                 size=live, reclaimable=live - kept),
        _container_usage(engine),
        _volume_usage(engine),
        _cache_usage(engine),
        *_dropped_usage(engine, [record.descriptor for record in in_use]),
        UsageRow(type="Leftovers", total=leftovers.count, active=0, size=leftovers.size,
                 reclaimable=leftovers.size),
    )


def _container_usage(engine: Core) -> UsageRow:
    everyone = list(containers.everything(engine))
    sizes = {seen.container.id: removing.size_on_disk(engine, seen.container) for seen in everyone}
    idle = [seen for seen in everyone if not seen.state.is_live]
    return UsageRow(
        type="Containers", total=len(everyone), active=len(everyone) - len(idle), size=sum(sizes.values()),
        reclaimable=sum(sizes[seen.container.id] for seen in idle),
    )


def _volume_usage(engine: Core) -> UsageRow:
    from lamina.engine import volumes

    total, active, size, reclaimable = volumes.usage(engine, in_use=volumes.users(engine))
    return UsageRow(type="Local Volumes", total=total, active=active, size=size, reclaimable=reclaimable)


def _cache_usage(engine: Core) -> UsageRow:
    from lamina.engine.building import usage as buildcache

    used = buildcache.usage(engine)
    return UsageRow(type="Build Cache", total=used.total, active=used.active, size=used.size,
                    reclaimable=used.reclaimable)


def _dropped_usage(engine: Core, in_use: Sequence[Descriptor]) -> Sequence[UsageRow]:
    """A line where there are any: they take nothing."""
    away = {blob.digest for blob in engine.store.dropped_blobs()}
    if not away:
        return ()
    active = len(away & reachable(engine.store, in_use))
    return (UsageRow(type="Dropped Blobs", total=len(away), active=active, size=0, reclaimable=0),)


def image_usage(engine: Core) -> tuple[ImageUsage, ...]:
    """For each name: what the image reaches, and how much of that other images here reach too."""
    disk = _Disk(engine)
    records = engine.store.catalog.records()
    away = {blob.digest: blob.descriptor.size for blob in engine.store.dropped_blobs()}
    reached = {record.descriptor.digest: disk.parts([record.descriptor]) for record in records}
    rows: list[ImageUsage] = []
    for record in records:
        mine = reached[record.descriptor.digest]
        others: set[str] = set()
        for other in records:
            if other.descriptor.digest != record.descriptor.digest:
                others |= reached[other.descriptor.digest].keys()
        shared = sum(size for part, size in mine.items() if part in others)
        total = sum(mine.values())
        names = [Reference.parse(text) for text in record.names]
        shown = [(name.familiar_name, name.tag or "<none>") for name in names] or [("<none>", "<none>")]
        rows.extend(
            ImageUsage(
                repository=repository, tag=tag, id=record.config, created=record.created,
                size=total, shared=shared, unique=total - shared, dropped=_away(engine, record, away),
            )
            for repository, tag in shown
        )
    return tuple(rows)


def _away(engine: Core, record: ImageRecord, away: Mapping[Digest, int]) -> int:
    reached = reachable(engine.store, [record.descriptor]) if away else set()
    return sum(size for blob, size in away.items() if blob in reached)


class _Disk:
    """Bytes on disk of what some roots reach: blobs, unpacked layers, and the driver's own snapshots."""

    def __init__(self, engine: Core) -> None:
        self._engine = engine
        self._layers = dict(engine.layers_store.usage())
        self._snapshots: dict[str, int] = {}
        for driver in engine.drivers():
            for info in driver.walk():
                usage = driver.usage(info.key)
                if not usage.is_shared:
                    self._snapshots[info.key] = self._snapshots.get(info.key, 0) + usage.size

    def of(self, roots: Sequence[Descriptor]) -> int:
        return sum(self.parts(roots).values())

    def parts(self, roots: Sequence[Descriptor]) -> dict[str, int]:
        store = self._engine.store
        parts: dict[str, int] = {}
        for digest in reachable(store, roots):
            with contextlib.suppress(FileNotFoundError):
                parts[f"blob {digest}"] = own_size(os.stat(store.blob_path(digest)))
        for config in configs_of(self._engine, roots):
            for diff_id in config.diff_ids:
                if diff_id in self._layers:
                    parts[f"layer {diff_id}"] = self._layers[diff_id]
            for chain_id in config.chain_ids:
                if chain_id in self._snapshots:
                    parts[f"snapshot {chain_id}"] = self._snapshots[chain_id]
        return parts
