"""What is planned for a container's network, and what came of it: plain values, kept as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lamina.runtime.network.mode import Kind
from lamina.runtime.network.ports import PortMapping
from lamina.runtime.network.records import NetworkRecord
from lamina.values import asdict, dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One network that a container is put on, as ``interface``."""

    network: NetworkRecord
    interface: str
    ip: str = ""
    ip6: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """Everything that :func:`connect` needs.

    ``program`` carries it out: netavark, a directory of CNI plugins, pasta or slirp4netns, by its path.
    ``needs_namespace``: the runtime makes a network namespace. ``join``: the pid whose network namespace
    is entered instead, and whose user namespace too where ``joins_user``. ``notes`` are for the user.
    """

    kind: Kind
    container: str = ""
    name: str = ""
    engine: str = ""
    program: str = ""
    dns_program: str = ""
    attachments: tuple[Attachment, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    dns: tuple[str, ...] = ()
    needs_namespace: bool = True
    join: int = 0
    joins_user: bool = False
    shared: str = ""
    path: str = os.defpath
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> NetworkPlan:
        return cls(**{
            **document,
            "kind": Kind(document["kind"]),
            "attachments": tuple(
                Attachment(**{
                    **each, "network": NetworkRecord.from_json(each["network"]),
                    "aliases": tuple(each["aliases"]),
                })
                for each in document["attachments"]
            ),
            "ports": tuple(PortMapping(**each) for each in document["ports"]),
            "dns": tuple(document["dns"]),
            "notes": tuple(document["notes"]),
        })


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a container stands in one network. Addresses carry no prefix; that is in ``prefix``."""

    network: str
    network_id: str = ""
    interface: str = "eth0"
    ip: str = ""
    prefix: int = 0
    gateway: str = ""
    ip6: str = ""
    prefix6: int = 0
    gateway6: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Endpoint:
        return cls(**{**document, "aliases": tuple(document["aliases"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Descriptors that the monitor keeps open until it disconnects: the namespace, and what claims ports."""

    namespace: int = -1
    others: tuple[int, ...] = ()

    def close(self) -> None:
        for descriptor in (self.namespace, *self.others):
            if descriptor >= 0:
                os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """``ports`` have their real host ports. ``resolvers`` are the network's own; ``host_gateway`` is the
    address under which the container reaches the host. ``peers`` are others' names, for /etc/hosts."""

    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    resolvers: tuple[str, ...] = ()
    host_gateway: str = ""
    has_ipv6: bool = False
    held: Held = field(default_factory=Held)

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(address for each in self.endpoints for address in (each.ip, each.ip6) if address)

    def to_json(self) -> dict[str, Any]:
        document = asdict(self)
        del document["held"]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Connected:
        return cls(**{
            **document,
            "endpoints": tuple(map(Endpoint.from_json, document["endpoints"])),
            "ports": tuple(PortMapping(**each) for each in document["ports"]),
            "resolvers": tuple(document["resolvers"]),
        })
