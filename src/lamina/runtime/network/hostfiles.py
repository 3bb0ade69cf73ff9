"""What a container reads in /etc/hosts and /etc/resolv.conf, by docker's rules."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from lamina.errors import InvalidInput
from lamina.values import dataclass

HOST_GATEWAY = "host-gateway"
# Where the resolver of systemd-resolved listens, and where it writes down those that it asks itself.
_STUB = "127.0.0.53"
RESOLV_CONF = "/etc/resolv.conf"
RESOLVED_CONF = "/run/systemd/resolve/resolv.conf"
# docker's, when all that the host has are its own loopback addresses.
_FALLBACK = ("8.8.8.8", "8.8.4.4")
_HOST_NAME = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_.])?")
_LONGEST_HOST_NAME = 64
_STANDARD_HOSTS = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::0", "ip6-localnet"),
    ("ff00::0", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
)


class InvalidDns(InvalidInput):
    """A text of ``--dns``, ``--dns-search``, ``--dns-option`` or ``--add-host`` cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsOptions:
    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse_dns(servers: Iterable[str], searches: Iterable[str], options: Iterable[str]) -> DnsOptions:
    """Raises :class:`InvalidDns`."""
    kept = tuple(servers)
    for text in kept:
        _address(text, "--dns")
    for text in (named := tuple(searches)):
        if text != "." and not _HOST_NAME.fullmatch(text):
            raise InvalidDns(f"--dns-search {text!r}: not a domain name")
    for text in (said := tuple(options)):
        if not text or any(character.isspace() for character in text):
            raise InvalidDns(f"--dns-option {text!r}: expected one word such as ndots:2")
    return DnsOptions(servers=kept, searches=named, options=said)


def insist_host_name(text: str, option: str) -> None:
    """The kernel takes 64 bytes of anything (sethostname(2)), but the name is a word in /etc/hosts too."""
    if not (_HOST_NAME.fullmatch(text) and len(text) <= _LONGEST_HOST_NAME):
        raise InvalidInput(
            f"{option} {text[:80]!r}: expected a name of at most {_LONGEST_HOST_NAME} letters, digits, "
            "hyphens, underscores and dots"
        )


def parse_add_host(text: str) -> tuple[str, str]:
    """``name:address`` or ``name=address`` as (name, address); the address may be ``host-gateway``."""
    separator = "=" if "=" in text else ":"
    name, found, address = text.partition(separator)
    address = address.removeprefix("[").removesuffix("]")
    if not found or not _HOST_NAME.fullmatch(name):
        raise InvalidDns(f"--add-host {text}: expected NAME:ADDRESS")
    if address != HOST_GATEWAY:
        _address(address, f"--add-host {text}:")
    return name, address


def hosts_text(
    *,
    own: Iterable[tuple[str, Sequence[str]]] = (),
    extra: Iterable[tuple[str, str]] = (),
    host_gateway: str = "",
    base: str = "",
) -> str:
    """``own`` gives the container's addresses and their names; ``base`` is the host's file in host mode.

    Raises :class:`InvalidDns` for a ``host-gateway`` where the container cannot reach the host.
    """
    lines = base.splitlines() or [f"{address}\t{names}" for address, names in _STANDARD_HOSTS]
    for name, address in extra:
        if address == HOST_GATEWAY and not host_gateway:
            raise InvalidDns(f"--add-host {name}:{HOST_GATEWAY}: this network has no way to the host")
        lines.append(f"{host_gateway if address == HOST_GATEWAY else address}\t{name}")
    lines += [f"{address}\t{' '.join(dict.fromkeys(names))}" for address, names in own if names]
    return "\n".join(lines) + "\n"


def own_names(hostname: str, domain: str = "") -> tuple[str, ...]:
    """The full name first, as hosts(5) wants it."""
    return (f"{hostname}.{domain}", hostname) if domain else (hostname,)


def resolv_text(
    host: str,
    dns: DnsOptions = DnsOptions(),  # noqa: B008 - a frozen value
    *,
    resolvers: Sequence[str] = (),
    sees_loopback: bool = False,
    has_ipv6: bool = False,
) -> str:
    """``host`` is the host's file. ``resolvers`` are the network's own (DNS between containers).

    The host's loopback servers are dropped where the container has a loopback of its own.
    """
    servers, searches, options = parse_resolv(host)
    if resolvers:
        servers = list(resolvers)
        options = [option for option in options if not option.startswith("ndots:")] + ["ndots:0"]
    elif dns.servers:
        servers = list(dns.servers)
    elif not sees_loopback:
        servers = usable(servers, has_ipv6=has_ipv6) or list(_FALLBACK)
    if dns.searches:
        searches = [] if "." in dns.searches else list(dns.searches)
    if dns.options:
        options = list(dns.options)
    lines = [f"nameserver {server}" for server in servers]
    if searches:
        lines.append("search " + " ".join(searches))
    if options:
        lines.append("options " + " ".join(options))
    return "\n".join(lines) + "\n"


def parse_resolv(text: str) -> tuple[list[str], list[str], list[str]]:
    """(servers, search domains, options) of a resolv.conf(5); the last search or domain line counts."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            searches = words[1:]
        elif words[0] == "options":
            options += words[1:]
    return servers, searches, options


def usable(servers: Iterable[str], *, has_ipv6: bool) -> list[str]:
    """Those that a process with a loopback of its own can reach."""
    kept = []
    for text in servers:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            continue
        if not address.is_loopback and (has_ipv6 or address.version == 4):
            kept.append(text)
    return kept


def host_resolv() -> str:
    """The host's resolv.conf, or the one behind the local resolver of systemd-resolved, as docker has it."""
    text = _read(RESOLV_CONF)
    if parse_resolv(text)[0] == [_STUB]:
        return _read(RESOLVED_CONF) or text
    return text


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""


def _address(text: str, about: str) -> None:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise InvalidDns(f"{about} {text!r} is not an IP address") from None
