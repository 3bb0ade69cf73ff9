"""Images that are here: list, load, inspect, history, tag."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from lamina.content.catalog import ImageRecord
from lamina.content.store import BlobNotFound
from lamina.engine.filters import check_filters, has_label
from lamina.engine.lookup import find_image
from lamina.errors import InvalidInput, LaminaError
from lamina.image import Image
from lamina.oci.digest import Digest
from lamina.oci.reference import InvalidReference, Reference
from lamina.values import dataclass, replace

if TYPE_CHECKING:
    from lamina.engine.core import Core

FILTERS = ("before", "dangling", "label", "reference", "since")
_SWITCH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSummary:
    """One line of ``lamina images``: an image and one of its names, or none (``<none>``)."""

    repository: str
    tag: str
    digest: Digest
    id: Digest
    created: str
    size: int
    platform: str
    labels: Mapping[str, str]

    @property
    def reference(self) -> str | None:
        return f"{self.repository}:{self.tag}" if self.repository and self.tag else None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """``layer`` counts from 0 at the base; ``None`` for a line that made no layer."""

    id: str
    created: str
    created_by: str
    size: int
    comment: str
    layer: int | None
    tags: tuple[str, ...] = ()


def summaries(
    engine: Core, names: Sequence[str], filters: Mapping[str, Sequence[str]]
) -> tuple[ImageSummary, ...]:
    """One line a name, newest first. Filters are docker's; unknown ones are refused by name."""
    check_filters(filters, FILTERS, "images")
    records = engine.store.catalog.records()
    rows = [row for record in records for row in _rows(record)]
    if names:
        rows = [row for row in rows if any(_is_named(row, name) for name in names)]
    for key in ("before", "since"):
        for value in filters.get(key, ()):
            limit = find_image(engine.store.catalog, value).created
            rows = [row for row in rows if (row.created < limit if key == "before" else row.created > limit)]
    return tuple(row for row in rows if _passes(row, filters))


def load(engine: Core, name: str) -> Image:
    return load_record(engine, find_image(engine.store.catalog, name))


def shown_name(record: ImageRecord) -> str:
    """What people call an image here: its first name, or its ID."""
    return Reference.parse(record.names[0]).familiar if record.names else record.config.short


def load_record(engine: Core, record: ImageRecord) -> Image:
    """The platform that stands for the image here, whatever else its index lists."""
    manifest = replace(record.descriptor, digest=record.manifest)
    if record.manifest != record.descriptor.digest:
        from lamina.content.copy import plan_copy
        from lamina.engine.landing import present

        plan = plan_copy(engine.store, record.descriptor, present(engine.store))
        here = [found for found, _raw in plan.documents if found.digest == record.manifest]
        if not here:
            raise BlobNotFound(f"{record.manifest}: this manifest is missing; pull the image again")
        manifest = here[0]
    return Image.load(engine.store, manifest, None)


def load_sound(engine: Core, record: ImageRecord) -> Image | None:
    """``None`` for an artifact, and for an image that ``check`` will complain about."""
    try:
        return load_record(engine, record)
    except LaminaError:
        return None


def inspect(engine: Core, name: str) -> dict[str, Any]:
    """Docker's field names. ``RootFS.Layers`` are diff ids; ``Layers`` adds what pull printed for each."""
    record = find_image(engine.store.catalog, name)
    image = load_record(engine, record)
    config = image.config
    references = [Reference.parse(text) for text in record.names]
    return {
        "Id": str(record.config),
        "RepoTags": [found.familiar for found in references if found.tag and not found.digest],
        "RepoDigests": _repo_digests(engine, record),
        "Parent": "",
        "Comment": config.history[-1].comment if config.history else "",
        "Created": config.created,
        "Author": config.document.get("author", ""),
        "Config": config.document.get("config") or {},
        "Architecture": config.platform.architecture,
        **({"Variant": config.platform.variant} if config.platform.variant else {}),
        "Os": config.platform.os,
        "Size": record.content_size,
        "GraphDriver": {"Name": engine.driver_name, "Data": None},
        "RootFS": {"Type": "layers", "Layers": [str(diff_id) for diff_id in config.diff_ids]},
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
        "Descriptor": record.descriptor.to_json(),
        "Manifest": str(record.manifest),
        "Layers": [
            {
                "DiffId": str(layer.diff_id),
                "Digest": str(layer.descriptor.digest),
                "MediaType": layer.descriptor.media_type,
                "Size": layer.descriptor.size,
                **_dropped_from(engine, layer.descriptor.digest),
            }
            for layer in image.layers
        ],
    }


