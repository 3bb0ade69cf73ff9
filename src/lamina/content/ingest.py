"""Bytes landing in the local store: resumable, one writer at a time, visible only when verified.

An ingest is a directory ``ingest/<name>/`` holding ``data``. Its writer holds a flock on the directory,
so a second process that wants the same blob waits and then finds it done; a directory without a lock
was left by a crash and is where the next attempt goes on, or what ``prune`` removes.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from lamina.content.arrival import Arrival
from lamina.content.durable import Writeback, is_still_at, make_directory, publish
from lamina.content.store import CHUNK, DigestMismatch, check_content
from lamina.errors import IntegrityError
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest, Digester

_DATA = "data"


class IngestDirectory:
    """The locked directory. Made by :func:`claim`; ``close`` gives up the lock and keeps the files."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @property
    def data(self) -> Path:
        return self.path / _DATA

    def remove(self) -> None:
        import shutil  # noqa: PLC0415 - it brings bz2 and lzma, and few commands ingest

        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def claim(path: Path, *, wait: bool = True) -> IngestDirectory | None:
    """Makes the directory if need be and locks it; ``None`` when it is taken and ``wait`` is false."""
    while True:
        path.mkdir(mode=0o700, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its last writer finished between the two calls
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        if is_still_at(path, descriptor):
            return IngestDirectory(path, descriptor)
        os.close(descriptor)  # we locked a directory that its writer had removed: try the new one


class LocalIngest:
    """One blob on its way in. ``offset`` is where to go on writing; earlier bytes are hashed already.

    Leaving the context without ``commit`` keeps what has landed, for the next attempt, when the
    digest is known and nothing was found wrong; else it is removed.
    """

    def __init__(self, directory: IngestDirectory, blobs: Path, expected: Descriptor | None = None) -> None:
        self._directory = directory
        self._blobs = blobs
        self._expected = expected
        self._digester = Digester(expected.digest.algorithm if expected else "sha256")
        self._file = os.open(directory.data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        self._writeback = Writeback(self._file)
        self.arrival = Arrival(expected, self._file) if expected else None
        self._resume()

    @property
    def offset(self) -> int:
        return self._digester.size

    @property
    def digest(self) -> Digest:
        """Of what was written: known before ``commit``, so that a lease can come first."""
        return self._digester.digest()

    def write(self, chunk: bytes | memoryview) -> int:
        view = memoryview(chunk)
        self._digester.update(view)
        while view:
            view = view[os.write(self._file, view):]
        self._writeback.advance(self._digester.size)
        if self.arrival is not None:
            self.arrival.advance(self._digester.size)
        return len(chunk)

    def restart(self) -> None:
        """Forgets what has landed: for a source that cannot begin in the middle."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._digester = Digester(self._digester.algorithm)

    def commit(self, media_type: str, expected: Digest | None = None) -> Descriptor:
        """Verifies, syncs, and gives the bytes their name. Raises ``DigestMismatch``, ``SizeMismatch``."""
        if self._expected is None and expected is not None and expected.algorithm != self._digester.algorithm:
            self._hash_again(expected.algorithm)
        digest = self._digester.digest()
        try:
            self._verify(digest, expected)
        except BaseException:
            self._directory.remove()  # wrong bytes are worth nothing to the next attempt
            raise
        os.fsync(self._file)
        target = self._blobs / digest.algorithm / digest.encoded
        make_directory(target.parent)
        publish(self._directory.data, target)
        self._directory.remove()
        if self.arrival is not None:
            self.arrival.finish()
        return Descriptor(media_type=media_type, digest=digest, size=self._digester.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        error = exc[1]
        if self.arrival is not None and not self.arrival.is_complete:
            self.arrival.fail(error if isinstance(error, BaseException) else InterruptedError("given up"))
        if self._expected is None or not self.offset or isinstance(error, IntegrityError):
            self._directory.remove()
        os.close(self._file)
        self._directory.close()

    def _verify(self, digest: Digest, expected: Digest | None) -> None:
        if self._expected is not None:
            check_content(self._expected, self._digester)
        elif expected is not None and digest != expected:
            raise DigestMismatch(f"{expected}: the bytes written have the digest {digest}")

    def _resume(self) -> None:
        limit = self._expected.size if self._expected else 0
        if os.fstat(self._file).st_size > limit:
            os.ftruncate(self._file, 0)
        self._hash_again(self._digester.algorithm)
        if self.arrival is not None:
            self.arrival.advance(self._digester.size)

    def _hash_again(self, algorithm: str) -> None:
        """Only at the end is it known under which digest a blob shall be kept."""
        self._digester = Digester(algorithm)
        os.lseek(self._file, 0, os.SEEK_SET)
        while chunk := os.read(self._file, CHUNK):
            self._digester.update(chunk)
