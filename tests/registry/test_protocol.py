from __future__ import annotations

import json

import pytest

from lamina.oci.digest import Digest
from lamina.registry.protocol import (
    ApiError,
    BlobRoute,
    CatalogRoute,
    ManifestRoute,
    ProtocolViolation,
    ReferrersRoute,
    RootRoute,
    Route,
    TagsRoute,
    Unsatisfiable,
    UploadRoute,
    UploadsRoute,
    UploadState,
    blob_path,
    catalog_path,
    manifest_path,
    media_type_of,
    next_link,
    page_of,
    parse_chunk_range,
    parse_content_range,
    parse_errors,
    parse_names,
    parse_range,
    parse_retry_after,
    parse_target,
    received_range,
    referrers_path,
    referrers_tag,
    tags_path,
    upload_path,
    uploads_path,
    with_digest,
)

D = Digest("sha256:" + "a" * 64)
SESSION = "0123456789abcdef" * 2


@pytest.mark.parametrize(("path", "route"), [
    ("/v2/", RootRoute()),
    ("/v2", RootRoute()),
    (catalog_path(), CatalogRoute()),
    (tags_path("a/b"), TagsRoute("a/b")),
    (manifest_path("library/redis", "7.2"), ManifestRoute("library/redis", "7.2")),
    (manifest_path("library/redis", D), ManifestRoute("library/redis", D)),
    (blob_path("a", D), BlobRoute("a", D)),
    (uploads_path("a/b/c"), UploadsRoute("a/b/c")),
    ("/v2/a/blobs/uploads", UploadsRoute("a")),
    (upload_path("a/b", SESSION), UploadRoute("a/b", SESSION)),
    (referrers_path("a", D), ReferrersRoute("a", D)),
    # Names made of the words of the grammar are names all the same.
    (manifest_path("manifests/blobs", "tags"), ManifestRoute("manifests/blobs", "tags")),
    (uploads_path("blobs/uploads"), UploadsRoute("blobs/uploads")),
    (tags_path("tags/list"), TagsRoute("tags/list")),
    (f"/v2/a/manifests/sha256%3A{'a' * 64}", ManifestRoute("a", D)),
])
def test_client_paths_are_server_routes(path: str, route: Route) -> None:
    assert parse_target(path) == (route, {})


