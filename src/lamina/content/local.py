"""The store on disk: an OCI image layout that other tools can read in place, and its state file.

Blobs land by rename and are never changed afterwards. Names live in SQLite; ``index.json`` is written
from there after each change, under a lock, so that the last writer sees everybody's names.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lamina.content import durable
from lamina.content.arrival import Arrival
from lamina.content.catalog import Catalog, ImageRecord
from lamina.content.dropped import DroppedBlob, DroppedTable
from lamina.content.ingest import LocalIngest, claim
from lamina.content.state import State
from lamina.content.store import CHUNK, BlobNotFound, NameNotFound, read_all
from lamina.errors import Conflict
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import CONFIGS, GRAPH_NODES, OCI_INDEX, Descriptor, Platform
from lamina.oci.digest import Digest, InvalidDigest
from lamina.oci.manifest import MAX_DOCUMENT, Index, Manifest, parse_graph_node

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
# image-spec annotations.md; containerd reads the second one for the full name.
REF_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"


class NotALayout(Conflict):
    pass


class LocalStore:
    """A ``Target``, a ``RangedFetcher`` and a ``Keeper`` over one state directory.

    ``platform`` decides which manifest of an index stands for an image that somebody else named.
    """

    def __init__(
        self, root: Path, state: State, *, platform: Platform, clock: Callable[[], float] = time.time
    ) -> None:
        self.root = root
        self.state = state
        self.catalog = Catalog(state)
        self.dropped = DroppedTable(state)
        self._platform = platform
        self._clock = clock
        self._blobs = root / "blobs"
        self._ingests = root / "ingest"

    @classmethod
    def create(cls, root: Path, *, platform: Platform) -> LocalStore:
        """Opens the state directory, making it first where there is none. Idempotent, race-free."""
        marker = root / "oci-layout"
        if not marker.is_file():
            _lay_out(root, marker)
        elif not (root / "state.sqlite").is_file():
            raise NotALayout(f"{root}: an OCI layout of another tool; read it with `lamina load -i {root}`")
        return cls(root, State(root / "state.sqlite"), platform=platform)

    def close(self) -> None:
        self.state.close()

    @property
    def scratch(self) -> Path | None:
        """Where nameless files are made; ``None``, the system's own place, where nothing is written here."""
        return None if self.state.is_read_only else self._ingests

    # -- content

    def blob_path(self, digest: Digest) -> Path:
        return self._blobs / digest.algorithm / digest.encoded

    def open(self, wanted: Descriptor) -> BinaryIO:
        return self.open_at(wanted, 0)

    def open_at(self, wanted: Descriptor, offset: int) -> BinaryIO:
        try:
            file = open(self.blob_path(wanted.digest), "rb", buffering=0)  # noqa: SIM115 - the caller closes
        except FileNotFoundError:
            raise BlobNotFound(f"{wanted.digest}: not in the store") from None
        if offset:
            file.seek(offset)
        return file

    def has(self, wanted: Descriptor) -> bool:
        try:
            return os.stat(self.blob_path(wanted.digest)).st_size == wanted.size
        except FileNotFoundError:
            return False

    def put(self, expected: Descriptor, source: BinaryIO) -> None:
        ingest = self.begin(expected)
        if ingest is None:
            return
        with ingest:
            ingest.restart()
            while chunk := source.read(CHUNK):
                if ingest.offset + len(chunk) > expected.size:
                    break  # the size check of commit says what is wrong
                ingest.write(chunk)
            ingest.commit(expected.media_type)

    def put_bytes(self, media_type: str, data: bytes) -> Descriptor:
        """A small document that we made."""
        with self.ingest() as ingest:
            ingest.write(data)
            return ingest.commit(media_type)

    def ingest(self) -> LocalIngest:
        directory = claim(self._ingests / f"new-{os.urandom(16).hex()}")
        assert directory is not None
        return LocalIngest(directory, self._blobs)

    def begin(self, expected: Descriptor) -> LocalIngest | None:
        """An ingest that goes on where the last attempt stopped; ``None`` when the blob is there.

        Blocks while another thread or process is landing the same blob.
        """
        if self.has(expected):
            return None
        directory = claim(self._ingests / f"{expected.digest.algorithm}-{expected.digest.encoded}")
        assert directory is not None
        if self.has(expected):
            directory.remove()
            directory.close()
            return None
        return LocalIngest(directory, self._blobs, expected)

    def arrived(self, wanted: Descriptor) -> Arrival:
        """For those who watch blobs land: one that has."""
        return Arrival.complete(wanted, self.blob_path(wanted.digest))

    def walk(self) -> Iterator[tuple[Digest, int]]:
        """What lies there without the name of a blob is nobody's business here."""
        for algorithm in sorted(path for path in self._blobs.iterdir() if path.is_dir()):
            for entry in os.scandir(algorithm):
                with contextlib.suppress(FileNotFoundError, InvalidDigest):
                    digest = Digest.parse(f"{algorithm.name}:{entry.name}")
                    yield digest, entry.stat().st_size

    def delete(self, digest: Digest) -> None:
        self.blob_path(digest).unlink(missing_ok=True)

    def dropped_blob(self, digest: Digest) -> DroppedBlob | None:
        """Where a blob is to be had that was dropped here; ``None`` for one that is here, or never was."""
        return None if self.blob_path(digest).exists() else self.dropped.find(digest)

    def dropped_blobs(self) -> list[DroppedBlob]:
        return [blob for blob in self.dropped.walk() if not self.blob_path(blob.digest).exists()]

    # -- names

    def resolve(self, name: str) -> Descriptor:
        record = self.catalog.named(name)
        if record is None:
            raise NameNotFound(f"{name}: no such image in the store")
        return record.descriptor

    def tag(self, name: str, target: Descriptor) -> None:
        self.record(target, names=(name,))

    def record(
        self, root: Descriptor, *, names: tuple[str, ...] = (), manifest: Manifest | None = None
    ) -> ImageRecord:
        """Files an image whose documents are all here, and points names at it.

        ``manifest`` says which platform's manifest stands for an index; by default the host's, or the
        first one that is here.
        """
        record = self._describe(root, manifest)
        with self.state.transaction():
            self.catalog.record(record)
            for name in names:
                self.catalog.assign(name, root.digest)
        self.write_index()
        return record

    def untag(self, name: str) -> bool:
        """Whether there was such a name. The image stays until it is removed or pruned."""
        with self.state.transaction():
            found = self.catalog.unassign(name)
        self.write_index()
        return found

    def forget(self, digest: Digest, names: Collection[str]) -> bool:
        """Removes these names of an image and its record, unless it has others or a container needs it.

        Whether the record went. Decided in one transaction, as a container is added in one.

        Its blobs wait for the collector.
        """
        with self.state.transaction():
            for name in names:
                if (named := self.catalog.named(name)) is not None and named.descriptor.digest == digest:
                    self.catalog.unassign(name)
            left = self.catalog.with_digest(digest)
            is_used = self.state.rows("SELECT 1 FROM containers WHERE image = ?", (digest,))
            is_gone = left is None or not (left.names or is_used)
            if is_gone:
                self.catalog.remove(digest)
        self.write_index()
        return is_gone

    def write_index(self) -> None:
        """Derives ``index.json`` from the state file, as the last writer under a lock."""
        with open(self.root / "index.lock", "a", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries: list[dict[str, Any]] = []
            for record in self.catalog.records():
                entries.extend(_index_entries(record))
            document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
            durable.write_file(self.root / "index.json", json.dumps(document, indent=1).encode())

    def read_document(self, wanted: Descriptor) -> bytes:
        return read_all(self, wanted, MAX_DOCUMENT)

    def _describe(self, root: Descriptor, manifest: Manifest | None) -> ImageRecord:
        manifest = manifest or self._stand_in(root, depth=0)
        config = manifest.config
        created, platform = "", ""
        labels: Mapping[str, str] = {}
        if config.media_type in CONFIGS and self.has(config):
            parsed = ImageConfig.parse(self.read_document(config))
            created, platform = parsed.created, str(parsed.platform)
            labels = _labels(parsed)
        return ImageRecord(
            descriptor=root,
            manifest=manifest.descriptor.digest,
            config=config.digest,
            platform=platform,
            created=created,
            content_size=self.catalog.content_size(manifest.layers),
            labels=json.dumps(labels, sort_keys=True),
            stored=self._clock(),
        )

    def _stand_in(self, root: Descriptor, depth: int) -> Manifest:
        node = parse_graph_node(self.read_document(root), root.media_type)
        if isinstance(node, Manifest):
            return node
        here = [entry for entry in node.manifests if entry.media_type in GRAPH_NODES and self.has(entry)]
        if not here or depth > 4:
            raise BlobNotFound(f"{root.digest}: none of the manifests that this index lists is in the store")
        return self._stand_in(_preferred(here, self._platform), depth + 1)


def _labels(config: ImageConfig) -> dict[str, str]:
    """Those that are text with a name: everything else in that place is somebody's mistake."""
    labels = config.execution.get("Labels")
    found = labels.items() if isinstance(labels, dict) else ()
    return {name: text for name, text in found if isinstance(text, str)}


def _preferred(entries: list[Descriptor], platform: Platform) -> Descriptor:
    return Index.build(entries).for_platform(platform) or entries[0]


def _index_entries(record: ImageRecord) -> list[dict[str, Any]]:
    """One line a name; an image without a name has one line too, so that it stays listed."""
    lines = []
    for name in record.names or ("",):
        line = record.descriptor.to_json()
        if name:
            line["annotations"] = {REF_NAME: name, _CONTAINERD_NAME: name}
        lines.append(line)
    return lines


def _lay_out(root: Path, marker: Path) -> None:
    """One process at a time; one that dies half-way is taken over by the next."""
    durable.make_directory(root)
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if marker.is_file():
            return
        foreign = [name for name in ("index.json", "blobs") if (root / name).exists()]
        if foreign and not (root / "ingest").is_dir():
            raise NotALayout(f"{root}: holds {foreign[0]} of another tool; choose an empty state directory")
        for name in ("ingest", "blobs/sha256", "layers", "snapshots"):  # ingest first: it says whose they are
            durable.make_directory(root / name)
        State(root / "state.sqlite").close()
        if not (root / "index.json").exists():
            empty = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
            durable.write_file(root / "index.json", json.dumps(empty, indent=1).encode())
        durable.write_file(marker, _LAYOUT)  # last: it says that the rest is there
    finally:
        os.close(directory)
