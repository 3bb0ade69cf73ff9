"""Keeping the store tidy and honest: remove, usage, prune, check.

What ``usage`` calls reclaimable is computed by the very functions with which ``prune`` then frees it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.content.catalog import ImageRecord
from lamina.content.collect import (
    Finding,
    check_blobs,
    check_images,
    image_roots,
    own_size,
    reachable,
    sweep,
    unreachable,
)
from lamina.content.ingest import claim
from lamina.content.lease import live_content
from lamina.engine import containers, images, misplaced, removing
from lamina.engine.building import snapshots
from lamina.engine.containers import Seen
from lamina.engine.filters import check_filters
from lamina.engine.landing import unpack_present
from lamina.engine.lookup import find_image
from lamina.engine.mounts import forget_gone, mounted_ids
from lamina.engine.moving import has_layer
from lamina.engine.refetching import check_served
from lamina.errors import Conflict, LaminaError, Unsupported
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest
from lamina.oci.reference import InvalidReference, Reference
from lamina.runtime.container import Container, ContainerNotFound, ContainerRunning
from lamina.runtime.records import ContainerTable
from lamina.snapshot.collect import drop_unused, release_layer, unused_snapshots
from lamina.snapshot.snapshotter import SnapshotNotFound, TellsProblems
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.engine import Engine
    from lamina.snapshot.snapshotter import Snapshotter


class Removal(StrEnum):
    UNTAGGED = "Untagged"
    DELETED = "Deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """``size`` is what went from disk with a deletion."""

    kind: Removal
    subject: str
    size: int = 0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    removed: tuple[Removed, ...]
    freed: int


class ImageInUse(Conflict):
    pass


def containers_of(engine: Engine, record: ImageRecord) -> list[Seen]:
    """Those that were made of an image, running or not."""
    digest = record.descriptor.digest
    if digest not in ContainerTable(engine.store.state).images():
        return []
    return [seen for seen in containers.everything(engine) if seen.container.image == digest]


def _insist_unused(name: str, users: Sequence[Seen], *, force: bool) -> None:
    """With ``force`` the names go and the image stays, as long as a container needs its layers."""
    running = [seen for seen in users if seen.state.is_live]
    if not users or (force and not running):
        return
    seen = (running or users)[0]
    how = "runs" if running else "does not run, but is there"
    advice = "stop and remove it first" if running else (
        "remove it first, or use --force to take only the name away"
    )
    raise ImageInUse(f"{name}: the container {seen.container.name} was made of it and {how}; {advice}")


def _container_usage(engine: Engine) -> UsageRow:
    everyone = list(containers.everything(engine))
    sizes = {seen.container.id: removing.size_on_disk(engine, seen.container) for seen in everyone}
    idle = [seen for seen in everyone if not seen.state.is_live]
    return UsageRow(
        type="Containers", total=len(everyone), active=len(everyone) - len(idle), size=sum(sizes.values()),
        reclaimable=sum(sizes[seen.container.id] for seen in idle),
    )


def _volume_usage(engine: Engine) -> UsageRow:
    from lamina.engine import volumes

    total, active, size, reclaimable = volumes.usage(engine, in_use=volumes.users(engine))
    return UsageRow(type="Local Volumes", total=total, active=active, size=size, reclaimable=reclaimable)


def _cache_usage(engine: Engine) -> UsageRow:
    from lamina.engine.building import usage as buildcache

    used = buildcache.usage(engine)
    return UsageRow(type="Build Cache", total=used.total, active=used.active, size=used.size,
                    reclaimable=used.reclaimable)


def remove(engine: Engine, name: str, *, force: bool, prune: bool) -> tuple[Removed, ...]:
    """A name goes; with its last name the image goes, and with it every layer that no other image has."""
    forget_gone(engine)
    record = find_image(engine.store.catalog, name)
    given = _given_name(record, name)
    if given is None and len(record.names) > 1 and not force:
        raise ImageInUse(
            f"{name}: the image has {len(record.names)} names; remove them one by one, or use --force"
        )
    doomed_names = [given] if given is not None else list(record.names)
    removed = [
        Removed(kind=Removal.UNTAGGED, subject=Reference.parse(text).familiar) for text in doomed_names
    ]
    is_last = len(doomed_names) == len(record.names)
    users = containers_of(engine, record) if is_last else []
    if is_last:
        _insist_unmounted(engine, record, name)
        _insist_unused(name, users, force=force)
    if is_last and prune and not users:
        return (*removed, *(_delete(engine, record) or ()))
    for text in doomed_names:
        engine.store.untag(text)
    return tuple(removed)


def drop_unnamed(engine: Engine, record: ImageRecord) -> None:
    """An image that was only looked at goes again, unless somebody named it meanwhile."""
    current = engine.store.catalog.with_digest(record.descriptor.digest)
    if current is not None and not current.names and record.config not in mounted_ids(engine):
        _delete(engine, current)


def discard(engine: Engine, content: Iterable[Digest], layers: Iterable[Digest]) -> int:
    """The bytes that went."""
    store = engine.store
    swept = sweep(store, lambda: image_roots(store), engine.clock(), grace=float("-inf"), among=set(content))
    return swept.freed + sum(each.size for each in _remove_layers(engine, layers))


def usage(engine: Engine) -> tuple[UsageRow, ...]:
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
    leftovers = _leftovers(engine)
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


def _dropped_usage(engine: Engine, in_use: Sequence[Descriptor]) -> Sequence[UsageRow]:
    """A line where there are any: they take nothing."""
    away = {blob.digest for blob in engine.store.dropped_blobs()}
    if not away:
        return ()
    active = len(away & reachable(engine.store, in_use))
    return (UsageRow(type="Dropped Blobs", total=len(away), active=active, size=0, reclaimable=0),)


def image_usage(engine: Engine) -> tuple[ImageUsage, ...]:
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


def _away(engine: Engine, record: ImageRecord, away: Mapping[Digest, int]) -> int:
    reached = reachable(engine.store, [record.descriptor]) if away else set()
    return sum(size for blob, size in away.items() if blob in reached)


def prune(engine: Engine, *, all_images: bool, filters: Mapping[str, Sequence[str]]) -> Pruned:
    check_filters(filters, ("label", "until"), "prune")
    removed: list[Removed] = []
    forget_gone(engine)
    mounted = mounted_ids(engine)
    used = ContainerTable(engine.store.state).images()
    chosen = {row.digest for row in images.summaries(engine, (), {"label": filters.get("label", ())})}
    for record in engine.store.catalog.records():
        is_candidate = all_images or not record.names
        if not is_candidate or record.config in mounted or record.descriptor.digest not in chosen:
            continue
        if record.descriptor.digest in used:
            continue
        if not _is_older(engine, record, filters.get("until", ())):
            continue
        deleted = _delete(engine, record)
        if deleted is not None:
            removed += [
                Removed(kind=Removal.UNTAGGED, subject=Reference.parse(text).familiar)
                for text in record.names
            ]
            removed += deleted
    removed += _sweep_leftovers(engine)
    return Pruned(removed=tuple(removed), freed=sum(item.size for item in removed))


def check(engine: Engine, *, repair: bool, online: bool = False) -> Iterator[Finding]:
    """Damaged blobs first: repairing removes them, and then the images that miss them are named."""
    yield from check_blobs(engine.store, repair=repair)
    yield from check_images(engine.store)
    yield from _check_layers(engine, repair=repair)
    yield from _check_containers(engine, repair=repair)
    for driver in engine.drivers():
        if isinstance(driver, TellsProblems):
            for problem in driver.problems():
                yield Finding(subject=f"storage driver {driver.name}", problem=problem)
    if online:
        yield from check_served(engine)
    if repair:
        engine.store.write_index()


def _check_layers(engine: Engine, *, repair: bool) -> Iterator[Finding]:
    """What was removed because it was damaged is made again out of blobs: containers may stand on it.

    By every driver that had it.
    """
    removed = set()
    for finding in engine.layers_store.check(repair=repair):
        yield finding
        if finding.repaired:
            removed.add(finding.subject)
    for record in engine.store.catalog.records() if removed else ():
        try:
            image = images.load_record(engine, record)
            if removed.intersection(image.config.diff_ids):
                for driver in _holders(engine, str(image.chain_ids[-1])):
                    unpack_present(engine, image, driver)
        except (LaminaError, OSError) as error:
            yield Finding(subject=record.config, problem=f"cannot be unpacked again: {error}")


def _holders(engine: Engine, chain_id: str) -> Iterator[Snapshotter]:
    for driver in engine.drivers():
        with contextlib.suppress(SnapshotNotFound):
            driver.stat(chain_id)
            yield driver


def _check_containers(engine: Engine, *, repair: bool) -> Iterator[Finding]:
    """Each has the layer that its row speaks of; what that holds is the container's own business.

    One without it was being removed when the power went, since the layer goes first: the rest of it may go.
    """
    opened = {driver.name: driver for driver in engine.drivers()}
    for container in ContainerTable(engine.store.state).walk():
        subject = f"container {container.name}"
        try:
            driver = opened.get(container.driver) or engine.driver_named(container.driver)
        except Unsupported as error:
            yield Finding(subject=subject, problem=f"its layer cannot be looked at: {error}")
            continue
        if not has_layer(driver, container) and _is_lost(engine, container):
            yield Finding(
                subject=subject, repaired=repair and _removed(engine, container),
                problem=f"its layer is missing in {container.driver}; `lamina rm` removes the rest",
            )


def _is_lost(engine: Engine, seen: Container) -> bool:
    """Looked at once more, when nobody makes it, moves it to another driver or removes it already."""
    with misplaced.alone(engine, seen.snapshot) as is_alone:
        container = ContainerTable(engine.store.state).get(seen.id)
        if not is_alone or container is None:
            return False
        return not has_layer(engine.driver_named(container.driver), container)


def _removed(engine: Engine, container: Container) -> bool:
    try:
        removing.remove(engine, container.id)
    except ContainerRunning:  # the monitor is dead, and the process is not
        return False
    except ContainerNotFound:
        pass
    return True


# -- what is on disk


@dataclass(frozen=True, slots=True)
class _Leftovers:
    """What nothing reaches, and what nobody writes any more.

    ``unfinished`` are layers, snapshots and containers whose makers died.
    """

    blobs: list[tuple[Digest, int]]
    layers: list[tuple[Digest, int]]
    snapshots: list[tuple[str, int]]
    ingests: list[tuple[Path, int]]
    unfinished: list[tuple[Path, int]]

    @property
    def count(self) -> int:
        parts = (self.blobs, self.layers, self.snapshots, self.ingests, self.unfinished)
        return sum(len(part) for part in parts)

    @property
    def size(self) -> int:
        parts = (self.blobs, self.layers, self.snapshots, self.ingests, self.unfinished)
        return sum(size for part in parts for _name, size in part)


class _Disk:
    """Bytes on disk of what some roots reach: blobs, unpacked layers, and the driver's own snapshots."""

    def __init__(self, engine: Engine) -> None:
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


