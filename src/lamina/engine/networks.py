"""Networks that containers share: made, listed, described and removed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.engine.filters import check_filters, has_label
from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.network.mode import DEFAULT_NETWORK
from lamina.runtime.network.records import NetworkInUse, NetworkRecord, NetworkRecords, NetworkRequest
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.runtime.network.programs import Programs

_BUILT_IN = {"bridge": "bridge", "host": "host", "none": "null"}  # name -> driver, as docker lists them
_FILTERS = ("name", "id", "driver", "label", "type")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSummary:
    """``created`` is in seconds since the epoch; 0 for what nobody made."""

    id: str
    name: str
    driver: str
    is_internal: bool = False
    has_ipv6: bool = False
    labels: Mapping[str, str]
    created: float = 0.0


def create(engine: Core, request: NetworkRequest, programs: Programs) -> NetworkRecord:
    """Raises ``InvalidNetwork``, ``NetworkExists``; ``Unsupported`` for ordinary users.

    Where no container could be on it, for want of a program that makes bridges, ``EngineMissing``.
    """
    from lamina.runtime.network.planning import insist_bridges
    from lamina.snapshot.namespace import Ownership, current_identity

    if current_identity().ownership is not Ownership.KEPT:
        raise Unsupported(
            f"network {request.name}: networks that several containers share need root; an ordinary user's "
            "containers have one each, or share one's by --network container:NAME"
        )
    insist_bridges(programs, f"network {request.name}")
    return _records(engine).create(request, engine.clock())


def listing(engine: Core, filters: Mapping[str, Sequence[str]] | None = None) -> tuple[NetworkSummary, ...]:
    """By name, with those that are always there. Raises ``InvalidInput`` for a filter that is not known."""
    filters = filters or {}
    check_filters(filters, _FILTERS, "network ls")
    found = [_summary(record) for record in _records(engine).walk()]
    known = {each.name for each in found}
    found += [_built_in(name) for name in _BUILT_IN if name not in known]
    return tuple(sorted((each for each in found if _matches(each, filters)), key=lambda each: each.name))


def inspect(engine: Core, name: str) -> dict[str, Any]:
    """With docker's field names. Raises ``NetworkNotFound``."""
    records = _records(engine)
    if name in ("host", "none"):
        return _document(_placeholder(name))
    return _document(records.foreseen() if name == DEFAULT_NETWORK else records.get(name))


def remove(engine: Core, name: str, *, in_use: Mapping[str, Iterable[str]] | None = None) -> str:
    """Gives the name. ``in_use``: containers by the network's name, besides those that run right now.

    Raises ``NetworkNotFound``, ``NetworkInUse``, ``InvalidInput`` for a network that is always there.
    """
    if name in _BUILT_IN:
        raise InvalidInput(f"network {name}: is always there and cannot be removed")
    records = _records(engine)
    record = records.get(name)
    if record.is_default:
        raise InvalidInput(f"network {record.name}: is always there and cannot be removed")
    users = _users(record, in_use or {})
    if users:
        raise NetworkInUse(f"network {record.name}: used by {', '.join(users)}; remove or stop these first")
    records.remove(record)
    return record.name


def prune(
    engine: Core, *, in_use: Mapping[str, Iterable[str]] | None = None,
    filters: Mapping[str, Sequence[str]] | None = None,
) -> tuple[str, ...]:
    """Removes what no container uses and somebody made; gives the names. Filters: label, until."""
    filters = dict(filters or {})
    check_filters(filters, ("label", "until"), "network prune")
    limit = _until(engine, filters.pop("until", ()))
    records = _records(engine)
    removed = []
    for record in records.walk():
        spared = record.is_default or record.created > limit or not _matches(_summary(record), filters)
        if not spared and not _users(record, in_use or {}):
            records.remove(record)
            removed.append(record.name)
    return tuple(removed)


def _records(engine: Core) -> NetworkRecords:
    return NetworkRecords(engine.root / "networks")


def _until(engine: Core, texts: Sequence[str]) -> float:
    from lamina.engine.durations import parse_duration

    return engine.clock() - max(map(parse_duration, texts), default=0.0)


def _users(record: NetworkRecord, in_use: Mapping[str, Iterable[str]]) -> list[str]:
    running = {str(holder.get("name")) for _, holder in _leases() if holder.get("network") == record.id}
    return sorted({*running, *in_use.get(record.name, ())})


def _leases() -> list[tuple[str, dict[str, Any]]]:
    from lamina.runtime.network.addresses import Leases
    from lamina.runtime.network.planning import SHARED

    try:
        return list(Leases(Path(SHARED)).walk())
    except PermissionError:  # root's: an ordinary user's containers have none
        return []


# -- shapes


def _summary(record: NetworkRecord) -> NetworkSummary:
    return NetworkSummary(
        id=record.id, name=record.name, driver=record.driver, is_internal=record.is_internal,
        has_ipv6=record.has_ipv6, labels=record.labels, created=record.created,
    )


def _built_in(name: str) -> NetworkSummary:
    return NetworkSummary(id=_placeholder(name).id, name=name, driver=_BUILT_IN[name], labels={})


def _placeholder(name: str) -> NetworkRecord:
    return NetworkRecord(
        id=hashlib.sha256(f"network {name}".encode()).hexdigest(), name=name, interface="", subnets=(),
        driver=_BUILT_IN[name], labels={}, options={}, created=0.0,
    )


def _matches(each: NetworkSummary, filters: Mapping[str, Sequence[str]]) -> bool:
    """docker's rule: one of the values of each key, but every label."""
    kind = "builtin" if each.name in _BUILT_IN else "custom"
    tests: dict[str, Callable[[str], bool]] = {
        "name": each.name.__contains__, "id": each.id.startswith, "driver": each.driver.__eq__,
        "type": kind.__eq__,
    }
    for key, values in filters.items():
        if key == "label":
            if not all(has_label(each.labels, value) for value in values):
                return False
        elif not any(tests[key](value) for value in values):
            return False
    return True


def _document(record: NetworkRecord) -> dict[str, Any]:
    from datetime import UTC, datetime

    created = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
    subnets = [
        {"Subnet": each.subnet, "Gateway": each.gateway,
         **({"IPRange": each.ip_range} if each.ip_range else {})}
        for each in record.subnets
    ]
    interface = {"com.docker.network.bridge.name": record.interface} if record.interface else {}
    return {
        "Name": record.name, "Id": record.id, "Created": created, "Scope": "local", "Driver": record.driver,
        "EnableIPv6": record.has_ipv6, "IPAM": {"Driver": "default", "Options": {}, "Config": subnets},
        "Internal": record.is_internal, "Attachable": False, "Ingress": False,
        "Containers": _containers(record), "Options": {**record.options, **interface},
        "Labels": dict(record.labels),
    }


def _containers(record: NetworkRecord) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for address, holder in _leases():
        if holder.get("network") != record.id:
            continue
        unknown = {"Name": str(holder.get("name")), "IPv4Address": "", "IPv6Address": ""}
        entry = found.setdefault(str(holder.get("container")), unknown)
        for subnet in record.subnets:
            if (":" in subnet.subnet) == (":" in address):
                entry["IPv6Address" if ":" in address else "IPv4Address"] = f"{address}/{subnet.prefix}"
    return found
