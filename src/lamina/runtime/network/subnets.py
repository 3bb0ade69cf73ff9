"""Addresses for networks: subnets that collide with nothing on this host, gateways, and next addresses."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Collection, Iterable, Iterator

from lamina.errors import Unavailable
from lamina.runtime.network.mode import InvalidNetwork

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# 256 subnets of 4,093 addresses each. docker uses 172.17/12 and 192.168/16, podman 10.88 and 10.89, libvirt
# 192.168.122: none of them is here. Number and subnet go together, so that two state directories that
# choose the same interface have chosen the same subnet too.
_FIRST = int(ipaddress.IPv4Address("10.144.0.0"))
_SIZE = 1 << 12
POOL = 256
INTERFACE = "lamina"


class NoSubnetLeft(Unavailable):
    """Every subnet that lamina would choose is in use on this host."""


def overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def pooled(number: int) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network((_FIRST + number * _SIZE, 20))


def choose(taken: Iterable[Network], start: int) -> int:
    """The number of the first free subnet from ``start`` on. Raises :class:`NoSubnetLeft`."""
    used = [network for network in taken if isinstance(network, ipaddress.IPv4Network)]
    for number in itertools.chain(range(start, POOL), range(1, start)):
        if not any(pooled(number).overlaps(network) for network in used):
            return number
    raise NoSubnetLeft("networks: all of 10.144.0.0 to 10.159.255.255 is in use; choose a subnet by --subnet")


def host_networks(route_file: str = "/proc/net/route") -> Iterator[tuple[str, ipaddress.IPv4Network]]:
    """(interface, destination) of every IPv4 route but the default one: hexadecimal, in host byte order."""
    import sys  # noqa: PLC0415 - beside its only use

    try:
        with open(route_file, encoding="ascii") as file:
            lines = file.read().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if len(fields) < 8 or int(fields[7], 16) == 0:
            continue
        address, mask = (
            int.from_bytes(int(fields[place], 16).to_bytes(4, sys.byteorder), "big") for place in (1, 7)
        )
        yield fields[0], ipaddress.IPv4Network((address & mask, mask.bit_count()))


def parse_subnet(text: str) -> Network:
    try:
        subnet = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidNetwork(f"--subnet {text}: expected ADDRESS/BITS, such as 10.20.0.0/24") from None
    if ipaddress.ip_interface(text).ip != subnet.network_address:
        raise InvalidNetwork(f"--subnet {text}: an address inside a network; did you mean {subnet}?")
    if subnet.num_addresses < 4:
        raise InvalidNetwork(f"--subnet {text}: too small to hold a gateway and a container")
    return subnet


def parse_inside(text: str, subnet: Network, option: str) -> Address:
    """An address of ``subnet`` that a machine can have."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidNetwork(f"{option} {text}: not an IP address") from None
    if address not in subnet:
        raise InvalidNetwork(f"{option} {text}: not inside {subnet}")
    if address in (subnet.network_address, subnet.broadcast_address):
        raise InvalidNetwork(f"{option} {text}: the first and last address of {subnet} are nobody's")
    return address


def parse_range(text: str, subnet: Network) -> Network:
    try:
        inner = ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidNetwork(f"--ip-range {text}: {error}") from None
    if inner.version != subnet.version or not inner.subnet_of(subnet):  # type: ignore[arg-type]
        raise InvalidNetwork(f"--ip-range {text}: not inside {subnet}")
    return inner


def first_free(subnet: Network, gateway: str, within: str, taken: Collection[str]) -> str:
    """The lowest address that nobody has. Raises :class:`NoSubnetLeft`."""
    space = ipaddress.ip_network(within) if within else subnet
    last = int(subnet.broadcast_address)
    for number in range(int(space.network_address), int(space.broadcast_address) + 1):
        if number in (int(subnet.network_address), last):
            continue
        text = str(ipaddress.ip_address(number) if subnet.version == 4 else ipaddress.IPv6Address(number))
        if text != gateway and text not in taken:
            return text
    raise NoSubnetLeft(f"{space}: every address is in use")
