"""What goes: images by name, what a prune finds, what was only looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lamina.content.catalog import ImageRecord
from lamina.content.collect import (
    image_roots,
    reachable,
    sweep,
)
from lamina.engine import containers, images
from lamina.engine.containers import Seen
from lamina.engine.filters import check_filters
from lamina.engine.leftovers import sweep_leftovers
from lamina.engine.lookup import find_image
from lamina.engine.mounts import forget_gone, mounted_ids
from lamina.engine.reached import config_of
from lamina.engine.removed import Removal, Removed, remove_layers
from lamina.errors import Conflict
from lamina.oci.reference import InvalidReference, Reference
from lamina.runtime.records import ContainerTable
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    removed: tuple[Removed, ...]
    freed: int


class ImageInUse(Conflict):
    pass


def remove(engine: Core, name: str, *, force: bool, prune: bool) -> tuple[Removed, ...]:
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


def _given_name(record: ImageRecord, text: str) -> str | None:
    try:
        canonical = Reference.parse(text).with_default_tag().canonical
    except InvalidReference:
        return None
    return canonical if canonical in record.names else None


def _insist_unmounted(engine: Core, record: ImageRecord, name: str) -> None:
    if record.config in mounted_ids(engine):
        raise ImageInUse(f"{name}: mounted; `lamina umount {name}` first")


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


def containers_of(engine: Core, record: ImageRecord) -> list[Seen]:
    """Those that were made of an image, running or not."""
    digest = record.descriptor.digest
    if digest not in ContainerTable(engine.store.state).images():
        return []
    return [seen for seen in containers.everything(engine) if seen.container.image == digest]


def drop_unnamed(engine: Core, record: ImageRecord) -> None:
    """An image that was only looked at goes again, unless somebody named it meanwhile."""
    current = engine.store.catalog.with_digest(record.descriptor.digest)
    if current is not None and not current.names and record.config not in mounted_ids(engine):
        _delete(engine, current)


def _delete(engine: Core, record: ImageRecord) -> list[Removed] | None:
    """Forgets an image with the names of ``record``, and frees what only it reached.

    ``None`` if somebody gave it another name since it was looked at: it stays then, under that one.
    """
    store = engine.store
    was_reached = reachable(store, [record.descriptor])
    layers = config_of(engine, record).diff_ids
    if not store.forget(record.descriptor.digest, record.names):
        return None
    swept = sweep(
        store, lambda: image_roots(store), engine.clock(), grace=float("-inf"), among=was_reached
    )
    removed = [Removed(kind=Removal.DELETED, subject=str(record.config), size=swept.freed)]
    return removed + remove_layers(engine, layers)


def prune(engine: Core, *, all_images: bool, filters: Mapping[str, Sequence[str]]) -> Pruned:
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
    removed += sweep_leftovers(engine)
    return Pruned(removed=tuple(removed), freed=sum(item.size for item in removed))


def _is_older(engine: Core, record: ImageRecord, limits: Sequence[str]) -> bool:
    from lamina.engine.durations import parse_duration

    return all(engine.clock() - record.stored >= parse_duration(limit) for limit in limits)
