"""The distribution protocol decided without I/O: URLs, ranges, pages, errors, uploads; both directions.

Client and server share these rules, so that each is tested against the other's reading of them.
Sections named in comments are those of the OCI distribution-spec, v1.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlencode, urljoin

from lamina.errors import InvalidInput
from lamina.http.message import Response
from lamina.oci.descriptor import DOCKER_SCHEMA1, INDEXES, MANIFESTS
from lamina.oci.digest import Digest, InvalidDigest
from lamina.oci.reference import REPOSITORY, TAG
from lamina.values import dataclass

# Everything we can read, best first; schema 1 is not asked for, so that servers need not convert.
ACCEPT_DOCUMENTS = ", ".join([*sorted(MANIFESTS), *sorted(INDEXES)])
OCTETS = "application/octet-stream"
MAX_REPOSITORY = 255
MAX_ERROR_BODY = 64 << 10
MAX_LIST_BODY = 16 << 20
MAX_PAGES = 10_000
_MAX_ERRORS = 16
_MAX_ERROR_TEXT = 500


class ProtocolViolation(InvalidInput):
    """The other side broke the distribution-spec; as a server's answer it is 400."""


# --- URLs -----------------------------------------------------------------------------------------


def manifest_path(repository: str, reference: str) -> str:
    return f"/v2/{repository}/manifests/{quote(reference, safe=':')}"


def blob_path(repository: str, digest: Digest) -> str:
    return f"/v2/{repository}/blobs/{digest}"


def uploads_path(repository: str, query: Mapping[str, str] | None = None) -> str:
    return f"/v2/{repository}/blobs/uploads/" + (f"?{urlencode(query, safe=':/')}" if query else "")


def upload_path(repository: str, session: str) -> str:
    return f"/v2/{repository}/blobs/uploads/{session}"


def tags_path(repository: str, *, count: int | None = None, last: str = "") -> str:
    return f"/v2/{repository}/tags/list{_page(count, last)}"


def catalog_path(*, count: int | None = None, last: str = "") -> str:
    return f"/v2/_catalog{_page(count, last)}"


def referrers_path(repository: str, subject: Digest, artifact_type: str = "") -> str:
    query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
    return f"/v2/{repository}/referrers/{subject}{query}"


def referrers_tag(subject: Digest) -> str:
    """Where referrers are listed on registries without the API ("Referrers Tag Schema")."""
    return f"{subject.algorithm}-{subject.encoded}"[:128]


def _page(count: int | None, last: str) -> str:
    query = {name: value for name, value in (("n", str(count or "")), ("last", last)) if value}
    return f"?{urlencode(query)}" if query else ""


def with_digest(location: str, digest: Digest) -> str:
    """An upload's location, closed under a digest. Its own query, if any, is the server's and stays."""
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


@dataclass(frozen=True, slots=True)
class RootRoute:
    """``/v2/``: is this a registry, and may I come in?"""


@dataclass(frozen=True, slots=True)
class CatalogRoute:
    pass


@dataclass(frozen=True, slots=True)
class TagsRoute:
    repository: str


@dataclass(frozen=True, slots=True)
class ManifestRoute:
    repository: str
    reference: Digest | str  # a plain str is a tag


@dataclass(frozen=True, slots=True)
class BlobRoute:
    repository: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class UploadsRoute:
    repository: str


@dataclass(frozen=True, slots=True)
class UploadRoute:
    repository: str
    session: str


@dataclass(frozen=True, slots=True)
class ReferrersRoute:
    repository: str
    subject: Digest


Route = (
    RootRoute | CatalogRoute | TagsRoute | ManifestRoute | BlobRoute
    | UploadsRoute | UploadRoute | ReferrersRoute
)

_SESSION = re.compile(r"[0-9a-f]{32}")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def parse_target(target: str) -> tuple[Route, dict[str, str]]:
    """A request target as a route and its query, or an :class:`ApiError`.

    SECURITY: percent escapes are decoded first and the grammar is checked on the result, once; so
    ``%2e%2e`` is seen as what it is, and what passed the check is what is used.
    """
    path, _, query = target.partition("?")
    decoded = _decoded(path)
    return _route(decoded), _query(query)


def _decoded(path: str) -> str:
    if _PERCENT.search(path):
        raise ApiError("UNSUPPORTED", "malformed percent escape in the path", status=400)
    try:
        return unquote_to_bytes(path).decode("ascii")
    except UnicodeError:
        raise ApiError("NAME_INVALID", "paths are ASCII") from None


def _query(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=32)
    except ValueError:
        raise ApiError("UNSUPPORTED", "malformed query", status=400) from None
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ApiError("UNSUPPORTED", "a query parameter is given twice", status=400)
    return values


