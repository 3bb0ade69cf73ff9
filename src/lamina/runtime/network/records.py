"""The networks of a state directory: one JSON file each, replaced whole."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import ipaddress
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.content.durable import make_directory, write_file
from lamina.errors import Conflict, NotFound, Unsupported
from lamina.runtime.network import subnets
from lamina.runtime.network.mode import DEFAULT_NETWORK, InvalidNetwork, check_name
from lamina.values import asdict, dataclass, field

_RESERVED = ("none", "host", "default", "container", "pasta", "slirp4netns", "private")
_LONGEST_INTERFACE = 15  # IFNAMSIZ less its NUL
# docker's spellings, and what is understood of them.
INTERFACE_OPTION = "com.docker.network.bridge.name"
MTU_OPTION = "com.docker.network.driver.mtu"


class NetworkNotFound(NotFound):
    """No network of this name."""


class NetworkExists(Conflict):
    """The name, the subnet or the interface belongs to another network."""


class NetworkInUse(Conflict):
    """Containers are on the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """All as texts; ``ip_range`` may be empty."""

    subnet: str
    gateway: str
    ip_range: str = ""

    @property
    def network(self) -> subnets.Network:
        return ipaddress.ip_network(self.subnet)

    @property
    def prefix(self) -> int:
        return int(self.subnet.partition("/")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """``created`` is in seconds since the epoch."""

    id: str
    name: str
    interface: str
    subnets: tuple[Subnet, ...]
    driver: str = "bridge"
    is_internal: bool = False
    labels: Mapping[str, str]
    options: Mapping[str, str]
    created: float

    @property
    def is_default(self) -> bool:
        return self.name == DEFAULT_NETWORK

    @property
    def mtu(self) -> int:
        text = self.options.get(MTU_OPTION, self.options.get("mtu", "0"))
        return int(text)

    @property
    def has_ipv6(self) -> bool:
        return any(":" in each.subnet for each in self.subnets)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> NetworkRecord:
        return cls(**{**document, "subnets": tuple(Subnet(**each) for each in document["subnets"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """What ``network create`` was told."""

    name: str
    driver: str = "bridge"
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    ip_ranges: tuple[str, ...] = ()
    is_internal: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


_DEFAULT = NetworkRequest(name=DEFAULT_NETWORK)


class NetworkRecords:
    """``place`` is ``<root>/networks``; it need not exist."""

    def __init__(
        self, place: Path, host_networks: Callable[[], Iterator[tuple[str, subnets.Network]]] | None = None
    ) -> None:
        self.place = place
        self._host_networks = host_networks or subnets.host_networks

    def walk(self) -> list[NetworkRecord]:
        """By name. The default network is there once it was used."""
        with contextlib.suppress(FileNotFoundError):
            names = [name for name in os.listdir(self.place) if name.endswith(".json") and name[0] != "."]
            return [self._read(self.place / name) for name in sorted(names)]
        return []

    def get(self, name: str) -> NetworkRecord:
        """By name, or by the beginning of an ID. Raises :class:`NetworkNotFound`."""
        path = self.place / f"{name}.json"
        if "/" not in name and path.is_file():
            return self._read(path)
        found = [record for record in self.walk() if len(name) >= 4 and record.id.startswith(name)]
        if len(found) > 1:
            raise NetworkExists(f"network {name}: the beginning of more than one ID; give more of it")
        if not found:
            raise NetworkNotFound(f"network {name}: not found; `network ls` shows those there are, "
                                  "`network create` makes one")
        return found[0]

    def default(self, now: float) -> NetworkRecord:
        """The network of containers that ask for none in particular; made when first asked for.

        One whose subnet the host has given to something else since (a VPN, say) is made again elsewhere.
        """
        found = self._usable_default()
        if found is not None:
            return found
        with self._locked():
            record = self._made(_DEFAULT, now, start=0)
            self._write(record)
            return record

    def foreseen(self) -> NetworkRecord:
        """What :meth:`default` would give now; ``created`` is 0 if it would be made. Writes nothing."""
        return self._usable_default() or self._made(_DEFAULT, 0.0, start=0)

    def create(self, request: NetworkRequest, now: float) -> NetworkRecord:
        """Raises :class:`InvalidNetwork`, :class:`NetworkExists`."""
        check_name(request.name)
        if not request.subnets and (request.gateways or request.ip_ranges):
            raise InvalidNetwork(f"network {request.name}: --gateway and --ip-range need their --subnet")
        if request.name in _RESERVED or request.name == DEFAULT_NETWORK:
            raise InvalidNetwork(f"network {request.name}: this name means something else; choose another")
        _check_driver(request)
        with self._locked():
            if (self.place / f"{request.name}.json").exists():
                raise NetworkExists(f"network {request.name}: exists already")
            record = self._made(request, now, start=_start_of(self.place))
            self._write(record)
        return record

    def remove(self, record: NetworkRecord) -> None:
        """Only what is written down; interfaces go with their last container."""
        with self._locked():
            (self.place / f"{record.name}.json").unlink(missing_ok=True)

    # -- choosing

    def _made(self, request: NetworkRequest, now: float, *, start: int) -> NetworkRecord:
        others = [record for record in self.walk() if record.name != request.name]
        chosen, number = self._subnets(request, others, start)
        # The default network of every state directory that has this subnet is one: netavark names its rules
        # after the ID, and takes them away with the bridge's last container.
        seed = f"default {chosen[0].subnet}".encode() if request.name == DEFAULT_NETWORK else os.urandom(32)
        identity = hashlib.sha256(seed).hexdigest()
        interface = request.options.get(INTERFACE_OPTION) or (
            f"{subnets.INTERFACE}{number}" if number is not None else f"{subnets.INTERFACE}-{identity[:8]}"
        )
        _check_interface(interface, others)
        return NetworkRecord(
            id=identity, name=request.name, interface=interface, subnets=chosen, driver=request.driver,
            is_internal=request.is_internal, labels=dict(request.labels), options=dict(request.options),
            created=now,
        )

    def _subnets(
        self, request: NetworkRequest, others: Sequence[NetworkRecord], start: int
    ) -> tuple[tuple[Subnet, ...], int | None]:
        reserved = [(f"network {other.name}", each.network) for other in others for each in other.subnets]
        # The default network of another state directory is no obstacle to this one's: they are one bridge,
        # and the leases are shared too.
        of_host = [
            (f"the host's {name}", network) for name, network in self._host_networks()
            if not _is_default(name, network)
        ]
        given = [subnets.parse_subnet(text) for text in request.subnets]
        for subnet in given:
            for owner, network in (*reserved, *of_host):
                if subnets.overlap(network, subnet):
                    raise NetworkExists(f"--subnet {subnet}: overlaps {network}, which is {owner}'s")
        number = None
        if not any(subnet.version == 4 for subnet in given):
            number = subnets.choose((net for _, net in (*reserved, *of_host)), start)
            given.insert(0, subnets.pooled(number))
        return tuple(_with_gateway(subnet, request) for subnet in given), number

    def _usable_default(self) -> NetworkRecord | None:
        with contextlib.suppress(FileNotFoundError):
            record = self._read(self.place / f"{DEFAULT_NETWORK}.json")
            return None if self._collides(record) else record
        return None

    def _collides(self, record: NetworkRecord) -> bool:
        return any(
            name != record.interface and subnets.overlap(network, each.network)
            for name, network in self._host_networks() for each in record.subnets
        )

    # -- files

    def _read(self, path: Path) -> NetworkRecord:
        return NetworkRecord.from_json(json.loads(path.read_bytes()))

    def _write(self, record: NetworkRecord) -> None:
        write_file(self.place / f"{record.name}.json", json.dumps(record.to_json(), indent=1).encode(), 0o600)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        make_directory(self.place)
        descriptor = os.open(self.place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _check_driver(request: NetworkRequest) -> None:
    if request.driver != "bridge":
        raise Unsupported(f"network {request.name}: driver {request.driver} is not known; bridge is")
    for key, value in request.options.items():
        if key not in (INTERFACE_OPTION, MTU_OPTION, "mtu"):
            raise Unsupported(f"--opt {key}: not known; {INTERFACE_OPTION} and {MTU_OPTION} are")
        if key != INTERFACE_OPTION and not (value.isdigit() and 68 <= int(value) <= 65535):  # RFC 791
            raise InvalidNetwork(f"--opt {key}={value}: expected a number from 68 to 65535")


def _check_interface(interface: str, others: Sequence[NetworkRecord]) -> None:
    if not 0 < len(interface) <= _LONGEST_INTERFACE or "/" in interface or any(map(str.isspace, interface)):
        raise InvalidNetwork(f"--opt {INTERFACE_OPTION}={interface}: no name of an interface (1 to 15 bytes)")
    for other in others:
        if other.interface == interface:
            raise NetworkExists(f"interface {interface}: is network {other.name}'s")


def _with_gateway(subnet: subnets.Network, request: NetworkRequest) -> Subnet:
    """Each gateway and range belongs to the subnet that it lies in; they come in any order."""
    gateway = next((text for text in request.gateways if _lies_in(text, subnet)), "")
    within = next((text for text in request.ip_ranges if _lies_in(text.partition("/")[0], subnet)), "")
    if len(request.subnets) <= 1 and str(subnet) in request.subnets:  # theirs can be no other: say so
        gateway = gateway or next(iter(request.gateways), "")
        within = within or next(iter(request.ip_ranges), "")
    if gateway:
        gateway = str(subnets.parse_inside(gateway, subnet, "--gateway"))
    return Subnet(
        subnet=str(subnet), gateway=gateway or str(subnet.network_address + 1),
        ip_range=str(subnets.parse_range(within, subnet)) if within else "",
    )


def _lies_in(text: str, subnet: subnets.Network) -> bool:
    try:
        return ipaddress.ip_address(text) in subnet
    except ValueError:
        return False


def _is_default(interface: str, network: subnets.Network) -> bool:
    return interface == f"{subnets.INTERFACE}0" and network == subnets.pooled(0)


def _start_of(place: Path) -> int:
    """Networks of different state directories begin to count at different places."""
    return 1 + int.from_bytes(hashlib.sha256(os.fsencode(place)).digest()[:2], "big") % (subnets.POOL - 1)
