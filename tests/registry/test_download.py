from __future__ import annotations

import io
import itertools
from collections.abc import Callable

import pytest
from tests.registry.net import Net, Script, Waits, answer, blob, client, falling

from lamina.content.store import DigestMismatch, SizeMismatch, verified
from lamina.http.message import BrokenConnection, MalformedResponse, Request, Response
from lamina.oci.reference import Reference
from lamina.registry.failures import RemoteBlobNotFound
from lamina.registry.protocol import ProtocolViolation, parse_range

DATA = bytes(range(256)) * 16_384  # 4 MiB
WANTED = blob(DATA)
REGISTRY = "https://registry.example"
NAME = Reference.parse("registry.example/a")


def ranged(data: bytes = DATA) -> Callable[[Request], Response]:
    """A server that honours Range, as registries do."""

    def serve(request: Request) -> Response:
        span = parse_range(request.headers.get("Range", ""), len(data))
        if span is None:
            return answer(200, data)
        start, end = span
        return answer(206, data[start : end + 1], Content_Range=f"bytes {start}-{end}/{len(data)}")

    return serve


def breaking(serve: Callable[[Request], Response], *after: int) -> Callable[[Request], Response]:
    """The same server, whose first answers break off after so many bytes each."""
    left = list(after)

    def broken(request: Request) -> Response:
        response = serve(request)
        if not left:
            return response
        return Response(response.status, response.headers, falling(response.read()[: left.pop(0)]))

    return broken


def read(net: Net, waits: Waits | None = None, offset: int = 0, attempts: int = 5) -> bytes:
    with client(net, waits=waits, attempts=attempts).repository(NAME).open_at(WANTED, offset) as stream:
        return stream.read()


def ranges(net: Net) -> list[str]:
    return [request.headers.get("Range", "") for request in net.sent]


def test_a_blob_is_read_whole() -> None:
    net = Net({REGISTRY: ranged()})
    assert read(net) == DATA
    assert ranges(net) == [""]


@pytest.mark.parametrize("offset", [1, 1000, len(DATA) - 1])
def test_a_blob_is_read_from_the_middle(offset: int) -> None:
    net = Net({REGISTRY: ranged()})
    assert read(net, offset=offset) == DATA[offset:]
    assert ranges(net) == [f"bytes={offset}-"]


def test_past_the_end_there_is_nothing_to_ask_for() -> None:
    net = Net()
    assert read(net, offset=len(DATA)) == b""
    assert not net.sent


def test_a_broken_download_goes_on_where_it_stopped() -> None:
    waits = Waits()
    net = Net({REGISTRY: breaking(ranged(), 1000, 0, 5)})
    assert read(net, waits) == DATA
    assert ranges(net) == ["", "bytes=1000-", "bytes=1000-", "bytes=1005-"]
    assert waits.seconds == [0.5, 1.0, 2.0]
    assert {event.subject for event in waits.events} == {WANTED.digest}


def test_a_server_that_ignores_ranges_is_read_up_to_the_place() -> None:
    net = Net({REGISTRY: breaking(lambda _: answer(200, DATA), 1000, 2_000_000)})
    assert read(net) == DATA


def test_progress_earns_new_patience() -> None:
    """Four breaks with over 1 MiB in between are fine with two attempts; five in a row without are not."""
    net = Net({REGISTRY: breaking(ranged(), *[1_100_000] * 3)})
    assert read(net, attempts=2) == DATA
    net = Net({REGISTRY: breaking(ranged(), *[10] * 50)})
    waits = Waits()
    with pytest.raises(BrokenConnection):
        read(net, waits)
    assert len(net.sent) == 5
    assert len(waits.seconds) == 4


def test_an_end_without_a_length_that_comes_early_is_a_break() -> None:
    """A body that ends with its connection: nothing but the descriptor says that it is short."""
    net = Net({REGISTRY: Script(Response(200, {}, DATA[:1000]), ranged())})
    assert read(net) == DATA
    net = Net({REGISTRY: lambda _: Response(200, {}, b"")})
    with pytest.raises(BrokenConnection, match=f"ended after 0 of {len(DATA)} bytes"):
        read(net)


