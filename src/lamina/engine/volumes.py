"""Volumes by name: made, listed, removed. Who uses them is the table of containers' to say."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.engine.filters import check_filters, has_label
from lamina.errors import Conflict, InvalidInput, Unsupported
from lamina.runtime.volume import check_name
from lamina.runtime.volumes import Volume, VolumeNotFound, VolumeStore
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core

Users = Mapping[str, Sequence[str]]
_FILTERS = ("dangling", "driver", "label", "name")
_PRUNE_FILTERS = ("all", "label", "label!")
_TRUE, _FALSE = ("true", "1", "t"), ("false", "0", "f")


class VolumeInUse(Conflict):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSummary:
    """``users`` are the names of containers; ``created`` is in seconds since the epoch, ``size`` in bytes."""

    name: str
    labels: Mapping[str, str]
    options: Mapping[str, str]
    created: float
    is_anonymous: bool
    mountpoint: Path
    users: tuple[str, ...]
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedVolumes:
    names: tuple[str, ...]
    freed: int


def store_of(engine: Core) -> VolumeStore:
    return VolumeStore(engine.root)


def users(engine: Core) -> dict[str, list[str]]:
    """Volume -> names of the containers that have it, running or not."""
    from lamina.runtime.records import ContainerTable

    found: dict[str, list[str]] = {}
    for container in ContainerTable(engine.store.state).walk():
        for name in container.volumes:
            found.setdefault(name, []).append(container.name)
    return found


def create(
    engine: Core, name: str = "", *, labels: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None, driver: str = "local",
) -> Volume:
    """Without a name it is an anonymous one. One that is there already stays as it is."""
    if driver != "local":
        raise Unsupported(f"volume driver {driver!r}: there is only 'local'")
    store = store_of(engine)
    if not name and not options:
        return store.create_anonymous(now=engine.clock(), labels=labels)
    return store.create(
        name or os.urandom(32).hex(), now=engine.clock(), labels=labels, options=options,
        is_anonymous=not name,
    )


def volumes(
    engine: Core, *, filters: Mapping[str, Sequence[str]] | None = None, in_use: Users
) -> tuple[Volume, ...]:
    """By name."""
    wanted = filters or {}
    check_filters(wanted, _FILTERS, "volume ls")
    return tuple(volume for volume in store_of(engine).walk() if _matches(volume, wanted, in_use))


def summaries(
    engine: Core, *, filters: Mapping[str, Sequence[str]] | None = None, has_sizes: bool = False
) -> tuple[VolumeSummary, ...]:
    """By name."""
    store, in_use = store_of(engine), users(engine)
    return tuple(
        VolumeSummary(
            name=volume.name, labels=volume.labels, options=volume.options, created=volume.created,
            is_anonymous=volume.is_anonymous, mountpoint=store.data(volume.name),
            users=tuple(in_use.get(volume.name, ())), size=store.size(volume.name) if has_sizes else None,
        )
        for volume in volumes(engine, filters=filters, in_use=in_use)
    )


def inspect(engine: Core, name: str) -> dict[str, Any]:
    """Docker's fields. Raises ``VolumeNotFound``."""
    from datetime import UTC, datetime

    store = store_of(engine)
    volume = store.get(name)
    return {
        "CreatedAt": f"{datetime.fromtimestamp(int(volume.created), UTC):%Y-%m-%dT%H:%M:%SZ}",
        "Driver": "local",
        "Labels": dict(volume.labels) or None,
        "Mountpoint": str(store.data(name)),
        "Name": volume.name,
        "Options": dict(volume.options) or None,
        "Scope": "local",
    }


def remove(engine: Core, name: str, *, force: bool = False, in_use: Users) -> bool:
    """Whether there was one; with ``force`` a missing one is no error. Raises :class:`VolumeInUse`."""
    check_name(name)
    if in_use.get(name):
        raise VolumeInUse(
            f"{name}: in use by {', '.join(in_use[name])}; `lamina rm` removes containers"
        )
    try:
        store_of(engine).remove(name)
    except VolumeNotFound:
        if not force:
            raise
        return False
    return True


def prune(
    engine: Core, *, all_volumes: bool = False, filters: Mapping[str, Sequence[str]] | None = None,
    in_use: Users,
) -> PrunedVolumes:
    """Those that no container has: anonymous ones, and with ``all_volumes`` the others too."""
    wanted = dict(filters or {})
    check_filters(wanted, _PRUNE_FILTERS, "volume prune")
    takes_all = all_volumes or _switch(wanted.pop("all", ["false"]), "all")
    store, names, freed = store_of(engine), [], 0
    for volume in list(store.walk()):
        if in_use.get(volume.name) or not (takes_all or volume.is_anonymous):
            continue
        if not _matches(volume, wanted, in_use):
            continue
        try:
            size = store.size(volume.name)
            store.remove(volume.name)
        except VolumeNotFound:
            continue
        names.append(volume.name)
        freed += size
    store.sweep()
    return PrunedVolumes(names=tuple(names), freed=freed)


def usage(engine: Core, *, in_use: Users) -> tuple[int, int, int, int]:
    """For ``system df``: how many, how many in use, their bytes, and those that prune could free."""
    store = store_of(engine)
    sizes = {volume.name: store.size(volume.name) for volume in store.walk()}
    idle = [name for name in sizes if not in_use.get(name)]
    return len(sizes), len(sizes) - len(idle), sum(sizes.values()), sum(sizes[name] for name in idle)


def _matches(volume: Volume, filters: Mapping[str, Sequence[str]], in_use: Users) -> bool:
    """All kinds of filters must be met, by one value each; labels by every value."""
    if "dangling" in filters and _switch(filters["dangling"], "dangling") is bool(in_use.get(volume.name)):
        return False
    if "driver" in filters and "local" not in filters["driver"]:
        return False
    if "name" in filters and not any(text in volume.name for text in filters["name"]):
        return False
    if not all(has_label(volume.labels, text) for text in filters.get("label", ())):
        return False
    return not any(has_label(volume.labels, text) for text in filters.get("label!", ()))


def _switch(values: Sequence[str], name: str) -> bool:
    text = values[-1].lower()
    if text not in _TRUE + _FALSE:
        raise InvalidInput(f"{name}: expected true or false, got {values[-1]!r}")
    return text in _TRUE
