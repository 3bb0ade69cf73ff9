"""A manifest, its config and its layers, read from anything that holds content.

Reading an image moves its documents only: index, manifest and config, each verified and under a cap.
Layers stay where they are until somebody opens their descriptors.
"""

from __future__ import annotations

from collections.abc import Iterator

from lamina.content.store import Fetcher, read_all
from lamina.errors import IntegrityError, InvalidInput, NotFound, Unsupported
from lamina.oci.config import History, ImageConfig
from lamina.oci.descriptor import CONFIGS, INDEXES, MANIFESTS, Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, Index, Manifest, parse_graph_node
from lamina.values import dataclass, field, replace

# An index of indexes exists in the wild; deeper ones only in attacks (SECURITY: loops and depth).
MAX_INDEX_DEPTH = 4
# What one look for a platform may read: indexes of 10,000 entries must not become 10,000 requests.
MAX_DOCUMENTS = 64


class NotAnImage(Unsupported):
    """A well-formed document of the distribution world that holds no container image."""


class PlatformNotFound(NotFound):
    """The image exists, but not for this platform. The message lists what there is."""


class IndexTooDeep(InvalidInput):
    pass


class LayerCountMismatch(IntegrityError):
    """The manifest and its config disagree about how many layers there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """``number`` counts from 0 at the base. ``history`` is ``None`` where the config is silent."""

    number: int
    descriptor: Descriptor
    diff_id: Digest
    history: History | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image for one platform. It does not change."""

    manifest: Manifest
    config: ImageConfig
    layers: tuple[Layer, ...]
    source: Fetcher = field(repr=False, compare=False)

    @classmethod
    def load(cls, source: Fetcher, root: Descriptor, platform: Platform | None) -> Image:
        """``root`` is a manifest or an index, which is followed to ``platform``.

        Without a platform an index must list exactly one image. A manifest is taken whatever it is
        for: ``config.platform`` tells. Raises :class:`PlatformNotFound`, :class:`NotAnImage`,
        :class:`LayerCountMismatch`.
        """
        manifest = _Search(source, platform).manifest(root)
        config = _read_config(source, manifest)
        return cls(manifest=manifest, config=config, layers=_pair(manifest, config), source=source)

    def insist_on(self, platform: Platform | None) -> None:
        """Raises :class:`PlatformNotFound` unless it is for the platform that was asked for, if one was."""
        if platform is not None and not platform.accepts(self.config.platform):
            raise PlatformNotFound(
                f"{self.descriptor.digest}: an image for {self.config.platform}, not for {platform}"
            )

    @property
    def descriptor(self) -> Descriptor:
        """The manifest's: also where an index led to it."""
        return self.manifest.descriptor

    @property
    def id(self) -> Digest:
        """The image ID: the config's digest."""
        return self.manifest.config.digest

    @property
    def chain_ids(self) -> tuple[Digest, ...]:
        """One a layer: the name of the stack up to and with it."""
        return self.config.chain_ids


def _read_config(source: Fetcher, manifest: Manifest) -> ImageConfig:
    if manifest.config.media_type not in CONFIGS:
        kind = manifest.artifact_type or manifest.config.media_type
        raise NotAnImage(f"{manifest.descriptor.digest}: an artifact ({kind}), not a container image")
    return ImageConfig.parse(read_all(source, manifest.config, MAX_DOCUMENT))


def _pair(manifest: Manifest, config: ImageConfig) -> tuple[Layer, ...]:
    if len(manifest.layers) != len(config.diff_ids):
        raise LayerCountMismatch(
            f"{manifest.descriptor.digest}: the manifest lists {len(manifest.layers)} layers, "
            f"its config {len(config.diff_ids)}"
        )
    pairs = zip(manifest.layers, config.diff_ids, config.layer_history(), strict=True)
    return tuple(
        Layer(number=number, descriptor=descriptor, diff_id=diff_id, history=history)
        for number, (descriptor, diff_id, history) in enumerate(pairs)
    )


