"""A registry over any store: the serving half of the distribution-spec, from request to response.

:class:`RegistryApp` is an application for :mod:`lamina.http.server` and, called in-process, a
transport: the client is tested against it with no socket between.

SECURITY: names, tags, digests and upload identifiers are checked against their grammars after
percent-decoding and before they are used; nothing from a request becomes part of a path or a header
unchecked. A browser is not a registry client: requests that come from a web page are refused, and so
is any Host that DNS could have been rebound to.
"""

from __future__ import annotations

import errno
import io
import time
from collections.abc import Callable, Iterable
from typing import BinaryIO, cast

from lamina.content.store import BlobNotFound, Ingest, Mounter, NameNotFound, RangedFetcher, read_all
from lamina.errors import Conflict, Denied, IntegrityError, InvalidInput, LaminaError, NotFound, Unsupported
from lamina.http.message import Headers, InvalidUrl, Request, Response, split_url
from lamina.http.proxy import as_address, is_loopback
from lamina.oci.descriptor import FOREIGN_LAYERS, OCI_INDEX, Descriptor
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, Index, Manifest, parse_graph_node
from lamina.oci.reference import TAG
from lamina.registry.intake import SenderFailed, body_chunks, read_document, receive
from lamina.registry.protocol import (
    OCTETS,
    ApiError,
    BlobRoute,
    CatalogRoute,
    ManifestRoute,
    ReferrersRoute,
    RootRoute,
    Route,
    TagsRoute,
    Unsatisfiable,
    UploadRoute,
    UploadsRoute,
    blob_path,
    catalog_path,
    checked_digest,
    checked_repository,
    json_response,
    manifest_path,
    media_type_of,
    names_document,
    page_of,
    parse_range,
    parse_target,
    received_range,
    tags_path,
    upload_path,
)
from lamina.registry.provider import (
    Eraser,
    PassesOn,
    ReferrerKeeper,
    RepositoryProvider,
    ServedRepository,
    hops_of,
)
from lamina.registry.uploads import Uploads
from lamina.values import replace

_CHUNK = 1 << 20
_MAX_PAGE = 1000
# For docker clients, and for browsers that look at an address they should not guess the type of.
_ALWAYS = (("Docker-Distribution-API-Version", "registry/2.0"), ("X-Content-Type-Options", "nosniff"))


