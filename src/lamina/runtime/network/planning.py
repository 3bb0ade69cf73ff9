"""Deciding a container's network before anything starts: every refusal comes from here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lamina.errors import Conflict, Unsupported
from lamina.runtime.network import subnets
from lamina.runtime.network.hostfiles import DnsOptions
from lamina.runtime.network.mode import DEFAULT_NETWORK, InvalidNetwork, Kind, NetworkMode
from lamina.runtime.network.ports import PortMapping
from lamina.runtime.network.programs import Programs, has_option
from lamina.runtime.network.records import NetworkRecord, NetworkRecords
from lamina.runtime.network.values import Attachment, NetworkPlan
from lamina.values import replace

# Leases and locks of root's networks: of the machine, not of a state directory, as the interfaces are.
SHARED = "/run/lamina/network"
_WITHOUT = "--network host and --network none work without"
_NO_BRIDGE = f"bridge networking needs netavark or the CNI plugins (Debian: apt install netavark); {_WITHOUT}"
_NO_USER = f"an ordinary user's network needs slirp4netns or pasta (Debian: slirp4netns, passt); {_WITHOUT}"


class EngineMissing(Unsupported):
    """No program that could make this network is installed."""


class NetworkConflict(Conflict):
    """Options that exclude each other."""


def plan_network(
    modes: Sequence[NetworkMode],
    *,
    root: Path,
    container: str,
    name: str,
    programs: Programs,
    is_privileged: bool,
    now: float,
    ports: Sequence[PortMapping] = (),
    dns: DnsOptions = DnsOptions(),  # noqa: B008 - an immutable value
    pid_of: Callable[[str], int] | None = None,
    shared: str = SHARED,
) -> NetworkPlan:
    """``modes`` is what ``--network`` said, each time; ``()`` for the default. ``is_privileged``: root of the
    machine. ``pid_of`` gives the pid of a running container, for ``container:NAME``.

    Raises :class:`EngineMissing`, :class:`NetworkConflict`, ``InvalidNetwork``, ``NetworkNotFound``.
    """
    mode = modes[0] if modes else NetworkMode(kind=Kind.DEFAULT)
    if len(modes) > 1 and any(each.kind is not Kind.NAMED for each in modes):
        raise NetworkConflict("--network: several networks must all be named ones; none, host and "
                              "container:NAME stand alone")
    begun = NetworkPlan(kind=mode.kind, container=container, name=name, path=programs.path, dns=dns.servers,
                        ports=tuple(ports), shared=shared)
    if mode.kind is Kind.CONTAINER:
        return _joining(begun, mode, dns, pid_of, is_privileged=is_privileged)
    if mode.kind in (Kind.NONE, Kind.HOST):
        return _alone(begun, mode)
    if mode.kind is Kind.USER:
        return _user_mode(begun, mode, programs)
    if not is_privileged:
        return _of_ordinary_user(begun, modes, programs)
    if mode.kind is Kind.DEFAULT and not (programs.netavark or programs.cni):
        return _without_bridge(begun, mode, programs)
    records = NetworkRecords(root / "networks")
    return _bridged(begun, modes or [mode], records, programs, now)


def _alone(plan: NetworkPlan, mode: NetworkMode) -> NetworkPlan:
    _refuse_options(mode, f"--network {mode.kind}")
    notes: tuple[str, ...] = ()
    if plan.ports:
        notes = (f"note: published ports mean nothing with --network {mode.kind}",)
    return replace(plan, ports=(), needs_namespace=mode.kind is Kind.NONE, notes=notes)


def _joining(
    plan: NetworkPlan, mode: NetworkMode, dns: DnsOptions, pid_of: Callable[[str], int] | None, *,
    is_privileged: bool,
) -> NetworkPlan:
    _refuse_options(mode, f"--network {mode}")
    if plan.ports or dns != DnsOptions():
        what = "-p and -P" if plan.ports else "--dns, --dns-search and --dns-option"
        raise NetworkConflict(f"--network {mode}: {what} belong to the container whose network it is")
    assert pid_of is not None, "who can parse container:NAME can find it"
    return replace(plan, needs_namespace=False, join=pid_of(mode.name), joins_user=not is_privileged)


def _refuse_options(mode: NetworkMode, about: str) -> None:
    for option, value in (("--ip", mode.ip), ("--ip6", mode.ip6), ("--mac-address", mode.mac),
                          ("--network-alias", mode.aliases)):
        if value:
            raise NetworkConflict(f"{about}: {option} has no meaning there")


# -- with a process of the user's own


def _of_ordinary_user(plan: NetworkPlan, modes: Sequence[NetworkMode], programs: Programs) -> NetworkPlan:
    for mode in modes:
        if mode.kind is Kind.NAMED and mode.name != DEFAULT_NETWORK:
            raise Unsupported(
                f"network {mode.name}: networks that several containers share need root; an ordinary user's "
                "containers have one each (no --network), or share one's by --network container:NAME"
            )
    return _user_mode(plan, modes[0] if modes else NetworkMode(kind=Kind.DEFAULT), programs)


def _user_mode(plan: NetworkPlan, mode: NetworkMode, programs: Programs) -> NetworkPlan:
    for option, value in (("--ip", mode.ip or mode.ip6), ("--network-alias", mode.aliases)):
        if value:
            raise NetworkConflict(f"{option}: only in networks made by `network create`")
    wanted = mode.name if mode.kind is Kind.USER else ""
    engine, program = _user_program(programs, wanted)
    if not program:
        if wanted:
            raise EngineMissing(f"--network {wanted}: {wanted} is not installed; {_WITHOUT}")
        return _nothing(plan, mode, _NO_USER)
    attachments = (Attachment(network=_private(), interface="eth0", mac=mode.mac),)
    return replace(plan, kind=Kind.USER, engine=engine, program=program, attachments=attachments)


def _user_program(programs: Programs, wanted: str) -> tuple[str, str]:
    """pasta has IPv6, but those of before August 2024 (tried: March 2023, Debian 12) lose what a server sends
    and closes at once. Their help does not know the option that is looked for."""
    pasta, slirp = ("pasta", programs.pasta), ("slirp4netns", programs.slirp4netns)
    if wanted:
        return pasta if wanted == "pasta" else slirp
    if pasta[1] and slirp[1]:
        return pasta if has_option(pasta[1], "--map-host-loopback", {"PATH": programs.path}) else slirp
    return pasta if pasta[1] else slirp


def _private() -> NetworkRecord:
    """Stands for a network that only one container is on."""
    return NetworkRecord(id="", name="", interface="", subnets=(), labels={}, options={}, created=0.0)


def _without_bridge(plan: NetworkPlan, mode: NetworkMode, programs: Programs) -> NetworkPlan:
    """Root without an engine for bridges: slirp4netns does for one container. pasta gives up root's rights,
    and with them the way into a namespace that root has made."""
    if programs.slirp4netns:
        alone = Programs(slirp4netns=programs.slirp4netns, path=programs.path)
        return _user_mode(plan, mode, alone)
    return _nothing(plan, mode, _NO_BRIDGE)


def _nothing(plan: NetworkPlan, mode: NetworkMode, why: str) -> NetworkPlan:
    """Nobody asked for a network by name: run without, and say so. Somebody who publishes ports did ask."""
    if plan.ports or mode.kind is not Kind.DEFAULT or mode.mac:
        raise EngineMissing(why)
    return replace(plan, kind=Kind.NONE, notes=(f"note: no network: {why}",))


# -- bridges


def insist_bridges(programs: Programs, about: str) -> None:
    """Raises :class:`EngineMissing`."""
    if not (programs.netavark or programs.cni):
        raise EngineMissing(f"{about}: {_NO_BRIDGE}")


def _bridged(
    plan: NetworkPlan, modes: Sequence[NetworkMode], records: NetworkRecords, programs: Programs, now: float
) -> NetworkPlan:
    if not (programs.netavark or programs.cni):
        raise EngineMissing(_NO_BRIDGE)
    attachments: list[Attachment] = []
    for number, mode in enumerate(modes):
        is_default = mode.kind is Kind.DEFAULT or mode.name == DEFAULT_NETWORK
        record = records.default(now) if is_default else records.get(mode.name)
        if any(known.network.id == record.id for known in attachments):
            raise NetworkConflict(f"--network {record.name}: given twice")
        _check_options(mode, record)
        attachments.append(Attachment(
            network=record, interface=f"eth{number}", ip=mode.ip, ip6=mode.ip6, mac=mode.mac,
            aliases=mode.aliases,
        ))
    if plan.ports and attachments[0].network.is_internal:
        name = attachments[0].network.name
        raise NetworkConflict(f"network {name}: internal, so no port of it can be published")
    engine, program = ("netavark", programs.netavark) if programs.netavark else ("cni", programs.cni)
    return replace(plan, kind=Kind.NAMED, engine=engine, program=program, attachments=tuple(attachments),
                    dns_program=programs.aardvark if programs.netavark else "")


def _check_options(mode: NetworkMode, record: NetworkRecord) -> None:
    if record.is_default and (mode.ip or mode.ip6 or mode.aliases):
        what = "--network-alias" if mode.aliases else "--ip"
        raise NetworkConflict(f"{what}: only in networks made by `network create`, not in {record.name}")
    for option, address in (("--ip", mode.ip), ("--ip6", mode.ip6)):
        if not address:
            continue
        same = [each for each in record.subnets if (":" in each.subnet) == (":" in address)]
        if not same:
            family = "IPv6" if ":" in address else "IPv4"
            raise InvalidNetwork(f"{option} {address}: network {record.name} has no {family}")
        subnets.parse_inside(address, same[0].network, option)
        if address == same[0].gateway:
            raise InvalidNetwork(f"{option} {address}: the gateway of network {record.name}")

