"""The registry that we serve, as strangers and enemies meet it (SECURITY 50-55)."""

from __future__ import annotations

import errno
import io
import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from tests.registry.net import blob, sample

from lamina.content.memory import MemoryIngest, MemoryStore
from lamina.content.store import Ingest
from lamina.errors import Unavailable
from lamina.http.message import BrokenConnection, Request, Response
from lamina.oci.descriptor import (
    DOCKER_MANIFEST,
    FOREIGN_LAYERS,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, Index, Manifest
from lamina.registry.protocol import ApiError, parse_errors
from lamina.registry.server import RegistryApp
from lamina.registry.uploads import Uploads
from lamina.testing.registry import MemoryProvider, MemoryRepository

DATA = b"0123456789" * 100
WANTED = blob(DATA)
NOTHING = "sha256:" + "0" * 64
IMAGE = sample()
UPLOADS = "/v2/a/blobs/uploads/"


class Server:
    """An application and a provider, called the way a socket would."""

    def __init__(self, provider: MemoryProvider | None = None, **options: Any) -> None:
        self.provider = provider or MemoryProvider()
        self.app = RegistryApp(self.provider, **options)

    def __call__(self, method: str, target: str, body: bytes | io.RawIOBase | None = None, **headers: str) -> Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, bytes):
            given.setdefault("Content-Length", str(len(body)))
        return self.app(Request(method=method, url=f"http://localhost:5000{target}", headers=given, body=body))  # type: ignore[arg-type]

    def open_upload(self, repository: str = "a") -> str:
        return self("POST", f"/v2/{repository}/blobs/uploads/").headers["Location"]

    def push(self, repository: str = "a", tag: str = "1") -> None:
        target = self.provider.repository(repository)
        for descriptor, data in IMAGE.blobs():
            target.put(descriptor, io.BytesIO(data))
        target.put(IMAGE.manifest.descriptor, io.BytesIO(IMAGE.manifest.raw))
        target.tag(tag, IMAGE.manifest.descriptor)


def code(response: Response) -> tuple[int, str]:
    details = parse_errors(response.read())
    return response.status, details[0].code if details else ""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.app.close()


# --- The front door -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_it_is_a_registry(server: Server, path: str) -> None:
    response = server("GET", path)
    assert response.status == 200
    assert response.headers["Docker-Distribution-API-Version"] == "registry/2.0"
    assert response.read() == b"{}"
    assert server("HEAD", path).read() == b""


@pytest.mark.parametrize("host", ["localhost:5000", "127.0.0.1", "[::1]:5000", "192.168.1.5:5000", "box.example", "BOX.example:80"])
def test_names_it_goes_by(host: str) -> None:
    app = RegistryApp(MemoryProvider(), allowed_hosts=["box.example"])
    assert app(Request(method="GET", url=f"http://{host}/v2/")).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "box.example.evil"])
def test_names_that_dns_was_rebound_to(host: str) -> None:
    app = RegistryApp(MemoryProvider(), allowed_hosts=["box.example"])
    assert code(app(Request(method="GET", url=f"http://{host}/v2/"))) == (403, "DENIED")


@pytest.mark.parametrize("url", ["http:///v2/", "http://a b/v2/", "http://x@localhost/v2/", "http://localhost:x/v2/"])
def test_hosts_that_are_none(url: str) -> None:
    assert RegistryApp(MemoryProvider())(Request(method="GET", url=url)).status == 400