def test_what_cannot_pass_is_not_tried_again() -> None:
    class Garbled(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise MalformedResponse("not a chunk")

    net = Net({REGISTRY: lambda _: Response(200, {}, Garbled())})  # type: ignore[arg-type]
    with pytest.raises(MalformedResponse):
        read(net)
    assert len(net.sent) == 1


def test_a_blob_that_vanishes_is_not_found() -> None:
    net = Net({REGISTRY: Script(Response(200, {}, falling(DATA[:10])), answer(404))})
    with pytest.raises(RemoteBlobNotFound):
        read(net)


# --- Lies about size (SECURITY 42) ----------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, len(DATA) - 1, len(DATA) + 1, 1 << 60])
def test_an_announced_size_that_is_not_the_descriptor_s(length: int) -> None:
    net = Net({REGISTRY: lambda _: Response(200, {"Content-Length": str(length)}, DATA)})
    with pytest.raises(SizeMismatch, match=f"expected {len(DATA)} bytes, the registry announces {length}"):
        read(net)


def test_extra_bytes_are_refused() -> None:
    net = Net({REGISTRY: lambda _: Response(200, {}, DATA + b"x")})
    with pytest.raises(SizeMismatch, match=f"expected {len(DATA)} bytes, got more"):
        read(net)


def test_an_endless_body_is_not_read_to_its_end() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            self.given += size
            return b"x" * size

    endless = Endless()
    net = Net({REGISTRY: lambda _: Response(200, {}, endless)})  # type: ignore[arg-type]
    with pytest.raises(SizeMismatch):
        read(net)
    assert endless.given == len(DATA) + 1


def test_other_bytes_of_the_right_size_are_found_out_by_the_reader() -> None:
    net = Net({REGISTRY: ranged(DATA[::-1])})
    with client(net).repository(NAME).open(WANTED) as stream, pytest.raises(DigestMismatch):
        verified(WANTED, stream).read()


@pytest.mark.parametrize("header", [
    f"bytes 2000-{len(DATA) - 1}/{len(DATA)}", f"bytes 1000-{len(DATA) - 2}/{len(DATA)}", "bytes 1000-1999/2000",
    "", "garbage", f"bytes 1000-{len(DATA)}/{len(DATA) + 1}",
])
def test_a_part_that_was_not_asked_for(header: str) -> None:
    net = Net({REGISTRY: lambda _: answer(206, DATA[1000:], Content_Range=header)})
    with pytest.raises((ProtocolViolation, SizeMismatch)):
        read(net, offset=1000)


def test_a_part_that_begins_earlier_is_read_up_to_the_place() -> None:
    header = f"bytes 500-{len(DATA) - 1}/*"
    net = Net({REGISTRY: lambda _: answer(206, DATA[500:], Content_Range=header)})
    assert read(net, offset=1000) == DATA[1000:]


# --- Reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[1], [7, 100_000], [1 << 20], [1 << 30]])
def test_reads_of_any_size(sizes: list[int]) -> None:
    net = Net({REGISTRY: breaking(ranged(), 123_456, 1)})
    with client(net).repository(NAME).open(WANTED) as stream:
        pieces = [stream.read(size) for size in itertools.islice(itertools.cycle(sizes), 50)]
        pieces.append(stream.read())
        assert stream.read(10) == b""
    assert b"".join(pieces) == DATA


def test_readinto() -> None:
    net = Net({REGISTRY: breaking(ranged(), 123_456)})
    out, buffer = bytearray(), bytearray(70_000)
    with client(net).repository(NAME).open(WANTED) as stream:
        while count := stream.readinto(buffer):  # type: ignore[attr-defined]
            out += buffer[:count]
    assert bytes(out) == DATA


def test_closing_closes_the_connection() -> None:
    body = io.BytesIO(DATA)
    net = Net({REGISTRY: lambda _: Response(200, {}, body)})
    client(net).repository(NAME).open(WANTED).close()
    assert body.closed


def test_the_last_byte_gives_the_connection_back() -> None:
    body = io.BytesIO(DATA)
    net = Net({REGISTRY: lambda _: Response(200, {}, body)})
    stream = client(net).repository(NAME).open(WANTED)
    stream.read(len(DATA))
    assert body.closed, "before close(), so that the next blob finds it"


def test_a_connection_that_breaks_after_the_last_byte_does_not_matter() -> None:
    net = Net({REGISTRY: lambda _: Response(200, {}, falling(DATA))})
    assert read(net) == DATA
    assert len(net.sent) == 1
