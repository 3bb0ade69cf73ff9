"""A build cache in a registry (``--cache-from``, ``--cache-to``): what others built need not be built again.

It is a manifest of its own, whose config lists the records and whose layers are theirs. With ``inline`` the
records of the image's own layers stand in the image's config instead, and nothing else is pushed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lamina.build.cache import StepRecord
from lamina.build.key import Ingredients
from lamina.build.report import Stage as Progress
from lamina.build.report import StepEvent, StepReport
from lamina.content.store import read_all
from lamina.errors import InvalidInput, LaminaError, NotFound, Unavailable, nearest
from lamina.image import Image
from lamina.layer.compress import Compression
from lamina.oci.descriptor import OCI_MANIFEST, Descriptor
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, Manifest, dump_document, parse_document
from lamina.oci.reference import Reference
from lamina.values import dataclass, replace

if TYPE_CHECKING:
    from lamina.content.lease import Lease
    from lamina.engine.building.build import Build
    from lamina.engine.core import Core
    from lamina.registry.remote import RemoteRepository

CONFIG = "application/vnd.lamina.buildcache.config.v1+json"
INLINE = "io.lamina.buildcache"
_VERSION = 1
_KEYS = ("type", "ref", "mode", "compression")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSpot:
    """``kind`` is ``registry`` or ``inline``; ``is_max`` takes all steps, not only those of the image."""

    kind: str
    reference: str = ""
    is_max: bool = False
    compression: str = "gzip"


def parse_cache(text: str, option: str) -> CacheSpot:
    """``type=registry,ref=NAME[,mode=max]``, ``type=inline``, or a reference alone."""
    if "=" not in text:
        return CacheSpot(kind="inline" if text == "inline" else "registry", reference=text)
    try:
        (fields,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise InvalidInput(f"{option} {text}: its quotes do not match") from None
    found = dict(field.partition("=")[::2] for field in fields)
    for key in found:
        if key not in _KEYS:
            raise InvalidInput(f"{option} {text}: no such key {key}{nearest(key, _KEYS)}")
    kind = found.get("type", "registry")
    if kind not in ("registry", "inline"):
        raise InvalidInput(f"{option} {text}: expected type=registry or type=inline, got {kind!r}")
    if kind == "registry" and not found.get("ref"):
        raise InvalidInput(f"{option} {text}: expected ref=NAME")
    if found.get("mode", "min") not in ("min", "max"):
        raise InvalidInput(f"{option} {text}: expected mode=min or mode=max, got {found['mode']!r}")
    compression = found.get("compression", "gzip")
    if compression not in tuple(Compression):
        raise InvalidInput(f"{option} {text}: expected compression=none, gzip or zstd, got {compression!r}")
    if found.get("ref"):
        Reference.parse(found["ref"])
    return CacheSpot(
        kind=kind, reference=found.get("ref", ""), is_max=found.get("mode") == "max",
        compression=compression,
    )


# -- taking


class ImportedCache:
    """Records of one place by key; their layers are fetched when they are wanted."""

    def __init__(
        self, engine: Core, repository: RemoteRepository,
        records: Mapping[str, tuple[StepRecord, Descriptor | None]],
    ) -> None:
        self._engine = engine
        self._repository = repository
        self._records = records

    def fetch(self, key: str, lease: Lease) -> StepRecord | None:
        """With its layer in the store, verified. A place that cannot be reached any more has nothing."""
        found = self._records.get(key)
        if found is None:
            return None
        record, layer = found
        if layer is None or record.diff_id is None:
            return record
        from lamina.engine.landing import receive_layer

        store = self._engine.store
        lease.hold([layer.digest, record.diff_id])
        try:
            if not store.has(layer):
                with self._repository.open(layer) as stream:
                    store.put(layer, stream)
            receive_layer(self._engine, layer, record.diff_id)
        except (LaminaError, OSError):
            return None
        return record


def open_caches(engine: Core, spots: Sequence[CacheSpot], report: StepReport) -> list[ImportedCache]:
    """What is not there, or is no cache, is said and does no harm: the first build of all has none."""
    found = []
    for spot in spots:
        try:
            found.append(_opened(engine, spot))
        except (NotFound, Unavailable, InvalidInput) as error:
            report(StepEvent(
                number=0, stage=Progress.NOTE, title="", text=f"note: --cache-from {spot.reference}: {error}"
            ))
    return found


def _opened(engine: Core, spot: CacheSpot) -> ImportedCache:
    reference = Reference.parse(spot.reference).with_default_tag()
    repository = engine.registries.repository(reference)
    root = repository.resolve(str(reference.digest or reference.tag))
    manifest = None
    if root.media_type == OCI_MANIFEST:
        manifest = Manifest.parse(read_all(repository, root, MAX_DOCUMENT), root.media_type)
    if manifest is not None and manifest.config.media_type == CONFIG:
        document = parse_document(read_all(repository, manifest.config, MAX_DOCUMENT), "build cache")
        layers = list(manifest.layers)
    else:
        image = Image.load(repository, root, engine.platform)
        document = parse_document(json.dumps(image.config.document.get(INLINE) or {}).encode(), "build cache")
        layers = [layer.descriptor for layer in image.layers]
    return ImportedCache(engine, repository, _read(document, layers))


def _read(
    document: Mapping[str, Any], layers: Sequence[Descriptor]
) -> dict[str, tuple[StepRecord, Descriptor | None]]:
    """A stranger's document: what does not have the right shape makes it none."""
    found: dict[str, tuple[StepRecord, Descriptor | None]] = {}
    try:
        if document.get("version") != _VERSION:
            raise InvalidInput("holds no build cache of this version")
        for item in document["records"]:
            number = item["layer"]
            layer = layers[number] if number is not None else None
            parts = Ingredients(tuple((str(name), str(value)) for name, value in item["ingredients"]))
            diff_id = Digest.parse(item["diffID"]) if layer is not None else None
            record = StepRecord(
                key=parts.key, site="", text=str(item["text"]), ingredients=parts,
                created=float(item["created"]), diff_id=diff_id, layer=layer,
            )
            found[record.key] = record, layer
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InvalidInput(f"its build cache is not readable ({type(error).__name__})") from None
    return found


