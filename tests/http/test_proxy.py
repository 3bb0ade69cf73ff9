from __future__ import annotations

import pytest

from lamina.http.message import Origin
from lamina.http.proxy import InvalidProxy, Proxy, ProxyRules, is_loopback


def origin(host: str, port: int = 443, scheme: str = "https") -> Origin:
    return Origin(scheme, host, port)


def test_each_scheme_has_its_proxy() -> None:
    rules = ProxyRules.parse(http="http://plain:3128", https="secure:3129")
    assert str(rules.proxy_for(origin("example.com", 80, "http"))) == "http://plain:3128"
    assert str(rules.proxy_for(origin("example.com"))) == "http://secure:3129"
    assert ProxyRules.parse(http="http://plain:3128").proxy_for(origin("example.com")) is None


@pytest.mark.parametrize(("exceptions", "host", "port", "is_direct"), [
    ("*", "example.com", 443, True),
    ("example.com", "example.com", 443, True),
    ("example.com", "EXAMPLE.com", 443, True),
    ("example.com", "registry.example.com", 443, True),
    ("example.com", "badexample.com", 443, False),
    (".example.com", "registry.example.com", 443, True),
    (".example.com", "example.com", 443, False),
    ("*.example.com", "registry.example.com", 443, True),
    ("example.com:5000", "example.com", 5000, True),
    ("example.com:5000", "example.com", 443, False),
    ("other.com, example.com", "example.com", 443, True),
    ("10.0.0.0/8", "10.1.2.3", 443, True),
    ("10.0.0.0/8", "11.1.2.3", 443, False),
    ("10.0.0.0/8", "ten.example.com", 443, False),
    ("10.1.2.3", "10.1.2.3", 443, True),
    ("10.1.2.3:5000", "10.1.2.3", 443, False),
    ("fd00::/8", "fd00::1", 443, True),
    ("fd00::1", "fd00::1", 443, True),
    ("nonsense/99", "10.1.2.3", 443, False),
    ("", "example.com", 443, False),
    ("", "localhost", 443, True),
    ("", "127.0.0.9", 443, True),
    ("", "::1", 443, True),
])
def test_exceptions(exceptions: str, host: str, port: int, is_direct: bool) -> None:
    rules = ProxyRules.parse(https="http://proxy:3128", no_proxy=exceptions)
    assert (rules.proxy_for(origin(host, port)) is None) == is_direct


def test_proxy_credentials_are_sent_and_never_shown() -> None:
    proxy = Proxy.parse("http://me:p%40ss@proxy.example:3128")
    assert proxy.authorization == "Basic bWU6cEBzcw=="
    assert "p@ss" not in repr(proxy) + str(proxy)
    assert "bWU6" not in repr(proxy) + str(proxy)


@pytest.mark.parametrize("text", ["socks5://proxy:1080", "http://", "http://host:port", "https://me:hush@:1"])
def test_proxies_that_cannot_be_used(text: str) -> None:
    with pytest.raises(InvalidProxy) as caught:
        Proxy.parse(text)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(("host", "expected"), [
    ("localhost", True), ("LOCALHOST.", True), ("a.localhost", True), ("127.9.9.9", True), ("::1", True),
    ("notlocalhost", False), ("localhost.example.com", False), ("0.0.0.0", False), ("128.0.0.1", False),
])
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
