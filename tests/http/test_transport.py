from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO, Self

import pytest
from tests.http.raw import TLS, Hangup, RawServer, Said, ok, server_context

from lamina.http.message import (
    BrokenConnection,
    ConnectFailed,
    InvalidHeader,
    InvalidUrl,
    MalformedResponse,
    NotTls,
    Request,
    TimedOut,
    TlsFailed,
    UnknownHost,
    UntrustedCertificate,
)
from lamina.http.transport import HttpTransport
from lamina.http.trust import SystemAuthorities, Trust, UnusableCertificate

OURS = Trust(ca_files=(str(TLS / "ca.crt"),))


@pytest.fixture
def transport() -> Iterator[HttpTransport]:
    with HttpTransport(connect_timeout=5, read_timeout=5) as made:
        yield made


def get(url: str, trust: Trust | None = None, **headers: str) -> Request:
    return Request(method="GET", url=url, headers=headers, trust=trust or Trust())


def fetch(transport: HttpTransport, url: str, trust: Trust | None = None) -> bytes:
    with transport.send(get(url, trust)) as response:
        return response.read()


def test_a_request_as_it_goes_out(transport: HttpTransport) -> None:
    with RawServer(ok(b"hello", "X-Twice: a", "X-Twice: b")) as server:
        with transport.send(get(f"{server.url}/v2/?n=1", Accept="text/x")) as response:
            assert response.status == 200
            assert response.headers.get_all("x-twice") == ("a", "b")
            assert response.read() == b"hello"
        said = server.said[0]
    assert said.line == "GET /v2/?n=1 HTTP/1.1"
    assert said.header("Host") == server.authority
    assert said.header("Accept") == "text/x"
    assert said.header("Accept-Encoding") == "identity"


def test_bodies_of_each_kind(transport: HttpTransport) -> None:
    replies = [ok(b"")] * 3
    with RawServer(*replies) as server:
        streamed = Request(method="PUT", url=server.url, headers={"Content-Length": "5"}, body=io.BytesIO(b"12345"))
        for request in (Request(method="POST", url=server.url, body=b"abc"), streamed,
                        Request(method="POST", url=server.url, body=b"")):
            transport.send(request).close()
        assert [said.body for said in server.said] == [b"abc", b"12345", b""]
        assert [said.header("Content-Length") for said in server.said] == ["3", "5", "0"]
        assert not any(said.header("Transfer-Encoding") for said in server.said)


def test_a_big_body_goes_both_ways(transport: HttpTransport) -> None:
    data = bytes(range(256)) * 20_000
    with RawServer(lambda channel, said: channel.sendall(ok(said.body))) as server:
        request = Request(method="PUT", url=server.url, headers={"Content-Length": str(len(data))},
                          body=io.BytesIO(data))
        with transport.send(request) as response:
            assert response.read() == data


@pytest.mark.parametrize(("body", "announced"), [(b"1234", "5"), (b"123456", "5"), (b"1", "0")])
def test_a_streamed_body_must_be_as_long_as_announced(
    transport: HttpTransport, body: bytes, announced: str
) -> None:
    with RawServer(ok(b"")) as server:
        request = Request(method="PUT", url=server.url, headers={"Content-Length": announced}, body=io.BytesIO(body))
        with pytest.raises(InvalidHeader):
            transport.send(request)


def test_a_streamed_body_needs_a_length(transport: HttpTransport) -> None:
    with RawServer(ok(b"")) as server, pytest.raises(InvalidHeader, match="Content-Length"):
        transport.send(Request(method="PUT", url=server.url, body=io.BytesIO(b"x")))


def test_a_source_that_fails_is_not_mistaken_for_the_network(transport: HttpTransport) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError("the disk is on fire")

    with RawServer(ok(b"")) as server:
        request = Request(method="PUT", url=server.url, headers={"Content-Length": "5"}, body=Broken())
        with pytest.raises(OSError, match="on fire"):
            transport.send(request)