def diff_ids_of(engine: Engine, roots: Sequence[Descriptor]) -> set[Digest]:
    """The layers that the present platforms of some images are made of."""
    return {diff_id for config in configs_of(engine, roots) for diff_id in config.diff_ids}


def configs_of(engine: Engine, roots: Sequence[Descriptor]) -> list[ImageConfig]:
    wanted = {root.digest for root in roots}
    records = engine.store.catalog.records()
    return [_config(engine, record) for record in records if record.descriptor.digest in wanted]


def _config(engine: Engine, record: ImageRecord) -> ImageConfig:
    image = images.load_sound(engine, record)
    if image is None:  # it holds no layers
        return ImageConfig.build({"rootfs": {"type": "layers", "diff_ids": []}})
    return image.config


def _leftovers(engine: Engine) -> _Leftovers:
    store = engine.store
    roots = image_roots(store)
    live_layers = diff_ids_of(engine, roots) | live_content(store.state)
    return _Leftovers(
        blobs=unreachable(store, roots, engine.clock()),
        layers=[
            (diff_id, size) for diff_id, size in engine.layers_store.usage()
            if diff_id not in live_layers and not engine.layers_store.is_busy(diff_id)
        ],
        snapshots=[
            (info.key, size)
            for driver in engine.drivers()
            for info, size in unused_snapshots(driver, live_chains(engine, roots))
        ] + [
            (info.key, driver.usage(info.key).size)
            for driver, info in (*snapshots.abandoned(engine), *misplaced.misplaced(engine))
        ],
        ingests=_dead_ingests(engine),
        unfinished=[
            *engine.layers_store.leftovers(), *removing.abandoned(engine),
            *(each for driver in engine.drivers() for each in driver.leftovers()),
        ],
    )


