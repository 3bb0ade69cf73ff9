"""The same image in another compression: new blobs, a new manifest, and the config as it was.

A config names layers by what they are when inflated, so its bytes, and with them the image ID and every
diff id, stay. Which blob became which is remembered by the caller, who may have asked before. All bytes
are verified on the way in, and every layer against its diff id.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any, BinaryIO, Protocol, cast, runtime_checkable

from lamina.content.store import CHUNK, ContentStore, Fetcher, VerifyingReader, read_all, verified
from lamina.errors import IntegrityError
from lamina.image import Image, IndexTooDeep, Layer, NotAnImage
from lamina.layer.compress import Compression, deflate, inflate, layer_media_type
from lamina.oci.descriptor import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    DOCKER_MANIFEST,
    FOREIGN_LAYERS,
    GRAPH_NODES,
    INDEXES,
    LAYERS,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
)
from lamina.oci.digest import Digest, Digester
from lamina.oci.manifest import MAX_DOCUMENT, Index, dump_document, parse_document
from lamina.values import replace

# (diff id, compression) -> the blob that a layer became. A dictionary will do.
Memory = MutableMapping[tuple[Digest, Compression], Descriptor]
# From the compression that a layer has to the one that it shall have.
Wish = Callable[[Compression], Compression]

_MAX_DEPTH = 8
_DOCKER_LAYERS = frozenset({DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD})
# Docker's schema 2 has no name for zstd that others know: an image with such a layer is written as OCI's.
_DOCUMENTS_AS_OCI = {DOCKER_INDEX: OCI_INDEX, DOCKER_MANIFEST: OCI_MANIFEST}
_LEAVES_AS_OCI = {
    DOCKER_CONFIG: OCI_CONFIG, DOCKER_LAYER: OCI_LAYER, DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
    DOCKER_LAYER_ZSTD: OCI_LAYER_ZSTD,
}


class DiffIDMismatch(IntegrityError):
    """A layer is not what its config says it is when inflated."""


def compress_layers(
    store: ContentStore, root: Descriptor, compression: str = "gzip", *, memory: Memory | None = None
) -> Descriptor:
    """The image with its plain layers compressed. What came compressed stays as it came, by digest.

    Re-creating somebody else's gzip byte for byte failed for every compressor and level tried, so blobs
    that others know are left alone. Returns ``root`` itself where there was nothing to do.
    """
    wanted = Compression(compression)
    return _Conversion(store, lambda now: wanted if now is Compression.NONE else now, memory).convert(root)


def recompress_layers(
    store: ContentStore, root: Descriptor, compression: str, *, memory: Memory | None = None
) -> Descriptor:
    """The image with every layer in ``compression``, but for foreign ones."""
    wanted = Compression(compression)
    return _Conversion(store, lambda _now: wanted, memory).convert(root)


class _Conversion:
    """One walk over a graph; what it makes goes into the store that the old content came from."""

    def __init__(self, store: ContentStore, wish: Wish, memory: Memory | None) -> None:
        self._store = store
        self._wish = wish
        self._memory: Memory = {} if memory is None else memory

    def convert(self, root: Descriptor, depth: int = 0) -> Descriptor:
        """Artifacts that are no images are kept as they are, as is what an index lists but is not here."""
        if depth > _MAX_DEPTH:
            raise IndexTooDeep(f"{root.digest}: indexes are nested more than {_MAX_DEPTH} deep")
        if root.media_type not in GRAPH_NODES or (depth and not self._store.has(root)):
            return root
        if root.media_type in INDEXES:
            return self._index(root, depth)
        try:
            image = Image.load(self._store, root, None)
        except NotAnImage:
            return root
        return self._image(root, image)

    def _index(self, root: Descriptor, depth: int) -> Descriptor:
        raw = read_all(self._store, root, MAX_DOCUMENT)
        children = Index.parse(raw, root.media_type).manifests
        made = [self.convert(child, depth + 1) for child in children]
        if made == list(children):
            return root
        return self._put(root, *_rewritten(raw, root.media_type, "manifests", made))

    def _image(self, root: Descriptor, image: Image) -> Descriptor:
        made = [self._layer(layer) for layer in image.layers]
        if made == [layer.descriptor for layer in image.layers]:
            return root
        return self._put(root, *_rewritten(image.manifest.raw, image.manifest.media_type, "layers", made))

    def _layer(self, layer: Layer) -> Descriptor:
        blob = layer.descriptor
        if blob.media_type in FOREIGN_LAYERS or blob.media_type not in LAYERS:
            return blob
        now = compression_of(self._store, blob)
        wanted = self._wish(now)
        if wanted is now:
            return blob
        key = (layer.diff_id, wanted)
        if key not in self._memory or not self._store.has(self._memory[key]):
            self._memory[key] = _packed(self._store, layer, wanted)
        return _in_place_of(blob, self._memory[key], wanted)

    def _put(self, old: Descriptor, raw: bytes, media_type: str) -> Descriptor:
        made = replace(old, media_type=media_type, digest=Digest.of(raw), size=len(raw))
        self._store.put(made, io.BytesIO(raw))
        return made


def inflating(
    source: Fetcher, root: Descriptor, which: Collection[Compression]
) -> tuple[Fetcher, Descriptor]:
    """A view of an image in which layers of some compressions are plain tars, and its root there.

    Nothing is stored: a layer is inflated as it is read, and once before, here, to learn its size.
    """
    image = Image.load(source, root, None)
    plain: dict[Digest, Layer] = {}
    layers = []
    for layer in image.layers:
        described = layer.descriptor
        if described.media_type in LAYERS and compression_of(source, described) in which:
            plain[layer.diff_id] = layer
            inflated = replace(described, digest=layer.diff_id, size=_measured(source, layer), annotations={})
            described = _in_place_of(described, inflated, Compression.NONE)
        layers.append(described)
    if not plain:
        return source, root
    raw, media_type = _rewritten(image.manifest.raw, image.manifest.media_type, "layers", layers)
    made = replace(root, media_type=media_type, digest=Digest.of(raw), size=len(raw))
    return _Inflating(source, plain, {made.digest: raw}), made


class _Inflating:
    """A fetcher in front of another."""

    def __init__(self, source: Fetcher, plain: dict[Digest, Layer], documents: dict[Digest, bytes]) -> None:
        self._source = source
        self._plain = plain
        self._documents = documents

    def has(self, wanted: Descriptor) -> bool:
        return wanted.digest in self._plain or wanted.digest in self._documents or self._source.has(wanted)

    def open(self, wanted: Descriptor) -> BinaryIO:
        if wanted.digest in self._documents:
            return io.BytesIO(self._documents[wanted.digest])
        layer = self._plain.get(wanted.digest)
        if layer is None:
            return self._source.open(wanted)
        blob = layer.descriptor
        return cast("BinaryIO", _InflatedBlob(verified(blob, self._source.open(blob))))


class _InflatedBlob(io.RawIOBase):
    """Closes the compressed stream with itself, which an inflated stream alone leaves to its owner."""

    def __init__(self, blob: VerifyingReader) -> None:
        super().__init__()
        self._blob = blob
        self._stream = inflate(blob)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)

    def close(self) -> None:
        self._blob.close()
        super().close()


@runtime_checkable
class KnowsCompression(Protocol):
    """A source that may have looked before, where opening a blob costs more than a look."""

    def compression_of(self, blob: Descriptor) -> Compression | None: ...


def compression_of(source: Fetcher, blob: Descriptor) -> Compression:
    """What the first bytes say. Media types are not asked: archives exist that call every layer gzip."""
    known = source.compression_of(blob) if isinstance(source, KnowsCompression) else None
    if known is not None:
        return known
    with source.open(blob) as stream:
        return inflate(stream).compression


def _packed(store: ContentStore, layer: Layer, wanted: Compression) -> Descriptor:
    with store.ingest() as ingest:
        out = deflate(cast("BinaryIO", ingest), wanted)
        _pour(store, layer, out.write)
        out.finish()
        return ingest.commit(layer_media_type(wanted))


def _measured(source: Fetcher, layer: Layer) -> int:
    return _pour(source, layer, len)


def _pour(source: Fetcher, layer: Layer, write: Callable[[bytes], object]) -> int:
    """The inflated bytes of a layer, each of them verified twice; returns how many there were."""
    digester = Digester(layer.diff_id.algorithm)
    blob = layer.descriptor
    with verified(blob, source.open(blob)) as reader:
        stream = inflate(reader)
        while chunk := stream.read(CHUNK):
            digester.update(chunk)
            write(chunk)
        while reader.read(CHUNK):  # to its end, where the blob's own digest is compared
            pass
    if digester.digest() != layer.diff_id:
        raise DiffIDMismatch(
            f"{blob.digest}: inflated it is {digester.digest()}, the config says {layer.diff_id}"
        )
    return digester.size


def _in_place_of(old: Descriptor, new: Descriptor, compression: Compression) -> Descriptor:
    """What the old descriptor said beside the bytes is kept."""
    media_type = layer_media_type(compression, old.media_type in _DOCKER_LAYERS)
    return replace(old, media_type=media_type, digest=new.digest, size=new.size)


def _rewritten(raw: bytes, media_type: str, name: str, made: Sequence[Descriptor]) -> tuple[bytes, str]:
    """The document with other children, every other field as it was, in its order."""
    document = parse_document(raw, name)
    document[name] = [in_line_of(line, child) for line, child in zip(document[name], made, strict=True)]
    document, media_type = in_one_family(document, media_type)
    return dump_document(document), media_type


def in_line_of(line: Mapping[str, Any], child: Descriptor) -> dict[str, Any]:
    """A descriptor as a document had it, now of ``child``, and without a copy of the old content.

    That is image-spec descriptor.md, "data".
    """
    kept = {name: value for name, value in line.items() if name != "data"}
    return {**kept, "mediaType": child.media_type, "digest": child.digest, "size": child.size}


def in_one_family(document: dict[str, Any], media_type: str) -> tuple[dict[str, Any], str]:
    """A manifest or an index, and its media type: OCI's words throughout where a child of it needs them."""
    children = document["layers"] if "layers" in document else document["manifests"]
    if any(child["mediaType"] in (DOCKER_LAYER_ZSTD, OCI_LAYER_ZSTD, OCI_MANIFEST) for child in children):
        media_type = document["mediaType"] = _DOCUMENTS_AS_OCI.get(media_type, media_type)
        for line in [*children, *([document["config"]] if "config" in document else [])]:
            line["mediaType"] = _LEAVES_AS_OCI.get(line["mediaType"], line["mediaType"])
    return document, media_type
