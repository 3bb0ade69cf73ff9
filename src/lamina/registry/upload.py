"""A blob on its way there: sessions, one request or many, and beginning again.

The plain way is POST for a session, then PUT with the whole body. A registry that refuses that gets
PATCH requests of bounded size; so does content whose digest is not known before its end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Self, cast

from lamina.content.store import DigestMismatch, VerifyingReader
from lamina.errors import LaminaError, NotFound, Unavailable, Unsupported
from lamina.http.message import Response, TransportFailure
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest, Digester, InvalidDigest
from lamina.registry.failures import (
    About,
    RegistryRefused,
    RegistryUnavailable,
    RegistryUnsupported,
    UnexpectedAnswer,
)
from lamina.registry.protocol import OCTETS, UploadState, blob_path, uploads_path, with_digest
from lamina.registry.session import FreshTokenNeeded, Session
from lamina.values import dataclass, field

CHUNK = 8 << 20
MAX_CHUNK = 256 << 20  # what a server may make us hold by OCI-Chunk-Min-Length
_ACCEPTED = frozenset({202})
_CREATED = frozenset({201})
_FOUND_OR_NOT = frozenset({200, 404})
_STATUS = frozenset({204, 202})
# Refusals that speak of the content: sending it in pieces would not help.
_HOPELESS = frozenset({
    "DIGEST_INVALID", "SIZE_INVALID", "NAME_INVALID", "NAME_UNKNOWN", "DENIED", "UNAUTHORIZED",
})


@dataclass(slots=True)
class UploadSession:
    """An upload that the registry has opened: where to send the next piece, and how far it is."""

    location: str
    chunk: int = CHUNK
    state: UploadState = field(default_factory=UploadState)


class Uploader:
    """Uploads into one repository. Not for two threads at once; make one for each blob."""

    def __init__(self, session: Session, about: About, scopes: tuple[str, ...]) -> None:
        self._session = session
        self._about = about
        self._scopes = scopes

    def put(self, expected: Descriptor, source: BinaryIO, opened: UploadSession | None = None) -> None:
        """Sends a blob, beginning again after failures that may pass if ``source`` can be rewound.

        ``opened`` is a session left over from a mount that did not happen.
        """
        start = source.tell() if source.seekable() else None
        send = self._send_whole
        attempt = 0
        while True:
            attempt += 1
            try:
                return send(opened or self.open(), expected, VerifyingReader(expected, _lent(source)))
            except (TransportFailure, RegistryUnavailable, FreshTokenNeeded) as error:
                if start is None or not self._may_try_again(attempt, error):
                    raise
            except (RegistryRefused, RegistryUnsupported) as error:
                if send == self._send_chunks or start is None or _HOPELESS.intersection(error.codes):
                    raise
                send = self._send_chunks
            source.seek(start)
            opened = None

    def open(self, query: Mapping[str, str] | None = None) -> UploadSession:
        path = uploads_path(self._session.endpoint.repository, query)
        with self._call("POST", path, b"", _ACCEPTED) as response:
            return self._opened(response)

    def mount(self, digest: Digest, repository: str) -> UploadSession | None:
        """``None`` when the registry took the blob from the other repository; else the opened session."""
        path = uploads_path(self._session.endpoint.repository, {"mount": digest, "from": repository})
        with self._call("POST", path, b"", _ACCEPTED | _CREATED) as response:
            return None if response.status == 201 else self._opened(response)

    def append(self, upload: UploadSession, chunk: bytes) -> None:
        """One PATCH. After a broken connection the registry is asked how much of it arrived."""
        start = upload.state.received
        end = start + len(chunk)
        attempt = 0
        while (begin := upload.state.received) < end:
            attempt += 1
            try:
                self._patch(upload, chunk[begin - start :])
                is_on_course = begin < upload.state.received <= end
            except (TransportFailure, RegistryUnavailable) as error:
                if not self._may_try_again(attempt, error):
                    raise
                self._ask_how_far(upload)
                is_on_course = begin <= upload.state.received <= end
            if not is_on_course:
                raise UnexpectedAnswer(
                    f"{self._about.registry}: lost its place in an upload, at {upload.state.received} bytes"
                )

    def _may_try_again(self, attempt: int, error: Unavailable) -> bool:
        if isinstance(error, TransportFailure) and not error.may_pass:
            return False
        return self._session.patience.wait(attempt, self._about.subject, error, error.retry_after)

    def finish(self, upload: UploadSession, digest: Digest) -> None:
        try:
            with self._call("PUT", with_digest(upload.location, digest), b"", _CREATED) as response:
                self._check_created(response, digest)
        except NotFound:
            # The answer to a first try may have been lost, and the upload be over.
            blob = blob_path(self._session.endpoint.repository, digest)
            with self._call("HEAD", blob, None, _FOUND_OR_NOT) as response:
                if response.status == 404:
                    raise

    def cancel(self, upload: UploadSession) -> None:
        """Tells the registry to forget the session; it will by itself if that fails."""
        with contextlib.suppress(LaminaError), self._call("DELETE", upload.location, None, _STATUS):
            pass

    def _send_whole(self, upload: UploadSession, expected: Descriptor, reader: VerifyingReader) -> None:
        url = with_digest(upload.location, expected.digest)
        headers = {"Content-Type": OCTETS, "Content-Length": str(expected.size)}
        body = cast("BinaryIO", reader)
        with self._call("PUT", url, body, _CREATED, headers) as response:
            self._check_created(response, expected.digest)

    def _send_chunks(self, upload: UploadSession, expected: Descriptor, reader: VerifyingReader) -> None:
        for chunk in _pieces(reader, upload.chunk):
            self.append(upload, chunk)
        self.finish(upload, expected.digest)

    def _patch(self, upload: UploadSession, chunk: bytes) -> None:
        start = upload.state.received
        headers = {"Content-Type": OCTETS, "Content-Range": f"{start}-{start + len(chunk) - 1}",
                   "Content-Length": str(len(chunk))}
        with self._call("PATCH", upload.location, chunk, _ACCEPTED, headers, is_repeatable=False) as response:
            upload.state.advance(len(chunk))
            upload.state.received = upload.state.confirmed(response.headers)
            self._move(upload, response)

    def _ask_how_far(self, upload: UploadSession) -> None:
        with self._call("GET", upload.location, None, _STATUS) as response:
            upload.state.received = upload.state.confirmed(response.headers)
            self._move(upload, response)

    def _opened(self, response: Response) -> UploadSession:
        location = response.headers.get("Location", "")
        if not location:
            raise UnexpectedAnswer(f"{self._about.registry}: opened an upload without saying where")
        wanted = response.headers.get("OCI-Chunk-Min-Length", "")
        least = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 12 else 0
        if least > MAX_CHUNK:
            raise Unsupported(f"{self._about.registry}: wants chunks of {least} bytes, over {MAX_CHUNK}")
        base = self._session.url("/v2/")
        return UploadSession(self._session.resolve(location, base), max(CHUNK, least))

    def _move(self, upload: UploadSession, response: Response) -> None:
        if location := response.headers.get("Location", ""):
            upload.location = self._session.resolve(location, upload.location)

    def _check_created(self, response: Response, digest: Digest) -> None:
        text = response.headers.get("Docker-Content-Digest", "")
        with contextlib.suppress(InvalidDigest):
            said = Digest.parse(text)
            if said.algorithm == digest.algorithm and said != digest:
                raise DigestMismatch(f"{digest}: {self._about.registry} stored it as {said}")

    def _call(
        self,
        method: str,
        target: str,
        body: bytes | BinaryIO | None,
        expect: frozenset[int],
        headers: Mapping[str, str] | None = None,
        *,
        is_repeatable: bool = True,
    ) -> Response:
        return self._session.call(
            method, target, about=self._about, scopes=self._scopes, headers=headers, body=body,
            expect=expect, is_repeatable=is_repeatable,
        )


class RemoteIngest:
    """Bytes sent in chunks, named when they are over. Leaving without ``commit`` cancels the upload."""

    def __init__(self, uploader: Uploader) -> None:
        self._uploader = uploader
        self._upload = uploader.open()
        self._digester = Digester()
        self._pending = bytearray()
        self._is_over = False

    def write(self, chunk: bytes | memoryview) -> int:
        self._digester.update(chunk)
        self._pending += chunk
        while len(self._pending) >= self._upload.chunk:
            piece = bytes(memoryview(self._pending)[: self._upload.chunk])
            del self._pending[: len(piece)]
            self._uploader.append(self._upload, piece)
        return len(chunk)

    def commit(self, media_type: str, expected: Digest | None = None) -> Descriptor:
        digest = self._digester.digest()
        if expected is not None and expected.algorithm != digest.algorithm:
            raise Unsupported(f"{expected}: content of unknown digest is pushed under sha256 only")
        if expected is not None and expected != digest:
            raise DigestMismatch(f"{expected}: the bytes written have the digest {digest}")
        if self._pending:
            self._uploader.append(self._upload, bytes(self._pending))
        self._uploader.finish(self._upload, digest)
        self._is_over = True
        return Descriptor(media_type=media_type, digest=digest, size=self._digester.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._is_over:
            self._uploader.cancel(self._upload)
            self._is_over = True


def _pieces(source: VerifyingReader, size: int) -> Iterator[bytes]:
    """Chunks of exactly ``size`` bytes, but for the last."""
    while True:
        piece = bytearray()
        while len(piece) < size and (part := source.read(size - len(piece))):
            piece += part
        if not piece:
            return
        yield bytes(piece)


class _Lent:
    """A source that a reader may close without closing it: it is to be rewound and read again."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source

    def read(self, size: int) -> bytes:
        return self._source.read(size)

    def close(self) -> None:
        pass


def _lent(source: BinaryIO) -> BinaryIO:
    return cast("BinaryIO", _Lent(source))
