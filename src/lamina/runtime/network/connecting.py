"""Connecting a container's network namespace, and undoing that from what was written down before.

``network.json`` in the container's directory is written before each act and goes when all of it is undone.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.content.lease import boot_id, process_start
from lamina.runtime.network import addresses, claims, namespaces, neighbours
from lamina.runtime.network.mode import Kind
from lamina.runtime.network.ports import PortMapping
from lamina.runtime.network.programs import NetworkFailed
from lamina.runtime.network.values import Connected, Endpoint, Held, NetworkPlan
from lamina.values import asdict, replace

RECORD = "network.json"
# How long a container that has ended may keep its ports before its successor cleans up after it.
_PATIENCE = 3.0
# How long the interfaces of a namespace that nobody is in may take to disappear.
_GONE = 1.0

_Act = Callable[[NetworkPlan, Sequence[Endpoint], Sequence[PortMapping], int, Path], object]


def connect(plan: NetworkPlan, pid: int, directory: Path) -> Connected:
    """Connects the network namespace of the process ``pid``; ``directory`` is the container's.

    Keep ``held`` and give it to :func:`disconnect`. If this fails, nothing is left behind.
    Raises ``NetworkFailed``, ``PortInUse``, ``PortDenied``, ``AddressInUse``.
    """
    if not plan.needs_namespace:
        return Connected(host_gateway=_host_address(), has_ipv6=True)
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if plan.kind is Kind.NONE:
            # runc and crun have brought it up, the embedded runtime has not.
            if not namespaces.has_loopback_up(pid):
                namespaces.loopback_up(namespace)
            os.close(namespace)
            return Connected()
        if plan.kind is Kind.USER:
            return _connect_user(plan, pid, namespace, directory)
        return _connect_bridge(plan, pid, namespace, directory)
    except BaseException:
        with contextlib.suppress(Exception):  # the first failure is the one to tell
            disconnect(directory, Held(namespace=namespace))
        raise


def disconnect(directory: Path, held: Held | None = None) -> None:
    """Undoes what ``network.json`` says was done, or begun. Any number of times, from any process that may.

    Without ``held``, or once nobody is left in the namespace, rules and leases are found all the same.
    Raises ``NetworkFailed``; then the record stays, for another try.
    """
    document = _read(directory)
    try:
        if document is None:
            return
        plan = NetworkPlan.from_json(document["plan"])
        if document["boot"] == boot_id():  # what was there before went with the machine's last run
            if plan.kind is Kind.USER:
                _disconnect_user(document, directory)
            else:
                _disconnect_bridge(plan, directory, held)
        (directory / RECORD).unlink(missing_ok=True)
    finally:
        if held is not None:
            held.close()


def read_connected(directory: Path) -> Connected | None:
    """What :func:`connect` gave, for another process; ``None`` when there is nothing, or not yet."""
    document = _read(directory)
    if document is None or "connected" not in document:
        return None
    return Connected.from_json(document["connected"])


# -- bridges


def _connect_bridge(plan: NetworkPlan, pid: int, namespace: int, directory: Path) -> Connected:
    with claimed_ports(plan) as (ports, claimed):
        connected = attach(plan, pid, namespace, directory, ports)
        return replace(connected, held=Held(namespace=namespace, others=claimed))


def attach(
    plan: NetworkPlan, pid: int, namespace: int, directory: Path, ports: tuple[PortMapping, ...], *,
    is_inside: bool = True,
) -> Connected:
    """Connects to bridges, with ports that are claimed already. ``is_inside``: ``pid`` is in the namespace,
    not a monitor that holds it. Nothing is undone if this fails."""
    place = Path(plan.shared)
    leases = addresses.Leases(place)
    with addresses.locked(place):
        points = _chosen(plan, leases)
        record = {**_record(plan, pid, endpoints=points, ports=ports), "is_inside": is_inside}
        _write(directory, record)
        holder = {
            "directory": str(directory), "name": plan.name, "container": plan.container, **_process(pid),
            "ports": [f"{port.host_port}/{port.protocol}" for port in ports],
        }
        for point, each in zip(points, plan.attachments, strict=True):
            leases.take(point, {**holder, "names": _names(plan, point), "bridge": each.network.interface})
        resolvers: Any = _set_up(plan)(plan, points, ports, namespace, directory)
        connected = Connected(
            endpoints=points, ports=ports, resolvers=resolvers, host_gateway=points[0].gateway,
            has_ipv6=any(point.ip6 for point in points),
        )
        _write(directory, {**record, "connected": connected.to_json()})
        if not resolvers:
            neighbours.announce(leases, plan, points)
        return connected


@contextlib.contextmanager
def claimed_ports(
    plan: NetworkPlan,
) -> Iterator[tuple[tuple[PortMapping, ...], tuple[int, ...]]]:
    """Claims the host ports. A container that has ended has a moment to let go of one, and then is helped."""
    leases = addresses.Leases(Path(plan.shared))
    limit = time.monotonic() + _PATIENCE
    is_last = False
    while True:
        try:
            ports, held = claims.claim(plan.ports)
            break
        except claims.PortInUse:
            ended = _ended_holder(plan, leases)
            if ended is None and is_last:
                raise
            is_last = ended is None  # who had one may have let go of it since we asked: once more
            if ended is not None:
                if time.monotonic() > limit:
                    disconnect(ended)
                time.sleep(0.02)
    try:
        yield ports, held
    except BaseException:
        claims.release(held)
        raise


def _ended_holder(plan: NetworkPlan, leases: addresses.Leases) -> Path | None:
    """The directory of a container that still has one of these ports although its process has ended."""
    wanted = {f"{number}/{port.protocol}" for port in plan.ports
              for number in range(port.host_port, max(port.host_port, port.host_last) + 1)}
    for _, holder in leases.walk():
        if wanted.intersection(holder.get("ports", ())) and not _lives(holder):
            return Path(holder["directory"])
    return None


def _chosen(plan: NetworkPlan, leases: addresses.Leases) -> tuple[Endpoint, ...]:
    try:
        return tuple(leases.choose(each) for each in plan.attachments)
    except (addresses.AddressInUse, addresses.NoSubnetLeft):
        if not _reclaim(leases):
            raise
    return tuple(leases.choose(each) for each in plan.attachments)


def _reclaim(leases: addresses.Leases) -> bool:
    """Drops leases whose container has ended and left no record that somebody could clean up from."""
    found = False
    for address, holder in list(leases.walk()):
        if not _lives(holder) and not Path(holder.get("directory", "/nowhere"), RECORD).exists():
            leases.drop(address)
            found = True
    return found


def _disconnect_bridge(plan: NetworkPlan, directory: Path, held: Held | None) -> None:
    place = Path(plan.shared)
    with addresses.locked(place):
        document = _read(directory)
        if document is None:  # somebody else was faster
            return
        points = tuple(map(Endpoint.from_json, document["endpoints"]))
        ports = tuple(PortMapping(**each) for each in document["ports"])
        leases = addresses.Leases(place)
        if any(leases.holder(address).get("directory") == str(directory) for address in _all(points)):
            _take_down(plan, points, ports, document, held, directory)
            for point in points:
                leases.release(point, str(directory))
            neighbours.withdraw(leases, plan, points)
        (directory / RECORD).unlink(missing_ok=True)


def _take_down(
    plan: NetworkPlan, points: Sequence[Endpoint], ports: Sequence[PortMapping], document: Mapping[str, Any],
    held: Held | None, directory: Path,
) -> None:
    """An engine takes down only what it finds whole. What is not, is made whole in a new namespace first."""
    with _own_namespace(document, held) as namespace:
        if namespace >= 0:
            try:
                _tear_down(plan)(plan, points, ports, namespace, directory)
            except NetworkFailed:
                pass
            else:
                return
    _await_gone(plan, directory)
    with namespaces.new_namespace() as namespace:
        _set_up(plan)(replace(plan, dns_program=""), points, (), namespace, directory)
        _tear_down(plan)(plan, points, ports, namespace, directory)


def _await_gone(plan: NetworkPlan, directory: Path) -> None:
    """The kernel deletes a dead namespace's interfaces when it likes, and a bridge goes with its last one."""
    holders = [holder for _, holder in addresses.Leases(Path(plan.shared)).walk()]
    limit = time.monotonic() + _GONE
    for interface in {each.network.interface for each in plan.attachments}:
        others = {holder["directory"] for holder in holders if holder.get("bridge") == interface}
        while namespaces.count_ports(interface) > len(others - {str(directory)}) and time.monotonic() < limit:
            time.sleep(0.01)