def _route(path: str) -> Route:
    if path in {"/v2", "/v2/"}:
        return RootRoute()
    if path == "/v2/_catalog":
        return CatalogRoute()
    if not path.startswith("/v2/"):
        raise ApiError("UNSUPPORTED", "no such page", status=404)
    rest = path.removeprefix("/v2/")
    # The repository is the long part; what it ends in says what is wanted of it.
    head, _, last = rest.rpartition("/")
    name, _, kind = head.rpartition("/")
    if kind == "uploads" and name.endswith("/blobs"):
        repository = checked_repository(name.removesuffix("/blobs"))
        return UploadRoute(repository, _session(last)) if last else UploadsRoute(repository)
    if kind == "blobs" and last == "uploads":  # without the slash, as some clients spell it
        return UploadsRoute(checked_repository(name))
    if kind == "manifests":
        return ManifestRoute(checked_repository(name), _tag_or_digest(last))
    if kind == "blobs":
        return BlobRoute(checked_repository(name), checked_digest(last))
    if kind == "tags" and last == "list":
        return TagsRoute(checked_repository(name))
    if kind == "referrers":
        return ReferrersRoute(checked_repository(name), checked_digest(last))
    raise ApiError("UNSUPPORTED", "no such page", status=404)


def checked_repository(name: str) -> str:
    if len(name) > MAX_REPOSITORY or REPOSITORY.fullmatch(name) is None:
        raise ApiError("NAME_INVALID", "invalid repository name")
    return name


def checked_digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidDigest:
        raise ApiError("DIGEST_INVALID", "not a digest that is supported here") from None


def _tag_or_digest(text: str) -> Digest | str:
    if ":" in text:
        return checked_digest(text)
    if TAG.fullmatch(text) is None:
        raise ApiError("TAG_INVALID", "invalid tag", status=400)
    return text


def _session(text: str) -> str:
    if _SESSION.fullmatch(text) is None:
        raise ApiError("BLOB_UPLOAD_UNKNOWN", "no such upload")
    return text


# --- Errors ---------------------------------------------------------------------------------------

# distribution-spec, "Error Codes", and the few that docker's registry adds.
_STATUS = {
    "BLOB_UNKNOWN": 404, "BLOB_UPLOAD_INVALID": 400, "BLOB_UPLOAD_UNKNOWN": 404, "DIGEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 404, "MANIFEST_INVALID": 400, "MANIFEST_UNKNOWN": 404, "NAME_INVALID": 400,
    "NAME_UNKNOWN": 404, "SIZE_INVALID": 400, "UNAUTHORIZED": 401, "DENIED": 403, "UNSUPPORTED": 405,
    "TOOMANYREQUESTS": 429, "TAG_INVALID": 400, "PAGINATION_NUMBER_INVALID": 400, "RANGE_INVALID": 416,
    "UNKNOWN": 500, "UNAVAILABLE": 503,
}


