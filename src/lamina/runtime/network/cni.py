"""Bridges made by the CNI plugins bridge, portmap and firewall, which have no name server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lamina.runtime.network import programs
from lamina.runtime.network.namespaces import delete_empty_bridge, loopback_up
from lamina.runtime.network.ports import PortMapping
from lamina.runtime.network.records import NetworkRecord
from lamina.runtime.network.values import Endpoint, NetworkPlan

_VERSION = "0.4.0"  # spoken by every release of the plugins since 2019


def set_up(
    plan: NetworkPlan, endpoints: Sequence[Endpoint], ports: Sequence[PortMapping], namespace: int,
    directory: Path,  # noqa: ARG001 - the seam that netavark needs
) -> tuple[str, ...]:
    """No name servers: ``()``. Raises :class:`NetworkFailed`."""
    loopback_up(namespace)
    for point, network, is_first in _attached(plan, endpoints):
        for plugin, config in _chain(plan, point, network, ports if is_first else (), is_first=is_first):
            _call("ADD", plan, plugin, config, point.interface, namespace)
    return ()


def tear_down(
    plan: NetworkPlan, endpoints: Sequence[Endpoint], ports: Sequence[PortMapping], namespace: int,
    directory: Path,  # noqa: ARG001 - see above
) -> None:
    for point, network, is_first in _attached(plan, endpoints):
        chain = list(_chain(plan, point, network, ports if is_first else (), is_first=is_first))
        for plugin, config in reversed(chain):
            _call("DEL", plan, plugin, config, point.interface, namespace)
        delete_empty_bridge(network.interface)


def _attached(
    plan: NetworkPlan, endpoints: Sequence[Endpoint]
) -> Iterator[tuple[Endpoint, NetworkRecord, bool]]:
    for number, (each, point) in enumerate(zip(plan.attachments, endpoints, strict=True)):
        yield point, each.network, number == 0


def _chain(
    plan: NetworkPlan, point: Endpoint, network: NetworkRecord, ports: Sequence[PortMapping], *,
    is_first: bool,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The plugins and what each reads. The first network has the default route and the ports."""
    common = {"cniVersion": _VERSION, "name": f"{network.name}-{network.id[:8]}"}
    result = {"cniVersion": _VERSION, "interfaces": [{"name": point.interface, "sandbox": "container"}],
              "ips": _addresses(point), "dns": {}}
    yield "bridge", {
        **common, "type": "bridge", "bridge": network.interface, "isGateway": True,
        "isDefaultGateway": is_first and not network.is_internal, "ipMasq": not network.is_internal,
        "hairpinMode": True, "forceAddress": False, **({"mtu": network.mtu} if network.mtu else {}),
        "ipam": {"type": "static", "addresses": [
            {"address": each["address"], "gateway": each["gateway"]} for each in _addresses(point)
        ]},
        "runtimeConfig": {"mac": point.mac},
    }
    if ports:
        yield "portmap", {
            **common, "type": "portmap", "snat": True, "prevResult": result,
            "runtimeConfig": {"portMappings": [
                {"hostPort": port.host_port, "containerPort": port.container_port, "protocol": port.protocol,
                 "hostIP": port.host_ip} for port in ports
            ]},
        }
    if os.access(f"{plan.program}/firewall", os.X_OK):
        yield "firewall", {**common, "type": "firewall", "backend": "iptables", "prevResult": result}


def _addresses(point: Endpoint) -> list[dict[str, Any]]:
    found = (("4", point.ip, point.prefix, point.gateway), ("6", point.ip6, point.prefix6, point.gateway6))
    return [
        {"version": version, "address": f"{ip}/{prefix}", "gateway": gateway, "interface": 0}
        for version, ip, prefix, gateway in found if ip
    ]


def _call(
    verb: str, plan: NetworkPlan, plugin: str, config: dict[str, Any], interface: str, namespace: int
) -> None:
    environ = {
        "PATH": plan.path, "CNI_COMMAND": verb, "CNI_CONTAINERID": plan.container, "CNI_IFNAME": interface,
        "CNI_NETNS": f"/proc/{os.getpid()}/fd/{namespace}", "CNI_PATH": plan.program,
    }
    outcome = programs.run([f"{plan.program}/{plugin}"], document=config, environ=environ)
    programs.answer_of(outcome, f"network of {plan.name or plan.container[:12]}: CNI plugin {plugin} {verb}")
