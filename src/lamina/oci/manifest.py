"""Manifests and indexes: parsed readings that keep the bytes they were read from.

What was received is never serialised again: the bytes are the identity, the object is a reading of
them, and a field that we do not know survives because nobody touches it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lamina.errors import InvalidInput, Unsupported
from lamina.oci.descriptor import (
    DOCKER_SCHEMA1,
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    string_map,
)
from lamina.oci.digest import Digest
from lamina.values import dataclass, field

# distribution-spec, "Pushing manifests": registries should accept 4 MiB at least; peers cap there too.
MAX_DOCUMENT = 4 << 20
# The longest stack seen in the wild is 127 (docker's limit); overlayfs takes 500 lower layers.
MAX_LAYERS = 2048
MAX_INDEX_ENTRIES = 10_000
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class InvalidManifest(InvalidInput):
    pass


class UnsupportedManifest(Unsupported):
    pass


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform, or an artifact. ``descriptor`` always speaks of ``raw``."""

    raw: bytes = field(repr=False)
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    subject: Descriptor | None = None
    artifact_type: str = ""

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "") -> Manifest:
        """``media_type`` is what the sender said of it (a Content-Type); the document must agree."""
        document = parse_document(raw, "manifest")
        found = _media_type(document, media_type, MANIFESTS, OCI_MANIFEST)
        layers = document.get("layers")
        if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
            raise InvalidManifest(f"manifest.layers: expected a list of up to {MAX_LAYERS} layers")
        subject = document.get("subject")
        artifact_type = document.get("artifactType", "")
        return cls(
            raw=raw,
            media_type=found,
            config=Descriptor.from_json(document.get("config"), "manifest.config"),
            layers=tuple(
                Descriptor.from_json(item, f"manifest.layers[{n}]") for n, item in enumerate(layers)
            ),
            annotations=string_map(document.get("annotations"), "manifest.annotations"),
            subject=None if subject is None else Descriptor.from_json(subject, "manifest.subject"),
            artifact_type=artifact_type if isinstance(artifact_type, str) else "",
        )

    @classmethod
    def build(
        cls,
        config: Descriptor,
        layers: Sequence[Descriptor],
        *,
        media_type: str = OCI_MANIFEST,
        annotations: Mapping[str, str] | None = None,
    ) -> Manifest:
        """A new document. The same arguments give the same bytes."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config.to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
        if annotations:
            document["annotations"] = dict(sorted(annotations.items()))
        return cls.parse(dump_document(document), media_type)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=self.media_type, digest=Digest.of(self.raw), size=len(self.raw),
                          artifact_type=self.artifact_type)


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests, one a platform; entries may be indexes again."""

    raw: bytes = field(repr=False)
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "") -> Index:
        document = parse_document(raw, "index")
        found = _media_type(document, media_type, INDEXES, OCI_INDEX)
        manifests = document.get("manifests")
        if manifests is None:
            manifests = []  # Go writes an empty slice as null
        if not isinstance(manifests, list) or len(manifests) > MAX_INDEX_ENTRIES:
            raise InvalidManifest(f"index.manifests: expected a list of up to {MAX_INDEX_ENTRIES}")
        return cls(
            raw=raw,
            media_type=found,
            manifests=tuple(
                Descriptor.from_json(item, f"index.manifests[{n}]") for n, item in enumerate(manifests)
            ),
            annotations=string_map(document.get("annotations"), "index.annotations"),
        )

    @classmethod
    def build(cls, manifests: Sequence[Descriptor], *, media_type: str = OCI_INDEX) -> Index:
        document = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "manifests": [entry.to_json() for entry in manifests],
        }
        return cls.parse(dump_document(document), media_type)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=self.media_type, digest=Digest.of(self.raw), size=len(self.raw))

    def for_platform(self, wanted: Platform) -> Descriptor | None:
        """The best match; the first of equals, as the spec asks (image-index.md, "manifests")."""
        best: tuple[int, Descriptor] | None = None
        for entry in self.manifests:
            if entry.platform is None or not wanted.accepts(entry.platform):
                continue
            score = wanted.preference(entry.platform)
            if best is None or score > best[0]:
                best = (score, entry)
        return None if best is None else best[1]


def parse_graph_node(raw: bytes, media_type: str = "") -> Manifest | Index:
    """Either document, told apart by what the sender said, then by the document itself."""
    document = parse_document(raw, "document")
    said = document.get("mediaType") or media_type
    if said in INDEXES or (said not in MANIFESTS and "manifests" in document):
        return Index.parse(raw, media_type)
    return Manifest.parse(raw, media_type)


def successors(kind: Descriptor, raw: bytes) -> tuple[Descriptor, ...]:
    """What a document points at, config first; nothing for content that is not a graph node."""
    if kind.media_type in MANIFESTS:
        manifest = Manifest.parse(raw, kind.media_type)
        return (manifest.config, *manifest.layers)
    if kind.media_type in INDEXES:
        return Index.parse(raw, kind.media_type).manifests
    return ()


def parse_document(raw: bytes, what: str) -> dict[str, Any]:
    """A JSON object under :data:`MAX_DOCUMENT`, or :class:`InvalidManifest`.

    Depth needs no counting here: the interpreter's own scanner stops with ``RecursionError``.
    """
    if len(raw) > MAX_DOCUMENT:
        raise InvalidManifest(f"{what}: {len(raw)} bytes is over the limit of {MAX_DOCUMENT}")
    try:
        text = raw.decode("utf-8-sig")
        document = json.loads(text)
        if _SURROGATE.search(text):  # half a pair can be neither stored nor printed
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"{what}: not JSON ({error})") from None
    if not isinstance(document, dict):
        raise InvalidManifest(f"{what}: expected a JSON object, got {type(document).__name__}")
    return document


def dump_document(document: Mapping[str, Any]) -> bytes:
    """Compact UTF-8 in the order given: for documents that we make, never for ones we received."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _media_type(document: dict[str, Any], said: str, allowed: frozenset[str], default: str) -> str:
    """SECURITY: one digest must not read as an image here and as an index there (CVE-2021-41190)."""
    version = document.get("schemaVersion")
    inner = document.get("mediaType", "")
    if version == 1 or said in DOCKER_SCHEMA1 or inner in DOCKER_SCHEMA1:
        raise UnsupportedManifest(
            "manifest: Docker schema 1 is not supported (deprecated since 2017); ask for a newer push"
        )
    if version != 2:
        raise InvalidManifest(f"schemaVersion: expected 2, got {version!r}")
    if not isinstance(inner, str):
        raise InvalidManifest(f"mediaType: expected a string, got {type(inner).__name__}")
    if inner and said and inner != said and said in (MANIFESTS | INDEXES):
        raise InvalidManifest(f"mediaType: the document says {inner!r}, its sender {said!r}")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise InvalidManifest("document: has the fields of both a manifest and an index")
    found = inner or (said if said in (MANIFESTS | INDEXES) else default)
    if found not in allowed:
        raise UnsupportedManifest(f"mediaType: {found!r} is not one of {', '.join(sorted(allowed))}")
    return found
