"""Pushing blobs: against our own server, and against servers with ways of their own."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.registry.net import Net, Script, Waits, answer, blob, client, refusal, sample

from lamina.content.store import DigestMismatch, SizeMismatch
from lamina.errors import Unavailable, Unsupported
from lamina.http.message import BrokenConnection, Request, Response
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, InvalidManifest
from lamina.oci.reference import Reference
from lamina.registry.credentials import Credential
from lamina.registry.failures import RegistryRefused, RegistryUnavailable, UnexpectedAnswer
from lamina.registry.remote import RemoteRepository
from lamina.registry.server import RegistryApp
from lamina.registry.upload import CHUNK, MAX_CHUNK
from lamina.testing.registry import MemoryProvider

REGISTRY = "https://registry.example"
NAME = Reference.parse("registry.example/team/tool")
DATA = bytes(range(256)) * 100
WANTED = blob(DATA)
HERE = "/v2/team/tool/blobs/uploads/0"


@pytest.fixture
def provider() -> MemoryProvider:
    return MemoryProvider()


@pytest.fixture
def app(provider: MemoryProvider) -> RegistryApp:
    return RegistryApp(provider, allowed_hosts=["registry.example"])


def repository(net: Net, waits: Waits | None = None, **options: Any) -> RemoteRepository:
    return client(net, waits=waits, **options).repository(NAME)


def stored(provider: MemoryProvider, digest: Digest = WANTED.digest) -> bytes:
    return provider.repository("team/tool")._blobs[digest]


class Unseekable(io.RawIOBase):
    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)


def before(app: Callable[[Request], Response], act: Callable[[Request], Response | None]) -> Callable[[Request], Response]:
    """The application behind something that may answer in its place."""

    def serve(request: Request) -> Response:
        return act(request) or app(request)

    return serve


def methods(net: Net) -> list[str]:
    return [request.method for request in net.sent]


def test_a_blob_goes_in_one_request(app: RegistryApp, provider: MemoryProvider) -> None:
    net = Net({REGISTRY: app})
    repository(net).put(WANTED, io.BytesIO(DATA))
    assert stored(provider) == DATA
    assert methods(net) == ["HEAD", "POST", "PUT"]
    assert net.sent[-1].headers["Content-Length"] == str(len(DATA))


def test_a_blob_that_is_there_is_not_sent(app: RegistryApp) -> None:
    net = Net({REGISTRY: app})
    repository(net).put(WANTED, io.BytesIO(DATA))
    source = io.BytesIO(DATA)
    repository(net).put(WANTED, source)
    assert methods(net) == ["HEAD", "POST", "PUT", "HEAD"]
    assert source.tell() == 0


def test_who_asked_has_does_not_ask_again(app: RegistryApp) -> None:
    net = Net({REGISTRY: app})
    target = repository(net)
    assert not target.has(WANTED)
    target.put(WANTED, io.BytesIO(DATA))
    assert methods(net) == ["HEAD", "POST", "PUT"]
    assert target.has(WANTED)


def test_an_empty_blob(app: RegistryApp, provider: MemoryProvider) -> None:
    repository(Net({REGISTRY: app})).put(blob(b""), io.BytesIO(b""))
    assert stored(provider, blob(b"").digest) == b""


def test_a_source_that_cannot_be_rewound(app: RegistryApp, provider: MemoryProvider) -> None:
    repository(Net({REGISTRY: app})).put(WANTED, Unseekable(DATA))  # type: ignore[arg-type]
    assert stored(provider) == DATA


@pytest.mark.parametrize(("data", "kind"), [
    (DATA[:-1], SizeMismatch), (DATA + b"x", SizeMismatch), (DATA[::-1], DigestMismatch), (b"", SizeMismatch),
])
@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_source_that_is_not_what_it_should_be(
    app: RegistryApp, provider: MemoryProvider, data: bytes, kind: type[Exception], in_chunks: bool
) -> None:
    def refuse_whole(request: Request) -> Response | None:
        is_whole = request.method == "PUT" and request.headers["Content-Length"] != "0"
        return answer(405) if in_chunks and is_whole else None

    with pytest.raises(kind):
        repository(Net({REGISTRY: before(app, refuse_whole)})).put(WANTED, io.BytesIO(data))
    assert not provider.repository("team/tool").has(WANTED)


def test_the_source_is_left_open(app: RegistryApp) -> None:
    source = io.BytesIO(DATA)
    repository(Net({REGISTRY: app})).put(WANTED, source)
    assert not source.closed


def test_it_begins_where_the_source_stands(app: RegistryApp, provider: MemoryProvider) -> None:
    source = io.BytesIO(b"header" + DATA)
    source.seek(6)
    failures = [BrokenConnection("broke")]

    def break_once(request: Request) -> Response | None:
        if request.method == "PUT" and failures:
            request.body.read(10)  # type: ignore[union-attr]
            raise failures.pop()
        return None

    repository(Net({REGISTRY: before(app, break_once)})).put(WANTED, source)
    assert stored(provider) == DATA


# --- Beginning again ------------------------------------------------------------------------------


def failing_puts(app: RegistryApp, *failures: Exception | Response) -> Callable[[Request], Response]:
    left = list(failures)

    def act(request: Request) -> Response | None:
        if request.method != "PUT" or not left:
            return None
        failure = left.pop(0)
        if isinstance(failure, Response):
            return failure
        raise failure

    return before(app, act)


def test_a_broken_upload_begins_again(app: RegistryApp, provider: MemoryProvider) -> None:
    waits = Waits()
    net = Net({REGISTRY: failing_puts(app, BrokenConnection("broke"), answer(503, Retry_After="2"))})
    repository(net, waits).put(WANTED, io.BytesIO(DATA))
    assert stored(provider) == DATA
    assert methods(net) == ["HEAD", "POST", "PUT", "POST", "PUT", "POST", "PUT"]
    assert waits.seconds == [0.5, 2.5]


def test_patience_ends(app: RegistryApp) -> None:
    net = Net({REGISTRY: failing_puts(app, *[BrokenConnection("broke")] * 10)})
    with pytest.raises(BrokenConnection):
        repository(net, attempts=3).put(WANTED, io.BytesIO(DATA))
    assert methods(net).count("PUT") == 3


def test_what_cannot_be_rewound_is_sent_once(app: RegistryApp) -> None:
    net = Net({REGISTRY: failing_puts(app, answer(503))})
    with pytest.raises(RegistryUnavailable):
        repository(net).put(WANTED, Unseekable(DATA))  # type: ignore[arg-type]
    assert methods(net).count("PUT") == 1


def test_credentials_that_expire_under_an_upload(app: RegistryApp, provider: MemoryProvider) -> None:
    challenge = refusal(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')
    net = Net({REGISTRY: failing_puts(app, challenge)})
    me = Credential(username="me", secret="hush")
    repository(net, credentials={"registry.example": me}).put(WANTED, io.BytesIO(DATA))
    assert stored(provider) == DATA
    assert methods(net).count("PUT") == 2


# --- Chunks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404, 405, 411, 413, 415])
def test_a_registry_that_refuses_whole_blobs_gets_chunks(app: RegistryApp, provider: MemoryProvider, status: int) -> None:
    net = Net({REGISTRY: failing_puts(app, answer(status))})
    if status == 404:
        with pytest.raises(LookupError):
            repository(net).put(WANTED, io.BytesIO(DATA))
        return
    repository(net).put(WANTED, io.BytesIO(DATA))
    assert stored(provider) == DATA
    assert methods(net) == ["HEAD", "POST", "PUT", "POST", "PATCH", "PUT"]
    patch = net.sent[-2]
    assert patch.headers["Content-Range"] == f"0-{len(DATA) - 1}"


def test_a_refusal_of_the_content_is_final(app: RegistryApp) -> None:
    net = Net({REGISTRY: failing_puts(app, refusal(400, "DIGEST_INVALID"))})
    with pytest.raises(RegistryRefused, match="DIGEST_INVALID"):
        repository(net).put(WANTED, io.BytesIO(DATA))
    assert methods(net).count("PUT") == 1


def test_chunks_are_of_bounded_size(app: RegistryApp, provider: MemoryProvider) -> None:
    data = b"x" * (2 * CHUNK + 5)
    net = Net({REGISTRY: failing_puts(app, answer(413))})
    repository(net).put(blob(data), io.BytesIO(data))
    assert stored(provider, blob(data).digest) == data
    patches = [request.headers["Content-Range"] for request in net.sent if request.method == "PATCH"]
    assert patches == [f"0-{CHUNK - 1}", f"{CHUNK}-{2 * CHUNK - 1}", f"{2 * CHUNK}-{2 * CHUNK + 4}"]


class Keeping:
    """A server that keeps only part of a chunk, in ways a test says, before it fails."""

    def __init__(self, *keeps: int | None) -> None:
        self.keeps = list(keeps)
        self.received = bytearray()

    def __call__(self, request: Request) -> Response:
        if request.method == "HEAD":
            return answer(404)
        if request.method == "POST":
            self.received.clear()
            return answer(202, Location=HERE)
        if request.method == "PATCH":
            return self._patch(request)
        if request.method == "GET":
            return answer(204, Range=f"0-{max(0, len(self.received) - 1)}", Location=HERE)
        if request.method == "DELETE":
            return answer(204)
        assert request.url.endswith(f"?digest={Digest.of(bytes(self.received))}")
        return answer(201)

    def _patch(self, request: Request) -> Response:
        body = request.body
        assert isinstance(body, bytes)
        start = int(request.headers["Content-Range"].partition("-")[0])
        assert start == len(self.received), "a chunk that does not follow"
        keep = self.keeps.pop(0) if self.keeps else None
        self.received += body if keep is None else body[:keep]
        if keep is not None:
            raise BrokenConnection("broke")
        return answer(202, Location=HERE, Range=f"0-{len(self.received) - 1}")


def ingest(net: Net, data: bytes, waits: Waits | None = None) -> None:
    with repository(net, waits).ingest() as upload:
        upload.write(data)
        upload.commit("application/x")


@pytest.mark.parametrize("keeps", [(0,), (100,), (len(DATA),), (5, 0, 7)])
def test_a_broken_chunk_goes_on_where_the_server_says(keeps: tuple[int, ...]) -> None:
    server = Keeping(*keeps)
    waits = Waits()
    ingest(Net({REGISTRY: server}), DATA, waits)
    assert server.received == DATA
    assert len(waits.seconds) == len(keeps)


def test_a_server_that_takes_less_than_it_was_given() -> None:
    class Nibbling(Keeping):
        def _patch(self, request: Request) -> Response:
            assert isinstance(request.body, bytes)
            self.received += request.body[:10_000]
            return answer(202, Range=f"0-{len(self.received) - 1}")

    server = Nibbling()
    ingest(Net({REGISTRY: server}), DATA)
    assert server.received == DATA


@pytest.mark.parametrize("status_range", ["0-99999999", "0-0"])
def test_a_server_that_loses_its_place(status_range: str) -> None:
    class Lost(Keeping):
        def _patch(self, request: Request) -> Response:
            return answer(202, Range=status_range)

    with pytest.raises(UnexpectedAnswer, match="lost its place"):
        ingest(Net({REGISTRY: Lost()}), DATA)


def test_a_server_that_wants_big_chunks() -> None:
    big = Script(answer(202, Location=HERE, OCI_Chunk_Min_Length=str(MAX_CHUNK + 1)))
    with pytest.raises(Unsupported, match="wants chunks"):
        ingest(Net({REGISTRY: big}), DATA)


def test_an_upload_without_a_place() -> None:
    with pytest.raises(UnexpectedAnswer, match="without saying where"):
        ingest(Net({REGISTRY: Script(answer(202))}), DATA)


def test_the_server_s_own_query_is_kept() -> None:
    seen: list[str] = []

    def act(request: Request) -> Response:
        seen.append(request.url)
        if request.method == "HEAD":
            return answer(404)
        return answer(202, Location=f"{REGISTRY}{HERE}?_state=a%2Bb%3D") if request.method == "POST" else answer(201)

    repository(Net({REGISTRY: act})).put(blob(b""), io.BytesIO(b""))
    assert seen[-1] == f"{REGISTRY}{HERE}?_state=a%2Bb%3D&digest={blob(b'').digest}"


def test_a_registry_that_stores_it_under_another_digest() -> None:
    other = str(blob(b"other").digest)
    net = Net({REGISTRY: Script(answer(404), answer(202, Location=HERE), answer(201, Docker_Content_Digest=other))})
    with pytest.raises(DigestMismatch, match="stored it as"):
        repository(net).put(blob(b""), io.BytesIO(b""))


def test_the_answer_that_says_it_is_done_may_be_lost(app: RegistryApp, provider: MemoryProvider) -> None:
    lost = [True]

    def lose(request: Request) -> Response:
        response = app(request)
        if request.method == "PUT" and lost:
            lost.clear()
            raise BrokenConnection("broke")
        return response

    ingest(Net({REGISTRY: lose}), DATA)
    assert stored(provider) == DATA


def test_an_upload_that_vanished_is_not_done(app: RegistryApp) -> None:
    with pytest.raises(LookupError):
        ingest(Net({REGISTRY: failing_puts(app, refusal(404, "BLOB_UPLOAD_UNKNOWN"))}), DATA)


# --- Mounts ---------------------------------------------------------------------------------------


def test_a_mount(app: RegistryApp, provider: MemoryProvider) -> None:
    provider.repository("other").put(WANTED, io.BytesIO(DATA))
    net = Net({REGISTRY: app})
    assert repository(net).mount(WANTED, "other")
    assert stored(provider) == DATA
    assert methods(net) == ["POST"]


def test_a_mount_that_does_not_happen_leaves_a_session_to_use(app: RegistryApp, provider: MemoryProvider) -> None:
    net = Net({REGISTRY: app})
    target = repository(net)
    assert not target.mount(WANTED, "other")
    target.put(WANTED, io.BytesIO(DATA))
    assert stored(provider) == DATA
    assert methods(net) == ["POST", "PUT"]


def test_a_session_left_by_a_mount_is_used_once(app: RegistryApp, provider: MemoryProvider) -> None:
    net = Net({REGISTRY: failing_puts(app, BrokenConnection("broke"))})
    target = repository(net)
    assert not target.mount(WANTED, "other")
    target.put(WANTED, io.BytesIO(DATA))
    assert stored(provider) == DATA
    assert methods(net) == ["POST", "PUT", "POST", "PUT"]


def test_a_mount_that_is_refused_is_no_error() -> None:
    assert not repository(Net({REGISTRY: Script(refusal(403, "DENIED"))})).mount(WANTED, "other")


# --- Ingest ---------------------------------------------------------------------------------------


def test_content_of_unknown_digest(app: RegistryApp, provider: MemoryProvider) -> None:
    data = b"y" * (CHUNK + 7)
    with repository(Net({REGISTRY: app})).ingest() as upload:
        for start in range(0, len(data), 1_000_000):
            assert upload.write(memoryview(data)[start : start + 1_000_000])
        descriptor = upload.commit("application/x")
    assert descriptor == blob(data, "application/x")
    assert stored(provider, descriptor.digest) == data


def test_leaving_without_a_commit_cancels(app: RegistryApp, provider: MemoryProvider) -> None:
    net = Net({REGISTRY: app})
    with repository(net).ingest() as upload:
        upload.write(b"x")
    assert methods(net) == ["POST", "DELETE"]
    assert not app._uploads._open
    assert list(provider.repositories()) == []


def test_a_commit_under_another_digest(app: RegistryApp) -> None:
    with repository(Net({REGISTRY: app})).ingest() as upload:
        upload.write(b"x")
        with pytest.raises(DigestMismatch):
            upload.commit("application/x", WANTED.digest)
        with pytest.raises(Unsupported):
            upload.commit("application/x", Digest.of(b"x", "sha512"))


# --- Manifests ------------------------------------------------------------------------------------


def test_a_manifest_is_pushed_as_it_is(app: RegistryApp, provider: MemoryProvider) -> None:
    image = sample()
    target = repository(Net({REGISTRY: app}))
    for descriptor, data in image.blobs():
        target.put(descriptor, io.BytesIO(data))
    target.put(image.manifest.descriptor, io.BytesIO(image.manifest.raw))
    target.tag("v1", image.manifest.descriptor)
    assert provider.repository("team/tool").resolve("v1").digest == image.manifest.descriptor.digest
    assert stored(provider, image.manifest.descriptor.digest) == image.manifest.raw


def test_a_manifest_whose_parts_are_missing(app: RegistryApp) -> None:
    image = sample()
    with pytest.raises(LookupError):
        repository(Net({REGISTRY: app})).put_manifest(image.manifest.raw, image.manifest.media_type)


def test_a_manifest_of_other_bytes(app: RegistryApp) -> None:
    image = sample()
    with pytest.raises((SizeMismatch, DigestMismatch)):
        repository(Net({REGISTRY: app})).put(image.manifest.descriptor, io.BytesIO(image.manifest.raw + b" "))


def test_a_manifest_that_is_too_long_is_not_read(app: RegistryApp) -> None:
    source = io.BytesIO(b" " * 100)
    huge = replace(sample().manifest.descriptor, size=MAX_DOCUMENT + 1)
    with pytest.raises(InvalidManifest, match="is over"):
        repository(Net({REGISTRY: app})).put(huge, source)
    assert source.tell() == 0


def test_tagging_what_is_there_already_needs_no_bytes_from_us(app: RegistryApp) -> None:
    image = sample()
    net = Net({REGISTRY: app})
    target = repository(net)
    for descriptor, data in image.blobs():
        target.put(descriptor, io.BytesIO(data))
    target.put_manifest(image.manifest.raw, image.manifest.media_type, "v1")
    repository(net).tag("v2", image.manifest.descriptor)
    assert sorted(repository(net).tags()) == ["v1", "v2"]
    with pytest.raises(ValueError, match="not a tag"):
        target.tag("../x", image.manifest.descriptor)


def test_writing_to_a_read_only_registry(provider: MemoryProvider) -> None:
    provider.may_write = False
    net = Net({REGISTRY: RegistryApp(provider, allowed_hosts=["registry.example"])})
    with pytest.raises(Unsupported, match="read-only"):
        repository(net).put(WANTED, io.BytesIO(DATA))


def test_a_full_disk_on_the_other_side(app: RegistryApp) -> None:
    net = Net({REGISTRY: failing_puts(app, refusal(507, "UNAVAILABLE", "no space left"))})
    with pytest.raises(Unavailable, match="no space left"):
        repository(net).put(WANTED, Unseekable(DATA))  # type: ignore[arg-type]