def live_chains(engine: Engine, roots: Sequence[Descriptor]) -> set[str]:
    return {str(chain_id) for config in configs_of(engine, roots) for chain_id in config.chain_ids}


def _dead_ingests(engine: Engine) -> list[tuple[Path, int]]:
    found = []
    for path in sorted((engine.root / "ingest").iterdir()):
        directory = claim(path, wait=False) if path.is_dir() else None
        if directory is not None:
            found.append((path, tree_size(path)))
            directory.close()
    return found


def _remove_ingest(path: Path) -> bool:
    """Under its lock: somebody may have gone on with it since it was found dead."""
    directory = claim(path, wait=False) if path.is_dir() else None
    if directory is None:
        return False
    directory.remove()
    directory.close()
    return True


def tree_size(path: Path) -> int:
    """Bytes on disk of everything below a path, each inode once."""
    seen: dict[tuple[int, int], int] = {}
    for directory, _names, files in os.walk(path):
        for name in (*files, "."):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(directory, name))
                seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


# -- what goes


def _delete(engine: Engine, record: ImageRecord) -> list[Removed] | None:
    """Forgets an image with the names of ``record``, and frees what only it reached.

    ``None`` if somebody gave it another name since it was looked at: it stays then, under that one.
    """
    store = engine.store
    was_reached = reachable(store, [record.descriptor])
    layers = _config(engine, record).diff_ids
    if not store.forget(record.descriptor.digest, record.names):
        return None
    swept = sweep(
        store, lambda: image_roots(store), engine.clock(), grace=float("-inf"), among=was_reached
    )
    removed = [Removed(kind=Removal.DELETED, subject=str(record.config), size=swept.freed)]
    return removed + _remove_layers(engine, layers)


