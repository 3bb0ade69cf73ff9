"""Reading an OCI image layout, in a directory or in a tar (image-spec image-layout.md)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from lamina.archive.members import InvalidArchive, MemberNotFound, Members
from lamina.content.store import BlobNotFound, DigestMismatch, SizeMismatch
from lamina.events import Action, Event, Report
from lamina.oci.descriptor import GRAPH_NODES, OCI_INDEX, Descriptor
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, Index, InvalidManifest, parse_graph_node
from lamina.oci.reference import InvalidReference, Reference
from lamina.values import dataclass, field, replace

REF_NAME = "org.opencontainers.image.ref.name"
# containerd's and docker's, which hold the whole name where theirs of the spec may hold the tag alone.
CONTAINERD_NAME = "io.containerd.image.name"
INDEX = "index.json"


class ArchivedImage(NamedTuple):
    """``names`` are references, in the order found; an image may well have none."""

    names: tuple[str, ...]
    root: Descriptor


@dataclass
class Layout:
    """A source over the members of a layout. ``aliases`` are names as written, tags alone included."""

    members: Members
    report: Report
    images: list[ArchivedImage] = field(default_factory=list)
    aliases: dict[str, Descriptor] = field(default_factory=dict)
    _documents: dict[Digest, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        index = Index.parse(read_document(self.members, INDEX), OCI_INDEX)
        named: dict[Digest, tuple[Descriptor, list[str]]] = {}
        for entry in index.manifests:
            root = self._entry_point(entry)
            if root is not None:
                _, names = named.setdefault(root.digest, (root, []))
                names.extend(self._names(entry, root))
        self.images = [ArchivedImage(tuple(dict.fromkeys(names)), root) for root, names in named.values()]

    def has(self, wanted: Descriptor) -> bool:
        return wanted.digest in self._documents or self.members.has(blob_path(wanted.digest))

    def open_at(self, wanted: Descriptor, offset: int) -> BinaryIO:
        if wanted.digest in self._documents:
            return io.BytesIO(self._documents[wanted.digest][offset:])
        return open_member(self.members, wanted, blob_path(wanted.digest), offset)

    def _entry_point(self, entry: Descriptor) -> Descriptor | None:
        """What an entry of the index leads to, under the digest that its bytes really have.

        Nothing vouches for ``index.json``, and layouts edited by hand have entries in it that went stale:
        a wrong size, or another digest and another size. Its bytes are then taken for what they are, and
        whoever listens is told. Bytes of the stated size with another digest are damage, and refused.
        What a *manifest* says of its children is never bent in this way.
        """
        bare = replace(entry, annotations={}, platform=None)
        if entry.media_type not in GRAPH_NODES:
            self._note(entry.digest, f"left out: {INDEX} lists it as {entry.media_type!r}, not an image")
            return None
        if not self.members.has(blob_path(entry.digest)):
            raise BlobNotFound(f"{entry.digest}: listed in {INDEX}, but not in the archive")
        raw = read_document(self.members, blob_path(entry.digest))
        digest = Digest.of(raw, entry.digest.algorithm)
        if digest == entry.digest and len(raw) == entry.size:
            return bare
        if digest != entry.digest and len(raw) == entry.size:
            raise DigestMismatch(f"{entry.digest}: the bytes in the archive have the digest {digest}")
        parse_graph_node(raw, entry.media_type)
        self._note(digest, f"{INDEX} states {entry.digest} with {entry.size} bytes, its blob has {len(raw)}")
        self._documents[digest] = raw
        return replace(bare, digest=digest, size=len(raw))

    def _names(self, entry: Descriptor, root: Descriptor) -> Iterator[str]:
        for annotation in (CONTAINERD_NAME, REF_NAME):
            name = entry.annotations.get(annotation, "")
            if name:
                self.aliases.setdefault(name, root)
        name = entry.annotations.get(CONTAINERD_NAME) or entry.annotations.get(REF_NAME) or ""
        if is_whole_name(name):
            yield name
        elif name:
            self._note(root.digest, f"left unnamed: {INDEX} calls it {name!r}, a tag without a repository")

    def _note(self, subject: str, detail: str) -> None:
        self.report(Event(action=Action.NOTE, subject=subject, detail=detail))


def is_whole_name(name: str) -> bool:
    """A reference with a repository and a tag, digest or path; ``latest`` alone is somebody's tag."""
    if not any(letter in name for letter in ":/@"):
        return False
    try:
        Reference.parse(name)
    except InvalidReference:
        return False
    return True


def blob_path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.encoded}"


def read_document(members: Members, path: str) -> bytes:
    """A small member whole. Two members of one name would let two readers see two archives: refused."""
    if members.is_repeated(path):
        raise InvalidArchive(f"{path}: occurs more than once in the archive")
    size = members.size(path)
    if size > MAX_DOCUMENT:
        raise InvalidManifest(f"{path}: {size} bytes is over the limit of {MAX_DOCUMENT}")
    with members.open_at(path) as stream:
        return stream.read()


def open_member(members: Members, wanted: Descriptor, path: str, offset: int) -> BinaryIO:
    """The bytes of a blob; its size is compared at once, so that a liar is named before anything moves."""
    try:
        size = members.size(path)
        if size != wanted.size:
            raise SizeMismatch(
                f"{wanted.digest}: stated as {wanted.size} bytes, but the archive holds {size} for it"
            )
        return members.open_at(path, offset)
    except MemberNotFound:
        raise BlobNotFound(f"{wanted.digest}: {path} is not in the archive") from None