def _dropped_from(engine: Core, blob: Digest) -> dict[str, str]:
    found = engine.store.dropped_blob(blob)
    return {} if found is None else {"DroppedFrom": found.repository}


def history(engine: Core, name: str) -> tuple[HistoryRow, ...]:
    record = find_image(engine.store.catalog, name)
    image = load_record(engine, record)
    rows: list[HistoryRow] = []
    number = 0
    for line in image.config.history:
        layer = None
        if not line.empty_layer and number < len(image.layers):
            layer, number = number, number + 1
        size = 0
        if layer is not None:
            facts = engine.store.catalog.layer(image.layers[layer].descriptor.digest)
            size = facts.content_size if facts else image.layers[layer].descriptor.size
        rows.append(HistoryRow(
            id="<missing>", created=line.created, created_by=line.created_by, size=size,
            comment=line.comment, layer=layer,
        ))
    if rows:
        tags = tuple(Reference.parse(text).familiar for text in record.names)
        rows[-1] = replace(rows[-1], id=str(record.config), tags=tags)
    return tuple(reversed(rows))


def tag(engine: Core, source: str, target: str) -> None:
    record = find_image(engine.store.catalog, source)
    reference = Reference.parse(target).with_default_tag()
    if reference.digest is not None:
        raise InvalidInput(f"{target}: a name to give cannot hold a digest")
    with engine.store.state.transaction():
        engine.store.catalog.assign(reference.canonical, record.descriptor.digest)
    engine.store.write_index()


def _rows(record: ImageRecord) -> list[ImageSummary]:
    labels: dict[str, str] = json.loads(record.labels)
    bare = ImageSummary(
        repository="", tag="", digest=record.descriptor.digest, id=record.config, created=record.created,
        size=record.content_size, platform=record.platform, labels=labels,
    )
    rows = []
    for name in record.names:
        reference = Reference.parse(name)
        rows.append(replace(bare, repository=reference.familiar_name, tag=reference.tag))
    return rows or [bare]


def _is_named(row: ImageSummary, name: str) -> bool:
    try:
        wanted = Reference.parse(name)
    except InvalidReference:
        return row.id.encoded.startswith(name) or _matches(row, name)
    if wanted.digest is not None and wanted.digest != row.digest:
        return False
    return row.repository == wanted.familiar_name and wanted.tag in ("", row.tag)


def _passes(row: ImageSummary, filters: Mapping[str, Sequence[str]]) -> bool:
    for value in filters.get("dangling", ()):
        if value.lower() not in _SWITCH:
            raise InvalidInput(f"dangling={value}: expected true or false")
        if _SWITCH[value.lower()] == bool(row.repository):
            return False
    if not all(has_label(row.labels, value) for value in filters.get("label", ())):
        return False
    patterns = filters.get("reference", ())
    return not patterns or any(_matches(row, pattern) for pattern in patterns)


def _matches(row: ImageSummary, pattern: str) -> bool:
    return fnmatchcase(row.repository, pattern) or fnmatchcase(f"{row.repository}:{row.tag}", pattern)


def _repo_digests(engine: Core, record: ImageRecord) -> list[str]:
    """Where a registry has this very document: known after a pull or a push, not guessed."""
    found = []
    for repository in engine.store.catalog.origins(record.descriptor.digest):
        reference = Reference.parse(repository)
        found.append(f"{reference.familiar_name}@{record.descriptor.digest}")
    return found

