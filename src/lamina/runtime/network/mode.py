"""Which network a container asks for: docker's ``--network`` texts and the options that go with them."""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum

from lamina.errors import InvalidInput
from lamina.values import dataclass, replace

DEFAULT_NETWORK = "bridge"
_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]*"
_MAC = r"[0-9a-f]{2}(:[0-9a-f]{2}){5}"
_LONGEST_NAME = 128


class InvalidNetwork(InvalidInput):
    """A network's name, or an option that belongs to one, cannot be read or cannot be."""


class Kind(StrEnum):
    DEFAULT = "default"  # what this user gets when nothing was said
    NONE = "none"
    HOST = "host"
    CONTAINER = "container"
    NAMED = "named"  # a network by name, the default bridge included
    USER = "user"  # a process of the user's own stands between: pasta or slirp4netns


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkMode:
    """``name`` is a network's, a container's, or a program's, as ``kind`` says."""

    kind: Kind
    name: str = ""
    ip: str = ""
    ip6: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As docker's ``HostConfig.NetworkMode`` has it."""
        if self.kind is Kind.CONTAINER:
            return f"container:{self.name}"
        return self.name or str(self.kind)


def parse_network(text: str) -> NetworkMode:
    """Also the long form: ``name=web,alias=db,ip=10.1.2.3,mac-address=02:...``.

    Raises :class:`InvalidNetwork`.
    """
    if text.startswith("container:"):
        name = text.partition(":")[2]
        if not name:
            raise InvalidNetwork("--network container: whose network? (container:NAME)")
        return NetworkMode(kind=Kind.CONTAINER, name=name)
    if "=" in text:
        return _long_form(text)
    if text in ("none", "host", "default"):
        return NetworkMode(kind=Kind(text))
    if text in ("pasta", "slirp4netns"):
        return NetworkMode(kind=Kind.USER, name=text)
    return NetworkMode(kind=Kind.NAMED, name=check_name(text))


def with_options(
    mode: NetworkMode, *, ip: str = "", ip6: str = "", mac: str = "", aliases: tuple[str, ...] = ()
) -> NetworkMode:
    """``--ip``, ``--ip6``, ``--mac-address``, ``--network-alias``. Raises :class:`InvalidNetwork`."""
    return replace(
        mode,
        ip=_address(ip, "--ip", 4) or mode.ip,
        ip6=_address(ip6, "--ip6", 6) or mode.ip6,
        mac=_mac(mac) or mode.mac,
        aliases=(*mode.aliases, *(_alias(each) for each in aliases)),
    )


def check_name(text: str) -> str:
    if not re.fullmatch(_NAME, text) or len(text) > _LONGEST_NAME:
        raise InvalidNetwork(
            f"network {text!r}: a name begins with a letter or digit and goes on with those, '_', '.' or '-'"
        )
    return text


def _long_form(text: str) -> NetworkMode:
    mode = NetworkMode(kind=Kind.DEFAULT)
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise InvalidNetwork(f"--network {text}: expected KEY=VALUE, got {part!r}")
        if key == "name":
            named = parse_network(value)
            mode = replace(mode, kind=named.kind, name=named.name)
        elif key == "alias":
            mode = with_options(mode, aliases=(value,))
        elif key == "ip":
            mode = with_options(mode, ip=value)
        elif key == "ip6":
            mode = with_options(mode, ip6=value)
        elif key == "mac-address":
            mode = with_options(mode, mac=value)
        else:
            raise InvalidNetwork(f"--network {text}: {key} is none of name, alias, ip, ip6, mac-address")
    if mode.kind is Kind.DEFAULT:
        raise InvalidNetwork(f"--network {text}: name= is missing")
    return mode


def _address(text: str, option: str, version: int) -> str:
    if not text:
        return ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidNetwork(f"{option} {text}: not an IP address") from None
    if address.version != version:
        raise InvalidNetwork(f"{option} {text}: expected an IPv{version} address")
    return str(address)


def _mac(text: str) -> str:
    if not text:
        return ""
    spelled = text.lower().replace("-", ":")
    if not re.fullmatch(_MAC, spelled) or int(spelled[:2], 16) & 1:
        raise InvalidNetwork(f"--mac-address {text}: expected one such as 02:42:ac:11:00:02, no multicast")
    return spelled


def _alias(text: str) -> str:
    if not re.fullmatch(_NAME, text):
        raise InvalidNetwork(f"--network-alias {text!r}: expected letters, digits, '_', '.' and '-'")
    return text