# -- giving


def inline_document(build: Build, diff_ids: Sequence[Digest]) -> dict[str, Any]:
    """For the config of an image with these layers."""
    place = {diff_id: number for number, diff_id in enumerate(diff_ids)}
    records = [
        _item(record, place[record.diff_id] if record.diff_id is not None else None)
        for record in build.memory.records.values()
        if record.site and (record.diff_id is None or record.diff_id in place)
    ]
    return {"version": _VERSION, "records": records}


def export_cache(builds: Sequence[tuple[Build, Manifest]], spot: CacheSpot) -> None:
    """Pushes what these builds did or used. Inline ones are in the image already."""
    if spot.kind == "inline":
        return
    from lamina.engine.delivery import deliver
    from lamina.engine.locations import Location, Transport

    build = builds[0][0]
    store = build.engine.store
    records: dict[str, StepRecord] = {}
    for each, manifest in builds:
        own = set(Image.load(store, manifest.descriptor, None).config.diff_ids)
        records.update({
            key: record for key, record in each.memory.records.items()
            if record.site and (spot.is_max or record.diff_id is None or record.diff_id in own)
        })
    layers: list[Descriptor] = []
    items = []
    for record in records.values():
        layer = _sendable(build, record, spot)
        items.append(_item(record, None if layer is None else len(layers)))
        layers += [] if layer is None else [layer]
    config = dump_document({"version": _VERSION, "records": items})
    root = _documents(build, config, layers)
    location = Location(transport=Transport.REGISTRY, name=spot.reference)
    deliver(build.engine, root, location, compression="none")


def _sendable(build: Build, record: StepRecord, spot: CacheSpot) -> Descriptor | None:
    if record.layer is None or record.diff_id is None:
        return None
    if spot.compression == "none" or record.layer.digest != record.diff_id:
        return record.layer
    from lamina.engine.building.image import compressed_layer
    from lamina.engine.building.state import BuiltLayer

    layer = BuiltLayer(descriptor=record.layer, diff_id=record.diff_id)
    return compressed_layer(build, layer, spot.compression, None).descriptor


def _documents(build: Build, config: bytes, layers: Sequence[Descriptor]) -> Descriptor:
    store = build.engine.store
    digest = Digest.of(config)
    whole = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": CONFIG,
        "config": {"mediaType": CONFIG, "digest": digest, "size": len(config)},
        "layers": [replace(layer, annotations={}).to_json() for layer in layers],
    }
    raw = dump_document(whole)
    build.lease.hold([digest, Digest.of(raw)])
    store.put_bytes(CONFIG, config)
    return store.put_bytes(OCI_MANIFEST, raw)


def _item(record: StepRecord, layer: int | None) -> dict[str, Any]:
    return {
        "text": record.text, "created": record.created, "layer": layer, "diffID": record.diff_id or "",
        "ingredients": [list(pair) for pair in record.ingredients.pairs],
    }
