from __future__ import annotations

import io

import pytest

from lamina.http.message import (
    DocumentTooLong,
    Headers,
    InvalidHeader,
    InvalidUrl,
    Origin,
    Request,
    Response,
    check_headers,
    split_url,
)


def test_headers_ignore_case_and_keep_every_value() -> None:
    headers = Headers([("WWW-Authenticate", "Basic"), ("Content-Type", "text/plain"), ("www-authenticate", "Bearer")])
    assert headers["www-AUTHENTICATE"] == "Basic"
    assert headers.get_all("Www-Authenticate") == ("Basic", "Bearer")
    assert headers.get("absent", "x") == "x"
    assert "content-type" in headers
    assert list(headers) == ["www-authenticate", "content-type"]
    assert len(headers) == 2


def test_a_request_and_its_headers_show_no_secrets() -> None:
    request = Request(method="GET", url="http://localhost/", headers={"Authorization": "Bearer hush"}, body=b"hush")
    assert "hush" not in repr(request)
    assert "hush" not in repr(Headers({"Authorization": "Bearer hush"}))


@pytest.mark.parametrize(("url", "origin", "target"), [
    ("http://localhost/v2/", Origin("http", "localhost", 80), "/v2/"),
    ("https://Example.COM", Origin("https", "example.com", 443), "/"),
    ("https://example.com:8443/a?b=c", Origin("https", "example.com", 8443), "/a?b=c"),
    ("http://[::1]:5000/x", Origin("http", "::1", 5000), "/x"),
    ("http://registry_1:5000/x", Origin("http", "registry_1", 5000), "/x"),
    ("http://localhost/a#fragment", Origin("http", "localhost", 80), "/a"),
])
def test_urls_are_split(url: str, origin: Origin, target: str) -> None:
    assert split_url(url) == (origin, target)


@pytest.mark.parametrize("url", [
    "file:///etc/passwd", "ftp://example.com/", "gopher://example.com/", "//example.com/x", "/v2/", "",
    "http://", "http:///path", "http://user:secret@example.com/", "http://example.com:99999/", "http://example.com:x/",
    "http://exa mple.com/", "http://example.com/a b", "http://example.com/\r\nX: y", "http://example.com/\u00e9",
    "http://example.com\\@evil.example/", "http://[::1/", "http://exa%6dple.com/", "http://" + "a" * 20_000,
])
def test_urls_that_must_not_be_followed(url: str) -> None:
    with pytest.raises(InvalidUrl) as caught:
        split_url(url)
    assert "secret" not in str(caught.value)


def test_an_authority_says_the_port_only_where_it_matters() -> None:
    assert Origin("https", "example.com", 443).authority == "example.com"
    assert Origin("http", "example.com", 443).authority == "example.com:443"
    assert Origin("http", "::1", 80).authority == "[::1]"
    assert str(Origin("http", "::1", 5000)) == "http://[::1]:5000"


@pytest.mark.parametrize("headers", [
    {"X": "a\r\nSet-Cookie: b"}, {"X": "a\n b"}, {"X": "a\0"}, {"X Y": "a"}, {"": "a"}, {"X:": "a"}, {"X\n": "a"},
])
def test_headers_that_would_begin_another_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidHeader):
        check_headers(headers)


@pytest.mark.parametrize(("text", "length"), [
    ("0", 0), ("312", 312), ("-1", None), ("+5", None), ("1_0", None), ("", None), ("5, 5", None), ("\u0665", None),
    ("9" * 25, None),
])
def test_content_length_is_a_plain_number(text: str, length: int | None) -> None:
    assert Response(200, {"Content-Length": text}).content_length == length


def test_a_document_is_read_whole_up_to_its_limit() -> None:
    assert Response(200, {}, b"x" * 10).read_document(10) == b"x" * 10
    assert Response(200, {"Content-Length": "10"}, b"x" * 10).read_document(10) == b"x" * 10


def test_a_document_over_its_limit_is_refused() -> None:
    with pytest.raises(DocumentTooLong, match="announces 11 bytes; the limit is 10"):
        Response(200, {"Content-Length": "11"}, b"").read_document(10)
    endless = io.BytesIO(b"x" * 100)
    with pytest.raises(DocumentTooLong, match="longer than the limit of 10"):
        Response(200, {}, endless).read_document(10)
    assert endless.tell() == 11, "not a byte more than needed to know"


def test_a_response_closes_its_stream() -> None:
    stream = io.BytesIO(b"abc")
    with Response(200, {}, stream) as response:
        assert response.read(2) == b"ab"
    assert stream.closed
