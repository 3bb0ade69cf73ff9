"""Reaching the other side: names, sockets, proxies and TLS, with one sentence for each way to fail."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from lamina.http.message import (
    ConnectFailed,
    MalformedResponse,
    NotTls,
    Origin,
    ProxyFailed,
    TimedOut,
    TlsFailed,
    UnknownHost,
    UntrustedCertificate,
)
from lamina.http.proxy import Proxy
from lamina.http.tunnel import TlsOverTls
from lamina.values import dataclass

# A proxy's answer to CONNECT: a status line and a few headers.
_MAX_CONNECT_ANSWER = 16 << 10
# OpenSSL's names for "these bytes are not a TLS record": plain HTTP answered a TLS hello.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG",
                      "RECORD_LAYER_FAILURE"})

Channel = socket.socket | TlsOverTls


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialer:
    """Opens connections. Timeouts are seconds: to connect, then for each wait on the open connection."""

    connect_timeout: float
    read_timeout: float

    def within(self, silence: float | None) -> Dialer:
        """One that waits no longer than that."""
        if silence is None:
            return self
        return Dialer(
            connect_timeout=min(self.connect_timeout, silence), read_timeout=min(self.read_timeout, silence)
        )

    def dial(self, origin: Origin, proxy: Proxy | None, contexts: Contexts) -> Channel:
        """A channel on which the HTTP request can be written."""
        if proxy is None:
            plain = self._connect(origin.host, origin.port)
            return self._secured(plain, origin, contexts.origin) if contexts.origin else self._ready(plain)
        channel = self._to_proxy(proxy, contexts.proxy)
        if contexts.origin is None:
            return self._ready(channel)
        try:
            self._request_tunnel(channel, origin, proxy)
        except BaseException:
            channel.close()
            raise
        return self._secured(channel, origin, contexts.origin)

    def _connect(self, host: str, port: int) -> socket.socket:
        where = f"{host}:{port}"
        try:
            channel = socket.create_connection((host, port), timeout=self.connect_timeout)
        except socket.gaierror as error:
            failure = UnknownHost(f"{host}: no such host ({error.strerror})")
            failure.may_pass = error.errno == socket.EAI_AGAIN
            raise failure from None
        except (UnicodeError, ValueError):
            raise UnknownHost(f"{host}: not a host name") from None
        except TimeoutError:
            raise TimedOut(f"{where}: no connection within {self.connect_timeout:g} seconds") from None
        except OSError as error:
            raise ConnectFailed(f"{where}: cannot connect ({error.strerror or error})") from None
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return channel

    def _to_proxy(self, proxy: Proxy, context: ssl.SSLContext | None) -> Channel:
        try:
            plain = self._connect(proxy.host, proxy.port)
            if context is None:
                return plain
            return self._secured(plain, Origin("https", proxy.host, proxy.port), context)
        except (UnknownHost, ConnectFailed, TimedOut, TlsFailed) as error:
            raise ProxyFailed(f"proxy {error}") from None

    def _secured(self, channel: Channel, origin: Origin, context: ssl.SSLContext) -> Channel:
        try:
            with _tls_failures(origin, self.connect_timeout):
                if isinstance(channel, ssl.SSLSocket):
                    return self._ready(TlsOverTls(channel, context, origin.host))
                assert isinstance(channel, socket.socket)
                return self._ready(context.wrap_socket(channel, server_hostname=origin.host))
        except BaseException:
            channel.close()
            raise

    def _ready(self, channel: Channel) -> Channel:
        channel.settimeout(self.read_timeout)
        return channel

    def _request_tunnel(self, channel: Channel, origin: Origin, proxy: Proxy) -> None:
        """RFC 9110 section 9.3.6. The target speaks second (TLS), so nothing follows the answer."""
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        lines = [f"CONNECT {host}:{origin.port} HTTP/1.1", f"Host: {host}:{origin.port}"]
        if proxy.authorization:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        try:
            channel.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
            answer = _read_head(channel)
        except TimeoutError:
            raise TimedOut(f"proxy {proxy}: no answer within {self.connect_timeout:g} seconds") from None
        except OSError as error:
            raise ProxyFailed(f"proxy {proxy}: broke off ({error.strerror or error})") from None
        status = _connect_status(answer, proxy)
        if status == 407:
            raise ProxyFailed(f"proxy {proxy}: asks for a user name and password (407)")
        if not 200 <= status < 300:
            raise ProxyFailed(f"proxy {proxy}: refused to connect to {origin.authority} ({status})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """TLS for the origin and for the proxy; ``None`` where that leg is plain."""

    origin: ssl.SSLContext | None
    proxy: ssl.SSLContext | None


def _read_head(channel: Channel) -> bytes:
    answer = bytearray()
    buffer = bytearray(4096)
    while b"\r\n\r\n" not in answer:
        if len(answer) > _MAX_CONNECT_ANSWER:
            raise MalformedResponse("the proxy's answer to CONNECT is too long")
        count = channel.recv_into(buffer)
        if not count:
            raise ConnectionResetError("closed the connection")
        answer += buffer[:count]
    return bytes(answer)


def _connect_status(answer: bytes, proxy: Proxy) -> int:
    words = answer.split(b"\r\n", 1)[0].split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ProxyFailed(f"proxy {proxy}: did not answer in HTTP")
    return int(words[1])


@contextmanager
def _tls_failures(origin: Origin, timeout: float) -> Iterator[None]:
    where = f"{origin.host}:{origin.port}"
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        reason = error.verify_message.rstrip(".")
        raise UntrustedCertificate(f"{where}: its certificate is not trusted ({reason})") from None
    except ssl.SSLError as error:
        if error.reason in _NOT_TLS:
            raise NotTls(f"{where}: does not speak TLS (HTTPS) on this port") from None
        raise TlsFailed(f"{where}: TLS failed ({_reason(error)})") from None
    except TimeoutError:
        raise TimedOut(f"{where}: no TLS handshake within {timeout:g} seconds") from None
    except OSError as error:
        raise TlsFailed(f"{where}: broke off during the TLS handshake ({error.strerror or error})") from None
    except ValueError as error:
        raise UnknownHost(f"{origin.host}: not a name that a certificate can be for ({error})") from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or error.strerror or str(error)).replace("_", " ").lower()
