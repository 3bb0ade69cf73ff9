"""Which proxy a request goes through: the rules of HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as values.

The variables are read by the doors and given here as text. NO_PROXY follows Go's
``golang.org/x/net/http/httpproxy``, because that is what container tools have taught people:
``*``, host names (with their subdomains; a leading dot means subdomains only), addresses, CIDR
blocks, each with an optional port. Loopback is never proxied.
"""

from __future__ import annotations

import base64
import ipaddress
from urllib.parse import unquote, urlsplit

from lamina.errors import InvalidInput
from lamina.http.message import Origin
from lamina.values import dataclass, field


class InvalidProxy(InvalidInput):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """``authorization`` is the ready value of a Proxy-Authorization header, or empty."""

    scheme: str
    host: str
    port: int
    authorization: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """``[http://|https://][user:password@]host[:port]``. Messages never repeat the credentials."""
        url = text if "://" in text else f"http://{text}"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise InvalidProxy("the proxy setting is not a URL") from None
        if parts.scheme not in {"http", "https"}:
            raise InvalidProxy(f"{parts.scheme}://{host}: only http and https proxies are supported")
        if not host:
            raise InvalidProxy("the proxy setting names no host")
        return cls(scheme=parts.scheme, host=host, port=port or (443 if parts.scheme == "https" else 80),
                   authorization=_basic(parts.username, parts.password))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def _basic(username: str | None, password: str | None) -> str:
    if username is None:
        return ""
    pair = f"{unquote(username)}:{unquote(password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRules:
    http: Proxy | None = None
    https: Proxy | None = None
    exceptions: tuple[str, ...] = ()

    @classmethod
    def parse(cls, *, http: str = "", https: str = "", no_proxy: str = "") -> ProxyRules:
        return cls(
            http=Proxy.parse(http) if http else None,
            https=Proxy.parse(https) if https else None,
            exceptions=tuple(item for item in (part.strip().lower() for part in no_proxy.split(",")) if item),
        )

    def proxy_for(self, origin: Origin) -> Proxy | None:
        proxy = self.https if origin.scheme == "https" else self.http
        if proxy is None or is_loopback(origin.host):
            return None
        if any(_is_covered(origin, exception) for exception in self.exceptions):
            return None
        return proxy


def is_loopback(host: str) -> bool:
    """``localhost``, its subdomains (RFC 6761 section 6.3), 127.0.0.0/8 and ::1."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = as_address(name)
    return address is not None and address.is_loopback


def as_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address a host literally is, with or without the brackets of a URL."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _is_covered(origin: Origin, exception: str) -> bool:
    if exception == "*":
        return True
    address = as_address(origin.host)
    if "/" in exception:
        return address is not None and _in_block(address, exception)
    name, port = _split_port(exception)
    if port is not None and port != origin.port:
        return False
    listed = as_address(name)
    if address is not None or listed is not None:
        return address == listed
    host = origin.host.lower().rstrip(".")
    if name.startswith("*."):
        name = name[1:]
    if name.startswith("."):
        return host.endswith(name)
    return host == name or host.endswith("." + name)


def _in_block(address: ipaddress.IPv4Address | ipaddress.IPv6Address, block: str) -> bool:
    try:
        return address in ipaddress.ip_network(block, strict=False)
    except ValueError:
        return False


def _split_port(exception: str) -> tuple[str, int | None]:
    if as_address(exception) is not None:  # a bare IPv6 address is full of colons
        return exception, None
    name, colon, port = exception.rpartition(":")
    return (name, int(port)) if colon and port.isascii() and port.isdigit() else (exception, None)
