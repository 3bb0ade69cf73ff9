"""Host ports: free ones found, and the chosen ones kept from other programs while the container runs."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

from lamina.errors import Conflict, Denied
from lamina.runtime.network.ports import PortMapping
from lamina.values import replace

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class PortInUse(Conflict):
    """A host port that should be published belongs to somebody."""


class PortDenied(Denied):
    """An ordinary user may not have this host port, or nobody may have this host address."""


def claim(ports: Sequence[PortMapping]) -> tuple[tuple[PortMapping, ...], tuple[int, ...]]:
    """The mappings with their real host ports, and descriptors that claim them.

    A claimed port is bound and not listened on: the connections go another way (a rule of the kernel's
    turns them round before they would arrive), and no other program can have the port meanwhile.
    Raises :class:`PortInUse`, :class:`PortDenied`; then nothing is claimed.
    """
    chosen: list[PortMapping] = []
    held: list[int] = []
    try:
        for port in ports:
            number, descriptor = _claim_one(port)
            chosen.append(replace(port, host_port=number, host_last=0))
            if descriptor >= 0:
                held.append(descriptor)
    except BaseException:
        release(held)
        raise
    return tuple(chosen), tuple(held)


def release(held: Sequence[int]) -> None:
    for descriptor in held:
        os.close(descriptor)


def _claim_one(port: PortMapping) -> tuple[int, int]:
    if port.protocol not in _KINDS:  # SCTP may be missing from the kernel: published as it is
        if not port.host_port:
            raise PortDenied(f"port {port.key}: an SCTP port needs its host port named")
        return port.host_port, -1
    for number in range(port.host_port, max(port.host_port, port.host_last) + 1):
        try:
            return _bound(port, number)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and number < port.host_last:
                continue
            raise _failure(port, number, error) from None
    raise AssertionError("a range has a first port")


def _bound(port: PortMapping, number: int) -> tuple[int, int]:
    family = socket.AF_INET6 if port.is_ipv6 else socket.AF_INET
    with socket.socket(family, _KINDS[port.protocol]) as bound:
        if port.is_ipv6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # What is left of closed connections (TIME_WAIT) keeps nobody from a port; taken back at once, it
        # would let other programs bind it too. UDP has no such rest: there the option means sharing.
        if port.protocol == "tcp":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((port.host_ip or ("::" if port.is_ipv6 else "0.0.0.0"), number))  # noqa: S104 - what was asked for
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        return int(bound.getsockname()[1]), bound.detach()


def _failure(port: PortMapping, number: int, error: OSError) -> Exception:
    shown = replace(port, host_port=number)
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"port {number}/{port.protocol}: in use on this host already; publish {port.key} under another "
            f"(-p OTHER:{port.container_port}) or end what uses it"
        )
    if error.errno == errno.EACCES:
        return PortDenied(
            f"port {number}/{port.protocol}: ordinary users may not have it; choose one from 1024 on, or "
            "lower net.ipv4.ip_unprivileged_port_start"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return PortDenied(f"port {shown}: {port.host_ip} is no address of this host")
    return PortDenied(f"port {shown}: {error.strerror}")