@pytest.mark.parametrize(("target", "code", "status"), [
    ("/", "UNSUPPORTED", 404),
    ("/v1/_ping", "UNSUPPORTED", 404),
    ("/v2/a", "UNSUPPORTED", 404),
    ("/v2/a/nonsense/x", "UNSUPPORTED", 404),
    ("/v2//manifests/latest", "NAME_INVALID", 400),
    ("/v2/A/manifests/latest", "NAME_INVALID", 400),
    ("/v2/../manifests/latest", "NAME_INVALID", 400),
    ("/v2/a/../../etc/manifests/latest", "NAME_INVALID", 400),
    ("/v2/a%2f..%2fb/manifests/latest", "NAME_INVALID", 400),
    ("/v2/%2e%2e/manifests/latest", "NAME_INVALID", 400),
    ("/v2/%252e%252e/manifests/latest", "NAME_INVALID", 400),
    ("/v2/a%0d%0aX:y/manifests/latest", "NAME_INVALID", 400),
    ("/v2/a%00/manifests/latest", "NAME_INVALID", 400),
    ("/v2/a%c3%a9/manifests/latest", "NAME_INVALID", 400),
    ("/v2/" + "a" * 256 + "/manifests/latest", "NAME_INVALID", 400),
    ("/v2/a%zz/manifests/latest", "UNSUPPORTED", 400),
    ("/v2/a%/manifests/latest", "UNSUPPORTED", 400),
    ("/v2/a/manifests/.hidden", "TAG_INVALID", 400),
    ("/v2/a/manifests/" + "t" * 129, "TAG_INVALID", 400),
    ("/v2/a/manifests/sha256:abc", "DIGEST_INVALID", 400),
    ("/v2/a/manifests/md5:" + "a" * 32, "DIGEST_INVALID", 400),
    ("/v2/a/blobs/latest", "DIGEST_INVALID", 400),
    ("/v2/a/blobs/sha256:../../../etc/passwd", "UNSUPPORTED", 404),
    ("/v2/a/blobs/sha256:..%2f..%2fpasswd", "UNSUPPORTED", 404),
    ("/v2/a/blobs/uploads/..%2f..%2fx", "UNSUPPORTED", 404),
    ("/v2/a/blobs/uploads/%2e%2e", "BLOB_UPLOAD_UNKNOWN", 404),
    ("/v2/a/blobs/uploads/" + "g" * 32, "BLOB_UPLOAD_UNKNOWN", 404),
    ("/v2/a/referrers/latest", "DIGEST_INVALID", 400),
    ("/v2/_catalog/x", "UNSUPPORTED", 404),
    ("/v2/?a=1&a=2", "UNSUPPORTED", 400),
    ("/v2/?a", "UNSUPPORTED", 400),
    ("/v2/?" + "&".join(f"a{n}=1" for n in range(100)), "UNSUPPORTED", 400),
])
def test_hostile_targets(target: str, code: str, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        parse_target(target)
    assert (caught.value.code, caught.value.status) == (code, status)
    assert "\r" not in caught.value.message


def test_queries_are_decoded() -> None:
    assert parse_target("/v2/_catalog?n=5&last=a%2Fb") == (CatalogRoute(), {"n": "5", "last": "a/b"})
    assert parse_target(uploads_path("a", {"mount": D, "from": "b/c"}))[1] == {"mount": D, "from": "b/c"}
    assert parse_target(referrers_path("a", D, "application/x+json"))[1] == {"artifactType": "application/x+json"}


def test_a_digest_is_added_to_a_location_as_it_is() -> None:
    assert with_digest("/v2/a/blobs/uploads/x", D) == f"/v2/a/blobs/uploads/x?digest={D}"
    assert with_digest("/v2/a/blobs/uploads/x?_state=a%2Bb", D) == f"/v2/a/blobs/uploads/x?_state=a%2Bb&digest={D}"


def test_a_referrers_tag_is_a_tag() -> None:
    assert referrers_tag(D) == "sha256-" + "a" * 64
    assert len(referrers_tag(Digest("sha512:" + "b" * 128))) == 128


# --- Errors ---------------------------------------------------------------------------------------


def test_errors_are_read() -> None:
    body = b'{"errors":[{"code":"DENIED","message":"no"},{"code":"UNKNOWN","detail":{"a":1}}]}'
    assert [str(detail) for detail in parse_errors(body)] == ["DENIED: no", "UNKNOWN"]


@pytest.mark.parametrize("body", [
    b"", b"<html>", b"null", b"[]", b'{"errors":null}', b'{"errors":{}}', b'{"errors":[1,"x",null]}', b"\xff\xfe",
    b"[" * 100_000, b'{"errors":"DENIED"}',
])
def test_anything_else_says_nothing(body: bytes) -> None:
    assert parse_errors(body) == ()


def test_what_errors_say_is_cut_and_cleaned() -> None:
    body = json.dumps({"errors": [{"code": "X", "message": "\x1b[31mred\r\n" + "y" * 10_000}] * 100}).encode()
    details = parse_errors(body)
    assert len(details) == 16
    assert details[0].message.isprintable()
    assert len(details[0].message) <= 500


def test_an_api_error_is_an_answer() -> None:
    response = ApiError("MANIFEST_UNKNOWN", "no such manifest", headers={"X": "y"}).response()
    body = response.read()
    assert response.status == 404
    assert response.headers["X"] == "y"
    assert response.headers["Content-Length"] == str(len(body))
    assert [str(detail) for detail in parse_errors(body)] == ["MANIFEST_UNKNOWN: no such manifest"]


# --- Ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "size", "expected"), [
    ("bytes=0-0", 10, (0, 0)), ("bytes=2-5", 10, (2, 5)), ("bytes=2-", 10, (2, 9)), ("bytes=-3", 10, (7, 9)),
    ("bytes=-30", 10, (0, 9)), ("bytes=5-100", 10, (5, 9)), ("bytes=0-99999999999999999999", 10, None),
    ("bytes=5-2", 10, None), ("bytes=-", 10, None), ("bytes=0-1,3-4", 10, None), ("lines=0-1", 10, None),
    ("bytes= 0-1", 10, None), ("", 10, None),
])
def test_ranges(header: str, size: int, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, size) == expected


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=10-20", 10), ("bytes=-0", 10), ("bytes=0-", 0)])
def test_ranges_outside(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, size)


def test_content_ranges() -> None:
    assert parse_content_range("bytes 5-9/10") == (5, 9, 10)
    assert parse_content_range("bytes 5-9/*") == (5, 9, None)
    for text in ("", "bytes */10", "bytes 9-5/10", "5-9/10", "bytes 5-9", "bytes -5-9/10"):
        with pytest.raises(ProtocolViolation):
            parse_content_range(text)


