"""Is it gone? Every byte that an image reaches, searched for secrets, patterns and paths.

Searched are the documents (indexes, manifests, configs, attestations), as bytes and string by string, and
each layer: the tar with everything between its files, the containers among the files, the blob's own bytes.
What was not here, or could not be read, is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO

from lamina.content.store import Fetcher, read_all, verified
from lamina.errors import LaminaError
from lamina.image import Image, Layer
from lamina.insight.documents import search_document
from lamina.insight.inflating import HEAD, container_of
from lamina.insight.instruction import instruction_of
from lamina.insight.layersearch import LayerResult, search_layer
from lamina.insight.needles import Needle, masked
from lamina.insight.nested import NestedSearch, Trouble
from lamina.insight.passing import Passing, Readable
from lamina.insight.paths import entries_at
from lamina.insight.places import Fates, Place, Spot, spot_of
from lamina.insight.scan import Match, Scanner
from lamina.layer.entry import Entry
from lamina.layer.index import LayerIndex
from lamina.layer.tree import Hider
from lamina.oci.descriptor import CONFIGS, FOREIGN_LAYERS, GRAPH_NODES, INDEXES, LAYERS, Descriptor
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, Index, Manifest, parse_graph_node
from lamina.values import dataclass, field, replace

# A certificate is for reading; who has more than this to erase knows enough.
MAX_FINDINGS = 1000

_ATTESTATION = "attestation-manifest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """``paths`` are normalised."""

    needles: tuple[Needle, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenBy:
    """The layer above that hides an entry, with the path that it acts on: the same, or a directory above."""

    layer: int
    instruction: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureFinding:
    """One occurrence. ``kind`` and ``label`` say what was found, ``place`` and what follows it where.

    ``blob`` is the digest of the content that holds it; ``layer`` and ``diff_id`` are set for a layer.
    ``inside`` are members of containers in the file, outermost first. ``offset`` counts in the last of them;
    without any in the file; between files in the tar; in a document in the field, or in all of it.
    """

    kind: str
    label: str
    encoding: str
    place: Place
    blob: Digest
    platform: str = ""
    layer: int | None = None
    diff_id: Digest | None = None
    instruction: str = ""
    path: str = ""
    inside: tuple[str, ...] = ()
    field: str = ""
    offset: int | None = None
    hidden_by: HiddenBy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Something that was not searched whole, and why."""

    blob: Digest
    reason: str
    path: str = ""
    layer: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchedLayer:
    number: int
    blob: Digest
    diff_id: Digest
    blob_bytes: int
    tar_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchedImage:
    """One platform's. ``manifest`` and ``config`` are among the documents too."""

    platform: str
    manifest: Digest
    config: Digest
    layers: tuple[SearchedLayer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchedDocument:
    blob: Digest
    media_type: str
    size: int


@dataclass(slots=True)
class Searched:
    """What one image was searched for gave. ``unreadable``: damaged or encrypted containers, searched as
    far as that goes; ``undecided``: what could hold it and was not searched. ``omitted`` findings are more.
    """

    images: list[SearchedImage] = field(default_factory=list)
    documents: list[SearchedDocument] = field(default_factory=list)
    findings: list[ErasureFinding] = field(default_factory=list)
    not_searched: list[Gap] = field(default_factory=list)
    undecided: list[Gap] = field(default_factory=list)
    unreadable: list[Gap] = field(default_factory=list)
    omitted: int = 0
    inflated_bytes: int = 0

    @property
    def bytes_searched(self) -> int:
        """Of stored bytes and of what they inflate to; each layer once."""
        layers = {layer.blob: layer.blob_bytes + layer.tar_bytes for image in self.images
                  for layer in image.layers}
        return sum(layers.values()) + sum(each.size for each in self.documents) + self.inflated_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Where the image's bytes are. ``index`` gives a layer's, or raises; ``kept_tar`` a tar, where one is.

    ``dropped`` names the repository that has a blob which is not here, but whose layer is: then ``kept_tar``
    gives its tar, or raises. ``scratch`` is a directory for zips that are too large to be held in memory.
    """

    source: Fetcher
    index: Callable[[Image, Layer], LayerIndex]
    kept_tar: Callable[[Digest], BinaryIO | None]
    dropped: Callable[[Digest], str] = field(default=lambda _blob: "")
    scratch: str | None = None


def search_image(root: Descriptor, content: Content, wanted: Wanted) -> Searched:
    """Everything that ``root`` leads to and that is here."""
    return _Search(content, wanted).run(root)


class _Search:
    def __init__(self, content: Content, wanted: Wanted) -> None:
        self._content = content
        self._wanted = wanted
        self._nested = NestedSearch(wanted.needles, scratch=content.scratch)
        self._found = Searched()
        self._seen: set[Digest] = set()
        self._layers: dict[tuple[Digest, Digest], LayerResult] = {}

    def run(self, root: Descriptor) -> Searched:
        waiting = [(root, False)]
        while waiting:
            descriptor, is_attestation = waiting.pop()
            if descriptor.digest in self._seen:
                continue
            self._seen.add(descriptor.digest)
            if not self._content.source.has(descriptor):
                self._absent(descriptor)
            elif descriptor.media_type in GRAPH_NODES:
                waiting.extend(self._document(descriptor, is_attestation=is_attestation))
            else:
                self._blob(descriptor, Place.ATTESTATION if is_attestation else Place.OTHER)
        self._found.inflated_bytes = self._nested.inflated_bytes
        return self._found

    # -- documents

    def _document(self, wanted: Descriptor, *, is_attestation: bool) -> list[tuple[Descriptor, bool]]:
        """Searches an index or a manifest; gives what it leads to, but for the layers of an image."""
        raw = self._read(wanted)
        if raw is None:
            return []
        self._look(wanted, raw, Place.ATTESTATION if is_attestation else Place.DOCUMENT)
        try:
            node = parse_graph_node(raw, wanted.media_type)
            if isinstance(node, Index):
                return [(entry, _attests(entry)) for entry in reversed(node.manifests)]
            return self._manifest(node, is_attestation=is_attestation)
        except LaminaError as error:
            self._undecided(wanted.digest, str(error))
            return []

    def _manifest(
        self, manifest: Manifest, *, is_attestation: bool
    ) -> list[tuple[Descriptor, bool]]:
        subject = [(manifest.subject, False)] if manifest.subject is not None else []
        parts = [part for part in (manifest.config, *manifest.layers) if not self._is_missing(part)]
        is_image = manifest.config.media_type in CONFIGS and not is_attestation and all(
            layer.media_type in LAYERS for layer in manifest.layers
        )
        if not is_image:
            return subject + [(part, is_attestation) for part in reversed(parts)]
        config = self._read(manifest.config) if manifest.config in parts else None
        if config is not None:
            self._seen.add(manifest.config.digest)
            self._look(manifest.config, config, Place.CONFIG)
            self._image(Image.load(self._content.source, manifest.descriptor, None))
        return subject

    def _is_missing(self, part: Descriptor) -> bool:
        """What a manifest here lists must be here too: without it nothing can be said."""
        if self._is_here(part):
            return False
        what = "a foreign layer, which is not here" if part.media_type in FOREIGN_LAYERS else "missing"
        self._undecided(part.digest, f"{part.digest}: {what}")
        return True

    def _is_here(self, part: Descriptor) -> bool:
        return self._content.source.has(part) or bool(self._content.dropped(part.digest))

    def _read(self, wanted: Descriptor) -> bytes | None:
        try:
            return read_all(self._content.source, wanted, MAX_DOCUMENT)
        except LaminaError as error:
            self._undecided(wanted.digest, str(error))
            return None

    def _look(self, wanted: Descriptor, raw: bytes, default: Place) -> None:
        self._found.documents.append(
            SearchedDocument(blob=wanted.digest, media_type=wanted.media_type, size=len(raw))
        )
        for found in search_document(raw, self._wanted.needles, default):
            self._add(_finding(found.match, found.place, wanted.digest, field=found.field,
                               offset=found.match.offset))

    def _blob(self, wanted: Descriptor, place: Place) -> None:
        """Content of an artifact or an attestation: a document, or anything else."""
        raw = self._read(wanted) if wanted.size <= MAX_DOCUMENT else None
        if raw is not None and raw.lstrip()[:1] in (b"{", b"["):
            self._look(wanted, raw, place)
        else:
            self._stream(wanted, place)

    def _stream(self, wanted: Descriptor, place: Place) -> None:
        self._found.documents.append(
            SearchedDocument(blob=wanted.digest, media_type=wanted.media_type, size=wanted.size)
        )
        try:
            with verified(wanted, self._content.source.open(wanted)) as stream:
                found = search_stream(stream, wanted.size, self._wanted.needles, self._nested)
        except LaminaError as error:
            self._undecided(wanted.digest, str(error))
            return
        for inside, match in found.matches:
            self._add(_finding(match, place, wanted.digest, inside=inside, offset=match.offset))
        for trouble in found.troubles:
            self._trouble(wanted.digest, trouble, None, "/".join(trouble.trail))

    # -- layers

    def _image(self, image: Image) -> None:
        indexes = [self._index(image, layer) for layer in image.layers]
        stack = Stack(image, indexes)
        searched = []
        for layer, index in zip(image.layers, indexes, strict=True):
            if not self._is_here(layer.descriptor):
                continue
            result = self._layer(layer, index)
            self._tell(stack, layer, index, result)
            searched.append(SearchedLayer(
                number=layer.number, blob=layer.descriptor.digest, diff_id=layer.diff_id,
                blob_bytes=result.blob_bytes, tar_bytes=result.tar_bytes,
            ))
        for path in self._wanted.paths:
            for number, entry in entries_at(path, indexes):
                self._add(stack.placed(ErasureFinding(
                    kind="path", label=f"/{path}", encoding="", place=Place.ENTRY, path=f"/{entry.path}",
                    blob=image.layers[number].descriptor.digest, layer=number,
                ), entry))
        self._found.images.append(SearchedImage(
            platform=str(image.config.platform), manifest=image.descriptor.digest, config=image.id,
            layers=tuple(searched),
        ))

    def _index(self, image: Image, layer: Layer) -> LayerIndex | None:
        if not self._is_here(layer.descriptor):
            return None  # that it is missing was said
        try:
            return self._content.index(image, layer)
        except LaminaError as error:
            self._undecided(layer.descriptor.digest, str(error), layer.number)
            return None

    def _layer(self, layer: Layer, index: LayerIndex | None) -> LayerResult:
        """A layer that several stacks have, or one of them twice, is searched once."""
        key = layer.descriptor.digest, layer.diff_id
        found = self._layers.get(key)
        if found is None:
            try:
                found = self._searched(layer, index)
            except LaminaError as error:  # before a byte of it was read
                found = LayerResult(failures=[str(error)])
            self._layers[key] = found
        return found

    def _searched(self, layer: Layer, index: LayerIndex | None) -> LayerResult:
        blob, away = layer.descriptor, self._content.dropped(layer.descriptor.digest)
        if away:
            self._found.not_searched.append(Gap(
                blob=blob.digest, layer=layer.number,
                reason=f"its compressed bytes, which were dropped here and are in {away}; "
                       "all that they inflate to was searched",
            ))
        tar = self._content.kept_tar(layer.diff_id)
        try:
            return search_layer(
                blob, layer.diff_id, index, needles=self._wanted.needles, nested=self._nested,
                open_blob=None if away else lambda: self._content.source.open(blob), kept_tar=tar,
            )
        finally:
            if tar is not None:
                tar.close()

    def _tell(self, stack: Stack, layer: Layer, index: LayerIndex | None, result: LayerResult) -> None:
        blob = layer.descriptor.digest
        for failure in result.failures:
            self._undecided(blob, failure, layer.number)
        for match in result.tar:
            if index is None:
                self._add(stack.placed(_finding(match, Place.OTHER, blob, layer=layer.number,
                                                offset=match.offset)))
            else:
                self._add(stack.spotted(_finding(match, Place.LIVE, blob, layer=layer.number), index,
                                        spot_of(index, match.offset, result.end)))
        for number, nested in result.nested:
            found = _finding(nested.match, Place.LIVE, blob, layer=layer.number,
                             inside=nested.trail or ("(inflated)",))
            spot = Spot(place=Place.LIVE, entry=number, offset=nested.match.offset)
            self._add(stack.spotted(found, index, spot))
        for match in result.blob:
            place = Place.BLOB_HEADER if match.offset < result.blob_header else Place.BLOB
            self._add(stack.placed(_finding(match, place, blob, layer=layer.number, offset=match.offset)))
        for number, trouble in result.troubles:
            path = f"/{index.paths[number]}" if index is not None and number >= 0 else ""
            self._trouble(blob, trouble, layer.number, "!".join((path, *trouble.trail)))

    # -- what was found

    def _add(self, finding: ErasureFinding) -> None:
        if len(self._found.findings) >= MAX_FINDINGS:
            self._found.omitted += 1
            return
        self._found.findings.append(self._masked(finding))

    def _masked(self, finding: ErasureFinding) -> ErasureFinding:
        """Names and instructions can hold what is searched for; the answer must not."""
        hider = finding.hidden_by
        if hider is not None:
            hider = replace(hider, instruction=self._mask(hider.instruction), path=self._mask(hider.path))
        return replace(
            finding, instruction=self._mask(finding.instruction), path=self._mask(finding.path),
            inside=tuple(map(self._mask, finding.inside)), field=self._mask(finding.field), hidden_by=hider,
        )

    def _mask(self, text: str) -> str:
        return masked(text, self._wanted.needles) if text else text

    def _trouble(self, blob: Digest, trouble: Trouble, layer: int | None, path: str) -> None:
        gap = Gap(blob=blob, reason=self._mask(trouble.reason), path=self._mask(path), layer=layer)
        (self._found.undecided if trouble.is_undecided else self._found.unreadable).append(gap)

    def _undecided(self, blob: Digest, reason: str, layer: int | None = None) -> None:
        gap = Gap(blob=blob, reason=self._mask(reason), layer=layer)
        if gap not in self._found.undecided:
            self._found.undecided.append(gap)

    def _absent(self, wanted: Descriptor) -> None:
        """Of an index only what somebody wanted need be here."""
        shown = f"listed for {wanted.platform}, but not here" if wanted.platform else "listed, but not here"
        self._found.not_searched.append(Gap(blob=wanted.digest, reason=self._mask(shown)))


class Stack:
    """One image's layers, which say of an entry whether it is seen, and who hides it."""

    def __init__(self, image: Image, indexes: Sequence[LayerIndex | None]) -> None:
        self._image = image
        self._platform = str(image.config.platform)
        self._fates: Fates | None = None
        here = [index for index in indexes if index is not None]
        if len(here) == len(indexes):
            self._fates = Fates(here)

    def spotted(self, finding: ErasureFinding, index: LayerIndex | None, spot: Spot) -> ErasureFinding:
        """With the place that an offset in the layer's tar is."""
        finding = replace(finding, place=spot.place, offset=spot.offset)
        entry = None if index is None or spot.entry < 0 else index.entry(spot.entry)
        if entry is not None:
            finding = replace(finding, path=f"/{entry.path}")
        return self.placed(finding, entry)

    def placed(self, finding: ErasureFinding, entry: Entry | None = None) -> ErasureFinding:
        """With diff id and instruction of its layer, and for an entry with what became of it."""
        number = finding.layer
        assert number is not None
        layer = self._image.layers[number]
        finding = replace(finding, diff_id=layer.diff_id, instruction=instruction_of(layer.history),
                          platform=self._platform)
        if entry is None or self._fates is None:
            return finding
        fate = self._fates.of(number, entry)
        if finding.place is Place.LIVE and not fate.is_live:
            finding = replace(finding, place=Place.OBSCURED)
        if fate.hidden_by is None:
            return finding
        return replace(finding, hidden_by=self._hider(fate.hidden_by))

    def _hider(self, hider: Hider) -> HiddenBy:
        instruction = instruction_of(self._image.layers[hider.layer].history)
        return HiddenBy(layer=hider.layer, instruction=instruction, path=f"/{hider.path}",
                        reason=str(hider.reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamResult:
    """Matches with the members of containers that lead to them."""

    matches: list[tuple[tuple[str, ...], Match]]
    troubles: list[Trouble]


def search_stream(
    stream: Readable, size: int, needles: Sequence[Needle], nested: NestedSearch
) -> StreamResult:
    """Content that nothing else is known of: its bytes, and what is in it if it is a container."""
    scanner = Scanner(needles)
    passing = Passing(stream, scanner.feed)
    container = container_of(passing.peek(HEAD))
    inner, troubles = ([], []) if container is None else nested.search(passing, container, size)
    passing.drain()
    matches: list[tuple[tuple[str, ...], Match]] = [((), match) for match in scanner.finish()]
    matches += [(each.trail or ("(inflated)",), each.match) for each in inner]
    return StreamResult(matches=matches, troubles=troubles)


def _attests(entry: Descriptor) -> bool:
    """BuildKit's are manifests for no platform, and say so."""
    return entry.media_type not in INDEXES and (
        entry.annotations.get("vnd.docker.reference.type") == _ATTESTATION
        or (entry.platform is not None and entry.platform.os == "unknown")
    )


def _finding(
    match: Match, place: Place, blob: Digest, *, layer: int | None = None, field: str = "",
    inside: tuple[str, ...] = (), offset: int | None = None,
) -> ErasureFinding:
    return ErasureFinding(
        kind=str(match.needle.kind), label=match.needle.label, encoding=match.encoding, place=place,
        blob=blob, layer=layer, field=field, inside=inside, offset=offset,
    )
