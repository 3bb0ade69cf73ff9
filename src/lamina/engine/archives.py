"""Images as files: save and load, import and export."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lamina.archive import ArchiveSource, ArchiveWriter
from lamina.content.catalog import ImageRecord
from lamina.content.lease import Lease
from lamina.content.store import CHUNK
from lamina.engine import images
from lamina.engine.changes import apply_changes
from lamina.engine.landing import hold_all, land
from lamina.engine.lookup import find_image
from lamina.engine.refetching import RefetchingStore, insist_served
from lamina.engine.removed import discard
from lamina.errors import InvalidInput
from lamina.layer.compress import inflate, layer_media_type
from lamina.layer.entry import Entry, Kind
from lamina.layer.tarstream import TarWriter
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import INDEXES, OCI_CONFIG, Descriptor, Platform
from lamina.oci.digest import Digest, Digester
from lamina.oci.manifest import Manifest
from lamina.oci.reference import InvalidReference, Reference

if TYPE_CHECKING:
    from lamina.content.ingest import LocalIngest
    from lamina.engine.core import Core
    from lamina.layer.tree import Tree

FORMS = ("docker-archive", "oci-archive")


def save(engine: Core, names: Sequence[str], out: BinaryIO, form: str) -> None:
    """Everything is looked up before the first byte is written, so that a typo makes no half archive.

    Nor does a registry that a dropped blob must come from, and that has it no more.
    """
    if form not in FORMS:
        raise InvalidInput(f"{form}: not an archive format (one of {', '.join(FORMS)})")
    chosen: dict[Digest, tuple[ImageRecord, list[str]]] = {}
    for name in names:
        for record, given in _meant(engine, name):
            chosen.setdefault(record.descriptor.digest, (record, []))[1].extend(given)
    with Lease(engine.store.state, "save") as lease:
        for record, _given in chosen.values():
            hold_all(engine.store, record.descriptor, lease)
        roots = {digest: saved_root(engine, record) for digest, (record, _given) in chosen.items()}
        insist_served(engine, roots.values())
        source, writer = RefetchingStore(engine, is_final=True), ArchiveWriter(out, form)
        for digest, (_record, given) in chosen.items():
            writer.add(source, roots[digest], tuple(dict.fromkeys(given)))
        writer.finish()


def _meant(engine: Core, name: str) -> list[tuple[ImageRecord, list[str]]]:
    """Images, and the names that go into the archive with them, as docker has it.

    Of an ID none; of a bare repository every tag that is here.
    """
    try:
        reference = Reference.parse(name)
    except InvalidReference:
        return [(find_image(engine.store.catalog, name), [])]
    if not reference.tag and reference.digest is None:
        tagged = [
            (record, [text for text in record.names if _is_tag_of(text, reference)])
            for record in engine.store.catalog.records()
        ]
        if any(given for _record, given in tagged):
            return [(record, given) for record, given in tagged if given]
    record = find_image(engine.store.catalog, name)
    canonical = reference.with_default_tag().canonical
    return [(record, [canonical] if canonical in record.names else [])]


def _is_tag_of(text: str, repository: Reference) -> bool:
    found = Reference.parse(text)
    return found.name == repository.name and bool(found.tag)


def saved_root(engine: Core, record: ImageRecord) -> Descriptor:
    """The one manifest that stands for the image, as docker saves it: archives know no absent platforms."""
    if record.descriptor.media_type not in INDEXES:
        return record.descriptor
    return images.load_record(engine, record).manifest.descriptor


def load(engine: Core, source: BinaryIO | Path, platform: Platform | None) -> tuple[str, ...]:
    loaded: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="load-", dir=engine.root / "ingest") as scratch,
        ArchiveSource(source, scratch=Path(scratch), report=engine.report) as archive,
    ):
        for names, root in archive.images():
            canonical = tuple(Reference.parse(name).with_default_tag().canonical for name in names)
            landed = land(
                engine, archive, root, names=canonical, platform=platform, report=engine.report
            )
            shown = [Reference.parse(name).familiar for name in canonical]
            loaded.extend(shown or [str(landed.record.config)])
    return tuple(loaded)


def import_image(
    engine: Core,
    source: BinaryIO,
    name: str | None,
    *,
    changes: Sequence[str],
    message: str,
    platform: Platform | None,
    created: str | None,
) -> Digest:
    """The bytes are kept as they came, compressed or not: they are the layer's blob."""
    reference = Reference.parse(name).with_default_tag() if name else None
    execution = apply_changes({}, changes)
    made: list[Digest] = []
    try:
        manifest = _make_image(engine, source, execution, message, platform, created, made)
        landed = land(
            engine, engine.store, manifest.descriptor, names=(reference.canonical,) if reference else ()
        )
    except BaseException:
        discard(engine, made, ())
        raise
    return landed.record.config


def _make_image(
    engine: Core, source: BinaryIO, execution: dict[str, Any], message: str, platform: Platform | None,
    created: str | None, made: list[Digest],
) -> Manifest:
    """Layer, config and manifest in the store; what was put there is noted in ``made`` as it happens."""
    with engine.store.ingest() as ingest:
        diff_id, media_type = _drain(_Tee(source, ingest))
        layer = ingest.commit(media_type)
    made.append(layer.digest)
    config = _import_config(
        diff_id, execution, message, platform or engine.platform,
        created or datetime.fromtimestamp(engine.clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    )
    manifest = Manifest.build(engine.store.put_bytes(OCI_CONFIG, config.raw), [layer])
    engine.store.put_bytes(manifest.media_type, manifest.raw)
    made.extend((config.digest, manifest.descriptor.digest))
    return manifest


def export(engine: Core, name: str, out: BinaryIO) -> None:
    from lamina.engine.explain import open_tree

    image = images.load(engine, name)
    tree = open_tree(engine, image)
    diff_ids = [layer.diff_id for layer in image.layers]
    write_union(tree, lambda layer, content: engine.layers_store.open_data(diff_ids[layer], content), out)


def write_union(tree: Tree, open_data: Callable[[int, Entry], BinaryIO], out: BinaryIO) -> None:
    """``open_data`` gives the content of a file of a layer, by the layer's number."""
    writer = TarWriter(out)
    for entry, layer, content in tree.live_entries():
        if entry.kind is Kind.FILE and entry.size:
            with open_data(layer, content) as data:
                writer.write(entry, data)
        else:
            writer.write(entry, io.BytesIO() if entry.kind is Kind.FILE else None)
    writer.finish()


class _Tee:
    """Reads a stream and keeps what passes."""

    def __init__(self, source: BinaryIO, ingest: LocalIngest) -> None:
        self._source = source
        self._ingest = ingest

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(size)
        self._ingest.write(chunk)
        return chunk


def _drain(tee: Any) -> tuple[Digest, str]:
    digester = Digester()
    stream = inflate(tee)
    while chunk := stream.read(CHUNK):
        digester.update(chunk)
    if digester.size == 0:
        raise InvalidInput("import: the input is empty; expected a tar of a root filesystem")
    return digester.digest(), layer_media_type(stream.compression)


def _import_config(
    diff_id: Digest, execution: dict[str, Any], message: str, platform: Platform, created: str
) -> ImageConfig:
    return ImageConfig.build({
        "created": created,
        "architecture": platform.architecture,
        "os": platform.os,
        **({"variant": platform.variant} if platform.variant else {}),
        "config": execution,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "comment": message or "Imported from -"}],
    })

