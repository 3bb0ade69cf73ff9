from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from lamina.http.message import BrokenConnection, Request, Response
from lamina.http.server import RunningServer, ServerLimits, serve
from lamina.http.transport import HttpTransport

LIMITS = ServerLimits(head_seconds=5, idle_seconds=5, stall_seconds=5, linger_seconds=0.5)


class Echo:
    """Answers with what it was sent, and remembers it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.broken: list[str] = []

    def __call__(self, request: Request) -> Response:
        try:
            data = read(request)
        except BrokenConnection as error:
            self.broken.append(str(error))
            raise
        self.seen.append((request.method, request.url, data))
        return Response(200, {"Content-Length": str(len(data))}, data)


def read(request: Request) -> bytes:
    assert request.body is not None
    assert not isinstance(request.body, bytes)
    return request.body.read()


def ignore(_request: Request) -> Response:
    return Response(403, {"Content-Length": "2"}, b"no")


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def server(echo: Echo) -> Iterator[RunningServer]:
    with serve(echo, limits=LIMITS) as running:
        yield running


def converse(server: RunningServer, data: bytes, *more: bytes) -> bytes:
    """Everything the server says to raw bytes, up to where it hangs up or has nothing more to say."""
    with socket.create_connection((server.address, server.port), timeout=10) as channel:
        channel.sendall(data)
        for piece in more:
            channel.sendall(piece)
        channel.shutdown(socket.SHUT_WR)
        return everything(channel)


def everything(channel: socket.socket) -> bytes:
    answer = b""
    while True:
        try:
            piece = channel.recv(65536)
        except ConnectionResetError:
            return answer
        if not piece:
            return answer
        answer += piece


def test_a_simple_exchange(server: RunningServer, echo: Echo) -> None:
    answer = converse(server, b"PUT /v2/x?y=z HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 200 \r\n")
    assert answer.endswith(b"\r\n\r\nabc")
    assert echo.seen == [("PUT", "http://localhost/v2/x?y=z", b"abc")]


def test_a_chunked_body(server: RunningServer, echo: Echo) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = converse(server, head, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")
    assert answer.endswith(b"abcde")


@pytest.mark.parametrize("head", [b"", b"Content-Length: 0\r\n"])
def test_a_body_that_is_not_there_is_not_waited_for(server: RunningServer, echo: Echo, head: bytes) -> None:
    with socket.create_connection((server.address, server.port), timeout=3) as channel:
        channel.sendall(b"PUT / HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
        assert channel.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert echo.seen == [("PUT", "http://localhost/", b"")]


def test_requests_in_a_row_and_pipelined(server: RunningServer, echo: Echo) -> None:
    one = b"PUT /1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\na"
    assert converse(server, one * 3).count(b"HTTP/1.1 200") == 3
    assert len(echo.seen) == 3


def test_expect_continue_is_answered_when_the_body_is_wanted(server: RunningServer) -> None:
    head = b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection((server.address, server.port), timeout=10) as channel:
        channel.sendall(head)
        assert channel.recv(100).startswith(b"HTTP/1.1 100 ")
        channel.sendall(b"abc")
        channel.shutdown(socket.SHUT_WR)
        assert everything(channel).endswith(b"abc")


def test_expect_continue_is_not_answered_when_it_is_refused() -> None:
    head = b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    with serve(ignore, limits=LIMITS) as server:
        answer = converse(server, head)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b" 100 " not in answer


def test_head_has_headers_only(server: RunningServer) -> None:
    with serve(lambda _: Response(200, {"Content-Length": "1000"}, b"x" * 1000), limits=LIMITS) as wordy:
        answer = converse(wordy, b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"ontent-Length: 1000\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_stream_of_unknown_length_is_chunked() -> None:
    with serve(lambda _: Response(200, {}, io.BytesIO(b"abc" * 100_000)), limits=LIMITS) as server:
        with HttpTransport() as transport:
            with transport.send(Request(method="GET", url=server.url)) as response:
                assert response.headers["Transfer-Encoding"] == "chunked"
                assert response.read() == b"abc" * 100_000
            transport.send(Request(method="GET", url=server.url)).close()


def test_a_file_is_sent_from_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"skipped" + b"x" * 5_000_000 + b"not sent")

    def send_file(_request: Request) -> Response:
        file: BinaryIO = path.open("rb")
        file.seek(7)
        return Response(200, {"Content-Length": "5000000"}, file)

    with serve(send_file, limits=LIMITS) as server, HttpTransport() as transport:
        for _ in range(2):
            with transport.send(Request(method="GET", url=server.url)) as response:
                assert response.read() == b"x" * 5_000_000


def test_a_file_shorter_than_announced_breaks_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"x" * 10)
    with serve(lambda _: Response(200, {"Content-Length": "20"}, path.open("rb")), limits=LIMITS) as server:
        with HttpTransport() as transport, transport.send(Request(method="GET", url=server.url)) as response:
            with pytest.raises(BrokenConnection):
                response.read()


def test_a_stream_longer_than_announced_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    with serve(lambda _: Response(200, {"Content-Length": "5"}, io.BytesIO(b"x" * 100)), limits=LIMITS) as server:
        with HttpTransport() as transport, transport.send(Request(method="GET", url=server.url)) as response:
            assert response.read() == b"x" * 5
    assert not caplog.records


# --- Bodies nobody reads --------------------------------------------------------------------------


def test_a_refused_body_does_not_become_the_next_request() -> None:
    """A body that is a request itself: it must be neither answered nor waited for."""
    inner = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    seen: list[str] = []

    def refuse(request: Request) -> Response:
        seen.append(request.url)
        return ignore(request)

    with serve(refuse, limits=LIMITS) as server:
        for head in (b"Content-Length: %d\r\n\r\n%s" % (len(inner), inner),
                     b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)):
            answer = converse(server, b"PUT /outer HTTP/1.1\r\nHost: localhost\r\n" + head)
            assert answer.count(b"HTTP/1.1 ") == 1
    assert seen == ["http://localhost/outer"] * 2


def test_an_unread_body_under_the_limit_is_drained_after_success() -> None:
    def accept(_request: Request) -> Response:
        return Response(200, {"Content-Length": "0"})

    with serve(accept, limits=LIMITS) as server, HttpTransport() as transport:
        for _ in range(3):
            transport.send(Request(method="PUT", url=server.url, body=b"x" * 100_000)).close()


def test_a_huge_unread_body_costs_the_connection_but_not_the_answer() -> None:
    with serve(ignore, limits=LIMITS) as server:
        with socket.create_connection((server.address, server.port), timeout=10) as channel:
            channel.sendall(b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n")
            answer = channel.recv(65536)
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert b"onnection: close" in answer
            with pytest.raises(OSError):
                while True:
                    channel.sendall(b"x" * 65536)


def test_a_broken_body_is_told_to_the_application(server: RunningServer, echo: Echo) -> None:
    converse(server, b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc")
    converse(server, b"PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")
    converse(server, b"PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n")
    assert len(echo.broken) == 3
    assert not echo.seen


# --- Requests that are not ------------------------------------------------------------------------


@pytest.mark.parametrize("request_bytes", [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: x\r\nX : y\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +3\r\n\r\nabc",
    b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -3\r\n\r\nabc",
    b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1_0\r\n\r\nabc",
    b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"y" * 100_000,
])
def test_malformed_requests_are_refused(server: RunningServer, echo: Echo, request_bytes: bytes) -> None:
    answer = converse(server, request_bytes + b"GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer == b"" or answer.split(b" ")[1][:1] in {b"4", b"5"}
    assert answer.count(b"HTTP/1.1 ") <= 1, "nothing after it is believed"
    assert not echo.seen


def test_a_header_with_a_line_break_is_never_sent(caplog: pytest.LogCaptureFixture) -> None:
    with serve(lambda _: Response(200, {"X": "a\r\nSet-Cookie: b"}), limits=LIMITS) as server:
        assert b"Set-Cookie" not in converse(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert "a connection failed" in caplog.text


def test_an_application_that_fails_answers_500(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_request: Request) -> Response:
        raise RuntimeError("details that nobody outside should read")

    with serve(fail, limits=LIMITS) as server:
        answer = converse(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"details" not in answer
    assert "details" in caplog.text


# --- Time and numbers -----------------------------------------------------------------------------


def test_a_head_that_drips_is_given_up() -> None:
    limits = ServerLimits(head_seconds=0.3, idle_seconds=0.3)
    with serve(ignore, limits=limits) as server:
        with socket.create_connection((server.address, server.port), timeout=10) as channel:
            with pytest.raises(OSError):
                for _ in range(20_000):  # far more often than the server looks at its clock
                    channel.sendall(b"G")
                    time.sleep(0.001)
            assert everything(channel) == b""


def test_silence_is_given_up() -> None:
    with serve(ignore, limits=ServerLimits(idle_seconds=0.2)) as server:
        with socket.create_connection((server.address, server.port), timeout=10) as channel:
            assert everything(channel) == b""


def test_a_body_that_stalls_is_given_up(echo: Echo) -> None:
    with serve(echo, limits=ServerLimits(stall_seconds=0.2)) as server:
        with socket.create_connection((server.address, server.port), timeout=10) as channel:
            channel.sendall(b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc")
            assert everything(channel) == b""
    assert not echo.seen


def test_only_so_many_connections_at_once() -> None:
    with serve(ignore, limits=ServerLimits(connections=2, idle_seconds=5)) as server:
        request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        first, second, third = (socket.create_connection((server.address, server.port), timeout=10) for _ in range(3))
        with first, second, third:
            for channel in (first, second):
                channel.sendall(request)
                assert channel.recv(65536).startswith(b"HTTP/1.1 403")
            third.sendall(request)
            third.settimeout(0.3)
            with pytest.raises(TimeoutError):
                third.recv(1)
            first.close()
            third.settimeout(10)
            assert third.recv(65536).startswith(b"HTTP/1.1 403")


def in_threads(count: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_clients_at_once(server: RunningServer) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with HttpTransport() as transport:
                for number in range(10):
                    data = bytes([number]) * 200_000
                    with transport.send(Request(method="PUT", url=server.url, body=data)) as response:
                        assert response.read() == data
        except BaseException as error:
            failures.append(error)

    in_threads(8, work)
    assert not failures


def test_closing_lets_an_answer_finish_and_cuts_what_is_idle() -> None:
    started, proceed = threading.Event(), threading.Event()

    def slow(_request: Request) -> Response:
        started.set()
        proceed.wait(10)
        return Response(200, {"Content-Length": "4"}, b"done")

    server = serve(slow, limits=LIMITS)
    idle = socket.create_connection((server.address, server.port), timeout=10)
    busy = socket.create_connection((server.address, server.port), timeout=10)
    with idle, busy:
        busy.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert started.wait(10)
        closing = threading.Thread(target=server.close)
        closing.start()
        assert everything(idle) == b""
        proceed.set()
        assert everything(busy).endswith(b"done")
        closing.join()
    with pytest.raises(OSError):
        socket.create_connection((server.address, server.port), timeout=1)
    server.close()


def test_closing_cuts_an_answer_that_does_not_finish() -> None:
    started, stopped = threading.Event(), threading.Event()

    def endless(_request: Request) -> Response:
        class Endless(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                started.set()
                return b"x" * 1000

            def close(self) -> None:
                stopped.set()
                super().close()

        return Response(200, {}, Endless())

    server = serve(endless, limits=LIMITS)
    with socket.create_connection((server.address, server.port), timeout=10) as channel:
        channel.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert started.wait(10)
        server.close(patience=0.1)
        assert stopped.wait(10)


def test_it_listens_on_ipv6() -> None:
    with serve(ignore, address="::1", limits=LIMITS) as server:
        assert server.url.startswith("http://[::1]:")
        with HttpTransport() as transport, transport.send(Request(method="GET", url=server.url)) as response:
            assert response.status == 403
