"""``--sbom``: what an image is made of, as SPDX documents that its index lists beside it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lamina.build.attestation import (
    IN_TOTO,
    PREDICATE,
    SPDX,
    attestation_config,
    attestation_manifest,
    is_about,
    listed,
    read_spdx,
    settled,
    statement,
)
from lamina.build.report import Stage as Progress
from lamina.content.store import read_all
from lamina.engine.building.copying import write_entries
from lamina.engine.building.scanning import MOST, Scanner, find_scanner, scan
from lamina.engine.building.state import BuiltLayer, StageState
from lamina.errors import InvalidInput, NotFound
from lamina.layer.entry import Entry
from lamina.oci.descriptor import INDEXES, MANIFESTS, OCI_CONFIG, OCI_MANIFEST, Descriptor
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, Index, Manifest
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.content.store import Fetcher
    from lamina.engine.building.build import Build
    from lamina.engine.core import Core
    from lamina.engine.layering import Fill

_STATEMENT_ROOM = 1 << 20  # what a statement adds to its predicate, at the very most


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """``line`` is what the index says of the attestation, ``documents`` the statements by file name."""

    line: dict[str, Any]
    documents: tuple[tuple[str, bytes], ...]


def attest(build: Build, state: StageState, manifest: Manifest, names: Sequence[str], generator: str) -> Bill:
    """In the store, and leased. ``manifest`` is final: what is said of it holds for its digest alone."""
    created = build.time_of(state)
    texts = [
        (name, statement(
            settled(read_spdx(data, name), created, "sbom"), SPDX, manifest.descriptor.digest, names,
            build.platform,
        ))
        for name, data in _scanned(build, state, find_scanner(build, generator)).items()
    ]
    said = [(SPDX, _stored(build, IN_TOTO, text)) for _, text in texts]
    config = _stored(build, OCI_CONFIG, attestation_config([one.digest for _, one in said]))
    made = attestation_manifest(config, said)
    _stored(build, OCI_MANIFEST, made.raw)
    return Bill(line=listed(made.descriptor, manifest.descriptor.digest), documents=tuple(texts))


def _stored(build: Build, media_type: str, data: bytes) -> Descriptor:
    build.lease.hold([Digest.of(data)])
    return build.engine.store.put_bytes(media_type, data)


def _scanned(build: Build, state: StageState, scanner: Scanner) -> dict[str, bytes]:
    """The same files are looked through once: what a scanner wrote is kept as a layer of the build cache."""
    if not state.layers:
        raise InvalidInput("--sbom: the image has no files to look through")
    several = f"{build.platform} " if len(build.options.platforms) > 1 else ""
    title = f"[{several}sbom] generating with {scanner.name}"
    step = build.course.begin()
    found: dict[str, bytes] = {}

    def make() -> tuple[Descriptor, Digest]:
        from lamina.engine.layering import store_layer

        with build.course.working(step, title, ""):
            found.update(scan(build, scanner, state.layers, step))
        layer = store_layer(build.engine, _fill(found), lambda digest: build.lease.hold([digest]))
        assert layer is not None
        return layer, layer.digest

    fixed = [("the files", state.chain), ("the scanner", f"{scanner.identity} {scanner.words}")]
    kept = build.memory.derived("sbom", fixed, make)
    if not found:
        build.course.say(step, Progress.CACHED, title)
        build.memory.hits += 1
        found = _read(build, kept)
    return found


def _fill(files: dict[str, bytes]) -> Fill:
    entries = [
        Entry(name, size=len(data), open=_opener(data)) for name, data in files.items()
    ]
    return lambda out, builder: write_entries(entries, out, builder)


def _opener(data: bytes) -> Callable[[], io.BytesIO]:
    return lambda: io.BytesIO(data)


def _read(build: Build, kept: BuiltLayer) -> dict[str, bytes]:
    files = build.sources.layered((kept,))
    found = {}
    for node in reversed(files.children("")):
        with files.open_file(node) as file:
            found[node.path] = file.read(MOST)
    return found


# -- reading them back


def bills_of(engine: Core, name: str) -> list[dict[str, Any]]:
    """The SPDX documents that were attached to an image: from here, or from the registry it came from.

    Raises ``ImageNotFound``, and ``NotFound`` for an image without any.
    """
    from lamina.engine.lookup import find_image

    record = find_image(engine.store.catalog, name)
    if record.descriptor.media_type in INDEXES:
        index = Index.parse(engine.store.read_document(record.descriptor), record.descriptor.media_type)
        about = [entry for entry in index.manifests if is_about(entry, record.manifest)]
        found = [one for entry in about for one in _documents(_holder(engine, entry, record.names), entry)]
        if found:
            return found
    raise NotFound(f"{name}: no SBOM is attached to it; `lamina build --sbom` attaches one")


def _holder(engine: Core, entry: Descriptor, names: Sequence[str]) -> Fetcher:
    """A pull brings the image and leaves attestations where they are."""
    if engine.store.has(entry) or not names:
        return engine.store
    from lamina.oci.reference import Reference

    return engine.registries.repository(Reference.parse(names[0]))


def _documents(source: Fetcher, entry: Descriptor) -> list[dict[str, Any]]:
    if entry.media_type not in MANIFESTS:
        return []
    manifest = Manifest.parse(read_all(source, entry, MAX_DOCUMENT), entry.media_type)
    wanted = [layer for layer in manifest.layers if layer.annotations.get(PREDICATE) == SPDX]
    return [_predicate(read_all(source, layer, MOST + _STATEMENT_ROOM)) for layer in wanted]


def _predicate(raw: bytes) -> dict[str, Any]:
    import json

    try:
        predicate = json.loads(raw)["predicate"]
    except (ValueError, KeyError, TypeError, RecursionError):
        predicate = None
    if not isinstance(predicate, dict):
        raise InvalidInput("the SBOM that is attached: no in-toto statement with a predicate")
    return predicate