class _Search:
    """The way from a root to one manifest. Documents are read at most once, and not without end."""

    def __init__(self, source: Fetcher, platform: Platform | None) -> None:
        self._source = source
        self._platform = platform
        self._seen: set[Digest] = set()

    def manifest(self, root: Descriptor) -> Manifest:
        document = self._read(root)
        if isinstance(document, Manifest):
            return document
        if self._platform is None:
            return self._only(root, document)
        found = self._in_index(document, self._platform, depth=1)
        if found is None:
            listed = sorted({str(entry.platform) for entry in images_of(document) if entry.platform})
            there = ", ".join(listed) or "none that says its own"
            raise PlatformNotFound(f"{root.digest}: no image for {self._platform} (there is {there})")
        return found

    def _only(self, root: Descriptor, index: Index) -> Manifest:
        entries = {entry.digest: entry for entry in images_of(index)}
        for _ in range(MAX_INDEX_DEPTH):
            if len(entries) != 1:
                break
            (entry,) = entries.values()
            document = self._read(entry)
            if isinstance(document, Manifest):
                return document
            entries = {entry.digest: entry for entry in images_of(document)}
        else:
            raise IndexTooDeep(f"{root.digest}: indexes are nested more than {MAX_INDEX_DEPTH} deep")
        raise PlatformNotFound(f"{root.digest}: lists {len(entries)} images; name the platform of one")

    def _in_index(self, index: Index, platform: Platform, depth: int) -> Manifest | None:
        """What the entries say is believed first; only then are documents read to find out."""
        stated = replace(index, manifests=tuple(images_of(index))).for_platform(platform)
        if stated is not None:
            document = self._read(stated)
            return document if isinstance(document, Manifest) else self._nested(document, platform, depth)
        for document in self._silent(index, platform):
            if isinstance(document, Index):
                found = self._nested(document, platform, depth)
                if found is not None:
                    return found
            elif platform.accepts(_read_config(self._source, document).platform):
                return document
        return None

    def _nested(self, index: Index, platform: Platform, depth: int) -> Manifest | None:
        if depth >= MAX_INDEX_DEPTH:
            digest = index.descriptor.digest
            raise IndexTooDeep(f"{digest}: indexes are nested more than {MAX_INDEX_DEPTH} deep")
        return self._in_index(index, platform, depth + 1)

    def _silent(self, index: Index, platform: Platform) -> Iterator[Manifest | Index]:
        """Entries that do not say what they are for, and that nobody looked into yet, if they are here.

        A local store may hold some entries of an index only, on purpose.
        """
        for entry in images_of(index):
            is_silent = entry.platform is None or entry.media_type in INDEXES
            if is_silent and entry.digest not in self._seen and self._source.has(entry):
                document = self._read(entry)
                is_image = isinstance(document, Index) or document.config.media_type in CONFIGS
                if is_image and (entry.platform is None or platform.accepts(entry.platform)):
                    yield document

    def _read(self, wanted: Descriptor) -> Manifest | Index:
        if wanted.digest in self._seen:
            raise IndexTooDeep(f"{wanted.digest}: an index leads back to it")
        if len(self._seen) >= MAX_DOCUMENTS:
            raise IndexTooDeep(f"{wanted.digest}: no platform found in {MAX_DOCUMENTS} documents before it")
        self._seen.add(wanted.digest)
        return parse_graph_node(read_all(self._source, wanted, MAX_DOCUMENT), wanted.media_type)


def images_of(index: Index) -> list[Descriptor]:
    """Entries that may be images, or indexes of some.

    BuildKit lists attestations beside them, for the platform unknown.
    """
    return [
        entry for entry in index.manifests
        if entry.media_type in MANIFESTS | INDEXES
        and not (entry.platform is not None and entry.platform.os == "unknown")
        and entry.annotations.get("vnd.docker.reference.type") != "attestation-manifest"
    ]