class RegistryApp:
    """``allowed_hosts`` are names, beside loopback and plain addresses, that clients may call us by."""

    def __init__(
        self,
        provider: RepositoryProvider,
        *,
        allowed_hosts: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = provider
        self._allowed_hosts = frozenset(name.lower() for name in allowed_hosts)
        self._uploads = Uploads(clock)

    def __call__(self, request: Request) -> Response:
        if not isinstance(request.headers, Headers):  # called in-process, with a plain dictionary
            request = replace(request, headers=Headers(request.headers))
        try:
            response = self._checked(request)
        except ApiError as error:
            response = error.response()
        except SenderFailed as error:
            raise error.failure from None
        except LaminaError as error:
            response = _translated(error).response()
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
                raise
            response = ApiError("UNAVAILABLE", f"storing failed: {error.strerror}", status=507).response()
        headers = Headers([*response.headers.pairs(), *_ALWAYS])
        if request.method == "HEAD":
            response.close()
            return Response(response.status, headers)
        return Response(response.status, headers, response.stream)

    send = __call__

    def close(self) -> None:
        self._uploads.close()

    def _checked(self, request: Request) -> Response:
        try:
            origin, target = split_url(request.url)
        except InvalidUrl:
            raise ApiError("UNSUPPORTED", "malformed request target or Host", status=400) from None
        self._check_host(origin.host)
        self._check_browser(request, origin.authority)
        route, query = parse_target(target)
        return self._routed(request, route, query)

    def _check_host(self, host: str) -> None:
        """SECURITY: a web page whose name now resolves to us still sends its own name (DNS rebinding)."""
        if is_loopback(host) or as_address(host) is not None or host.lower() in self._allowed_hosts:
            return
        raise ApiError("DENIED", "this registry does not go by that name")

    def _check_browser(self, request: Request, authority: str) -> None:
        origin = request.headers.get("Origin", "")
        site = request.headers.get("Sec-Fetch-Site", "none")
        if (origin and origin != f"http://{authority}") or site not in {"none", "same-origin"}:
            raise ApiError("DENIED", "web pages may not use this registry")

    def _routed(self, request: Request, route: Route, query: dict[str, str]) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        verbs = self._verbs(route, request, query)
        act = verbs.get(method)
        if act is None:
            raise ApiError("UNSUPPORTED", "method not allowed here", headers={"Allow": ", ".join(verbs)})
        if method != "GET" and not self._provider.may_write:
            raise ApiError("UNSUPPORTED", "this registry is read-only", headers={"Allow": "GET, HEAD"})
        return act()

    def _verbs(
        self, route: Route, request: Request, query: dict[str, str]
    ) -> dict[str, Callable[[], Response]]:
        match route:
            case RootRoute():
                return {"GET": lambda: json_response(200, b"{}")}
            case CatalogRoute():
                return {"GET": lambda: self._catalog(query)}
            case TagsRoute(name):
                return {"GET": lambda: self._tags(name, query)}
            case ManifestRoute(name, reference):
                return {
                    "GET": lambda: self._manifest(name, reference),
                    "PUT": lambda: self._put_manifest(name, reference, request),
                    "DELETE": lambda: self._delete_manifest(name, reference),
                }
            case BlobRoute(name, digest):
                return {
                    "GET": lambda: self._blob(name, digest, request),
                    "DELETE": lambda: self._delete_blob(name, digest),
                }
            case UploadsRoute(name):
                return {"POST": lambda: self._open_upload(name, request, query)}
            case UploadRoute(name, session):
                return {
                    "GET": lambda: self._upload_status(name, session),
                    "PATCH": lambda: self._append(name, session, request),
                    "PUT": lambda: self._finish_upload(name, session, request, query),
                    "DELETE": lambda: self._cancel_upload(name, session),
                }
            case ReferrersRoute(name, subject):
                return {"GET": lambda: self._referrers(name, subject, query)}

    # --- Lists ------------------------------------------------------------------------------------

    def _catalog(self, query: dict[str, str]) -> Response:
        names, has_more = page_of(sorted(self._provider.repositories()), query, _MAX_PAGE)
        link = catalog_path(count=len(names), last=names[-1]) if has_more else ""
        return _list_response(names_document("repositories", names), link)

    def _tags(self, name: str, query: dict[str, str]) -> Response:
        tags = sorted(tag for tag in self._provider.repository(name).names() if TAG.fullmatch(tag))
        if not tags:
            self._check_exists(name)
        page, has_more = page_of(tags, query, _MAX_PAGE)
        link = tags_path(name, count=len(page), last=page[-1]) if has_more else ""
        return _list_response(names_document("tags", page, {"name": name}), link)

    def _referrers(self, name: str, subject: Digest, query: dict[str, str]) -> Response:
        repository = self._provider.repository(name)
        if not isinstance(repository, ReferrerKeeper):
            raise ApiError("UNSUPPORTED", "referrers are not kept here", status=404)
        wanted = query.get("artifactType", "")
        found = [item for item in repository.referrers(subject) if wanted in {"", item.artifact_type}]
        headers = {"Content-Type": OCI_INDEX, **({"OCI-Filters-Applied": "artifactType"} if wanted else {})}
        return json_response(200, Index.build(found).raw, headers)

    # --- Manifests --------------------------------------------------------------------------------

    def _manifest(self, name: str, reference: Digest | str) -> Response:
        descriptor, raw = self._read_manifest(name, reference)
        headers = {
            "Content-Type": descriptor.media_type,
            "Docker-Content-Digest": descriptor.digest,
            "ETag": f'"{descriptor.digest}"',
        }
        return json_response(200, raw, headers)

    def _read_manifest(self, name: str, reference: Digest | str) -> tuple[Descriptor, bytes]:
        repository = self._provider.repository(name)
        try:
            digest = reference if isinstance(reference, Digest) else repository.resolve(reference).digest
            size = repository.stat(digest)
            if size is None:
                raise BlobNotFound(digest)
            raw = read_all(repository, Descriptor(media_type=OCTETS, digest=digest, size=size), MAX_DOCUMENT)
            document = parse_graph_node(raw)
        except (NotFound, InvalidInput, Unsupported):  # also for a layer's digest under /manifests/
            self._check_exists(name)
            raise ApiError("MANIFEST_UNKNOWN", "no such manifest") from None
        return Descriptor(media_type=document.media_type, digest=digest, size=size), raw

    def _put_manifest(self, name: str, reference: Digest | str, request: Request) -> Response:
        raw = read_document(request)
        document = _parsed_manifest(raw, media_type_of(request.headers))
        algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
        digest = Digest.of(raw, algorithm)
        if isinstance(reference, Digest) and digest != reference:
            raise ApiError("DIGEST_INVALID", "the manifest is not the one that its digest names")
        repository = self._provider.repository(name)
        _check_links(repository, document)
        descriptor = Descriptor(media_type=document.media_type, digest=digest, size=len(raw))
        repository.put(descriptor, io.BytesIO(raw))
        if not isinstance(reference, Digest):
            repository.tag(reference, descriptor)
        headers = {"Location": manifest_path(name, digest), "Docker-Content-Digest": digest}
        subject = document.subject if isinstance(document, Manifest) else None
        if subject is not None and isinstance(repository, ReferrerKeeper):
            headers["OCI-Subject"] = subject.digest
        return _empty(201, headers)

    def _delete_manifest(self, name: str, reference: Digest | str) -> Response:
        repository = self._eraser(name)
        try:
            if isinstance(reference, Digest):
                repository.delete(reference)
            else:
                repository.untag(reference)
        except NotFound:
            raise ApiError("MANIFEST_UNKNOWN", "no such manifest") from None
        return _empty(202)

    # --- Blobs ------------------------------------------------------------------------------------

    def _blob(self, name: str, digest: Digest, request: Request) -> Response:
        repository = self._provider.repository(name)
        if isinstance(repository, PassesOn):
            repository = repository.asked_through(hops_of(cast("Headers", request.headers).get_all("Via")))
        size = repository.stat(digest)
        if size is None:
            self._check_exists(name)
            raise ApiError("BLOB_UNKNOWN", "no such blob")
        wanted = Descriptor(media_type=OCTETS, digest=digest, size=size)
        about = {"Content-Type": OCTETS, "Docker-Content-Digest": digest, "Accept-Ranges": "bytes"}
        about["ETag"] = f'"{digest}"'
        span = _requested_span(request, about["ETag"], size)
        start, end = span or (0, size - 1)
        about["Content-Length"] = str(end - start + 1)
        if span is not None:
            about["Content-Range"] = f"bytes {start}-{end}/{size}"
        status = 200 if span is None else 206
        if request.method == "HEAD" or not size:
            return Response(status, about)
        return Response(status, about, _opened_at(repository, wanted, start, end))

    def _delete_blob(self, name: str, digest: Digest) -> Response:
        if self._provider.repository(name).stat(digest) is None:
            raise ApiError("BLOB_UNKNOWN", "no such blob")
        self._eraser(name).delete(digest)
        return _empty(202)

    # --- Uploads ----------------------------------------------------------------------------------

    def _open_upload(self, name: str, request: Request, query: dict[str, str]) -> Response:
        repository = self._provider.repository(name)
        if "mount" in query:
            digest = checked_digest(query["mount"])
            if "from" in query and self._mount(repository, digest, checked_repository(query["from"])):
                return _created_blob(name, digest)
        elif "digest" in query:
            digest = checked_digest(query["digest"])
            with repository.ingest() as ingest:
                for chunk in body_chunks(request):
                    ingest.write(chunk)
                _commit(ingest, digest)
            return _created_blob(name, digest)
        session = self._uploads.open(name, repository.ingest)
        return _accepted(name, session, 0)

    def _mount(self, repository: ServedRepository, digest: Digest, source: str) -> bool:
        """Only what may be read through ``source`` (existence is not told to those who may not)."""
        size = self._provider.repository(source).stat(digest)
        if size is None or not hasattr(repository, "mount"):
            return False
        wanted = Descriptor(media_type=OCTETS, digest=digest, size=size)
        return cast("Mounter", repository).mount(wanted, source)

    def _upload_status(self, name: str, session: str) -> Response:
        with self._uploads.claim(name, session) as upload:
            return _accepted(name, session, upload.state.received, status=204)

    def _append(self, name: str, session: str, request: Request) -> Response:
        with self._uploads.claim(name, session) as upload:
            receive(upload, request, upload_path(name, session))
            return _accepted(name, session, upload.state.received)

    def _finish_upload(self, name: str, session: str, request: Request, query: dict[str, str]) -> Response:
        if "digest" not in query:
            raise ApiError("DIGEST_INVALID", "an upload is finished with the digest of its content")
        digest = checked_digest(query["digest"])
        with self._uploads.claim(name, session) as upload:
            receive(upload, request, upload_path(name, session))
            try:
                _commit(upload.ingest, digest)
            finally:
                self._uploads.discard(session)  # committed or spoiled: either way it is over
        return _created_blob(name, digest)

    def _cancel_upload(self, name: str, session: str) -> Response:
        with self._uploads.claim(name, session):
            self._uploads.discard(session)
        return _empty(204)

    # --- Shared -----------------------------------------------------------------------------------

    def _check_exists(self, name: str) -> None:
        if name not in self._provider.repositories():
            raise ApiError("NAME_UNKNOWN", "no such repository")

    def _eraser(self, name: str) -> Eraser:
        repository = self._provider.repository(name)
        if not isinstance(repository, Eraser):
            raise ApiError("UNSUPPORTED", "nothing can be deleted here")
        return repository


def _translated(error: LaminaError) -> ApiError:
    codes: tuple[tuple[type[LaminaError], str], ...] = (
        (NameNotFound, "MANIFEST_UNKNOWN"), (NotFound, "BLOB_UNKNOWN"), (IntegrityError, "DIGEST_INVALID"),
        (InvalidInput, "UNSUPPORTED"), (Unsupported, "UNSUPPORTED"), (Denied, "DENIED"),
        (Conflict, "UNSUPPORTED"),
    )
    code = next((code for kind, code in codes if isinstance(error, kind)), "UNAVAILABLE")
    return ApiError(code, str(error), status=400 if code == "DIGEST_INVALID" else error.status)


def _parsed_manifest(raw: bytes, media_type: str) -> Manifest | Index:
    try:
        return parse_graph_node(raw, media_type)
    except (InvalidInput, Unsupported) as error:
        raise ApiError("MANIFEST_INVALID", str(error)) from None


def _check_links(repository: ServedRepository, document: Manifest | Index) -> None:
    """An image's parts come first; an index may be sparse, and a foreign layer lives elsewhere."""
    if isinstance(document, Index):
        return
    for part in (document.config, *document.layers):
        if part.media_type not in FOREIGN_LAYERS and repository.stat(part.digest) is None:
            raise ApiError("MANIFEST_BLOB_UNKNOWN", f"push {part.digest} first")


def _commit(ingest: Ingest, digest: Digest) -> None:
    try:
        ingest.commit(OCTETS, digest)
    except IntegrityError:
        raise ApiError("DIGEST_INVALID", "the content does not have that digest") from None


def _requested_span(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    header = request.headers.get("Range", "")
    if not header or request.headers.get("If-Range", etag) != etag:
        return None
    try:
        return parse_range(header, size)
    except Unsatisfiable:
        headers = {"Content-Range": f"bytes */{size}"}
        raise ApiError("RANGE_INVALID", "the blob ends before that range", headers=headers) from None


def _opened_at(repository: ServedRepository, wanted: Descriptor, start: int, end: int) -> BinaryIO:
    if start and hasattr(repository, "open_at"):
        stream = cast("RangedFetcher", repository).open_at(wanted, start)
    else:
        stream = repository.open(wanted)
        _skip(stream, start)
    return stream if end == wanted.size - 1 else cast("BinaryIO", _Span(stream, end - start + 1))


def _skip(stream: BinaryIO, count: int) -> None:
    while count and (chunk := stream.read(min(count, _CHUNK))):
        count -= len(chunk)


class _Span(io.RawIOBase):
    """The first so many bytes of a stream, which it closes."""

    def __init__(self, stream: BinaryIO, length: int) -> None:
        super().__init__()
        self._stream = stream
        self._left = length

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(chunk)
        return chunk

    def close(self) -> None:
        self._stream.close()
        super().close()


def _empty(status: int, headers: dict[str, str] | None = None) -> Response:
    length = {} if status == 204 else {"Content-Length": "0"}
    return Response(status, {**(headers or {}), **length})


def _accepted(name: str, session: str, received: int, status: int = 202) -> Response:
    return _empty(status, {
        "Location": upload_path(name, session),
        "Range": received_range(received),
        "Docker-Upload-UUID": session,
    })


def _created_blob(name: str, digest: Digest) -> Response:
    return _empty(201, {"Location": blob_path(name, digest), "Docker-Content-Digest": digest})


def _list_response(body: bytes, link: str) -> Response:
    return json_response(200, body, {"Link": f'<{link}>; rel="next"'} if link else {})
