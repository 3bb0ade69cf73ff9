"""Writing an OCI image layout directory, or adding to one (image-spec image-layout.md)."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

from lamina.archive.layout import INDEX, REF_NAME, blob_path
from lamina.content.durable import make_directory, publish, sync_directory, write_file
from lamina.content.store import CHUNK, BlobNotFound, check_content
from lamina.errors import Conflict
from lamina.oci.descriptor import OCI_INDEX, Descriptor
from lamina.oci.digest import Digest, Digester
from lamina.oci.manifest import Index, dump_document, parse_document

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_MARKER = "oci-layout"


class NotALayout(Conflict):
    pass


class LayoutDirectory:
    """A ``ContentStore`` with tags, as other tools keep one: no state but what the specification names."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def create(cls, path: Path) -> LayoutDirectory:
        """A new layout, or one that is there. Raises :class:`NotALayout` for anything else."""
        if not (path / _MARKER).exists():
            if path.exists() and not all(_is_of_layout(name) for name in os.listdir(path)):
                raise NotALayout(f"{path}: not empty, and no OCI layout; choose another directory")
            make_directory(path / "blobs" / "sha256", 0o755)
            write_file(path / INDEX, Index.build([]).raw)
            write_file(path / _MARKER, _LAYOUT)
        elif (path / "state.sqlite").exists():
            raise NotALayout(f"{path}: a state directory of lamina; use a name in it instead")
        return cls(path)

    def has(self, wanted: Descriptor) -> bool:
        try:
            return (self._path / blob_path(wanted.digest)).stat().st_size == wanted.size
        except FileNotFoundError:
            return False

    def open(self, wanted: Descriptor) -> BinaryIO:
        try:
            return open(self._path / blob_path(wanted.digest), "rb")
        except FileNotFoundError:
            raise BlobNotFound(f"{wanted.digest}: not in {self._path}") from None

    def put(self, expected: Descriptor, source: BinaryIO) -> None:
        with self.ingest(expected.digest.algorithm) as ingest:
            while chunk := source.read(CHUNK):
                ingest.write(chunk)
            check_content(expected, ingest.digester)
            ingest.commit(expected.media_type)

    def ingest(self, algorithm: str = "sha256") -> _LayoutIngest:
        return _LayoutIngest(self._path, algorithm)

    def tag(self, name: str, target: Descriptor) -> None:
        """Lists an image, in place of the one that had the name; without a name if that is empty."""
        line = target.to_json() | ({"annotations": {REF_NAME: name}} if name else {})
        with self._locked():
            document = parse_document((self._path / INDEX).read_bytes(), INDEX)
            lines: list[Any] = document.get("manifests") or []
            document["manifests"] = [*(each for each in lines if not _is_replaced(each, name, target)), line]
            document.setdefault("mediaType", OCI_INDEX)
            write_file(self._path / INDEX, dump_document(document))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Among ourselves; other tools take no lock."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class _LayoutIngest:
    """One blob on its way in, under a name that nobody takes for a blob's."""

    def __init__(self, path: Path, algorithm: str) -> None:
        self._top = path
        self._temporary = path / "blobs" / f".{secrets.token_hex(8)}"
        self.digester = Digester(algorithm)
        self._file = open(self._temporary, "xb", buffering=0)  # noqa: SIM115 - closed with this

    def write(self, chunk: bytes | memoryview) -> int:
        view = memoryview(chunk)
        self.digester.update(view)
        while view:
            view = view[self._file.write(view):]
        return len(chunk)

    def commit(self, media_type: str, expected: Digest | None = None) -> Descriptor:
        digest = self.digester.digest()
        made = Descriptor(media_type=media_type, digest=digest, size=self.digester.size)
        if expected is not None:
            check_content(Descriptor(media_type=media_type, digest=expected, size=made.size), self.digester)
        os.fsync(self._file.fileno())
        target = self._top / blob_path(digest)
        if not target.parent.is_dir():
            target.parent.mkdir(exist_ok=True)
            sync_directory(target.parent.parent)
        publish(self._temporary, target)
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def _is_of_layout(name: str) -> bool:
    """What a layout has before its marker, also where whoever began to make it was killed."""
    return name in ("blobs", INDEX) or name.startswith((f".{INDEX}.", f".{_MARKER}."))


def _is_replaced(line: Any, name: str, target: Descriptor) -> bool:
    if not isinstance(line, dict):
        return False
    annotations = line.get("annotations")
    called = annotations.get(REF_NAME, "") if isinstance(annotations, dict) else ""
    return bool(called == name if name else not called and line.get("digest") == target.digest)