@pytest.mark.parametrize("headers", [
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost"},
    {"Origin": "http://localhost:5001"}, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_web_pages_are_refused(server: Server, headers: dict[str, str], method: str) -> None:
    assert code(server(method, UPLOADS if method == "POST" else "/v2/_catalog", **headers)) == (403, "DENIED")
    assert not server.app._uploads._open


def test_a_person_may_look(server: Server) -> None:
    assert server("GET", "/v2/", Sec_Fetch_Site="none").status == 200
    assert server("GET", "/v2/", Origin="http://localhost:5000", Sec_Fetch_Site="same-origin").status == 200


@pytest.mark.parametrize(("method", "target", "allow"), [
    ("POST", "/v2/", "GET"), ("DELETE", "/v2/_catalog", "GET"), ("PATCH", f"/v2/a/blobs/{NOTHING}", "GET, DELETE"),
    ("POST", "/v2/a/manifests/1", "GET, PUT, DELETE"), ("PUT", "/v2/a/tags/list", "GET"), ("GET", UPLOADS, "POST"),
    ("OPTIONS", "/v2/", "GET"), ("TRACE", "/v2/", "GET"),
])
def test_methods_that_are_not_for_it(server: Server, method: str, target: str, allow: str) -> None:
    response = server(method, target)
    assert response.headers["Allow"] == allow
    assert code(response) == (405, "UNSUPPORTED")


@pytest.mark.parametrize(("method", "target"), [
    ("POST", UPLOADS), ("PUT", "/v2/a/manifests/2"), ("DELETE", "/v2/a/manifests/1"), ("DELETE", f"/v2/a/blobs/{NOTHING}"),
])
def test_read_only_means_read_only(method: str, target: str) -> None:
    server = Server(MemoryProvider(may_write=False))
    server.push()
    assert code(server(method, target, b"x")) == (405, "UNSUPPORTED")
    assert server("GET", "/v2/a/manifests/1").status == 200


# --- Reading --------------------------------------------------------------------------------------


def test_a_manifest_by_tag_and_by_digest(server: Server) -> None:
    server.push()
    digest = IMAGE.manifest.descriptor.digest
    for reference in ("1", digest):
        response = server("GET", f"/v2/a/manifests/{reference}")
        assert response.status == 200
        assert response.read() == IMAGE.manifest.raw
        assert response.headers["Content-Type"] == OCI_MANIFEST
        assert response.headers["Docker-Content-Digest"] == digest
        head = server("HEAD", f"/v2/a/manifests/{reference}")
        assert head.headers["Content-Length"] == str(len(IMAGE.manifest.raw))
        assert head.read() == b""


@pytest.mark.parametrize(("target", "expected"), [
    ("/v2/a/manifests/2", (404, "MANIFEST_UNKNOWN")),
    (f"/v2/a/manifests/{NOTHING}", (404, "MANIFEST_UNKNOWN")),
    (f"/v2/a/manifests/{IMAGE.layer.digest}", (404, "MANIFEST_UNKNOWN")),
    ("/v2/b/manifests/1", (404, "NAME_UNKNOWN")),
    (f"/v2/a/blobs/{NOTHING}", (404, "BLOB_UNKNOWN")),
    (f"/v2/b/blobs/{IMAGE.layer.digest}", (404, "NAME_UNKNOWN")),
    ("/v2/b/tags/list", (404, "NAME_UNKNOWN")),
])
def test_what_is_not_there(server: Server, target: str, expected: tuple[int, str]) -> None:
    server.push()
    assert code(server("GET", target)) == expected
    assert server("HEAD", target).status == expected[0]


def test_a_blob(server: Server) -> None:
    server.push()
    target = f"/v2/a/blobs/{IMAGE.layer.digest}"
    response = server("GET", target)
    assert response.read() == IMAGE.layer_bytes
    assert response.headers["Content-Length"] == "1000"
    assert response.headers["Accept-Ranges"] == "bytes"
    head = server("HEAD", target)
    assert (head.status, head.headers["Content-Length"], head.read()) == (200, "1000", b"")


@pytest.mark.parametrize(("header", "start", "end"), [
    ("bytes=0-0", 0, 0), ("bytes=10-19", 10, 19), ("bytes=990-", 990, 999), ("bytes=-10", 990, 999), ("bytes=5-9999", 5, 999),
])
def test_a_part_of_a_blob(server: Server, header: str, start: int, end: int) -> None:
    server.push()
    response = server("GET", f"/v2/a/blobs/{IMAGE.layer.digest}", Range=header)
    assert response.status == 206
    assert response.headers["Content-Range"] == f"bytes {start}-{end}/1000"
    assert response.headers["Content-Length"] == str(end - start + 1)
    assert response.read() == IMAGE.layer_bytes[start : end + 1]


def test_parts_that_are_not_there(server: Server) -> None:
    server.push()
    response = server("GET", f"/v2/a/blobs/{IMAGE.layer.digest}", Range="bytes=1000-")
    assert response.headers["Content-Range"] == "bytes */1000"
    assert code(response) == (416, "RANGE_INVALID")


@pytest.mark.parametrize("headers", [{"Range": "bytes=0-1,5-6"}, {"Range": "lines=1"}, {"Range": "bytes=0-1", "If_Range": '"x"'}])
def test_ranges_that_are_ignored(server: Server, headers: dict[str, str]) -> None:
    server.push()
    response = server("GET", f"/v2/a/blobs/{IMAGE.layer.digest}", **headers)
    assert (response.status, response.read()) == (200, IMAGE.layer_bytes)


def test_a_range_of_what_one_has(server: Server) -> None:
    server.push()
    etag = server("HEAD", f"/v2/a/blobs/{IMAGE.layer.digest}").headers["ETag"]
    assert server("GET", f"/v2/a/blobs/{IMAGE.layer.digest}", Range="bytes=0-1", If_Range=etag).status == 206


def test_a_store_that_cannot_begin_in_the_middle() -> None:
    bare = Bare()
    bare.put(IMAGE.layer, io.BytesIO(IMAGE.layer_bytes))
    request = Request(method="GET", url=f"http://localhost/v2/a/blobs/{IMAGE.layer.digest}",
                      headers={"Range": "bytes=100-109"})
    assert RegistryApp(BareProvider(bare))(request).read() == IMAGE.layer_bytes[100:110]


def test_headers_are_known_in_any_case(server: Server) -> None:
    server.push()
    assert server("GET", f"/v2/a/blobs/{IMAGE.layer.digest}", range="bytes=0-9").status == 206


def test_an_empty_blob(server: Server) -> None:
    server.provider.repository("a").put(blob(b""), io.BytesIO(b""))
    response = server("GET", f"/v2/a/blobs/{blob(b'').digest}")
    assert (response.status, response.read(), response.headers["Content-Length"]) == (200, b"", "0")


# --- Lists ----------------------------------------------------------------------------------------


def test_tags_and_their_pages(server: Server) -> None:
    for tag in ("3", "1", "2"):
        server.push(tag=tag)
    assert json.loads(server("GET", "/v2/a/tags/list").read()) == {"name": "a", "tags": ["1", "2", "3"]}
    response = server("GET", "/v2/a/tags/list?n=2")
    assert json.loads(response.read())["tags"] == ["1", "2"]
    assert response.headers["Link"] == '</v2/a/tags/list?n=2&last=2>; rel="next"'
    response = server("GET", "/v2/a/tags/list?n=2&last=2")
    assert json.loads(response.read())["tags"] == ["3"]
    assert "Link" not in response.headers
    assert json.loads(server("GET", "/v2/a/tags/list?n=0").read())["tags"] == []


def test_the_catalog_and_its_pages(server: Server) -> None:
    for number in range(1500):
        server.provider.repository(f"r/{number:04}").put(blob(b""), io.BytesIO(b""))
    response = server("GET", "/v2/_catalog?n=999999999")
    names = json.loads(response.read())["repositories"]
    assert len(names) == 1000, "a page has an end whatever is asked for"
    assert response.headers["Link"] == '</v2/_catalog?n=1000&last=r%2F0999>; rel="next"'
    assert len(json.loads(server("GET", "/v2/_catalog?last=r%2F0999").read())["repositories"]) == 500


@pytest.mark.parametrize("n", ["-1", "x", "9" * 30, ""])
def test_pages_of_impossible_size(server: Server, n: str) -> None:
    assert code(server("GET", f"/v2/_catalog?n={n}")) == (400, "PAGINATION_NUMBER_INVALID")


def test_a_last_that_would_break_a_header(server: Server) -> None:
    server.push(tag="1")
    server.push(tag="2")
    response = server("GET", "/v2/a/tags/list?n=1&last=%0d%0aSet-Cookie:x")
    assert "\r" not in response.headers["Link"]


# --- Uploads --------------------------------------------------------------------------------------


def test_one_request(server: Server) -> None:
    response = server("POST", f"{UPLOADS}?digest={WANTED.digest}", DATA)
    assert response.status == 201
    assert response.headers["Location"] == f"/v2/a/blobs/{WANTED.digest}"
    assert server("GET", response.headers["Location"]).read() == DATA


def test_post_then_put(server: Server) -> None:
    opened = server("POST", UPLOADS)
    assert (opened.status, opened.headers["Range"]) == (202, "0-0")
    response = server("PUT", f"{opened.headers['Location']}?digest={WANTED.digest}", DATA)
    assert (response.status, response.headers["Docker-Content-Digest"]) == (201, WANTED.digest)
    assert server("GET", f"/v2/a/blobs/{WANTED.digest}").read() == DATA
    assert code(server("GET", opened.headers["Location"])) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_chunks(server: Server) -> None:
    place = server.open_upload()
    for start, end in ((0, 399), (400, 799)):
        response = server("PATCH", place, DATA[start : end + 1], Content_Range=f"{start}-{end}")
        assert (response.status, response.headers["Range"]) == (202, f"0-{end}")
        place = response.headers["Location"]
    status = server("GET", place)
    assert (status.status, status.headers["Range"]) == (204, "0-799")
    assert server("PUT", f"{place}?digest={WANTED.digest}", DATA[800:], Content_Range="800-999").status == 201
    assert server("GET", f"/v2/a/blobs/{WANTED.digest}").read() == DATA


def test_a_stream_then_an_empty_put(server: Server) -> None:
    """docker's way: one PATCH without a range, without a length."""
    place = server.open_upload()
    assert server("PATCH", place, io.BytesIO(DATA)).headers["Range"] == "0-999"  # type: ignore[arg-type]
    assert server("PUT", f"{place}?digest={WANTED.digest}").status == 201


def test_sha512(server: Server) -> None:
    digest = Digest.of(DATA, "sha512")
    assert server("POST", f"{UPLOADS}?digest={digest}", DATA).status == 201
    assert server("GET", f"/v2/a/blobs/{digest}").read() == DATA


@pytest.mark.parametrize("header", ["1-400", "100-499", "400-799", "0-99999999999"])
def test_chunks_out_of_order(server: Server, header: str) -> None:
    place = server.open_upload()
    server("PATCH", place, DATA[:200], Content_Range="0-199")
    response = server("PATCH", place, DATA[200:600], Content_Range=header)
    assert response.headers["Range"] == "0-199"
    assert code(response) == (416, "RANGE_INVALID")
    assert server("PUT", f"{place}?digest={WANTED.digest}", DATA[200:]).status == 201, "nothing was spoiled"


@pytest.mark.parametrize(("header", "body", "length"), [
    ("0-99", DATA[:50], "50"), ("0-99", DATA[:150], "150"), ("0-99", DATA[:150], None), ("0-99", DATA[:50], None),
    ("99-0", DATA[:50], "50"), ("a-b", DATA[:50], "50"), ("0-", DATA[:50], "50"), ("", DATA[:50], "60"), ("", DATA[:50], "40"),
])
def test_chunks_of_another_size_than_they_say(server: Server, header: str, body: bytes, length: str | None) -> None:
    place = server.open_upload()
    headers = {"Content_Range": header} if header else {}
    if length is not None:
        headers["Content_Length"] = length
    assert code(server("PATCH", place, io.BytesIO(body), **headers)) == (400, "SIZE_INVALID")  # type: ignore[arg-type]


@pytest.mark.parametrize("length", ["999", "1001"])
def test_a_body_that_is_not_as_long_as_announced(server: Server, length: str) -> None:
    response = server("POST", f"{UPLOADS}?digest={WANTED.digest}", DATA, Content_Length=length)
    assert code(response) == (400, "SIZE_INVALID")
    assert server("HEAD", f"/v2/a/blobs/{WANTED.digest}").status == 404


def test_a_layer_is_no_manifest_however_big(server: Server) -> None:
    data = b" " * (MAX_DOCUMENT + 1)
    server.provider.repository("a").put(blob(data), io.BytesIO(data))
    assert code(server("GET", f"/v2/a/manifests/{blob(data).digest}")) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("how", ["post", "put", "patch"])
def test_content_that_is_not_what_it_says(server: Server, how: str) -> None:
    if how == "post":
        response = server("POST", f"{UPLOADS}?digest={WANTED.digest}", DATA[::-1])
    else:
        place = server.open_upload()
        if how == "patch":
            server("PATCH", place, DATA[::-1])
        response = server("PUT", f"{place}?digest={WANTED.digest}", b"" if how == "patch" else DATA[::-1])
    assert code(response) == (400, "DIGEST_INVALID")
    assert server("HEAD", f"/v2/a/blobs/{WANTED.digest}").status == 404
    assert not server.app._uploads._open, "what is spoiled is over"


@pytest.mark.parametrize("query", ["", "?digest=", "?digest=sha256:abc", "?digest=md5:" + "a" * 32, "?digest=../../x"])
def test_finishing_without_a_digest(server: Server, query: str) -> None:
    place = server.open_upload()
    assert code(server("PUT", f"{place}{query}", DATA)) == (400, "DIGEST_INVALID")
    assert server("PUT", f"{place}?digest={WANTED.digest}", DATA).status == 201


@pytest.mark.parametrize("session", ["0" * 32, "x", "..", "%2e%2e%2f%2e%2e%2fetc", "0" * 31, "0" * 33])
@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
def test_uploads_nobody_opened(server: Server, session: str, method: str) -> None:
    response = server(method, f"{UPLOADS}{session}?digest={WANTED.digest}", DATA)
    assert response.status == 404


def test_an_upload_belongs_to_its_repository(server: Server) -> None:
    place = server.open_upload("a")
    elsewhere = place.replace("/v2/a/", "/v2/b/")
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        assert code(server(method, f"{elsewhere}?digest={WANTED.digest}", DATA)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert server("PUT", f"{place}?digest={WANTED.digest}", DATA).status == 201


def test_cancelling(server: Server) -> None:
    place = server.open_upload()
    server("PATCH", place, DATA)
    assert server("DELETE", place).status == 204
    assert code(server("DELETE", place)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert not server.app._uploads._open


def test_what_arrived_before_a_break_stays(server: Server) -> None:
    class Breaking(io.RawIOBase):
        def __init__(self) -> None:
            self.pieces = [DATA[:300], DATA[300:500]]

        def read(self, size: int = -1) -> bytes:
            if self.pieces:
                return self.pieces.pop(0)
            raise BrokenConnection("gone")

    place = server.open_upload()
    with pytest.raises(BrokenConnection):
        server("PATCH", place, Breaking(), Content_Length="1000")
    assert server("GET", place).headers["Range"] == "0-499"
    assert server("PUT", f"{place}?digest={WANTED.digest}", DATA[500:], Content_Range="500-999").status == 201


def test_two_writers_of_one_upload(server: Server) -> None:
    started, proceed = threading.Event(), threading.Event()

    class Slow(io.RawIOBase):
        given = False

        def read(self, size: int = -1) -> bytes:
            if self.given:
                return b""
            self.given = True
            started.set()
            proceed.wait(10)
            return DATA

    place = server.open_upload()
    first = threading.Thread(target=lambda: server("PATCH", place, Slow()))
    first.start()
    assert started.wait(10)
    assert code(server("PATCH", place, DATA)) == (429, "TOOMANYREQUESTS")
    assert code(server("DELETE", place)) == (429, "TOOMANYREQUESTS")
    proceed.set()
    first.join()
    assert server("PUT", f"{place}?digest={WANTED.digest}").status == 201


def test_uploads_that_nobody_touches_are_forgotten() -> None:
    now = [0.0]
    left: list[bool] = []

    class Watched(MemoryIngest):
        def __exit__(self, *exc: object) -> None:
            left.append(True)

    class Repository(MemoryRepository):
        def ingest(self) -> Ingest:  # type: ignore[override]
            return Watched(self._blobs)

    class Provider(MemoryProvider):
        def repository(self, name: str) -> MemoryRepository:
            return self._repositories.setdefault(name, Repository(self))

    server = Server(Provider(), clock=lambda: now[0])
    stale = server.open_upload()
    now[0] = 3000.0
    fresh = server.open_upload()
    now[0] = 4000.0
    server.open_upload()
    assert code(server("GET", stale)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert server("GET", fresh).status == 204
    assert left == [True]
    server.app.close()
    assert left == [True] * 3


def test_an_upload_that_is_being_forgotten_cannot_be_taken_up() -> None:
    now, places, tried = [0.0], list[str](), list[str]()

    class Watched(MemoryIngest):
        def __exit__(self, *exc: object) -> None:
            for place in places:
                with pytest.raises(ApiError), uploads.claim("a", place):
                    pass
                tried.append(place)

    uploads = Uploads(lambda: now[0])
    places += [uploads.open("a", lambda: Watched({})) for _ in range(2)]
    now[0] = 4000.0
    uploads.open("a", lambda: MemoryIngest({}))
    assert len(tried) == 4


def test_only_so_many_uploads_at_once(server: Server) -> None:
    places = [server.open_upload() for _ in range(256)]
    response = server("POST", UPLOADS)
    assert response.headers["Retry-After"] == "30"
    assert code(response) == (429, "TOOMANYREQUESTS")
    server("DELETE", places[0])
    assert server("POST", UPLOADS).status == 202


# --- Mounts (SECURITY 51) -------------------------------------------------------------------------


def test_a_mount(server: Server) -> None:
    server.push("source")
    response = server("POST", f"/v2/a/blobs/uploads/?mount={IMAGE.layer.digest}&from=source")
    assert (response.status, response.headers["Location"]) == (201, f"/v2/a/blobs/{IMAGE.layer.digest}")
    assert server("GET", response.headers["Location"]).read() == IMAGE.layer_bytes


@pytest.mark.parametrize("query", [
    f"mount={NOTHING}&from=source", f"mount={IMAGE.layer.digest}&from=elsewhere", f"mount={IMAGE.layer.digest}",
])
def test_a_mount_that_cannot_be_is_an_upload(server: Server, query: str) -> None:
    server.push("source")
    response = server("POST", f"{UPLOADS}?{query}")
    assert response.status == 202
    assert server("PUT", f"{response.headers['Location']}?digest={WANTED.digest}", DATA).status == 201


@pytest.mark.parametrize(("query", "expected"), [
    ("mount=x&from=source", "DIGEST_INVALID"), (f"mount={NOTHING}&from=../../etc", "NAME_INVALID"),
    (f"mount={NOTHING}&from=%2e%2e", "NAME_INVALID"), (f"mount={NOTHING}&from=", "NAME_INVALID"),
])
def test_mounts_that_make_no_sense(server: Server, query: str, expected: str) -> None:
    assert code(server("POST", f"{UPLOADS}?{query}")) == (400, expected)


# --- Manifests ------------------------------------------------------------------------------------


def put_manifest(server: Server, raw: bytes, reference: str = "1", media_type: str = OCI_MANIFEST) -> Response:
    return server("PUT", f"/v2/a/manifests/{reference}", raw, Content_Type=media_type)


def push_blobs(server: Server) -> None:
    for descriptor, data in IMAGE.blobs():
        assert server("POST", f"{UPLOADS}?digest={descriptor.digest}", data).status == 201


def test_pushing_an_image(server: Server) -> None:
    push_blobs(server)
    digest = IMAGE.manifest.descriptor.digest
    response = put_manifest(server, IMAGE.manifest.raw)
    assert response.status == 201
    assert response.headers["Location"] == f"/v2/a/manifests/{digest}"
    assert response.headers["Docker-Content-Digest"] == digest
    assert server("GET", "/v2/a/manifests/1").read() == IMAGE.manifest.raw
    assert put_manifest(server, IMAGE.manifest.raw, digest).status == 201


def test_a_manifest_in_sha512(server: Server) -> None:
    push_blobs(server)
    digest = Digest.of(IMAGE.manifest.raw, "sha512")
    assert put_manifest(server, IMAGE.manifest.raw, digest).headers["Docker-Content-Digest"] == digest
    assert server("GET", f"/v2/a/manifests/{digest}").read() == IMAGE.manifest.raw


def test_a_manifest_before_its_parts(server: Server) -> None:
    assert code(put_manifest(server, IMAGE.manifest.raw)) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert code(server("GET", "/v2/a/manifests/1")) == (404, "NAME_UNKNOWN")


def test_foreign_layers_live_elsewhere(server: Server) -> None:
    push_blobs(server)
    foreign = Descriptor(media_type=min(FOREIGN_LAYERS), digest=Digest(NOTHING), size=5)
    assert put_manifest(server, Manifest.build(IMAGE.config, [foreign]).raw).status == 201


def test_an_index_may_be_sparse(server: Server) -> None:
    raw = Index.build([Descriptor(media_type=OCI_MANIFEST, digest=Digest(NOTHING), size=5)]).raw
    assert put_manifest(server, raw, media_type=OCI_INDEX).status == 201
    assert server("GET", "/v2/a/manifests/1").headers["Content-Type"] == OCI_INDEX


def test_a_manifest_under_another_digest(server: Server) -> None:
    push_blobs(server)
    assert code(put_manifest(server, IMAGE.manifest.raw, NOTHING)) == (400, "DIGEST_INVALID")


@pytest.mark.parametrize("raw", [
    b"", b"null", b"[]", b"{}", b"<html>", b"[" * 100_000, b"\xff", b'{"schemaVersion":1,"fsLayers":[]}',
    b'{"schemaVersion":2,"config":null,"layers":null}', b'{"schemaVersion":2,"layers":[],"manifests":[],"config":{}}',
    b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:../x","size":1},"layers":[]}',
    b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"' + NOTHING.encode() + b'","size":-1},"layers":[]}',
])
def test_manifests_that_are_none(server: Server, raw: bytes) -> None:
    assert code(put_manifest(server, raw)) == (400, "MANIFEST_INVALID")


@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, OCI_INDEX])
def test_a_content_type_that_disagrees(server: Server, media_type: str) -> None:
    push_blobs(server)
    assert code(put_manifest(server, IMAGE.manifest.raw, media_type=media_type)) == (400, "MANIFEST_INVALID")


def test_manifests_are_of_bounded_size(server: Server) -> None:
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            self.given += size
            return b" " * size

    endless = Endless()
    assert code(put_manifest(server, b" " * (MAX_DOCUMENT + 1))) == (413, "MANIFEST_INVALID")
    assert code(server("PUT", "/v2/a/manifests/1", endless, Content_Type=OCI_MANIFEST)) == (413, "MANIFEST_INVALID")
    assert endless.given <= MAX_DOCUMENT + (2 << 20)
    untouched = Endless()
    big = {"Content_Type": OCI_MANIFEST, "Content_Length": str(1 << 40)}
    assert server("PUT", "/v2/a/manifests/1", untouched, **big).status == 413
    assert not untouched.given


def test_a_subject_is_told_of(server: Server) -> None:
    push_blobs(server)
    document = {
        **json.loads(Manifest.build(IMAGE.config, [IMAGE.layer]).raw), "artifactType": "application/sig",
        "subject": IMAGE.manifest.descriptor.to_json(),
    }
    raw = json.dumps(document).encode()
    digest = IMAGE.manifest.descriptor.digest
    assert put_manifest(server, raw, "signature").headers["OCI-Subject"] == digest
    response = server("GET", f"/v2/a/referrers/{digest}?artifactType=application%2Fsig")
    assert response.headers["Content-Type"] == OCI_INDEX
    assert response.headers["OCI-Filters-Applied"] == "artifactType"
    (listed,) = json.loads(response.read())["manifests"]
    assert (listed["digest"], listed["artifactType"]) == (Digest.of(raw), "application/sig")
    assert json.loads(server("GET", f"/v2/a/referrers/{digest}?artifactType=other").read())["manifests"] == []
    assert json.loads(server("GET", f"/v2/a/referrers/{NOTHING}").read())["manifests"] == []


# --- Deleting -------------------------------------------------------------------------------------


def test_deleting(server: Server) -> None:
    server.push(tag="1")
    server.push(tag="2")
    digest = IMAGE.manifest.descriptor.digest
    assert server("DELETE", "/v2/a/manifests/1").status == 202
    assert server("GET", "/v2/a/manifests/2").status == 200
    assert server("DELETE", f"/v2/a/manifests/{digest}").status == 202
    assert code(server("GET", "/v2/a/manifests/2")) == (404, "MANIFEST_UNKNOWN")
    assert code(server("DELETE", f"/v2/a/manifests/{digest}")) == (404, "MANIFEST_UNKNOWN")
    assert code(server("DELETE", "/v2/a/manifests/1")) == (404, "MANIFEST_UNKNOWN")
    assert server("DELETE", f"/v2/a/blobs/{IMAGE.layer.digest}").status == 202
    assert code(server("DELETE", f"/v2/a/blobs/{IMAGE.layer.digest}")) == (404, "BLOB_UNKNOWN")


class Bare:
    """A repository with nothing beyond the protocol."""

    def __init__(self) -> None:
        self._store = MemoryStore()
        for name in ("has", "put", "ingest", "resolve", "tag", "names"):
            setattr(self, name, getattr(self._store, name))

    def open(self, wanted: Descriptor) -> Any:
        return self._store.open(wanted)

    def stat(self, digest: Digest) -> int | None:
        data = self._store._blobs.get(digest)
        return None if data is None else len(data)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class BareProvider:
    may_write = True

    def __init__(self, repository: Bare) -> None:
        self.only = repository

    def repositories(self) -> list[str]:
        return ["a"]

    def repository(self, _name: str) -> Bare:
        return self.only


def test_a_repository_without_further_powers() -> None:
    bare = Bare()
    app = RegistryApp(BareProvider(bare))

    def ask(method: str, target: str, body: bytes | None = None, **headers: str) -> Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return app(Request(method=method, url=f"http://localhost{target}", headers=given, body=body))

    bare.put(WANTED, io.BytesIO(DATA))
    assert code(ask("DELETE", "/v2/a/manifests/1")) == (405, "UNSUPPORTED")
    assert ask("GET", f"/v2/a/referrers/{NOTHING}").status == 404
    assert ask("POST", f"{UPLOADS}?mount={WANTED.digest}&from=b").status == 202


# --- Trouble below --------------------------------------------------------------------------------


@pytest.mark.parametrize(("failure", "status"), [
    (OSError(errno.ENOSPC, "No space left on device"), 507), (OSError(errno.EROFS, "Read-only file system"), 507),
    (Unavailable("the store is locked"), 503),
])
def test_a_store_in_trouble(failure: Exception, status: int) -> None:
    class Repository(MemoryRepository):
        def ingest(self) -> MemoryIngest:
            raise failure

    class Provider(MemoryProvider):
        def repository(self, name: str) -> MemoryRepository:
            return self._repositories.setdefault(name, Repository(self))

    server = Server(Provider())
    assert code(server("POST", UPLOADS)) == (status, "UNAVAILABLE")


def test_bugs_are_not_hidden_as_answers() -> None:
    class Provider(MemoryProvider):
        def repositories(self) -> list[str]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Server(Provider())("GET", "/v2/_catalog")


def test_configs_are_blobs_like_others(server: Server) -> None:
    server.push()
    assert IMAGE.config.media_type == OCI_CONFIG
    assert server("GET", f"/v2/a/blobs/{IMAGE.config.digest}").read() == IMAGE.config_bytes