def test_chunk_ranges() -> None:
    assert parse_chunk_range("0-99") == (0, 99)
    assert parse_chunk_range("bytes=0-99") == (0, 99)
    for text in ("", "0", "5-2", "a-b", "0-99-100", "-1-5"):
        with pytest.raises(ProtocolViolation):
            parse_chunk_range(text)


# --- Uploads --------------------------------------------------------------------------------------


def test_chunks_must_follow_each_other() -> None:
    state = UploadState()
    assert state.begin_chunk("0-9", 10) == 10
    state.advance(10)
    assert state.begin_chunk("10-14", None) == 5
    for header in ("0-9", "11-15", "9-12"):
        with pytest.raises(Unsatisfiable):
            state.begin_chunk(header, None)
    with pytest.raises(ProtocolViolation, match="says 5 bytes, Content-Length 6"):
        state.begin_chunk("10-14", 6)


def test_a_stream_needs_no_range() -> None:
    state = UploadState(received=7)
    assert state.begin_chunk("", 3) == 3
    assert state.begin_chunk("", None) is None


@pytest.mark.parametrize("received", [0, 2, 10, 1 << 40])
def test_what_a_server_says_it_has_is_understood(received: int) -> None:
    assert UploadState(received=received).confirmed({"Range": received_range(received)}) == received


def test_a_server_that_says_nothing_is_believed() -> None:
    assert UploadState(received=7).confirmed({}) == 7
    assert UploadState(received=100).confirmed({"Range": "0-49"}) == 50
    with pytest.raises(ProtocolViolation):
        UploadState(received=7).confirmed({"Range": "5-9"})


# --- Pages ----------------------------------------------------------------------------------------

BASE = "https://registry.example/v2/a/tags/list?n=2"


@pytest.mark.parametrize(("link", "expected"), [
    ('</v2/a/tags/list?n=2&last=b>; rel="next"', "https://registry.example/v2/a/tags/list?n=2&last=b"),
    ("</v2/a/tags/list?last=b>; rel=next", "https://registry.example/v2/a/tags/list?last=b"),
    ('<https://other.example/x>; rel="next"', "https://other.example/x"),
    ('<?last=b>; title="a, b"; rel="prev next"', "https://registry.example/v2/a/tags/list?last=b"),
    ('</x>; rel="prev", </y>; rel="next"', "https://registry.example/y"),
    ('</x>; rel="prev"', None),
    ('</x>; rel="nextish"', None),
    ("/x; rel=next", None),
    ("", None),
])
def test_the_next_page(link: str, expected: str | None) -> None:
    assert next_link({"Link": link}, BASE) == expected


def test_pages_cut_where_they_should() -> None:
    names = ["a", "b", "c", "d"]
    assert page_of(names, {}, 1000) == (names, False)
    assert page_of(names, {"n": "2"}, 1000) == (["a", "b"], True)
    assert page_of(names, {"n": "2", "last": "b"}, 1000) == (["c", "d"], False)
    assert page_of(names, {"n": "9999999"}, 3) == (["a", "b", "c"], True)
    assert page_of(names, {"n": "0"}, 1000) == ([], False)
    assert page_of(names, {"last": "bb"}, 1000) == (["c", "d"], False)
    for text in ("-1", "x", "", "1" * 10, "\u0661"):
        with pytest.raises(ApiError) as caught:
            page_of(names, {"n": text}, 1000)
        assert caught.value.code == "PAGINATION_NUMBER_INVALID"


def test_lists_of_names() -> None:
    assert parse_names(b'{"tags":["a","b"]}', "tags") == ["a", "b"]
    assert parse_names(b'{"tags":null}', "tags") == []
    for body in (b"", b"<html>", b'{"tags":"a"}', b'{"tags":[1]}', b"[" * 100_000):
        with pytest.raises(ProtocolViolation):
            parse_names(body, "tags")


# --- Small things ---------------------------------------------------------------------------------

NOW = "Mon, 23 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize(("header", "seconds"), [
    ("0", 0.0), ("120", 120.0), (" 5 ", 5.0), ("Mon, 23 Nov 2026 10:00:30 GMT", 30.0),
    ("Mon, 23 Nov 2026 09:00:00 GMT", 0.0), ("soon", None), ("-5", None), ("", None), ("9" * 20, None),
])
def test_retry_after(header: str, seconds: float | None) -> None:
    assert parse_retry_after(header, NOW) == seconds


def test_retry_after_a_date_needs_a_date() -> None:
    assert parse_retry_after("Mon, 23 Nov 2026 10:00:30 GMT", "") is None


def test_media_types_lose_their_parameters() -> None:
    assert media_type_of({"Content-Type": "Application/JSON; charset=utf-8"}) == "application/json"
    assert media_type_of({}) == ""
