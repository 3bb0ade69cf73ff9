"""Reading what ``docker save`` writes: a ``manifest.json`` that lists configs, names and layers by path.

The archive holds no manifest, so one is made, the same each time. Layers stay as they are in the
archive: plain tars are named by their diff id, which proves them when they are read; layers that some
builders compress one by one are hashed once here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from lamina.archive.layout import ArchivedImage, is_whole_name, open_member, read_document
from lamina.archive.members import InvalidArchive, MemberNotFound, Members
from lamina.content.store import CHUNK, BlobNotFound
from lamina.errors import Unsupported
from lamina.image import LayerCountMismatch
from lamina.layer.compress import Compression, inflate, layer_media_type
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST, Descriptor
from lamina.oci.digest import Digest, Digester
from lamina.oci.manifest import MAX_LAYERS, Manifest, parse_document
from lamina.values import dataclass, field

MANIFEST = "manifest.json"
REPOSITORIES = "repositories"
MAX_IMAGES = 10_000
# Fields that OCI's config does not have: podman acts on them only where the manifest is Docker's.
_DOCKER_ONLY = ("Healthcheck", "OnBuild", "Shell")


class LegacyArchive(Unsupported):
    pass


@dataclass(frozen=True, slots=True)
class _Item:
    """One image as ``manifest.json`` lists it."""

    config: str
    names: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass
class DockerArchive:
    """A source over the members of a docker-archive."""

    members: Members
    images: list[ArchivedImage] = field(default_factory=list)
    aliases: dict[str, Descriptor] = field(default_factory=dict)
    _documents: dict[Digest, bytes] = field(default_factory=dict)
    _paths: dict[Digest, str] = field(default_factory=dict)
    _layers: dict[object, Descriptor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.members.has(MANIFEST):
            raise LegacyArchive("the archive has 'repositories' but no manifest.json: it was saved by Docker "
                                "before 1.10; load it there and save it again with a newer one")
        repositories = _repositories(self.members)
        for item in _items(read_document(self.members, MANIFEST)):
            root = self._image(item)
            spelt = item.names or repositories.get(_top(item), ())
            names = tuple(name for name in spelt if is_whole_name(name))
            self.images.append(ArchivedImage(names, root))
            for name in names:
                self.aliases.setdefault(name, root)

    def has(self, wanted: Descriptor) -> bool:
        return wanted.digest in self._documents or wanted.digest in self._paths

    def open_at(self, wanted: Descriptor, offset: int) -> BinaryIO:
        if wanted.digest in self._documents:
            return io.BytesIO(self._documents[wanted.digest][offset:])
        path = self._paths.get(wanted.digest)
        if path is None:
            raise BlobNotFound(f"{wanted.digest}: not in the archive")
        return open_member(self.members, wanted, path, offset)

    def _image(self, item: _Item) -> Descriptor:
        try:
            config = ImageConfig.parse(read_document(self.members, item.config))
        except MemberNotFound:
            raise BlobNotFound(f"{item.config}: listed in {MANIFEST}, but not in the archive") from None
        if len(config.diff_ids) != len(item.layers):
            raise LayerCountMismatch(
                f"{item.config}: lists {len(config.diff_ids)} layers, {MANIFEST} lists {len(item.layers)}"
            )
        is_docker = any(config.execution.get(name) for name in _DOCKER_ONLY)
        layers = [
            self._layer(path, diff_id, is_docker=is_docker)
            for path, diff_id in zip(item.layers, config.diff_ids, strict=True)
        ]
        self._documents[config.digest] = config.raw
        described = Descriptor(
            media_type=DOCKER_CONFIG if is_docker else OCI_CONFIG, digest=config.digest, size=len(config.raw)
        )
        manifest = Manifest.build(
            described, layers, media_type=DOCKER_MANIFEST if is_docker else OCI_MANIFEST
        )
        self._documents[manifest.descriptor.digest] = manifest.raw
        return manifest.descriptor

    def _layer(self, path: str, diff_id: Digest, *, is_docker: bool) -> Descriptor:
        try:
            key = (self.members.identity(path), diff_id, is_docker)
            if key not in self._layers:
                self._layers[key] = self._describe(path, diff_id, is_docker=is_docker)
        except MemberNotFound:
            raise BlobNotFound(f"{path}: listed in {MANIFEST}, but not in the archive") from None
        layer = self._layers[key]
        self._paths[layer.digest] = path
        return layer

    def _describe(self, path: str, diff_id: Digest, *, is_docker: bool) -> Descriptor:
        with self.members.open_at(path) as stream:
            compression = inflate(stream).compression
        digest = diff_id if compression is Compression.NONE else self._hash(path)
        return Descriptor(
            media_type=layer_media_type(compression, is_docker), digest=digest, size=self.members.size(path)
        )

    def _hash(self, path: str) -> Digest:
        digester = Digester()
        with self.members.open_at(path) as stream:
            while chunk := stream.read(CHUNK):
                digester.update(chunk)
        return digester.digest()


def _items(raw: bytes) -> Iterator[_Item]:
    try:
        listed = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidArchive(f"{MANIFEST}: not JSON ({error})") from None
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_IMAGES:
        raise InvalidArchive(f"{MANIFEST}: expected a list of 1 to {MAX_IMAGES} images")
    for number, item in enumerate(listed):
        where = f"{MANIFEST}[{number}]"
        if not isinstance(item, dict):
            raise InvalidArchive(f"{where}: expected an object, got {type(item).__name__}")
        config = item.get("Config")
        if not isinstance(config, str):
            raise InvalidArchive(f"{where}.Config: expected a path, got {config!r}")
        yield _Item(config, _strings(item, "RepoTags", where), _strings(item, "Layers", where))


def _strings(item: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = item.get(name)
    if value is None:
        return ()  # Go writes an empty list as null
    is_list = isinstance(value, list) and len(value) <= MAX_LAYERS
    if not is_list or not all(isinstance(text, str) for text in value):
        raise InvalidArchive(f"{where}.{name}: expected a list of at most {MAX_LAYERS} strings")
    return tuple(value)


def _top(item: _Item) -> str:
    """The old id of an image was the directory of its top layer: ``<id>/layer.tar``."""
    return item.layers[-1].partition("/")[0] if item.layers else ""


def _repositories(members: Members) -> dict[str, list[str]]:
    """Old ids to names: ``{"repository": {"tag": "id"}}``, which Docker before 1.10 read the names from."""
    if not members.has(REPOSITORIES):
        return {}
    names: dict[str, list[str]] = {}
    for repository, tags in parse_document(read_document(members, REPOSITORIES), REPOSITORIES).items():
        if not isinstance(tags, dict):
            raise InvalidArchive(f"{REPOSITORIES}: expected an object of tags for {repository!r}")
        for tag, old_id in tags.items():
            if isinstance(old_id, str):
                names.setdefault(old_id, []).append(f"{repository}:{tag}")
    return names


def is_docker_archive(members: Members) -> bool:
    return members.has(MANIFEST) or members.has(REPOSITORIES)


