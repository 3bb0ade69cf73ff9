"""Bridges made by netavark, with names answered by aardvark-dns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamina.runtime.network import programs
from lamina.runtime.network.ports import PortMapping, coalesced
from lamina.runtime.network.records import NetworkRecord
from lamina.runtime.network.values import Endpoint, NetworkPlan

_CONTAINER_ID_SHOWN = 12  # docker's short ID is a name in the container's networks too


def set_up(
    plan: NetworkPlan, endpoints: Sequence[Endpoint], ports: Sequence[PortMapping], namespace: int,
    directory: Path,
) -> tuple[str, ...]:
    """Gives the addresses of name servers. Raises :class:`NetworkFailed`."""
    answer = _run("setup", plan, document(plan, endpoints, ports), namespace, directory)
    if not isinstance(answer, dict):
        return ()
    found = [server for status in answer.values() for server in status.get("dns_server_ips") or ()]
    return tuple(dict.fromkeys(found))


def tear_down(
    plan: NetworkPlan, endpoints: Sequence[Endpoint], ports: Sequence[PortMapping], namespace: int,
    directory: Path,
) -> None:
    _run("teardown", plan, document(plan, endpoints, ports), namespace, directory)


def document(
    plan: NetworkPlan, endpoints: Sequence[Endpoint], ports: Sequence[PortMapping]
) -> dict[str, Any]:
    """What netavark reads. The same for setup and teardown, as it must be."""
    attached = list(zip(plan.attachments, endpoints, strict=True))
    return {
        "container_id": plan.container,
        "container_name": plan.name,
        "port_mappings": [
            {"container_port": first.container_port, "host_ip": first.host_ip, "host_port": first.host_port,
             "protocol": first.protocol, "range": length}
            for first, length in coalesced(ports)
        ],
        "networks": {_key(each.network): _of_container(plan, point) for each, point in attached},
        "network_info": {_key(each.network): _of_network(plan, each.network) for each, _ in attached},
        **({"dns_servers": list(plan.dns)} if plan.dns else {}),
    }


def _key(network: NetworkRecord) -> str:
    """Names the network in rules and in aardvark-dns's files, where other state directories' may be too."""
    return f"{network.name}-{network.id[:8]}"


def _of_container(plan: NetworkPlan, point: Endpoint) -> dict[str, Any]:
    return {
        "static_ips": [address for address in (point.ip, point.ip6) if address],
        "static_mac": point.mac,
        "interface_name": point.interface,
        "aliases": [*point.aliases, plan.container[:_CONTAINER_ID_SHOWN]],
    }


def _of_network(plan: NetworkPlan, network: NetworkRecord) -> dict[str, Any]:
    return {
        "name": _key(network), "id": network.id, "driver": "bridge", "network_interface": network.interface,
        "subnets": [{"subnet": each.subnet, "gateway": each.gateway} for each in network.subnets],
        "ipv6_enabled": network.has_ipv6, "internal": network.is_internal,
        # docker's rule: names are answered on networks that somebody made, not on the default one.
        "dns_enabled": bool(plan.dns_program) and not network.is_default,
        "ipam_options": {"driver": "host-local"},
        "options": {"mtu": str(network.mtu)} if network.mtu else {},
    }


def _run(verb: str, plan: NetworkPlan, given: dict[str, Any], namespace: int, directory: Path) -> Any:
    configuration = f"{plan.shared}/netavark"
    os.makedirs(configuration, mode=0o700, exist_ok=True)
    aardvark = ["--aardvark-binary", plan.dns_program] if plan.dns_program else []
    path = f"/proc/{os.getpid()}/fd/{namespace}"
    command = [plan.program, "--config", configuration, *aardvark, verb, path]
    has_dns = any(each["dns_enabled"] for each in given["network_info"].values())
    outcome = programs.run(
        command, document=given, environ={"PATH": plan.path},
        prepare=(lambda: _leave_mounts(directory)) if has_dns else None,
    )
    return programs.answer_of(outcome, f"network of {plan.name or plan.container[:12]}: netavark {verb}")


def _leave_mounts(directory: Path) -> None:
    """aardvark-dns outlives the monitor; in the monitor's mount namespace it would keep that one's mounts."""
    from lamina.snapshot import mountinfo, syscalls  # noqa: PLC0415 - in a child, where names are answered

    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    for line in reversed(list(mountinfo.mounts())):
        if line.target.startswith(f"{directory}/"):
            syscalls.umount(line.target, syscalls.MNT_DETACH)