def test_a_header_cannot_begin_another(transport: HttpTransport) -> None:
    with RawServer() as server:
        with pytest.raises(InvalidHeader):
            transport.send(get(server.url, X="a\r\nY: b"))
        with pytest.raises(InvalidUrl):
            transport.send(get(server.url + "/ HTTP/1.1\r\nX: y"))
        assert not server.said


# --- Connections ----------------------------------------------------------------------------------


def test_connections_are_kept_and_used_again(transport: HttpTransport) -> None:
    with RawServer(ok(b"one"), ok(b""), ok(b"two")) as server:
        for _ in range(3):
            fetch(transport, server.url)
        assert [said.connection for said in server.said] == [1, 1, 1]


def test_head_leaves_the_connection_usable(transport: HttpTransport) -> None:
    with RawServer(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", ok(b"x")) as server:
        with transport.send(Request(method="HEAD", url=server.url)) as response:
            assert response.content_length == 99
            assert response.read() == b""
        fetch(transport, server.url)
        assert [said.connection for said in server.said] == [1, 1]


def test_a_chunked_body_leaves_the_connection_usable(transport: HttpTransport) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    with RawServer(chunked, ok(b"x")) as server:
        assert fetch(transport, server.url) == b"abc"
        fetch(transport, server.url)
        assert [said.connection for said in server.said] == [1, 1]


def test_a_body_left_unread_costs_the_connection(transport: HttpTransport) -> None:
    with RawServer(ok(b"x" * 100), ok(b"y")) as server:
        with transport.send(get(server.url)) as response:
            assert response.read(10) == b"x" * 10
        assert fetch(transport, server.url) == b"y"
        assert [said.connection for said in server.said] == [1, 2]


def test_connection_close_is_respected(transport: HttpTransport) -> None:
    with RawServer(Hangup(ok(b"one", "Connection: close")), ok(b"two")) as server:
        assert fetch(transport, server.url) == b"one"
        assert fetch(transport, server.url) == b"two"
        assert [said.connection for said in server.said] == [1, 2]


def test_a_body_that_ends_with_the_connection(transport: HttpTransport) -> None:
    with RawServer(Hangup(b"HTTP/1.0 200 OK\r\n\r\nall of it")) as server:
        assert fetch(transport, server.url) == b"all of it"


def test_a_kept_connection_that_died_is_replaced(transport: HttpTransport) -> None:
    with RawServer(Hangup(ok(b"one")), ok(b"two")) as server:
        assert fetch(transport, server.url) == b"one"
        assert fetch(transport, server.url) == b"two"
        assert [said.connection for said in server.said] == [1, 2]


def test_a_kept_connection_that_dies_under_a_request_is_replaced(transport: HttpTransport) -> None:
    with RawServer(ok(b"one"), Hangup(), ok(b"two")) as server:
        assert fetch(transport, server.url) == b"one"
        assert fetch(transport, server.url) == b"two"
        assert [said.connection for said in server.said] == [1, 1, 2]


def test_a_streamed_body_is_never_sent_twice(transport: HttpTransport) -> None:
    with RawServer(ok(b"one"), Hangup(), ok(b"two")) as server:
        fetch(transport, server.url)
        request = Request(method="PUT", url=server.url, headers={"Content-Length": "3"}, body=io.BytesIO(b"abc"))
        with pytest.raises(BrokenConnection, match="without an answer"):
            transport.send(request)
        assert len(server.said) == 2


def test_a_kept_connection_that_is_known_to_be_dead_is_not_tried(transport: HttpTransport) -> None:
    with RawServer(Hangup(ok(b"one")), ok(b"two")) as server:
        fetch(transport, server.url)
        ((kept,),) = transport._idle.values()
        while kept.is_usable():  # until the server's goodbye has arrived
            time.sleep(0.01)
        with transport.send(Request(method="POST", url=server.url, body=b"abc")) as response:
            assert response.read() == b"two"


def test_a_connection_with_a_garbled_body_is_not_kept(transport: HttpTransport) -> None:
    garbled = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    with RawServer(garbled, ok(b"fine")) as server:
        with pytest.raises(MalformedResponse):
            fetch(transport, server.url)
        assert fetch(transport, server.url) == b"fine"
        assert [said.connection for said in server.said] == [1, 2]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_may_have_been_done_is_not_done_twice(transport: HttpTransport, method: str) -> None:
    with RawServer(ok(b"one"), Hangup(), ok(b"two")) as server:
        fetch(transport, server.url)
        with pytest.raises(BrokenConnection):
            transport.send(Request(method=method, url=server.url, body=b"abc"))
        assert len(server.said) == 2


def test_a_fresh_connection_that_dies_is_reported(transport: HttpTransport) -> None:
    with RawServer(Hangup()) as server, pytest.raises(BrokenConnection, match="closed the connection") as caught:
        transport.send(get(server.url))
    assert caught.value.may_pass


def test_threads_share_the_transport(transport: HttpTransport) -> None:
    results: list[bytes] = []
    with RawServer(*[ok(b"x" * 50_000)] * 40) as server:
        def work() -> None:
            results.extend(fetch(transport, server.url) for _ in range(10))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({said.connection for said in server.said}) <= 4
    assert results == [b"x" * 50_000] * 40


def test_an_early_refusal_of_a_big_body_is_read(transport: HttpTransport) -> None:
    refusal = b"HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return b"x" * size

    def refuse(channel: socket.socket, said: Said) -> None:
        channel.sendall(refusal)

    with RawServer(refuse) as server:
        def listen_to_the_head_only(channel: socket.socket, number: int) -> Said | None:
            data = channel.recv(65536)
            return Said(data.partition(b"\r\n\r\n")[0].decode(), b"", number) if data else None

        server._listen = listen_to_the_head_only  # type: ignore[method-assign]
        request = Request(method="PUT", url=server.url, headers={"Content-Length": str(1 << 40)}, body=Endless())
        with transport.send(request) as response:
            assert response.status == 413
            assert response.read() == b"no"


# --- Servers that misbehave -----------------------------------------------------------------------


def test_a_truncated_body(transport: HttpTransport) -> None:
    with RawServer(Hangup(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")) as server:
        response = transport.send(get(server.url))
        with pytest.raises(BrokenConnection, match="after 3 bytes, 7 short"):
            response.read()
        response.close()


def test_a_truncated_chunked_body(transport: HttpTransport) -> None:
    with RawServer(Hangup(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc")) as server:
        response = transport.send(get(server.url))
        with pytest.raises(BrokenConnection):
            response.read()


def test_a_negative_chunk_is_refused(transport: HttpTransport) -> None:
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + b"x" * 1000
    with RawServer(Hangup(body)) as server:
        response = transport.send(get(server.url))
        with pytest.raises(MalformedResponse, match="not the size of a chunk"):
            response.read(10)


@pytest.mark.parametrize("reply", [
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: " % n + b"y" * 60_000 + b"\r\n" for n in range(90)) + b"\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
], ids=["not HTTP", "no status", "long line", "many lines", "many long lines", "interim"])
def test_answers_that_are_not_http(transport: HttpTransport, reply: bytes) -> None:
    with RawServer(Hangup(reply)) as server, pytest.raises(MalformedResponse) as caught:
        transport.send(get(server.url))
    assert str(caught.value).startswith(server.authority)
    assert len(str(caught.value)) < 300


def test_endless_interim_answers_are_stopped(transport: HttpTransport) -> None:
    def continue_for_ever(channel: socket.socket, _said: Said) -> None:
        while True:
            channel.sendall(b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 1000 + b"\r\n\r\n")

    with RawServer(continue_for_ever) as server, pytest.raises(MalformedResponse, match="headers are longer"):
        transport.send(get(server.url))


def test_silence_is_waited_for_only_so_long() -> None:
    with RawServer(lambda channel, _: channel.recv(1)) as server, HttpTransport(read_timeout=0.2) as transport:
        with pytest.raises(TimedOut, match=rf"^{server.authority}: no data for too long") as caught:
            transport.send(get(server.url))
        assert caught.value.may_pass


def test_a_request_may_bring_less_patience() -> None:
    """Also for the rest of a body that has begun; and the connection is kept for others with their own."""
    release = threading.Event()

    def think(channel: socket.socket, _said: Said) -> None:
        release.wait(0.5)
        channel.sendall(ok(b"late"))

    def stop(channel: socket.socket, _said: Said) -> None:
        channel.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        release.wait(20)

    with RawServer(ok(b"one"), think, stop) as server, HttpTransport(read_timeout=60) as transport:
        hurried = Request(method="GET", url=server.url, silence=0.2)
        with transport.send(hurried) as response:
            assert response.read() == b"one"
        assert fetch(transport, server.url) == b"late"
        with transport.send(hurried) as response, pytest.raises(TimedOut):
            response.read()
        release.set()


def test_an_answer_to_a_body_may_take_longer() -> None:
    def think(channel: socket.socket, _said: Said) -> None:
        time.sleep(0.5)
        channel.sendall(ok(b"done"))

    with RawServer(think, think) as server, HttpTransport(read_timeout=0.2, answer_timeout=20) as transport:
        with transport.send(Request(method="PUT", url=server.url, body=b"")) as response:
            assert response.read() == b"done"
        with pytest.raises(TimedOut):
            transport.send(get(server.url))


def test_a_drip_is_not_a_stream() -> None:
    """Each wait is short, but a clock that runs a minute for each of them sees through it."""
    now = iter(range(0, 10**9, 61))

    def drip(channel: socket.socket, _said: Said) -> None:
        channel.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(100):
            channel.sendall(b"x")

    with RawServer(drip) as server, HttpTransport(clock=lambda: next(now)) as transport:
        with pytest.raises(TimedOut, match=r"sent only [0-9]+ bytes in [0-9]+ seconds"):
            fetch(transport, server.url)


def test_a_slow_reader_is_not_blamed_on_the_sender() -> None:
    """Hours between our own reads do not count: only time inside of a wait does."""
    now = [0.0]
    with RawServer(ok(b"x" * 300)) as server, HttpTransport(clock=lambda: now[0]) as transport:
        with transport.send(get(server.url)) as response:
            data = b""
            while chunk := response.read(10):
                data += chunk
                now[0] += 3600
    assert data == b"x" * 300


# --- Reaching nobody ------------------------------------------------------------------------------


def test_an_unknown_host(transport: HttpTransport) -> None:
    with pytest.raises(UnknownHost, match=r"^no-such-host\.invalid: no such host"):
        transport.send(get("http://no-such-host.invalid/"))


def test_a_host_that_is_no_name(transport: HttpTransport) -> None:
    with pytest.raises(UnknownHost):
        transport.send(get(f"http://{'a' * 70}.example/"))


def test_nobody_listening(transport: HttpTransport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectFailed, match=rf"^127\.0\.0\.1:{port}: cannot connect \(Connection refused\)"):
        transport.send(get(f"http://127.0.0.1:{port}/"))


# --- TLS ------------------------------------------------------------------------------------------


def test_tls_with_a_given_authority(transport: HttpTransport) -> None:
    with RawServer(ok(b"one"), ok(b"two"), tls=server_context()) as server:
        assert fetch(transport, f"https://localhost:{server.port}/", OURS) == b"one"
        assert fetch(transport, f"https://localhost:{server.port}/", OURS) == b"two"
        assert [said.connection for said in server.said] == [1, 1]


def test_an_unknown_authority_is_not_trusted(transport: HttpTransport) -> None:
    with RawServer(ok(b""), tls=server_context()) as server:
        with pytest.raises(UntrustedCertificate, match=r"localhost:\d+: its certificate is not trusted \("):
            transport.send(get(f"https://localhost:{server.port}/"))
        assert not server.said


def test_a_certificate_for_another_name_is_not_trusted(transport: HttpTransport) -> None:
    with RawServer(ok(b""), tls=server_context()) as server:
        with Relay(server.port) as relay, pytest.raises(UntrustedCertificate, match=r"127\.0\.0\.2"):
            transport.send(get(f"https://127.0.0.2:{relay.port}/", OURS))


class Relay:
    """127.0.0.2, so that the name asked for is not in the certificate."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.2", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._relay, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()

    def _relay(self) -> None:
        channel, _ = self._listener.accept()
        with channel, socket.create_connection(("127.0.0.1", self._target)) as onward:
            threading.Thread(target=pump, args=(channel, onward), daemon=True).start()
            pump(onward, channel)


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_verification_can_be_turned_off(transport: HttpTransport) -> None:
    with RawServer(ok(b"hello"), tls=server_context()) as server:
        assert fetch(transport, f"https://127.0.0.1:{server.port}/", Trust(verify=False)) == b"hello"


def test_what_one_trust_allowed_another_does_not_inherit(transport: HttpTransport) -> None:
    with RawServer(ok(b"hello"), ok(b"again"), tls=server_context()) as server:
        fetch(transport, f"{server.url}/", Trust(verify=False))
        with pytest.raises(UntrustedCertificate):
            fetch(transport, f"{server.url}/")


def test_system_authorities_can_be_named() -> None:
    authorities = SystemAuthorities(ca_file=str(TLS / "ca.crt"))
    with RawServer(ok(b"hello"), tls=server_context()) as server, HttpTransport(authorities=authorities) as transport:
        assert fetch(transport, server.url) == b"hello"


def test_a_client_certificate(transport: HttpTransport) -> None:
    with RawServer(ok(b"hello"), tls=server_context(client_ca=TLS / "ca.crt")) as server:
        mine = Trust(ca_files=OURS.ca_files,
                     client_certificates=((str(TLS / "client.crt"), str(TLS / "client.key")),))
        assert fetch(transport, server.url, mine) == b"hello"


def test_a_client_certificate_that_is_missing(transport: HttpTransport) -> None:
    with RawServer(ok(b"hello"), tls=server_context(client_ca=TLS / "ca.crt")) as server:
        with pytest.raises((TlsFailed, BrokenConnection)):
            fetch(transport, server.url, OURS)


def test_plain_http_where_tls_was_expected(transport: HttpTransport) -> None:
    with RawServer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        def answer_anything(channel: socket.socket, number: int) -> Said:
            channel.recv(65536)
            return Said("", b"", number)

        server._listen = answer_anything  # type: ignore[method-assign]
        with pytest.raises(NotTls, match="does not speak TLS"):
            transport.send(get(f"https://{server.authority}/"))


@pytest.mark.parametrize("trust", [
    Trust(ca_files=("/nonexistent.crt",)),
    Trust(client_certificates=((str(TLS / "client.crt"), "/nonexistent.key"),)),
    Trust(client_certificates=((str(TLS / "client.crt"), str(TLS / "server.key")),)),
])
def test_certificates_that_cannot_be_used(transport: HttpTransport, trust: Trust) -> None:
    with RawServer(ok(b""), tls=server_context()) as server, pytest.raises(UnusableCertificate):
        transport.send(get(server.url, trust))


def test_a_truncated_body_over_tls(transport: HttpTransport) -> None:
    reply = Hangup(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    with RawServer(reply, tls=server_context()) as server:
        response = transport.send(get(server.url, OURS))
        with pytest.raises(BrokenConnection):
            response.read()


def test_readinto_reads_the_same(transport: HttpTransport) -> None:
    data = bytes(range(256)) * 5000
    with RawServer(ok(data)) as server, transport.send(get(server.url)) as response:
        buffer, out = bytearray(100_000), bytearray()
        stream: BinaryIO = response.stream
        while count := stream.readinto(buffer):  # type: ignore[attr-defined]
            out += buffer[:count]
    assert bytes(out) == data
