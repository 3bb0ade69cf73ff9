"""Writing archives, streaming: the same images give the same bytes, and the output may be a pipe.

A docker-archive is at once an OCI layout, as docker writes it since 25: every blob once, under
``blobs/``, and at the end two tables of contents, ``index.json`` and ``manifest.json``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, BinaryIO, cast

from lamina.archive.docker import MANIFEST
from lamina.archive.layout import CONTAINERD_NAME, INDEX, REF_NAME, blob_path
from lamina.content.copy import plan_copy
from lamina.content.store import Fetcher, read_all, verified
from lamina.convert import inflating
from lamina.errors import InvalidInput, Unsupported
from lamina.image import Image
from lamina.layer.compress import Compression
from lamina.layer.entry import Entry, Kind
from lamina.layer.tarstream import TarWriter
from lamina.oci.descriptor import CONFIGS, FOREIGN_LAYERS, INDEXES, MANIFESTS, OCI_INDEX, Descriptor
from lamina.oci.manifest import MAX_DOCUMENT, Manifest, dump_document
from lamina.oci.reference import InvalidReference, Reference

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class ArchiveFormat(StrEnum):
    DOCKER = "docker-archive"
    OCI = "oci-archive"


class UnknownFormat(InvalidInput):
    pass


class NotSavable(Unsupported):
    pass


class ArchiveWriter:
    """``add`` writes what is new of an image at once; the archive is whole only after ``finish``.

    ``out`` stays open. What a failing ``add`` has written stays too: the caller throws the archive away.
    """

    def __init__(self, out: BinaryIO, form: str = ArchiveFormat.DOCKER) -> None:
        try:
            self._form = ArchiveFormat(form)
        except ValueError:
            known = ", ".join(ArchiveFormat)
            raise UnknownFormat(f"{form}: not an archive format (one of {known})") from None
        self._tar = TarWriter(out)
        self._written: set[str] = set()
        self._index: list[dict[str, Any]] = []
        self._manifest: list[dict[str, Any]] = []

    def add(self, source: Fetcher, root: Descriptor, names: Sequence[str] = ()) -> None:
        """Of an index, the children that ``source`` has are written; names are references."""
        if self._form is ArchiveFormat.DOCKER:
            self._add_docker(source, root, names)
        else:
            self._add_graph(source, root, names)

    def finish(self) -> None:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self._index}
        self._write_file(INDEX, dump_document(index))
        if self._form is ArchiveFormat.DOCKER:
            table = json.dumps(self._manifest, ensure_ascii=False, separators=(",", ":"))
            self._write_file(MANIFEST, table.encode())
        self._write_file("oci-layout", _LAYOUT)
        self._tar.finish()

    def _add_docker(self, source: Fetcher, root: Descriptor, names: Sequence[str]) -> None:
        """``docker load`` reads layers as plain tar or gzip, and knows one platform behind a name."""
        chosen = _only_manifest(source, root)
        self._refuse_what_docker_cannot_load(source, chosen)
        view, manifest = inflating(source, chosen, {Compression.ZSTD})
        image = Image.load(view, manifest, None)
        self._add_graph(view, manifest, names, platform=image.config.platform.to_json())
        tags = [familiar for name in names if (familiar := _tag(name))]
        self._manifest.append({
            "Config": blob_path(image.id),
            "RepoTags": tags or None,
            "Layers": [blob_path(layer.descriptor.digest) for layer in image.layers],
        })

    def _refuse_what_docker_cannot_load(self, source: Fetcher, root: Descriptor) -> None:
        manifest = Manifest.parse(read_all(source, root, MAX_DOCUMENT), root.media_type)
        if manifest.config.media_type not in CONFIGS:
            raise NotSavable(
                f"{root.digest}: its config is {manifest.config.media_type!r}, so docker could not load it; "
                f"save it as {ArchiveFormat.OCI}"
            )
        for layer in manifest.layers:
            if not source.has(layer):
                raise NotSavable(f"{layer.digest}: this layer is not here, and a {self._form} needs all")

    def _add_graph(
        self, source: Fetcher, root: Descriptor, names: Sequence[str], platform: dict[str, str] | None = None
    ) -> None:
        def present(parent: Descriptor, children: Sequence[Descriptor]) -> Iterable[Descriptor]:
            if parent.media_type in INDEXES:
                return [child for child in children if source.has(child)]
            return [
                child for child in children if child.media_type not in FOREIGN_LAYERS or source.has(child)
            ]

        plan = plan_copy(source, root, present)
        for leaf in plan.leaves:
            self._write_blob(source, leaf)
        for descriptor, raw in reversed(plan.documents):
            self._write_once(blob_path(descriptor.digest), descriptor.size, io.BytesIO(raw))
        line: dict[str, Any] = {
            "mediaType": root.media_type, "digest": root.digest, "size": root.size,
            **({"platform": platform} if platform else {}),
        }
        self._index.extend(
            line | {"annotations": {CONTAINERD_NAME: name, REF_NAME: name}} for name in names
        )
        if not names:
            self._index.append(line)

    def _write_blob(self, source: Fetcher, blob: Descriptor) -> None:
        if blob_path(blob.digest) not in self._written:
            with verified(blob, source.open(blob)) as stream:
                self._write_once(blob_path(blob.digest), blob.size, cast("BinaryIO", stream))

    def _write_once(self, path: str, size: int, data: BinaryIO) -> None:
        if path in self._written:
            return
        self._imply(path.rpartition("/")[0])
        self._written.add(path)
        self._tar.write(Entry(path=path, kind=Kind.FILE, mode=0o644, size=size), data)
        if data.read(1):  # also makes a verifying stream look at its digest
            raise AssertionError(f"{path}: the source gave more than {size} bytes")

    def _imply(self, directory: str) -> None:
        if directory and directory not in self._written:
            self._imply(directory.rpartition("/")[0])
            self._written.add(directory)
            self._tar.write(Entry(path=directory, kind=Kind.DIRECTORY, mode=0o755))

    def _write_file(self, path: str, data: bytes) -> None:
        self._write_once(path, len(data), io.BytesIO(data))


def _only_manifest(source: Fetcher, root: Descriptor) -> Descriptor:
    if root.media_type in MANIFESTS:
        return root
    plan = plan_copy(source, root, lambda parent, children: (
        [child for child in children if source.has(child)] if parent.media_type in INDEXES else ()
    ))
    found = [
        descriptor for descriptor, _raw in plan.documents
        if descriptor.media_type in MANIFESTS and not _is_attestation(descriptor)
    ]
    if len(found) != 1:
        raise NotSavable(
            f"{root.digest}: a docker-archive holds one platform of an image and {len(found)} are here; "
            f"choose one, or save as {ArchiveFormat.OCI}"
        )
    return found[0]


def _is_attestation(entry: Descriptor) -> bool:
    """BuildKit lists attestations beside the images that they speak of, for a platform that nobody has."""
    return entry.platform is not None and entry.platform.os == "unknown"


def _tag(name: str) -> str:
    """As ``docker save`` spells it; a name by digest alone has no place in ``RepoTags``."""
    try:
        reference = Reference.parse(name)
    except InvalidReference:
        return ""
    return reference.familiar_name + ":" + reference.tag if reference.tag else ""
