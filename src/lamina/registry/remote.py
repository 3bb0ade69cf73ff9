"""A registry's repositories as targets: what the rest of the house sees of the distribution protocol."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, TypeVar, cast

from lamina.content.store import DigestMismatch, Ingest, VerifyingReader
from lamina.errors import Denied, InvalidInput, LaminaError, NotFound
from lamina.http.message import DocumentTooLong, Response, Transport
from lamina.oci.descriptor import DOCKER_SCHEMA1, GRAPH_NODES, OCI_INDEX, Descriptor
from lamina.oci.digest import Digest, InvalidDigest
from lamina.oci.manifest import MAX_DOCUMENT, Index, InvalidManifest, UnsupportedManifest, parse_graph_node
from lamina.oci.reference import TAG, Reference
from lamina.registry.auth import Authorizer, repository_scope
from lamina.registry.credentials import Credential, CredentialSource, NoCredentials
from lamina.registry.download import BlobStream, positioned
from lamina.registry.failures import (
    About,
    Kind,
    Unauthorized,
    UnexpectedAnswer,
    failure,
    web_page,
)
from lamina.registry.hosts import Endpoint, RegistrySettings
from lamina.registry.protocol import (
    ACCEPT_DOCUMENTS,
    MAX_LIST_BODY,
    MAX_PAGES,
    blob_path,
    catalog_path,
    is_document_type,
    manifest_path,
    media_type_of,
    next_link,
    parse_names,
    referrers_path,
    referrers_tag,
    tags_path,
)
from lamina.registry.retry import Patience
from lamina.registry.session import KnownHosts, Session
from lamina.registry.upload import RemoteIngest, Uploader, UploadSession

_T = TypeVar("_T")
_PAGE = 1000
_FOUND_OR_NOT = frozenset({200, 404})
_WHOLE_OR_PART = frozenset({200, 206})
_CREATED = frozenset({201})
_DELETED = frozenset({202, 200, 204})
# Manifests kept in memory between resolve and open; an image with its index needs two or three.
_MAX_KEPT = 64


class RegistryClient:
    """What repositories share: connections, tokens, and what was learned of hosts. Safe for threads.

    The transport stays the caller's, who closes it.
    """

    def __init__(
        self,
        transport: Transport,
        settings: RegistrySettings | None = None,
        credentials: CredentialSource | None = None,
        *,
        patience: Patience | None = None,
        user_agent: str = "lamina",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings or RegistrySettings()
        self._transport = transport
        self._patience = patience or Patience(attempts=self.settings.max_attempts)
        self._authorizer = Authorizer(transport, self.settings, credentials or NoCredentials(), clock=clock)
        self._hosts = KnownHosts()
        self._user_agent = user_agent

    def repository(
        self, reference: Reference, *, headers: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> RemoteRepository:
        """The repository that the reference is in; its tag and digest play no part.

        ``headers`` go with questions for blobs. ``patience`` is the client's if none is given.
        """
        readers = [
            self.session(endpoint, patience=patience) for endpoint in self.settings.endpoints(reference)
        ]
        writer = self.session(self.settings.push_endpoint(reference), patience=patience)
        return RemoteRepository(reference, readers, writer, headers or {})

    def session(
        self, endpoint: Endpoint, authorizer: Authorizer | None = None, patience: Patience | None = None
    ) -> Session:
        return Session(
            endpoint, transport=self._transport, authorizer=authorizer or self._authorizer,
            settings=self.settings,
            patience=patience or self._patience, hosts=self._hosts, user_agent=self._user_agent,
        )

    def sign_in(self, registry: str, credential: Credential) -> Credential:
        """Checks credentials with the registry, and gives what should be stored for it.

        Raises :class:`Unauthorized` where the registry refuses them.
        """
        session = self.session(self.settings.registry_endpoint(registry))
        challenge = session.ping()
        about = About(registry, registry)
        if challenge.status != 401:
            if challenge.status == 200 and media_type_of(challenge.headers) != "text/html":
                challenge.close()
                return credential
            raise failure(about, challenge, is_known=False)
        headers = challenge.headers.get_all("WWW-Authenticate")
        challenge.close()
        checker = Authorizer(self._transport, self.settings, _Only(credential))
        trial = self.session(session.endpoint, checker)
        try:
            kept = checker.sign_in(session.endpoint, session.origin(), headers, credential)
            trial.call("GET", "/v2/", about=about).close()
        except Unauthorized:
            raise Unauthorized(f"{registry}: the user name or password was refused") from None
        return kept

    def catalog(self, registry: str) -> Iterator[str]:
        """Every repository, where the registry lets us ask."""
        session = self.session(self.settings.registry_endpoint(registry))
        about = About(registry, f"the catalog of {registry}")
        scopes = ("registry:catalog:*",)
        yield from _names(session, catalog_path(count=_PAGE), "repositories", about, scopes)


class _Only:
    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    def find(self, registry: str, repository: str = "") -> Credential | None:  # noqa: ARG002
        return self._credential


class RemoteRepository:
    """A :class:`~lamina.content.store.Target` with ranges and mounts. Safe for threads.

    Reading goes to mirrors first, and past those that fail; writing to the registry itself.
    """

    def __init__(
        self, reference: Reference, readers: list[Session], writer: Session, headers: Mapping[str, str]
    ) -> None:
        self._reference = reference
        self._headers = headers
        self._readers = readers
        self._writer = writer
        self._lock = threading.Lock()
        self._kept: dict[Digest, tuple[Descriptor, bytes]] = {}
        self._mounting: dict[Digest, UploadSession] = {}
        self._absent: set[Digest] = set()

    @property
    def name(self) -> str:
        return self._reference.name

    @property
    def patience(self) -> Patience:
        return self._readers[-1].patience

    # --- Reading ----------------------------------------------------------------------------------

    def resolve(self, name: str) -> Descriptor:
        """A tag or digest to what it names; the document is kept, so that opening it costs nothing."""
        return self.fetch_manifest(name)[0]

    def fetch_manifest(self, name: str) -> tuple[Descriptor, bytes]:
        """A document by tag or digest: verified, and understood as a manifest or an index."""
        wanted = _tag_or_digest(name)
        if isinstance(wanted, Digest) and (kept := self._recall(wanted)) is not None:
            return kept
        found = self._read(wanted, lambda session: self._fetch_from(session, wanted))
        self._remember(*found)
        return found

    def probe(self, name: str) -> Descriptor | None:
        """What a tag names, by HEAD: cheap, uncounted where pulls are limited, and unverified.

        ``None`` where the registry does not say enough; then :meth:`resolve` will.
        """
        wanted = _tag_or_digest(name)
        return self._read(wanted, lambda session: self._probe_at(session, wanted))

    def open(self, wanted: Descriptor) -> BinaryIO:
        return self.open_at(wanted, 0)

    def open_at(self, wanted: Descriptor, offset: int) -> BinaryIO:
        """A stream that resumes by itself where a connection breaks off. Its bytes are not verified."""
        if wanted.media_type in GRAPH_NODES:
            return io.BytesIO(self.fetch_manifest(wanted.digest)[1][offset:])
        if offset >= wanted.size:
            return io.BytesIO()
        reopen = lambda at: self._read(  # noqa: E731
            None, lambda session: self._open_from(session, wanted, at)
        )
        return cast("BinaryIO", BlobStream(wanted, reopen, self.patience, offset))

    def has(self, wanted: Descriptor) -> bool:
        """Whether the registry itself has it: a mirror's word counts for nothing when we push."""
        with self._head(self._writer, wanted) as response:
            found = response.status == 200
        if not found:
            self._absent.add(wanted.digest)
        return found

    def tags(self) -> Iterator[str]:
        """Tags in the registry's order, page by page."""
        session = self._readers[-1]
        about = About(session.endpoint.registry, self.name)
        path = tags_path(session.endpoint.repository, count=_PAGE)
        for tag in _names(session, path, "tags", about, self._pull_scope(session)):
            if TAG.fullmatch(tag) is not None:
                yield tag

    def referrers(self, subject: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """Manifests that say they are about ``subject``; by tag schema where the API is missing."""
        session = self._readers[-1]
        repository = session.endpoint.repository
        about = About(session.endpoint.registry, f"{self.name}: referrers of {subject}")
        found: list[Descriptor] = []
        path = referrers_path(repository, subject, artifact_type)
        for page, url in _pages(session, path, about, self._pull_scope(session), _FOUND_OR_NOT):
            if page.status == 404:
                found.extend(self._referrers_by_tag(session, subject))
                break
            found.extend(Index.parse(_document(session, page, url), OCI_INDEX).manifests)
        return tuple(item for item in found if artifact_type in {"", item.artifact_type})

    # --- Writing ----------------------------------------------------------------------------------

    def put(self, expected: Descriptor, source: BinaryIO) -> None:
        if expected.media_type in GRAPH_NODES:
            if expected.size > MAX_DOCUMENT:
                raise InvalidManifest(f"{expected.digest}: {expected.size} bytes is over {MAX_DOCUMENT}")
            self.put_manifest(VerifyingReader(expected, source).read(), expected.media_type)
            return
        with self._lock:
            opened = self._mounting.pop(expected.digest, None)
        if opened is None and not self._is_known_absent(expected.digest) and self.has(expected):
            return
        self._uploader(expected.digest).put(expected, source, opened)
        self._absent.discard(expected.digest)

    def ingest(self) -> Ingest:
        return RemoteIngest(self._uploader("an upload"))

    def mount(self, wanted: Descriptor, repository: str) -> bool:
        """``repository`` is on the same registry, as its API names it. A refusal is no error."""
        session = self._writer
        scopes = (*self._push_scope(session), repository_scope(repository, "pull"))
        uploader = Uploader(session, self._about(session, wanted.digest, Kind.BLOB), scopes)
        try:
            opened = uploader.mount(wanted.digest, repository)
        except Denied:
            return False
        if opened is None:
            self._absent.discard(wanted.digest)
            return True
        with self._lock:
            self._mounting[wanted.digest] = opened
        return False

    def put_manifest(self, raw: bytes, media_type: str, tag: str = "") -> Descriptor:
        """Pushes a document exactly as it is, under a tag or, without one, under its digest."""
        document = parse_graph_node(raw, media_type)
        descriptor = document.descriptor
        session = self._writer
        about = self._about(session, tag or descriptor.digest, Kind.OTHER)
        path = manifest_path(session.endpoint.repository, tag or descriptor.digest)
        with session.call(
            "PUT", path, about=about, scopes=self._push_scope(session), body=raw, expect=_CREATED,
            headers={"Content-Type": descriptor.media_type},
        ) as response:
            _check_digest(response, descriptor.digest, raw)
        self._remember(descriptor, raw)
        return descriptor

    def tag(self, name: str, target: Descriptor) -> None:
        """``target`` must be a document that was put here, or is there already."""
        if TAG.fullmatch(name) is None:
            raise InvalidInput(f"{name[:160]!r}: not a tag")
        descriptor, raw = self.fetch_manifest(target.digest)
        self.put_manifest(raw, descriptor.media_type, name)

    def delete(self, digest: Digest) -> None:
        """Removes a manifest, and with it its tags, or else a blob; registries may not allow either."""
        session = self._writer
        try:
            self._delete(session, manifest_path(session.endpoint.repository, digest), digest)
        except NotFound:
            self._delete(session, blob_path(session.endpoint.repository, digest), digest)
        with self._lock:
            self._kept.pop(digest, None)

    def delete_tag(self, name: str) -> None:
        session = self._writer
        if TAG.fullmatch(name) is None:
            raise InvalidInput(f"{name[:160]!r}: not a tag")
        self._delete(session, manifest_path(session.endpoint.repository, name), name)

    # --- One endpoint at a time -------------------------------------------------------------------

    def _read(self, document: Digest | str | None, act: Callable[[Session], _T]) -> _T:
        """The first endpoint that can; the last one's error, with what its mirrors said.

        Mirrors may be only for tags or only for digests, of documents; blobs are asked of any.
        """
        complaints = []
        for session in self._readers[:-1]:
            endpoint = session.endpoint
            by_digest = isinstance(document, Digest)
            if document is not None and not (endpoint.by_digest if by_digest else endpoint.by_tag):
                continue
            try:
                return act(session)
            except LaminaError as error:
                complaints.append(f"mirror {endpoint}: {error}")
        try:
            return act(self._readers[-1])
        except LaminaError as error:
            for complaint in complaints:
                error.add_note(complaint)
            raise

    def _fetch_from(self, session: Session, wanted: Digest | str) -> tuple[Descriptor, bytes]:
        with session.call(
            "GET", manifest_path(session.endpoint.repository, wanted),
            about=self._about(session, wanted, Kind.MANIFEST), scopes=self._pull_scope(session),
            headers={"Accept": ACCEPT_DOCUMENTS},
        ) as response:
            raw = _document(session, response, self._shown(wanted))
            said = media_type_of(response.headers)
            _check_digest(response, wanted if isinstance(wanted, Digest) else None, raw)
        return _understood(raw, said, wanted), raw

    def _probe_at(self, session: Session, wanted: Digest | str) -> Descriptor | None:
        with session.call(
            "HEAD", manifest_path(session.endpoint.repository, wanted),
            about=self._about(session, wanted, Kind.MANIFEST), scopes=self._pull_scope(session),
            headers={"Accept": ACCEPT_DOCUMENTS},
        ) as response:
            media_type, size = media_type_of(response.headers), response.content_length
            text = response.headers.get("Docker-Content-Digest", "")
        if media_type not in GRAPH_NODES or not size or not text:
            return None
        return Descriptor(media_type=media_type, digest=Digest.parse(text), size=size)

    def _open_from(self, session: Session, wanted: Descriptor, offset: int) -> Response:
        headers = {**self._headers, **({"Range": f"bytes={offset}-"} if offset else {})}
        response = session.call(
            "GET", blob_path(session.endpoint.repository, wanted.digest),
            about=self._about(session, wanted.digest, Kind.BLOB), scopes=self._pull_scope(session),
            headers=headers, expect=_WHOLE_OR_PART,
        )
        return positioned(response, wanted, offset)

    def _head(self, session: Session, wanted: Descriptor) -> Response:
        repository = session.endpoint.repository
        is_document = wanted.media_type in GRAPH_NODES
        return session.call(
            "HEAD", (manifest_path if is_document else blob_path)(repository, wanted.digest),
            about=self._about(session, wanted.digest, Kind.OTHER), scopes=self._pull_scope(session),
            headers={"Accept": ACCEPT_DOCUMENTS} if is_document else self._headers, expect=_FOUND_OR_NOT,
        )

    def _delete(self, session: Session, path: str, subject: str) -> None:
        scopes = (repository_scope(session.endpoint.repository, "delete", "pull"),)
        about = self._about(session, subject, Kind.BLOB)
        session.call("DELETE", path, about=about, scopes=scopes, expect=_DELETED).close()

    def _referrers_by_tag(self, session: Session, subject: Digest) -> tuple[Descriptor, ...]:
        try:
            _, raw = self._fetch_from(session, referrers_tag(subject))
        except NotFound:
            return ()
        return Index.parse(raw).manifests

    def _uploader(self, subject: str) -> Uploader:
        session = self._writer
        return Uploader(session, self._about(session, subject, Kind.OTHER), self._push_scope(session))

    def _is_known_absent(self, digest: Digest) -> bool:
        """``has`` said so a moment ago, which saves asking twice for each blob of a push."""
        return digest in self._absent

    def _remember(self, descriptor: Descriptor, raw: bytes) -> None:
        with self._lock:
            self._kept[descriptor.digest] = (descriptor, raw)
            while len(self._kept) > _MAX_KEPT:
                del self._kept[next(iter(self._kept))]

    def _recall(self, digest: Digest) -> tuple[Descriptor, bytes] | None:
        with self._lock:
            return self._kept.get(digest)

    def _about(self, session: Session, subject: str, kind: Kind) -> About:
        return About(session.endpoint.registry, self._shown(subject), kind)

    def _shown(self, subject: str) -> str:
        mark = "@" if isinstance(subject, Digest) else ":"
        return f"{self._reference.familiar_name}{mark}{subject}" if subject else self._reference.familiar_name

    @staticmethod
    def _pull_scope(session: Session) -> tuple[str, ...]:
        return (repository_scope(session.endpoint.repository, "pull"),)

    @staticmethod
    def _push_scope(session: Session) -> tuple[str, ...]:
        return (repository_scope(session.endpoint.repository, "pull", "push"),)


def _tag_or_digest(name: str) -> Digest | str:
    if isinstance(name, Digest):
        return name
    if ":" in name:
        return Digest.parse(name)
    if TAG.fullmatch(name) is None:
        raise InvalidInput(f"{name[:160]!r}: neither a tag nor a digest")
    return name


def _document(session: Session, response: Response, subject: str) -> bytes:
    if media_type_of(response.headers) == "text/html":
        raise web_page(session.endpoint.registry, response.status)
    try:
        return response.read_document(MAX_DOCUMENT)
    except DocumentTooLong as error:
        raise InvalidManifest(f"{subject}: {error}") from None


def _understood(raw: bytes, said: str, wanted: Digest | str) -> Descriptor:
    """SECURITY: a document that says it is one thing in its header and another inside is refused."""
    if said in DOCKER_SCHEMA1:
        raise UnsupportedManifest(
            f"{wanted}: a Docker schema 1 manifest, which is not supported (deprecated in 2017); "
            "ask its publisher to push it again"
        )
    document = parse_graph_node(raw, said if is_document_type(said) else "")
    algorithm = wanted.algorithm if isinstance(wanted, Digest) else "sha256"
    return Descriptor(media_type=document.media_type, digest=Digest.of(raw, algorithm), size=len(raw))


def _check_digest(response: Response, wanted: Digest | None, raw: bytes) -> None:
    """The bytes against the name we asked for, and against what the registry says of them."""
    if wanted is not None and (got := Digest.of(raw, wanted.algorithm)) != wanted:
        raise DigestMismatch(f"{wanted}: the bytes received have the digest {got}")
    text = response.headers.get("Docker-Content-Digest", "")
    if not text:
        return
    try:
        said = Digest.parse(text)
    except InvalidDigest:
        raise UnexpectedAnswer(f"{text[:160]!r}: the Docker-Content-Digest received is no digest") from None
    found = Digest.of(raw, said.algorithm)
    if found != said:
        raise DigestMismatch(f"{said}: announced by the registry, but the bytes have the digest {found}")


def _pages(
    session: Session, path: str, about: About, scopes: tuple[str, ...], expect: frozenset[int]
) -> Iterator[tuple[Response, str]]:
    """Each page and its URL. A registry that leads in circles, or on for ever, is stopped."""
    target, seen = path, set[str]()
    for _ in range(MAX_PAGES):
        seen.add(session.url(target))
        with session.call("GET", target, about=about, scopes=scopes, expect=expect) as response:
            yield response, target
            following = next_link(response.headers, session.url(target))
        if following is None:
            return
        target = session.resolve(following, session.url(target))
        if target in seen:
            raise UnexpectedAnswer(f"{about.registry}: its pages of {about.subject} lead in a circle")
    raise UnexpectedAnswer(f"{about.registry}: more than {MAX_PAGES} pages of {about.subject}")


def _names(
    session: Session, path: str, key: str, about: About, scopes: tuple[str, ...]
) -> Iterator[str]:
    for page, _ in _pages(session, path, about, scopes, frozenset({200})):
        if media_type_of(page.headers) == "text/html":
            raise web_page(about.registry, page.status)
        yield from parse_names(page.read_document(MAX_LIST_BODY), key)