@contextlib.contextmanager
def _own_namespace(document: Mapping[str, Any], held: Held | None) -> Iterator[int]:
    """The container's, or -1 when nobody has it any more."""
    if held is not None and held.namespace >= 0:
        yield held.namespace
        return
    descriptor = -1
    if _lives(document) and document.get("is_inside", True):
        with contextlib.suppress(OSError):
            descriptor = os.open(f"/proc/{document['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _set_up(plan: NetworkPlan) -> _Act:
    from lamina.runtime.network import cni, netavark  # noqa: PLC0415 - one of them, where there is a bridge

    return netavark.set_up if plan.engine == "netavark" else cni.set_up


def _tear_down(plan: NetworkPlan) -> _Act:
    from lamina.runtime.network import cni, netavark  # noqa: PLC0415 - see above

    return netavark.tear_down if plan.engine == "netavark" else cni.tear_down


# -- a process of the user's own


def _connect_user(plan: NetworkPlan, pid: int, namespace: int, directory: Path) -> Connected:
    from lamina.runtime.network import usermode  # noqa: PLC0415 - see above

    ports, claimed = claims.claim(plan.ports)
    claims.release(claimed)  # the program has them itself
    record = _record(plan, pid, ports=ports)
    _write(directory, record)
    resolvers, helper, kept = usermode.start(plan, ports, namespace, directory)
    point = replace(usermode.endpoint(plan), mac=namespaces.hardware_address(namespace, "eth0"))
    connected = Connected(
        endpoints=(point,), ports=ports, resolvers=resolvers, host_gateway=usermode.host_address(),
        has_ipv6=plan.engine == "pasta", held=Held(namespace=namespace, others=(kept,)),
    )
    _write(directory, {**record, "helper": _process(helper), "connected": connected.to_json()})
    return connected


def _disconnect_user(document: Mapping[str, Any], directory: Path) -> None:
    from lamina.runtime.network import usermode  # noqa: PLC0415 - see above

    helper = document.get("helper", {})
    usermode.stop(directory, helper.get("pid", 0), helper.get("started", 0))


# -- what is written down


def _record(plan: NetworkPlan, pid: int, *, endpoints: Sequence[Endpoint] = (),
            ports: Sequence[PortMapping] = ()) -> dict[str, Any]:
    return {"boot": boot_id(), **_process(pid), "plan": plan.to_json(),
            "endpoints": [asdict(each) for each in endpoints], "ports": [port.to_json() for port in ports]}


def _process(pid: int) -> dict[str, int]:
    return {"pid": pid, "started": process_start(pid) or 0}


def _lives(document: Mapping[str, Any]) -> bool:
    """A zombie is none: what it had is given back already, its namespaces too."""
    pid = document.get("pid", 0)
    return process_start(pid) == document.get("started") and os.path.exists(f"/proc/{pid}/ns/net")


def _read(directory: Path) -> dict[str, Any] | None:
    try:
        document = json.loads((directory / RECORD).read_bytes())
    except FileNotFoundError:
        return None
    assert isinstance(document, dict)
    return document


def _write(directory: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all. Not synced: after a power cut there is nothing left to undo."""
    temporary = directory / f".{RECORD}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w",
              encoding="utf-8") as file:
        json.dump(document, file)
    os.replace(temporary, directory / RECORD)


def _names(plan: NetworkPlan, point: Endpoint) -> list[str]:
    return [name for name in (plan.name, *point.aliases, plan.container[:12]) if name]


def _all(points: Sequence[Endpoint]) -> list[str]:
    return [address for point in points for address in (point.ip, point.ip6) if address]


def _host_address() -> str:
    from lamina.runtime.network import usermode  # noqa: PLC0415 - see above

    return usermode.host_address()
