"""Request bodies as a served registry takes them in: measured, bounded, and whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

from lamina.http.message import Request
from lamina.oci.manifest import MAX_DOCUMENT
from lamina.registry.protocol import ApiError, ProtocolViolation, Unsatisfiable, received_range
from lamina.registry.uploads import OpenUpload

_CHUNK = 1 << 20


class SenderFailed(Exception):
    """Reading a body failed: whoever sends it must hear of that, not of an error of ours."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(str(failure))
        self.failure = failure


def body_chunks(request: Request) -> Iterator[bytes]:
    """The request's body, which must be as long as announced."""
    body = request.body
    stream: BinaryIO = io.BytesIO(body or b"") if isinstance(body, bytes | None) else body
    received = 0
    while chunk := _from_sender(stream):
        received += len(chunk)
        yield chunk
    length = _announced(request)
    if length is not None and received != length:
        raise ApiError("SIZE_INVALID", f"announced {length} bytes, sent {received}")


def read_document(request: Request) -> bytes:
    """A manifest's bytes; one that is too long is refused before it is read."""
    length = _announced(request) or 0
    raw = bytearray()
    chunks = body_chunks(request)
    while length <= MAX_DOCUMENT and len(raw) <= MAX_DOCUMENT:
        if (chunk := next(chunks, None)) is None:
            return bytes(raw)
        raw += chunk
    raise ApiError("MANIFEST_INVALID", f"a manifest has at most {MAX_DOCUMENT} bytes", status=413)


def receive(upload: OpenUpload, request: Request, place: str) -> None:
    """Appends a body to the upload at ``place``. What arrived of a broken one stays, to be asked for."""
    try:
        left = upload.state.begin_chunk(request.headers.get("Content-Range", ""), _announced(request))
    except Unsatisfiable:
        headers = {"Location": place, "Range": received_range(upload.state.received)}
        raise ApiError("RANGE_INVALID", "this is not the next chunk", headers=headers) from None
    except ProtocolViolation as error:
        raise ApiError("SIZE_INVALID", str(error)) from None
    for chunk in body_chunks(request):
        left = None if left is None else left - len(chunk)
        if left is not None and left < 0:
            raise ApiError("SIZE_INVALID", "the chunk is longer than its range")
        upload.ingest.write(chunk)
        upload.state.advance(len(chunk))
    if left:
        raise ApiError("SIZE_INVALID", f"the chunk is {left} bytes shorter than its range")


def _announced(request: Request) -> int | None:
    text = request.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _from_sender(stream: BinaryIO) -> bytes:
    try:
        return stream.read(_CHUNK)
    except Exception as error:
        raise SenderFailed(error) from None
