"""Laws of the distribution protocol's pure parts: no input raises what it should not, and halves agree."""

from __future__ import annotations

import contextlib
import io
import itertools

from hypothesis import given
from hypothesis import strategies as st
from tests.registry.net import Net, blob, client

from lamina.http.chunked import ChunkedReader
from lamina.http.message import BrokenConnection, InvalidUrl, MalformedResponse, Request, split_url
from lamina.http.proxy import ProxyRules
from lamina.oci.digest import Digest
from lamina.oci.reference import REPOSITORY, TAG, Reference
from lamina.registry.auth import merge_scopes, parse_challenges
from lamina.registry.protocol import (
    ApiError,
    BlobRoute,
    ManifestRoute,
    ProtocolViolation,
    Unsatisfiable,
    UploadState,
    blob_path,
    manifest_path,
    next_link,
    page_of,
    parse_chunk_range,
    parse_content_range,
    parse_errors,
    parse_range,
    parse_retry_after,
    parse_target,
    received_range,
)
from lamina.registry.server import RegistryApp
from lamina.testing.registry import MemoryProvider

components = st.builds("{}{}{}".format, st.text("ab0", min_size=1, max_size=3), st.sampled_from([".", "_", "__", "---"]),
                       st.sampled_from(["manifests", "blobs", "uploads", "tags", "list", "0"]))
repositories = st.lists(st.one_of(components, st.sampled_from(["blobs", "uploads", "manifests", "v2"])),
                        min_size=1, max_size=4).map("/".join)
tags = st.from_regex(TAG, fullmatch=True)
digests = st.builds(Digest.of, st.binary(max_size=5), st.sampled_from(["sha256", "sha384", "sha512"]))
# What hostile headers are made of: the grammar's own signs, and anything.
noise = st.text(st.one_of(st.sampled_from(' \t",;=<>/\\%:?&-0123456789abnext\r\n'), st.characters()), max_size=80)


@given(repositories, st.one_of(tags, digests))
def test_a_path_we_ask_is_the_route_we_serve(repository: str, reference: str) -> None:
    assert parse_target(manifest_path(repository, reference)) == (ManifestRoute(repository, reference), {})


@given(repositories, digests)
def test_a_blob_path_is_a_blob_route(repository: str, digest: Digest) -> None:
    assert parse_target(blob_path(repository, digest)) == (BlobRoute(repository, digest), {})


@given(noise)
def test_any_target_is_a_route_or_a_refusal(target: str) -> None:
    for prefix in ("", "/v2/", "/v2/a/blobs/uploads/", "/v2/a/manifests/"):
        with contextlib.suppress(ApiError):
            route, _ = parse_target(prefix + target)
            assert REPOSITORY.fullmatch(getattr(route, "repository", "a"))


@given(noise, noise)
def test_nothing_a_server_says_surprises(text: str, more: str) -> None:
    parse_errors(text.encode(errors="replace"))
    parse_retry_after(text, more)
    parse_challenges([text, more])
    merge_scopes([text, more])
    next_link({"Link": text}, "https://registry.example/v2/")
    for parse in (parse_content_range, parse_chunk_range):
        with contextlib.suppress(ProtocolViolation):
            parse(text)


@given(noise)
def test_a_url_is_split_or_refused(url: str) -> None:
    for text in (url, f"https://{url}", f"https://host{url}"):
        try:
            origin, target = split_url(text)
        except InvalidUrl:
            continue
        assert origin.scheme in {"http", "https"}
        assert target.startswith("/")
        assert split_url(f"{origin}{target}") == (origin, target)


@given(st.integers(0, 100), st.integers(0, 200), st.integers(0, 200))
def test_a_range_is_inside(size: int, start: int, end: int) -> None:
    data = bytes(size)
    try:
        span = parse_range(f"bytes={start}-{end}", size)
    except Unsatisfiable:
        assert start >= size
        return
    if span is None:
        assert end < start
    else:
        assert data[span[0] : span[1] + 1] == data[start : end + 1]


@given(st.lists(st.integers(1, 1000), max_size=10))
def test_both_sides_of_an_upload_keep_the_same_count(lengths: list[int]) -> None:
    client_state, server_state = UploadState(), UploadState()
    for length in lengths:
        start = client_state.received
        assert server_state.begin_chunk(f"{start}-{start + length - 1}", length) == length
        server_state.advance(length)
        client_state.advance(length)
        client_state.received = client_state.confirmed({"Range": received_range(server_state.received)})
        assert client_state.received == server_state.received


@given(st.sets(st.text("abc", min_size=1, max_size=4)), st.integers(1, 5))
def test_pages_are_the_list(names: set[str], count: int) -> None:
    items, found, query = sorted(names), [], {"n": str(count)}
    while True:
        page, has_more = page_of(items, query, 1000)
        found += page
        if not has_more:
            break
        query["last"] = page[-1]
    assert found == items


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8), st.integers(1, 30))
def test_chunks_are_their_bytes(pieces: list[bytes], size: int) -> None:
    wire = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    reader, out, buffer = ChunkedReader(io.BytesIO(wire), "host"), bytearray(), bytearray(size)
    while count := reader.readinto(memoryview(buffer)):
        out += buffer[:count]
    assert bytes(out) == b"".join(pieces)


@given(st.binary(max_size=60))
def test_chunks_of_noise_end(wire: bytes) -> None:
    reader = ChunkedReader(io.BytesIO(wire), "host")
    with contextlib.suppress(BrokenConnection, MalformedResponse):
        while reader.readinto(memoryview(bytearray(7))):
            pass


@given(noise)
def test_no_proxy_never_fails(text: str) -> None:
    ProxyRules.parse(https="http://proxy:1", no_proxy=text).proxy_for(split_url("https://registry.example/")[0])


@given(st.binary(max_size=3000), st.lists(st.integers(0, 3000), max_size=4), st.integers(0, 3000))
def test_what_is_pushed_is_pulled(data: bytes, cuts: list[int], offset: int) -> None:
    """Through the whole client and the whole server, in any pieces, from any place."""
    app = RegistryApp(MemoryProvider())
    target = client(Net({"http://localhost:5000": app})).repository(Reference.parse("localhost:5000/a"))
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    with target.ingest() as ingest:
        for start, end in itertools.pairwise(edges):
            ingest.write(data[start:end])
        assert ingest.commit("application/x") == blob(data, "application/x")
    with target.open_at(blob(data), min(offset, len(data))) as stream:
        assert stream.read() == data[offset:]


@given(st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]), noise, st.binary(max_size=20))
def test_any_request_gets_an_answer(method: str, target: str, body: bytes) -> None:
    app = RegistryApp(MemoryProvider())
    for prefix in ("/", "/v2/a/manifests/", "/v2/a/blobs/uploads/", "/v2/_catalog?"):
        response = app(Request(method=method, url=f"http://localhost{prefix}{target}", body=body))
        assert 200 <= response.status < 500
        assert all("\r" not in value and "\n" not in value for _, value in response.headers.pairs())
    app.close()