def _remove_layers(engine: Engine, layers: Iterable[Digest]) -> list[Removed]:
    """Unpacked forms that no image and no lease needs; decided under the lock that leases take."""
    removed = []
    drivers = engine.drivers()
    with engine.store.state.transaction():
        live = diff_ids_of(engine, image_roots(engine.store)) | live_content(engine.store.state)
        doomed = [diff_id for diff_id in dict.fromkeys(layers) if diff_id not in live]
        # Before anything goes: with a base's snapshots a driver drops forms of the layers above it too.
        sizes = {diff_id: engine.layers_store.size(diff_id) for diff_id in doomed}
        for diff_id in doomed:
            size = sizes[diff_id] + sum(release_layer(driver, diff_id) for driver in drivers)
            engine.layers_store.remove(diff_id)
            removed.append(Removed(kind=Removal.DELETED, subject=str(diff_id), size=size))
    return removed


def _sweep_leftovers(engine: Engine) -> list[Removed]:
    leftovers = _leftovers(engine)
    store = engine.store
    # Of a `rmi` that was killed, rows of dropped blobs may be all that is left.
    among = {digest for digest, _size in leftovers.blobs} | {blob.digest for blob in store.dropped.walk()}
    swept = sweep(store, lambda: image_roots(store), engine.clock(), among=among)
    removed = []
    if swept.blobs:
        removed.append(Removed(kind=Removal.DELETED, subject=f"{len(swept.blobs)} blobs", size=swept.freed))
    keep = live_chains(engine, image_roots(store))
    freed = snapshots.sweep(engine) + misplaced.sweep(engine)
    freed += sum(drop_unused(driver, keep) for driver in engine.drivers())
    if freed:
        removed.append(Removed(kind=Removal.DELETED, subject="unused snapshots", size=freed))
    removed += _remove_layers(engine, [diff_id for diff_id, _size in leftovers.layers])
    swept_work = engine.layers_store.sweep() + sum(driver.sweep() for driver in engine.drivers())
    swept_work += removing.sweep_directories(engine)
    if swept_work:
        removed.append(Removed(kind=Removal.DELETED, subject="unfinished work", size=swept_work))
    for path, size in leftovers.ingests:
        if _remove_ingest(path):
            removed.append(Removed(kind=Removal.DELETED, subject=f"ingest {path.name[:24]}", size=size))
    return removed


def _given_name(record: ImageRecord, text: str) -> str | None:
    try:
        canonical = Reference.parse(text).with_default_tag().canonical
    except InvalidReference:
        return None
    return canonical if canonical in record.names else None


def _insist_unmounted(engine: Engine, record: ImageRecord, name: str) -> None:
    if record.config in mounted_ids(engine):
        raise ImageInUse(f"{name}: mounted; `lamina umount {name}` first")


def _is_older(engine: Engine, record: ImageRecord, limits: Sequence[str]) -> bool:
    from lamina.engine.durations import parse_duration

    return all(engine.clock() - record.stored >= parse_duration(limit) for limit in limits)