class ApiError(Exception):
    """An answer that is an error, on its way to becoming one. For servers; clients read ErrorDetail."""

    def __init__(
        self, code: str, message: str, *, status: int = 0, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status or _STATUS[code]
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body = json.dumps({"errors": [{"code": self.code, "message": self.message}]}).encode()
        return json_response(self.status, body, self.headers)


def json_response(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    about = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return Response(status, {**about, **(headers or {})}, body)


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


def parse_errors(body: bytes) -> tuple[ErrorDetail, ...]:
    """What an error answer says, as far as it says it in the spec's form; never raises.

    Text from the other side is cut short and stripped of control characters: it will be printed.
    """
    try:
        document = json.loads(body)
        items = document["errors"] if isinstance(document, dict) else []
    except (ValueError, KeyError, RecursionError):
        return ()
    if not isinstance(items, list):
        return ()
    return tuple(
        ErrorDetail(_text(item.get("code")), _text(item.get("message")))
        for item in items[:_MAX_ERRORS]
        if isinstance(item, dict)
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isprintable() else " " for c in value[:_MAX_ERROR_TEXT]).strip()


# --- Ranges ---------------------------------------------------------------------------------------

_BYTE_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_CHUNK_RANGE = re.compile(r"(?:bytes[= ])?([0-9]{1,19})-([0-9]{1,19})(?:/(?:[0-9]{1,19}|\*))?")


class Unsatisfiable(Exception):
    """The range lies outside of the content (416)."""


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a Range header, or ``None`` where it is to be ignored (RFC 9110, 14.2)."""
    match = _BYTE_RANGE.fullmatch(header.strip())
    if match is None or (not match[1] and not match[2]):
        return None
    if not match[1]:  # the last so many
        length = int(match[2])
        if not length or not size:
            raise Unsatisfiable
        return max(0, size - length), size - 1
    start = int(match[1])
    end = int(match[2]) if match[2] else size - 1
    if match[2] and end < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, min(end, size - 1)


def parse_content_range(header: str) -> tuple[int, int, int | None]:
    """First byte, last byte and whole size of a 206 answer."""
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise ProtocolViolation(f"{header[:80]!r}: not a Content-Range of bytes")
    return int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])


def parse_chunk_range(header: str) -> tuple[int, int]:
    """``0-99``: first and last byte, as uploads spell them ("Pushing a blob in chunks")."""
    match = _CHUNK_RANGE.fullmatch(header.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise ProtocolViolation(f"{header[:80]!r}: not a range of bytes")
    return int(match[1]), int(match[2])


def received_range(received: int) -> str:
    """The Range header of an upload's status. An empty upload says ``0-0``, as docker's registry does."""
    return f"0-{max(0, received - 1)}"


# --- Pages ----------------------------------------------------------------------------------------

_LINK = re.compile(r'<([^<>"]{1,8192})>\s*((?:;\s*[A-Za-z*]+\s*=\s*(?:"[^"]*"|[^\s;,"]+)\s*)*)(?:,|$)')
_REL_NEXT = re.compile(r';\s*rel\s*=\s*(?:"(?:[^"]*\s)?next(?:\s[^"]*)?"|next)\s*(?:;|$)', re.IGNORECASE)


def next_link(headers: Mapping[str, str], base: str) -> str | None:
    """The URL of the next page by RFC 8288, made absolute; ``None`` on the last one."""
    for match in _LINK.finditer(headers.get("Link", "")[:16_384]):
        if _REL_NEXT.search(match[2]):
            return str(urljoin(base, match[1]))
    return None


def page_of(items: Sequence[str], query: Mapping[str, str], limit: int) -> tuple[list[str], bool]:
    """What ``n`` and ``last`` select of sorted items, and whether more follow."""
    count = limit
    if "n" in query:
        text = query["n"]
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise ApiError("PAGINATION_NUMBER_INVALID", "n must be a number")
        count = min(int(text), limit)
    rest = [item for item in items if item > query.get("last", "")]
    return rest[:count], count > 0 and len(rest) > count


def parse_names(body: bytes, key: str) -> list[str]:
    """The list under ``key`` of a tags or catalog answer; ``null`` is an empty one, as Go writes it."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolViolation(f"the list of {key} is not JSON") from None
    names = document.get(key) if isinstance(document, dict) else None
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ProtocolViolation(f"the list of {key} is not a list of strings")
    return names


def names_document(key: str, names: Iterable[str], more: Mapping[str, str] | None = None) -> bytes:
    return json.dumps({**(more or {}), key: list(names)}).encode()


# --- Waiting --------------------------------------------------------------------------------------


def parse_retry_after(header: str, date: str) -> float | None:
    """Seconds to wait (RFC 9110, 10.2.3); ``None`` when it says nothing usable.

    Where it names a time, that is compared with the answer's own ``Date``: clocks need not agree.
    """
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    then, now = _time(text), _time(date)
    return None if then is None or now is None else max(0.0, (then - now).total_seconds())


def _time(text: str) -> datetime | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - 5 ms for a header that is rarely a date

    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


# --- Content types --------------------------------------------------------------------------------


def media_type_of(headers: Mapping[str, str]) -> str:
    """The Content-Type without its parameters."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def is_document_type(media_type: str) -> bool:
    return media_type in MANIFESTS or media_type in INDEXES or media_type in DOCKER_SCHEMA1


# --- Uploads --------------------------------------------------------------------------------------


@dataclass(slots=True)
class UploadState:
    """How far an upload is, for whichever side keeps count. ``begin_chunk`` and ``advance`` move it."""

    received: int = 0

    def begin_chunk(self, content_range: str, content_length: int | None) -> int | None:
        """Checks a chunk's headers before its bytes; gives its length where it is known.

        Raises :class:`Unsatisfiable` for a chunk that does not follow on what is there.
        """
        if not content_range:
            return content_length
        start, end = parse_chunk_range(content_range)
        if start != self.received:
            raise Unsatisfiable
        length = end - start + 1
        if content_length is not None and content_length != length:
            raise ProtocolViolation(f"Content-Range says {length} bytes, Content-Length {content_length}")
        return length

    def advance(self, count: int) -> None:
        self.received += count

    def confirmed(self, headers: Mapping[str, str]) -> int:
        """What a server says it has, from the Range of its 202 or 204; the count if it says nothing."""
        header = headers.get("Range", "")
        if not header:
            return self.received
        start, end = parse_chunk_range(header)
        if start != 0:
            raise ProtocolViolation(f"{header[:80]!r}: an upload's range begins at 0")
        # "0-0" is one byte by the letter, and none when nothing was sent yet.
        return end + 1 if end or self.received else 0
