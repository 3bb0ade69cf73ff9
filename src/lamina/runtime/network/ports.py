"""Published ports: docker's ``-p`` texts read into one mapping for each port."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from lamina.errors import InvalidInput
from lamina.values import dataclass, replace

PROTOCOLS = ("tcp", "udp", "sctp")
_LAST_PORT = 65535
_EXPECTED = "expected [[IP:][HOST-PORT]:]PORT[/tcp|udp|sctp], with single ports or ranges such as 8000-8010"
_BRACKETED = re.compile(r"\[([^\]]*)\]:(.*)")


class InvalidPort(InvalidInput):
    """A text that publishes or exposes a port cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    """One port of the container. ``host_port`` 0: any that is free; up to ``host_last``, if that is given."""

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    host_port: int = 0
    host_last: int = 0

    @property
    def key(self) -> str:
        """The container's side, as image configs and docker's documents write it."""
        return f"{self.container_port}/{self.protocol}"

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host_ip

    @property
    def address(self) -> str:
        """The host's address, as docker's documents write it."""
        return self.host_ip or "0.0.0.0"  # noqa: S104 - what an empty address means

    @property
    def host(self) -> str:
        """The host's side, as ``docker port`` shows it."""
        shown = f"[{self.host_ip}]" if self.is_ipv6 else self.address
        return f"{shown}:{self.host_port}"

    def __str__(self) -> str:
        """As ``docker ps`` shows it."""
        return f"{self.host}->{self.key}"

    def to_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


def parse_publish(text: str) -> tuple[PortMapping, ...]:
    """What one ``-p`` asks for. Raises :class:`InvalidPort`."""
    address, host, container = _split(text)
    ports, protocol = _with_protocol(container, text)
    first, last = _range(ports, text)
    if address:
        address = _address(address, text)
    if not host:
        return tuple(
            PortMapping(container_port=port, protocol=protocol, host_ip=address)
            for port in range(first, last + 1)
        )
    host_first, host_last = _range(host, text, least=0)
    if first == last and host_first != host_last:
        return (
            PortMapping(container_port=first, protocol=protocol, host_ip=address, host_port=host_first,
                        host_last=host_last),
        )
    if host_last - host_first != last - first:
        raise InvalidPort(
            f"-p {text}: {host_last - host_first + 1} host ports for {last - first + 1} container ports; "
            "ranges must have the same length"
        )
    return tuple(
        PortMapping(container_port=first + step, protocol=protocol, host_ip=address,
                    host_port=host_first + step if host_first else 0)
        for step in range(last - first + 1)
    )


def parse_exposed(text: str) -> tuple[str, ...]:
    """``--expose`` or an ``ExposedPorts`` key: ``80``, ``53/udp``, ``7000-7002``; one key for each port."""
    ports, protocol = _with_protocol(text, text)
    first, last = _range(ports, text)
    return tuple(f"{port}/{protocol}" for port in range(first, last + 1))


def publish_all(exposed: Iterable[str], published: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
    """``-P``: a free host port for each exposed one that ``published`` does not have already."""
    known = {mapping.key for mapping in published}
    keys = [key for text in exposed for key in parse_exposed(text) if key not in known]
    wanted = sorted({(int(port), protocol) for port, _, protocol in (key.partition("/") for key in keys)})
    return tuple(PortMapping(container_port=port, protocol=protocol) for port, protocol in wanted)


def coalesced(ports: Sequence[PortMapping]) -> list[tuple[PortMapping, int]]:
    """Neighbours joined into (first, length): an engine writes rules for each of them."""
    joined: list[tuple[PortMapping, int]] = []
    for port in sorted(ports, key=lambda each: (each.protocol, each.host_ip, each.host_port)):
        if joined:
            first, length = joined[-1]
            if port == replace(first, container_port=first.container_port + length,
                               host_port=first.host_port + length, host_last=port.host_last):
                joined[-1] = (first, length + 1)
                continue
        joined.append((port, 1))
    return joined


def _split(text: str) -> tuple[str, str, str]:
    """(address, host ports, container ports), each still a text."""
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed is not None:
        host, colon, container = bracketed[2].rpartition(":")
        if not colon or not bracketed[1]:
            raise InvalidPort(f"-p {text}: {_EXPECTED}")
        return bracketed[1], host, container
    parts = text.rsplit(":", 2)
    if len(parts) == 3 and ":" in parts[0]:
        raise InvalidPort(f"-p {text}: an IPv6 address stands in brackets, as in [::1]:8080:80")
    while len(parts) < 3:
        parts.insert(0, "")
    return parts[0], parts[1], parts[2]


def _with_protocol(text: str, whole: str) -> tuple[str, str]:
    ports, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidPort(f"-p {whole}: protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
    return ports, protocol


def _range(text: str, whole: str, least: int = 1) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    numbers = [_port(part, whole, least) for part in ((first, last) if dash else (first,))]
    if numbers[0] > numbers[-1]:
        raise InvalidPort(f"-p {whole}: the range {text} ends before it begins")
    return numbers[0], numbers[-1]


def _port(text: str, whole: str, least: int) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidPort(f"-p {whole}: {_EXPECTED}")
    if len(text) > 5 or not least <= int(text) <= _LAST_PORT:
        raise InvalidPort(f"-p {whole}: a port is a number from 1 to {_LAST_PORT}, not {text}")
    return int(text)


def _address(text: str, whole: str) -> str:
    """``""`` for every IPv4 address of the host: engines differ in how they read 0.0.0.0 there."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidPort(f"-p {whole}: {text} is not an IP address") from None
    return "" if address == ipaddress.IPv4Address(0) else str(address)
