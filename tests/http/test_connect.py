"""Through proxies: plain requests, tunnels, and tunnels in tunnels."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import pytest
from tests.http.raw import TLS, Hangup, RawServer, Said, ok, server_context

from lamina.http.message import MalformedResponse, ProxyFailed, Request, Response, UntrustedCertificate
from lamina.http.proxy import Proxy, ProxyRules
from lamina.http.transport import HttpTransport
from lamina.http.trust import SystemAuthorities, Trust

OURS = Trust(ca_files=(str(TLS / "ca.crt"),))
# Loopback is never proxied, so the name asked for is one that only our proxies know.
NAME = "registry.example"


def tunnel(port: int) -> Callable[[socket.socket, Said], None]:
    """Answers CONNECT by connecting to one place, whatever was asked for."""

    def connect(channel: socket.socket, said: Said) -> None:
        assert said.line.startswith("CONNECT ")
        with socket.create_connection(("127.0.0.1", port)) as onward:
            channel.sendall(b"HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n")
            back = threading.Thread(target=pump, args=(onward, channel), daemon=True)
            back.start()
            pump(channel, onward)
            back.join()

    return connect


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def through(proxy: str) -> HttpTransport:
    rules = ProxyRules(http=Proxy.parse(proxy), https=Proxy.parse(proxy))
    return HttpTransport(proxies=rules, authorities=SystemAuthorities(ca_file=str(TLS / "ca.crt")), read_timeout=5)


def get(url: str, trust: Trust | None = None) -> Request:
    return Request(method="GET", url=url, trust=trust or Trust())


def body(response: Response) -> bytes:
    with response:
        return response.read()


def test_a_plain_request_names_its_whole_url() -> None:
    with RawServer(ok(b"hello"), ok(b"again")) as proxy, through(f"http://me:hush@{proxy.authority}") as transport:
        assert body(transport.send(get(f"http://{NAME}/v2/?n=1"))) == b"hello"
        assert body(transport.send(get(f"http://{NAME}/v2/"))) == b"again"
        assert proxy.said[0].line == f"GET http://{NAME}/v2/?n=1 HTTP/1.1"
        assert proxy.said[0].header("Host") == NAME
        assert proxy.said[0].header("Proxy-Authorization") == "Basic bWU6aHVzaA=="
        assert [said.connection for said in proxy.said] == [1, 1]


@pytest.mark.parametrize("is_secure", [False, True], ids=["http proxy", "https proxy"])
def test_tls_goes_through_a_tunnel(is_secure: bool) -> None:
    data = bytes(range(256)) * 4000
    with RawServer(ok(data), ok(b"again"), tls=server_context()) as server:
        proxy_server = RawServer(tunnel(server.port), tls=server_context() if is_secure else None)
        with proxy_server as proxy, through(proxy.url.replace("://", "://me:hush@")) as transport:
            assert body(transport.send(get(f"https://localhost.{NAME}/x", Trust(verify=False)))) == data
            assert body(transport.send(get(f"https://localhost.{NAME}/x", Trust(verify=False)))) == b"again"
            assert proxy.said[0].line == f"CONNECT localhost.{NAME}:443 HTTP/1.1"
            assert proxy.said[0].header("Proxy-Authorization") == "Basic bWU6aHVzaA=="
        assert [said.header("Proxy-Authorization") for said in server.said] == [None, None]
        assert server.said[0].line == "GET /x HTTP/1.1"


def test_a_big_body_goes_through_two_tunnels() -> None:
    data = bytes(range(256)) * 4000
    with RawServer(lambda channel, said: channel.sendall(ok(said.body)), tls=server_context()) as server:
        with RawServer(tunnel(server.port), tls=server_context()) as proxy, through(proxy.url) as transport:
            request = Request(method="PUT", url=f"https://{NAME}/", body=data, trust=Trust(verify=False))
            assert body(transport.send(request)) == data


@pytest.mark.parametrize("is_secure", [False, True], ids=["http proxy", "https proxy"])
def test_a_tunnel_does_not_make_a_stranger_trusted(is_secure: bool) -> None:
    """The server at the other end shows a certificate for localhost, not for the name asked for."""
    with RawServer(ok(b""), tls=server_context()) as server:
        proxy_server = RawServer(tunnel(server.port), tls=server_context() if is_secure else None)
        with proxy_server as proxy, through(proxy.url) as transport:
            with pytest.raises(UntrustedCertificate, match=NAME):
                transport.send(get(f"https://{NAME}/", OURS))
        assert not server.said


@pytest.mark.parametrize(("reply", "message"), [
    (Hangup(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), "user name and password"),
    (Hangup(b"HTTP/1.1 503 No\r\n\r\n"), "refused to connect to registry.example"),
    (Hangup(b"SSH-2.0-x\r\n\r\n"), "did not answer in HTTP"),
    (Hangup(), "broke off"),
])
def test_a_proxy_that_refuses(reply: Hangup, message: str) -> None:
    with RawServer(reply) as proxy, through(f"http://me:hush@{proxy.authority}") as transport:
        with pytest.raises(ProxyFailed, match=message) as caught:
            transport.send(get(f"https://{NAME}/"))
    assert "hush" not in str(caught.value)


def test_a_proxy_that_never_ends_its_answer() -> None:
    with RawServer(Hangup(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000)) as proxy, through(proxy.url) as transport:
        with pytest.raises(MalformedResponse, match="too long"):
            transport.send(get(f"https://{NAME}/"))


def test_a_proxy_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with through(f"http://127.0.0.1:{port}") as transport, pytest.raises(ProxyFailed, match=r"proxy 127\.0\.0\.1"):
        transport.send(get(f"https://{NAME}/"))


def test_loopback_goes_past_the_proxy() -> None:
    with RawServer(ok(b"direct")) as server, RawServer() as proxy, through(proxy.url) as transport:
        assert body(transport.send(get(server.url))) == b"direct"
        assert not proxy.said
