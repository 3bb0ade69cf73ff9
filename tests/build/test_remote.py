from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import BinaryIO, cast

import pytest

from lamina.build.remote import (
    ChecksumMismatch,
    RedirectRefused,
    Remote,
    RemoteNotFound,
    RemoteUnavailable,
    Seen,
    TooLong,
    file_name,
)
from lamina.http.message import BrokenConnection, Headers, InvalidUrl, Request, Response
from lamina.http.server import serve
from lamina.http.transport import HttpTransport
from lamina.oci.digest import Digest

Application = Callable[[Request], Response]
BODY = b"content of the file\n"
DIGEST = Digest.of(BODY)
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


class InProcess:
    """A transport whose other side is a function, for every host and scheme. Remembers what was asked."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self.asked: list[Request] = []

    def send(self, request: Request) -> Response:
        self.asked.append(request)
        return self._application(request)

    def close(self) -> None:
        pass


def content(request: Request) -> Response:
    headers = {"ETag": '"1"', "Last-Modified": DATE, "Content-Length": str(len(BODY))}
    if request.headers.get("If-None-Match") == '"1"':
        return Response(304, headers)
    return Response(200, headers, BODY)


def redirecting(*locations: str) -> Application:
    """To one after the other, and then the content."""
    left = list(locations)

    def answer(request: Request) -> Response:
        return Response(302, {"Location": left.pop(0)}) if left else content(request)

    return answer


def remote(application: Application, **options: object) -> Remote:
    return Remote(transport=InProcess(application), **options)  # type: ignore[arg-type]


def test_over_a_real_connection() -> None:
    out = io.BytesIO()
    with serve(content) as server, HttpTransport(read_timeout=10) as transport:
        web = Remote(transport=transport)
        fetched = web.fetch(f"{server.url.rstrip('/')}/dir/file.txt?signature=1#part", out)
        assert out.getvalue() == BODY
        assert (fetched.size, fetched.is_unchanged) == (len(BODY), False)
        assert fetched.seen == Seen(DIGEST, '"1"', DATE, "file.txt")
        assert fetched.seen.mtime == 1445412480
        again = web.fetch(f"{server.url.rstrip('/')}/dir/file.txt", out, seen=fetched.seen)
        assert again.is_unchanged
        assert again.seen == fetched.seen
        assert out.getvalue() == BODY


def test_a_server_that_knows_no_tags_is_asked_by_date() -> None:
    def answer(request: Request) -> Response:
        if request.headers.get("If-Modified-Since") == DATE:
            return Response(304, {})
        return Response(200, {"Last-Modified": DATE}, BODY)

    web = remote(answer)
    first = web.fetch("http://host/x", io.BytesIO())
    assert web.fetch("http://host/x", io.BytesIO(), seen=first.seen).is_unchanged


def test_what_comes_again_as_it_was_is_unchanged_too() -> None:
    web = remote(lambda _request: Response(200, {}, BODY))
    first = web.fetch("http://host/x", io.BytesIO())
    assert first.seen.mtime is None
    out = io.BytesIO()
    assert web.fetch("http://host/x", out, seen=first.seen).is_unchanged
    assert out.getvalue() == BODY
    assert not web.fetch("http://host/x", out, seen=Seen(Digest.of(b"other"))).is_unchanged


def test_a_checksum() -> None:
    web = remote(content)
    assert web.fetch("https://host/x", io.BytesIO(), checksum=DIGEST).seen.digest == DIGEST
    sha512 = Digest(f"sha512:{hashlib.sha512(BODY).hexdigest()}")
    assert web.fetch("https://host/x", io.BytesIO(), checksum=sha512).seen.digest == DIGEST
    for wrong in (Digest.of(b"other"), Digest.of(b"other", "sha512")):
        with pytest.raises(ChecksumMismatch, match=rf"^https://host/x: expected {wrong}, got sha"):
            web.fetch("https://host/x", io.BytesIO(), checksum=wrong)


def test_what_was_seen_does_not_stand_for_another_checksum() -> None:
    web = remote(content)
    seen = web.fetch("https://host/x", io.BytesIO()).seen
    with pytest.raises(ChecksumMismatch):
        web.fetch("https://host/x", io.BytesIO(), checksum=Digest.of(b"other"), seen=seen)
    assert web.fetch("https://host/x", io.BytesIO(), checksum=DIGEST, seen=seen).is_unchanged


def test_no_more_bytes_than_allowed() -> None:
    with pytest.raises(TooLong, match=r"^http://host/x: announces 20 bytes, and 19 are allowed$"):
        remote(content, limit=19).fetch("http://host/x", io.BytesIO())

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    out = io.BytesIO()
    with pytest.raises(TooLong, match="longer than the 5000000 bytes"):
        remote(lambda _request: Response(200, {}, cast("BinaryIO", Endless())), limit=5_000_000).fetch("http://host/x", out)
    assert len(out.getvalue()) <= 5_000_000


def test_redirects_are_followed() -> None:
    assert remote(redirecting("/y", "https://other/z?a=b")).fetch("http://host/x", io.BytesIO()).seen.name == "x"
    with pytest.raises(RedirectRefused, match="more than 10 redirects"):
        remote(redirecting(*["/x"] * 11)).fetch("http://host/x", io.BytesIO())


@pytest.mark.parametrize("location", [
    "file:///etc/passwd", "ftp://host/x", "gopher://host/x", "data:,x", "http://user:secret@host/", "http://host\\@x/", "http://host:99999/",
    "http://169.254.169.254/latest/meta-data", "http://[fe80::1]/x", ""])
def test_redirects_that_are_not(location: str) -> None:
    with pytest.raises(RedirectRefused) as caught:
        remote(redirecting(location)).fetch("http://host/x", io.BytesIO())
    assert str(caught.value).startswith("http://host/x: redirects")
    assert "secret" not in str(caught.value)


def test_no_way_back_from_https() -> None:
    with pytest.raises(RedirectRefused, match=r"^https://host/x: redirects to http://host/x, which is not encrypted$"):
        remote(redirecting("http://host/x?token=secret")).fetch("https://host/x", io.BytesIO())


def test_headers_go_to_their_own_origin_alone() -> None:
    transport = InProcess(redirecting("/y", "https://other/z"))
    Remote(transport=transport, headers={"Authorization": "secret"}).fetch("https://host/x", io.BytesIO())
    assert [request.headers.get("Authorization") for request in transport.asked] == ["secret", "secret", None]
    assert "secret" not in repr(Remote(transport=transport, headers={"Authorization": "secret"}))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "/etc/passwd", "http://user:secret@host/x", "http://host/a b", ""])
def test_urls_that_are_not_asked_for(url: str) -> None:
    transport = InProcess(content)
    with pytest.raises(InvalidUrl):
        Remote(transport=transport).fetch(url, io.BytesIO())
    assert transport.asked == []


def test_answers_that_are_none() -> None:
    with pytest.raises(RemoteNotFound, match=r"^http://host/x: answered with status 404$"):
        remote(lambda _request: Response(404, {}, b"no")).fetch("http://host/x?token=secret", io.BytesIO())
    with pytest.raises(RemoteUnavailable, match="status 503"):
        remote(lambda _request: Response(503, {})).fetch("http://host/x", io.BytesIO())
    with pytest.raises(RemoteUnavailable, match="status 304"):
        remote(lambda _request: Response(304, {})).fetch("http://host/x", io.BytesIO())
    with pytest.raises(RemoteUnavailable, match="sent compressed"):
        remote(lambda _request: Response(200, {"Content-Encoding": "gzip"}, b"x")).fetch("http://host/x", io.BytesIO())


def test_a_connection_that_breaks_off_is_no_shorter_file() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(size) or self._fail()

        def _fail(self) -> bytes:
            raise BrokenConnection("host: the connection broke off")

    with pytest.raises(BrokenConnection):
        remote(lambda _request: Response(200, {}, Broken(b"half"))).fetch("http://host/x", io.BytesIO())


@pytest.mark.parametrize(("url", "disposition", "expected"), [
    ("http://host/dir/file.tar.gz?x=/y", "", "file.tar.gz"),
    ("http://host/dir/", "", ""),
    ("http://host", "", ""),
    ("http://host/a%20b", "", "a b"),
    ("http://host/%2e%2e", "", ""),
    ("http://host/..%2f..%2fetc%2fpasswd", "", "passwd"),
    ("http://host/a%00b", "", ""),
    ("http://host/a%0ab", "", ""),
    ("http://host/" + "a" * 256, "", ""),
    ("http://host/x", 'attachment; filename="y.txt"', "y.txt"),
    ("http://host/x", 'attachment; filename="../../y.txt"', "y.txt"),
    ("http://host/x", 'attachment; filename="..\\\\y.txt"', "y.txt"),
    ("http://host/x", "attachment; filename=..", "x"),
    ("http://host/x", "attachment; filename*=UTF-8''%c3%bc", "ü"),
    ("http://host/x", "attachment", "x"),
    ("http://host/x", ";;;=", "x"),
])
def test_what_a_file_is_called(url: str, disposition: str, expected: str) -> None:
    assert file_name(url, Headers({"Content-Disposition": disposition} if disposition else {})) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "Wed, 99 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 99999999 07:28:00 GMT"])
def test_a_date_that_is_none(text: str) -> None:
    assert Seen(DIGEST, last_modified=text).mtime is None
